/*
 * A snapshot with run-time changes: another over the file's own, with which it shares all but the policies that were changed.
 * Those are layers (acl_policy_create_over) over the file's.
 *
 * A change of a policy holds for the policies that extend it as well, as its rules in the file do. Layers for containers are made
 * when they are asked for, because only who asks knows what the container's policy is without them.
 */
#include "config/overrides.h"
#include "config/hash.h"
#include "config/snapshot_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A layer that was made for a container. */
struct container_layer {
    struct container_layer *next;
    const struct override *override;
    const struct acl_policy *under;
    struct acl_policy *policy;
};

/* What a derived snapshot has of its own. */
struct derivation {
    struct config_snapshot *file; /* all that is not in here is shared with it */
    struct overrides *overrides;
    struct acl_policy **layers; /* beside snapshot.policies: NULL where nothing was changed */
    struct container_layer *containers;
};

static int add_rules(struct acl_policy *policy, const struct override *o)
{
    char origin[3 * OVERRIDE_TEXT_MAX];
    struct error err;
    int r = 0;
    for (size_t i = 0; o && i < o->count && r == 0; i++) {
        const struct override_rule *rule = &o->rules[i];
        snprintf(origin, sizeof(origin), "set at run time by %s, %s", rule->by, rule->at);
        r = acl_policy_add(policy, rule->text, strlen(rule->text), rule->deny,
                           (struct acl_origin){.file = origin}, &err);
    }
    return r;
}

/* ---- policies ---- */

/* The policy that this one of the file extends, or NULL. */
static const struct acl_policy *parent_of(const struct config_snapshot *file, const struct acl_policy *policy)
{
    for (size_t i = 0; i < file->own_count; i++)
        if (file->own[i] == policy)
            return file->parents[i];
    return NULL;
}

/* Its own layer, with what was changed of it and of all that it extends; NULL when that is nothing. */
static int layer_over(const struct config_snapshot *file, const struct overrides *overrides,
                      const struct acl_policy *policy, struct acl_policy **ret)
{
    struct acl_policy *layer = NULL;
    int r = 0;
    for (const struct acl_policy *p = policy; p && r == 0; p = parent_of(file, p)) {
        const struct override *o = overrides_find(overrides, true, acl_policy_name(p));
        if (!o)
            continue;
        if (!layer && !(layer = acl_policy_create_over(policy, acl_policy_name(policy))))
            r = -ENOMEM;
        r = r < 0 ? r : add_rules(layer, o);
    }
    if (r == 0 && layer)
        r = acl_policy_seal(layer);
    if (r == 0)
        *ret = layer;
    else
        acl_policy_destroy(layer);
    return r;
}

static const struct acl_policy *changed(const struct config_snapshot *file, const struct derivation *d,
                                        const struct acl_policy *policy)
{
    for (size_t i = 0; i < file->policy_count; i++)
        if (file->policies[i] == policy)
            return d->layers[i] ? d->layers[i] : policy;
    return policy;
}

/* ---- snapshots ---- */

static void *copy_of(const void *array, size_t count, size_t size)
{
    void *copy = calloc(count + 1, size);
    if (copy && count)
        memcpy(copy, array, count * size);
    return copy;
}

static int make_layers(struct config_snapshot *s, const struct config_snapshot *file, struct derivation *d)
{
    int r = 0;
    for (size_t i = 0; i < file->policy_count && r == 0; i++) {
        r = layer_over(file, d->overrides, file->policies[i], &d->layers[i]);
        if (r == 0 && d->layers[i])
            s->policies[i] = d->layers[i];
    }
    for (size_t i = 0; i < file->own_count && r == 0; i++)
        s->own[i] = changed(file, d, file->own[i]);
    for (size_t i = 0; i < file->assignment_count && r == 0; i++)
        s->assignments[i].policy = changed(file, d, file->assignments[i].policy);
    s->fallback = changed(file, d, file->fallback);
    return r;
}

void derivation_finish(struct config_snapshot *s)
{
    struct derivation *d = s->derivation;
    while (d->containers) {
        struct container_layer *layer = d->containers;
        d->containers = layer->next;
        acl_policy_destroy(layer->policy);
        free(layer);
    }
    for (size_t i = 0; d->layers && i < s->policy_count; i++)
        acl_policy_destroy(d->layers[i]);
    overrides_unref(d->overrides);
    config_unref(d->file);
    free(d->layers);
    free(d);
    free(s->policies);
    free(s->own);
    free(s->assignments);
    free(s);
}

