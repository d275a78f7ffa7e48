/*
 * Built-in profiles: policies that every snapshot has, under the two names that the field uses for each.
 */
#pragma once

#include "acl/policy.h"

#define PROFILE_RULES_MAX 2

struct profile {
    const char *name, *synonym; /* synonym: NULL when there is none */
    const char *summary;
    const char *origin;                   /* what its rules say they come from */
    const char *preset;                   /* NULL: none */
    const char *rules[PROFILE_RULES_MAX]; /* allow rules; NULL-padded */
    enum acl_dns dns;
};

extern const struct profile profiles[];
extern const size_t profile_count;

/* By either name; NULL. */
const struct profile *profile_find(const char *name);
