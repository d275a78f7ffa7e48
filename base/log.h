/*
 * Operator messages on standard error, one line each: "sallyport: text". Not the audit log.
 * A line that standard error does not take at once is dropped and counted: the command inside may share it, and must not
 * be able to stop us by filling it.
 * Only start-up code, the monitor and the worker's own life cycle log; library code returns errors instead.
 */
#pragma once

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Messages above `level` are dropped. The default is LOG_LEVEL_WARNING. */
void log_set_level(enum log_level level);

void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));
