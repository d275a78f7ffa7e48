/*
 * Telling the service manager how we are (sd_notify(3)): a datagram of lines to the socket that $NOTIFY_SOCKET names. Nothing
 * happens where there is none.
 */
#pragma once

void notify(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "RELOADING=1" with the time that Type=notify-reload wants. */
void notify_reloading(void);
