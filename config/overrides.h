/*
 * What was changed at run time: rules added to a container or to a policy, and the policy that a container was set to.
 *
 * It is kept apart from the policy file, in a file of its own that the gateway writes (its text is YAML, read by the same
 * reader), and laid over a snapshot of the file by config_derive(): the rules of the file stay where they are, however many.
 * Immutable and counted, as snapshots are; a change makes the next one.
 *
 * A container is called by its id, or by its name: then the change is for whoever has that name, also for its successors.
 */
#pragma once

#include "config/snapshot.h"

#include <stdint.h>

#define OVERRIDES_MAX_BYTES (1u << 20) /* of text */
#define OVERRIDE_RULES_MAX 1000        /* of one container or policy */
#define OVERRIDE_TEXT_MAX 128          /* a target, who, when: with the NUL */

struct override_rule {
    const char *text;
    bool deny;
    const char *by, *at; /* "uid 0", "2026-11-29T10:00:00Z" */
};

/* All that was changed of one target. */
struct override {
    bool of_policy;
    const char *target; /* a policy's name, or a container's id or name */
    const char *policy; /* a container was set to; or NULL */
    const char *by, *at;
    const struct override_rule *rules;
    size_t count;
};

struct overrides;

/* The text of a file, as overrides_text() gave it. `name` is what errors call it. 0, or a negative errno with lines in *errors.
 * Rules are checked as those of the policy file are. */
int overrides_parse(const char *name, const char *text, size_t length, struct overrides **ret,
                    struct config_errors *errors);
/* Nothing was changed. NULL when out of memory. */
struct overrides *overrides_none(void);
struct overrides *overrides_ref(struct overrides *overrides);
void overrides_unref(struct overrides *overrides); /* accepts NULL; the last one frees */
const char *overrides_text(const struct overrides *overrides, size_t *ret_length);
const struct override *overrides_find(const struct overrides *overrides, bool of_policy, const char *target);
const struct override *overrides_at(const struct overrides *overrides, size_t i); /* NULL behind the last */

enum override_verb {
    OVERRIDE_ALLOW, /* add rules; the opposite ones of the same text go */
    OVERRIDE_DENY,
    OVERRIDE_SET,
    OVERRIDE_FORGET, /* all of the target */
};

struct override_change {
    enum override_verb verb;
    bool remove; /* take the rules, or the policy that was set, back */
    bool of_policy;
    const char *target;
    const char *const *rules;
    size_t count;
    const char *policy; /* SET */
    const char *by, *at;
};

/* What comes of a change: 0 and the next overrides. *ret is `old` itself (with one reference more) when it says nothing new.
 * Else a negative errno, and what is wrong with it. */
int overrides_change(struct overrides *old, const struct override_change *change, struct overrides **ret,
                     struct error *err);

/* Only those that `keep` says yes to. *ret is `old` itself (with one reference more) when that is all. 0 or a negative errno. */
int overrides_keep(struct overrides *old, bool (*keep)(const struct override *one, void *arg), void *arg, struct overrides **ret,
                   struct error *err);

/* A snapshot with these changes, over the file that `snapshot` is of (which may have other changes, they do not count). Both are
 * referred to by what comes of it. It takes no longer for a file of a million names. 0 or -ENOMEM. */
int config_derive(struct config_snapshot *snapshot, struct overrides *overrides,
                  struct config_snapshot **ret);
/* What it was derived with, or NULL. Owned by the snapshot. */
struct overrides *config_overrides(const struct config_snapshot *snapshot);
/* The policy of a container with all that was changed for it: as config_policy_for(), which knows nothing of containers. Belongs
 * to one thread: what it is asked for the first time it makes. Never NULL: the policy that denies everything when memory is out,
 * or when the policy that it was set to is there no more. */
const struct acl_policy *config_container_policy(const struct config_snapshot *snapshot, const char *id,
                                                 const char *name, const char *asked);
