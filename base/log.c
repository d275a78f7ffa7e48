#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static enum log_level threshold = LOG_LEVEL_WARNING;
static unsigned dropped;

void log_set_level(enum log_level level)
{
    threshold = level;
}

static bool is_pipe_or_socket(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode));
}

/* False when it would have to wait. A terminal has no such thing as RWF_NOWAIT, but poll(2) knows when it is stopped. */
static bool write_at_once(const char *line, size_t length)
{
    struct pollfd polled = {.fd = STDERR_FILENO, .events = POLLOUT};
    const struct iovec whole = {.iov_base = (void *)line, .iov_len = length};
    if (poll(&polled, 1, 0) != 1 || !(polled.revents & POLLOUT))
        return false;
    if (pwritev2(STDERR_FILENO, &whole, 1, -1, RWF_NOWAIT) >= 0)
        return true;
    if (errno == EAGAIN && is_pipe_or_socket(STDERR_FILENO))
        return false;
    ssize_t ignored = write(STDERR_FILENO, line, length);
    (void)ignored;
    return true;
}

static void tell_of_dropped(void)
{
    char line[128];
    if (dropped == 0)
        return;
    int length = snprintf(line, sizeof(line),
                          "sallyport: messages left out while standard error was full: %u\n", dropped);
    if (write_at_once(line, (size_t)length))
        dropped = 0;
}

/* One write(2) a line, so that lines of the monitor, the worker and the command never interleave. */
static void emit(enum log_level level, const char *format, va_list args)
{
    char line[1024];
    if (level > threshold)
        return;
    int used = snprintf(line, sizeof(line), "sallyport: ");
    int more = vsnprintf(line + used, sizeof(line) - (size_t)used - 1, format, args);
    size_t length = (size_t)used + (more > 0 ? (size_t)more : 0);
    if (length > sizeof(line) - 2)
        length = sizeof(line) - 2;
    line[length++] = '\n';
    tell_of_dropped();
    if (!write_at_once(line, length))
        dropped++;
}

#define LOG_FUNCTION(name, level)      \
    void name(const char *format, ...) \
    {                                  \
        va_list args;                  \
        va_start(args, format);        \
        emit(level, format, args);     \
        va_end(args);                  \
    }

LOG_FUNCTION(log_error, LOG_LEVEL_ERROR)
LOG_FUNCTION(log_warning, LOG_LEVEL_WARNING)
LOG_FUNCTION(log_info, LOG_LEVEL_INFO)
LOG_FUNCTION(log_debug, LOG_LEVEL_DEBUG)
