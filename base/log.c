#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static enum log_level threshold = LOG_LEVEL_WARNING;

void log_set_level(enum log_level level)
{
    threshold = level;
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
    ssize_t ignored = write(STDERR_FILENO, line, length);
    (void)ignored;
}

#define LOG_FUNCTION(name, level)                                                                            \
    void name(const char *format, ...)                                                                       \
    {                                                                                                        \
        va_list args;                                                                                        \
        va_start(args, format);                                                                              \
        emit(level, format, args);                                                                           \
        va_end(args);                                                                                        \
    }

LOG_FUNCTION(log_error, LOG_LEVEL_ERROR)
LOG_FUNCTION(log_warning, LOG_LEVEL_WARNING)
LOG_FUNCTION(log_info, LOG_LEVEL_INFO)
LOG_FUNCTION(log_debug, LOG_LEVEL_DEBUG)
