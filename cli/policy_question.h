/*
 * A question to a policy, and its answer, as `policy test` asks them: read by policy_test.c, and asked again
 * by policy_advice.c of policies that differ by a rule.
 */
#pragma once

#include "cli/policy_internal.h"

enum ask { ASK_PORT, ASK_TLS, ASK_HTTP, ASK_UDP, ASK_ICMP }; /* ASK_PORT: whatever the gateway expects there */

struct question {
    enum ask ask;
    bool by_address;
    struct addr address; /* with the port */
    char name[ACL_NAME_MAX + 1];
    size_t name_length;
    uint16_t port;
    const char *method, *target; /* ASK_HTTP */
};

struct answer {
    const char *protocol; /* "tls", "http", "tcp", "udp", "icmp" */
    struct acl_verdict verdict;
    const char *detail; /* NULL: the reason says it all */
};

struct answer answer_question(const struct config_snapshot *snapshot, const struct acl_policy *policy,
                              const struct question *q);

/* What would turn the answer around, as a sentence: "to allow it, …". Found by trying. Always a text. */
#define ADVICE_MAX 2048
const char *advise(const struct config_snapshot *snapshot, const struct acl_policy *policy,
                   const struct question *q, const struct answer *answer, char ret[ADVICE_MAX]);
