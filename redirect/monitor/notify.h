/*
 * Telling the service manager how we are (sd_notify(3)): a datagram of lines to the socket that $NOTIFY_SOCKET names. Nothing
 * happens where there is none.
 *
 * It can also keep descriptors for us over a restart (its FD store): they come back as inherit.h tells.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void notify(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "RELOADING=1" with the time that Type=notify-reload wants. */
void notify_reloading(void);
/* Was that said, and is "READY=1" due therefore? True once. */
bool notify_reload_over(void);

/* Keep copies of these, whatever happens to them, in place of those it has by this name. Negative ones are skipped. */
void notify_keep(const char *name, const int *fds, size_t count);
void notify_forget(const char *name);
/* Does it say that it keeps descriptors? Older ones do and do not say so. */
bool notify_keeps(void);
/* How often to say "WATCHDOG=1", in milliseconds: half of what it allows. 0: it does not watch. */
uint64_t notify_watchdog_ms(void);
