/* Between audit.c (the queue) and audit_format.c (one line). */
#pragma once

#include "gateway/audit.h"

/* audit_format() with the number of events left out in front of this one (0: none). Whatever the event holds,
 * a buffer of AUDIT_LINE_MAX is enough. */
ssize_t audit_format_line(const struct audit_event *event, uint64_t sequence, uint64_t dropped_before,
                          const struct timespec *now, char *ret, size_t size);
