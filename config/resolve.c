/*
 * Names that point at something: extends, presets, assign and default. Chains of extends must end; they are
 * followed by steps, never by recursion, and are bounded, because each policy is built from its whole chain.
 */
#include "config/schema.h"

#include <stdlib.h>
#include <string.h>

#define CHAIN_MAX 16

static int compare_drafts(const void *left, const void *right)
{
    return strcmp((*(const struct draft *const *)left)->name, (*(const struct draft *const *)right)->name);
}

/* The drafts by name, for look-ups. */
struct directory {
    struct draft **drafts;
    size_t count;
};

static bool open_directory(struct load *load, struct directory *ret)
{
    struct directory d = {0};
    for (struct draft *draft = load->drafts; draft; draft = draft->next)
        d.count++;
    d.drafts = load_alloc(load, (d.count + 1) * sizeof(struct draft *));
    if (!d.drafts)
        return false;
    size_t i = 0;
    for (struct draft *draft = load->drafts; draft; draft = draft->next)
        d.drafts[i++] = draft;
    qsort(d.drafts, d.count, sizeof(*d.drafts), compare_drafts);
    *ret = d;
    return true;
}

static struct draft *find_draft(const struct directory *d, const char *name)
{
    struct draft wanted = {.name = name}, *key = &wanted;
    struct draft **found = bsearch(&key, d->drafts, d->count, sizeof(*d->drafts), compare_drafts);
    return found ? *found : NULL;
}

/* Every name that extends may give, for a message: at most 64 of the file's. */
#define POLICY_WORDS_MAX 80
static size_t policy_words(const struct directory *d, const char *words[POLICY_WORDS_MAX])
{
    size_t count = 0;
    for (size_t i = 0; i < d->count && i < 64; i++)
        words[count++] = d->drafts[i]->name;
    for (size_t i = 0; i < profile_count; i++) {
        words[count++] = profiles[i].name;
        if (profiles[i].synonym)
            words[count++] = profiles[i].synonym;
    }
    return count;
}

static void report_unknown(struct load *load, const struct reference *reference, const char *kind,
                           const char *const *words, size_t count)
{
    const char *near = schema_nearest(reference->name, words, count);
    if (near)
        report(load, reference->mark, "there is no %s \"%s\": did you mean \"%s\"?", kind, reference->name,
               near);
    else
        report(load, reference->mark, "there is no %s \"%s\": there are %s", kind, reference->name,
               schema_words(load, words, count, " and "));
}

static void check_policy_reference(struct load *load, const struct directory *d,
                                   const struct reference *reference)
{
    const char *words[POLICY_WORDS_MAX];
    size_t count;
    if (!reference->name || find_draft(d, reference->name) || profile_find(reference->name) ||
        !strcmp(reference->name, "deny"))
        return;
    count = policy_words(d, words);
    words[count++] = "deny";
    report_unknown(load, reference, "policy", words, count);
}

static void resolve_extends(struct load *load, const struct directory *d, struct draft *draft)
{
    const char *name = draft->extends.name;
    if (!name)
        return;
    draft->profile = profile_find(name);
    if (!draft->profile)
        draft->parent = find_draft(d, name);
    if (!draft->profile && !draft->parent) {
        const char *words[POLICY_WORDS_MAX];
        report_unknown(load, &draft->extends, "policy or profile", words, policy_words(d, words));
    }
}

static void resolve_presets(struct load *load, const struct draft *draft)
{
    const char *words[16];
    size_t count = 0;
    for (; count < preset_count && count < 16; count++)
        words[count] = presets[count].name;
    for (const struct reference *preset = draft->presets; preset; preset = preset->next)
        if (!preset_find(preset->name))
            report_unknown(load, preset, "preset", words, count);
}

/* "a -> b -> a", when `draft` is on a circle itself; a policy that only leads to one is not to blame. */
static void check_chain(struct load *load, const struct draft *draft)
{
    const char *path = draft->name;
    size_t length = 1;
    for (const struct draft *d = draft->parent; d && path; d = d->parent) {
        if (length++ == CHAIN_MAX) {
            report(load, draft->extends.mark,
                   "extends leads through more than %d policies, or in a circle: shorten it", CHAIN_MAX);
            return;
        }
        path = arena_format(&load->arena, "%s -> %s", path, d->name);
        if (d == draft) {
            report(load, draft->extends.mark, "extends goes in a circle: %s", path ? path : d->name);
            return;
        }
    }
}

void resolve_references(struct load *load)
{
    struct directory d;
    if (!open_directory(load, &d))
        return;
    for (struct draft *draft = load->drafts; draft; draft = draft->next) {
        resolve_extends(load, &d, draft);
        resolve_presets(load, draft);
    }
    for (struct draft *draft = load->drafts; draft; draft = draft->next)
        check_chain(load, draft);
    for (const struct assign_draft *assign = load->assigns; assign; assign = assign->next)
        check_policy_reference(load, &d, &assign->policy);
    for (const struct network_draft *network = load->networks; network; network = network->next)
        check_policy_reference(load, &d, &network->policy);
    check_policy_reference(load, &d, &load->fallback);
}
