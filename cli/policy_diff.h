/*
 * What one policy lets through and another does not, in words: policy_compare.c finds it, policy_diff.c is
 * the command.
 */
#pragma once

#include "cli/policy_internal.h"

struct policy_change {
    bool opens;                       /* else it closes */
    const char *subject;              /* "api.example.com", "*.example.org", "10.0.0.0/8", "any address" */
    const char *flows;                /* "TLS on 443, HTTP on 80" */
    const struct acl_rule_view *rule; /* that says so now: of an opening the rule that allows, of a closing
                                         the one that denies; NULL: no rule allows it any more */
};

/* Calls back for each difference, first what rules of `after` show, then what those of `before` do. Both are
 * sealed. Returns the number of differences, or -ENOMEM. */
ssize_t policy_compare(const struct acl_policy *before, const struct acl_policy *after,
                       void (*each)(const struct policy_change *change, void *arg), void *arg);
