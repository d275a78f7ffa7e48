/*
 * What was denied, counted for the one-line summary at the end of `sallyport exec`. Bounded: beyond
 * REPORT_MAX different things only their number is kept.
 */
#pragma once

#include "acl/reason.h"

#include <stddef.h>
#include <stdint.h>

#define REPORT_MAX 256

struct report;
struct report *report_create(void); /* NULL when out of memory */
void report_destroy(struct report *report);

/* `what` for people: "denied.example:443", "tcp 203.0.113.9:22". Bytes outside 0x21-0x7e become '?'. */
void report_denied(struct report *report, const char *what, enum acl_reason reason);

/* One line, "sallyport: 3 denied: evil.example ×2 (no_rule), …", most frequent first, into `ret`. Empty when
 * nothing was denied. Returns ret. `would`: the policy only recorded; says "would have denied". */
const char *report_line(const struct report *report, int would, char *ret, size_t size);
