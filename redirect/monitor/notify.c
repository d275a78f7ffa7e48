#include "redirect/monitor/notify.h"

#include "base/fds.h"
#include "redirect/monitor/supervisor.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#define IMPATIENT_MS 5000

static void notify_with(const char *text, const int *fds, size_t count)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(to.sun_path))
        return;
    memcpy(to.sun_path, path, strlen(path));
    if (path[0] == '@')
        to.sun_path[0] = 0;
    _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    /* Whoever should read it may not, and the daemon has other things to do: it waits a little, and not again soon. */
    static uint64_t patient_from;
    const uint64_t now = monotonic_ms();
    const struct timeval patience = {.tv_usec = now < patient_from ? 1 : 100000};
    const socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) == 0 &&
        connect(fd, (struct sockaddr *)&to, length) == 0 && fds_send(fd, text, strlen(text), fds, count) == -EAGAIN)
        patient_from = now + IMPATIENT_MS;
}

void notify(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    notify_with(text, NULL, 0);
}

void notify_keep(const char *name, const int *fds, size_t count)
{
    char text[512];
    int there[FDS_MAX];
    size_t kept = 0;
    for (size_t i = 0; i < count && kept < FDS_MAX; i++)
        if (fds[i] >= 0)
            there[kept++] = fds[i];
    notify_forget(name);
    snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name);
    notify_with(text, there, kept);
}

void notify_forget(const char *name)
{
    notify("FDSTOREREMOVE=1\nFDNAME=%s", name);
}

static unsigned long long number_of(const char *variable)
{
    const char *text = getenv(variable);
    return text && strspn(text, "0123456789") == strlen(text) ? strtoull(text, NULL, 10) : 0;
}

bool notify_keeps(void)
{
    return number_of("FDSTORE") > 0;
}

uint64_t notify_watchdog_ms(void)
{
    unsigned long long usec = number_of("WATCHDOG_USEC"), pid = number_of("WATCHDOG_PID");
    return usec == 0 || (pid != 0 && pid != (unsigned long long)getpid()) ? 0 : usec < 2000 ? 1 : usec / 2000;
}

static bool reloading;

void notify_reloading(void)
{
    reloading = true;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    notify("RELOADING=1\nMONOTONIC_USEC=%lld", (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
}

bool notify_reload_over(void)
{
    bool was = reloading;
    reloading = false;
    return was;
}