bool derivation_is_light(const struct config_snapshot *s)
{
    return s->derivation && atomic_load_explicit(&s->derivation->file->references, memory_order_relaxed) > 1;
}

/* As without changes while there are none: then it is the file's. */
static void set_version(struct config_snapshot *s, const struct overrides *overrides)
{
    size_t length;
    const char *text = overrides_text(overrides, &length);
    if (overrides_at(overrides, 0))
        snprintf(s->version, sizeof(s->version), "%012" PRIx64, hash_bytes(s->hash, text, length) >> 16);
}

int config_derive(struct config_snapshot *snapshot, struct overrides *overrides, struct config_snapshot **ret)
{
    struct config_snapshot *file = snapshot->derivation ? snapshot->derivation->file : snapshot;
    struct config_snapshot *s = malloc(sizeof(*s));
    struct derivation *d = calloc(1, sizeof(*d));
    if (!s || !d) {
        free(s);
        free(d);
        return -ENOMEM;
    }
    *s = *file;
    atomic_init(&s->references, 1);
    *d = (struct derivation){.file = config_ref(file), .overrides = overrides_ref(overrides)};
    s->derivation = d;
    s->policies = copy_of(file->policies, file->policy_count, sizeof(*file->policies));
    s->own = copy_of(file->own, file->own_count, sizeof(*file->own));
    s->assignments = copy_of(file->assignments, file->assignment_count, sizeof(*file->assignments));
    d->layers = calloc(file->policy_count + 1, sizeof(struct acl_policy *));
    int r = s->policies && s->own && s->assignments && d->layers ? make_layers(s, file, d) : -ENOMEM;
    if (r < 0) {
        config_unref(s);
        return r;
    }
    set_version(s, overrides);
    *ret = s;
    return 0;
}

const char *config_file_version(const struct config_snapshot *snapshot)
{
    return snapshot->derivation ? snapshot->derivation->file->version : snapshot->version;
}

struct overrides *config_overrides(const struct config_snapshot *snapshot)
{
    return snapshot->derivation ? snapshot->derivation->overrides : NULL;
}

/* ---- containers ---- */

static struct acl_policy *make_container_layer(const struct override *o, const struct acl_policy *under)
{
    struct acl_policy *policy = acl_policy_create_over(under, acl_policy_name(under));
    if (policy && add_rules(policy, o) == 0 && acl_policy_seal(policy) == 0)
        return policy;
    acl_policy_destroy(policy);
    return NULL;
}

/* NULL when out of memory. */
static const struct acl_policy *with_rules(struct derivation *d, const struct override *o,
                                           const struct acl_policy *under)
{
    if (!o || o->count == 0 || !under)
        return under;
    for (const struct container_layer *layer = d->containers; layer; layer = layer->next)
        if (layer->override == o && layer->under == under)
            return layer->policy;
    struct container_layer *layer = calloc(1, sizeof(*layer));
    struct acl_policy *policy = layer ? make_container_layer(o, under) : NULL;
    if (!policy) {
        free(layer);
        return NULL;
    }
    *layer = (struct container_layer){d->containers, o, under, policy};
    d->containers = layer;
    return policy;
}

const struct acl_policy *config_container_policy(const struct config_snapshot *snapshot, const char *id,
                                                 const char *name, const char *asked)
{
    struct derivation *d = snapshot->derivation;
    if (!d)
        return config_policy_for(snapshot, asked, name);
    const struct override *by_id = overrides_find(d->overrides, false, id);
    const struct override *by_name =
        name && *name && strcmp(name, id) != 0 ? overrides_find(d->overrides, false, name) : NULL;
    const char *set = by_id && by_id->policy       ? by_id->policy
                      : by_name && by_name->policy ? by_name->policy
                                                   : asked;
    const struct acl_policy *policy = with_rules(d, by_name, config_policy_for(snapshot, set, name));
    policy = with_rules(d, by_id, policy);
    return policy ? policy : config_policy(snapshot, "deny");
}
