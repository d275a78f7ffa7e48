/*
 * Refusals that explain themselves: nobody behind the gateway waits for a timeout, or guesses.
 */
#pragma once

#include "acl/policy.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A fatal TLS alert record for this reason (RFC 8446 section 6.2: access_denied, unrecognized_name,
 * decode_error, internal_error). */
#define REFUSAL_ALERT_SIZE 7
void refusal_alert(enum acl_reason reason, uint8_t ret[REFUSAL_ALERT_SIZE]);

struct refusal {
    const char *name; /* normal form, "" when there is none */
    uint16_t port;
    enum acl_reason reason;
    const char *detail; /* may be NULL */
    const struct acl_policy *policy;
    const struct acl_verdict *verdict; /* may be NULL */
};

/* A whole HTTP/1.1 response with Connection: close: 403 for what policy denies, 400 for what is malformed,
 * 502/504/503 for what failed on the way. `head`: no body follows. Returns the length or -ENOSPC. */
ssize_t refusal_http(const struct refusal *refusal, bool head, char *ret, size_t size);
