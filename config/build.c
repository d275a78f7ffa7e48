/*
 * Drafts become policies. A policy holds the rules of its whole chain, the farthest parent's first, so that
 * an option set nearer overrides one set farther; rules only add up, because deny beats allow whatever the
 * order.
 */
#include "config/names_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct builder {
    struct load *load;
    struct acl_policy *policy;
};

/* Rules were checked before: what fails here is memory, or acl refusing together what it took one by one. */
static int add_rule(const struct builder *b, const char *text, size_t length, bool deny,
                    struct acl_origin origin)
{
    struct error err;
    int r = acl_policy_add(b->policy, text, length, deny, origin, &err);
    if (r == -ENOMEM)
        b->load->out_of_memory = true;
    else if (r < 0)
        report_in(b->load, origin.file, (struct mark){origin.line, 1}, "%s", err.text);
    return r;
}

static int add_preset_host(const struct preset *from, const struct preset_host *host, void *arg)
{
    return add_rule(arg, host->name, strlen(host->name), false, (struct acl_origin){.file = from->origin});
}

static int add_preset(struct builder *b, const char *name)
{
    return preset_each(preset_find(name), add_preset_host, b);
}

static int add_profile(struct builder *b, const struct profile *profile)
{
    int r = profile->preset ? add_preset(b, profile->preset) : 0;
    for (size_t i = 0; i < PROFILE_RULES_MAX && profile->rules[i] && r == 0; i++)
        r = add_rule(b, profile->rules[i], strlen(profile->rules[i]), false,
                     (struct acl_origin){.file = profile->origin});
    acl_policy_set_dns(b->policy, profile->dns);
    return r;
}

static int add_names(const struct builder *b, const struct names_file *file, bool deny)
{
    struct names_reader reader;
    struct names_entry entry;
    int r = 0;
    names_reader_init(&reader, file);
    while (r == 0 && names_reader_next(&reader, &entry))
        r = add_rule(b, entry.text, entry.length, deny, (struct acl_origin){file->path, entry.mark.line});
    return r;
}

static void set_options(const struct builder *b, const struct draft *draft)
{
    if (draft->mode != INHERIT)
        acl_policy_set_mode(b->policy, (enum acl_mode)draft->mode);
    if (draft->dns != INHERIT)
        acl_policy_set_dns(b->policy, (enum acl_dns)draft->dns);
    if (draft->bind != INHERIT)
        acl_policy_set_bind(b->policy, (enum acl_bind)draft->bind);
    if (draft->verify != INHERIT)
        acl_policy_set_verify(b->policy, (enum acl_verify)draft->verify);
    if (draft->ech_denied != INHERIT)
        acl_policy_set_ech_denied(b->policy, draft->ech_denied);
    struct acl_limits limits = *acl_policy_limits(b->policy);
    if (draft->limits.flows)
        limits.flows = draft->limits.flows;
    if (draft->limits.flows_per_second)
        limits.flows_per_second = draft->limits.flows_per_second;
    if (draft->limits.dns_queries_per_second)
        limits.dns_queries_per_second = draft->limits.dns_queries_per_second;
    acl_policy_set_limits(b->policy, &limits);
}

static int add_draft(struct builder *b, const struct draft *draft)
{
    int r = 0;
    for (const struct reference *preset = draft->presets; preset && r == 0; preset = preset->next)
        r = add_preset(b, preset->name);
    for (const struct source *s = draft->sources; s && r == 0; s = s->next)
        r = s->file
                ? add_names(b, s->file, s->deny)
                : add_rule(b, s->text, s->length, s->deny, (struct acl_origin){b->load->name, s->mark.line});
    set_options(b, draft);
    return r;
}

/* The `left`-th parent of `draft`, itself for 0. */
static const struct draft *ancestor(const struct draft *draft, size_t left)
{
    while (left--)
        draft = draft->parent;
    return draft;
}

static int add_chain(struct builder *b, const struct draft *draft)
{
    size_t length = 1;
    const struct draft *root = draft;
    for (; root->parent; root = root->parent)
        length++;
    int r = root->profile ? add_profile(b, root->profile) : 0;
    while (length-- && r == 0)
        r = add_draft(b, ancestor(draft, length));
    return r;
}

/* Seals, and hands the policy to the snapshot, whose array has room. */
static int keep(struct builder *b)
{
    int r = acl_policy_seal(b->policy);
    if (r < 0)
        return r;
    b->load->snapshot->policies[b->load->snapshot->policy_count++] = b->policy;
    b->policy = NULL;
    return 0;
}

/* A policy named `name`; `draft` and `profile` say what is in it: both NULL leave it empty. */
static int build_one(struct load *load, const char *name, const struct draft *draft,
                     const struct profile *profile)
{
    struct builder b = {.load = load, .policy = acl_policy_create(name)};
    int r = b.policy ? 0 : -ENOMEM;
    if (r == 0 && draft)
        r = add_chain(&b, draft);
    if (r == 0 && profile)
        r = add_profile(&b, profile);
    if (r == 0)
        r = keep(&b);
    acl_policy_destroy(b.policy);
    return r;
}

static int compare_policies(const void *left, const void *right)
{
    return strcmp(acl_policy_name(*(struct acl_policy *const *)left),
                  acl_policy_name(*(struct acl_policy *const *)right));
}

static int build_all(struct load *load, size_t own)
{
    struct config_snapshot *s = load->snapshot;
    s->policies = calloc(own + profile_count + 1, sizeof(*s->policies));
    s->own = calloc(own + 1, sizeof(*s->own));
    s->parents = calloc(own + 1, sizeof(*s->parents));
    if (!s->policies || !s->own || !s->parents)
        return -ENOMEM;
    int r = build_one(load, "deny", NULL, NULL);
    for (size_t i = 0; i < profile_count && r == 0; i++)
        r = build_one(load, profiles[i].name, NULL, &profiles[i]);
    for (struct draft *draft = load->drafts; draft && r == 0; draft = draft->next) {
        r = build_one(load, draft->name, draft, NULL);
        if (r == 0)
            s->own[s->own_count++] = draft->built = s->policies[s->policy_count - 1];
    }
    qsort(s->policies, s->policy_count, sizeof(*s->policies), compare_policies);
    size_t i = 0;
    for (const struct draft *draft = load->drafts; draft && r == 0; draft = draft->next, i++)
        s->parents[i] = draft->parent    ? draft->parent->built
                        : draft->profile ? config_policy(s, draft->profile->name)
                                         : NULL;
    return r;
}

static int build_assignments(struct load *load)
{
    struct config_snapshot *s = load->snapshot;
    size_t count = 0;
    for (const struct assign_draft *a = load->assigns; a; a = a->next)
        count++;
    s->assignments = calloc(count + 1, sizeof(*s->assignments));
    if (!s->assignments)
        return -ENOMEM;
    for (const struct assign_draft *a = load->assigns; a; a = a->next) {
        struct assignment *to = &s->assignments[s->assignment_count++];
        to->has_subnet = a->has_subnet;
        to->subnet = a->subnet;
        to->policy = config_policy(s, a->policy.name);
        to->container = a->container ? strdup(a->container) : NULL;
        if (a->container && !to->container)
            return -ENOMEM;
    }
    for (const struct network_draft *n = load->networks; n; n = n->next)
        if (n->policy.name)
            s->networks[n->index].policy = config_policy(s, n->policy.name);
    s->fallback = config_policy(s, load->fallback.name ? load->fallback.name : "deny");
    return 0;
}

int build_policies(struct load *load)
{
    size_t own = 0;
    for (const struct draft *draft = load->drafts; draft; draft = draft->next)
        own++;
    int r = build_all(load, own);
    if (r == 0)
        r = build_assignments(load);
    return r;
}
