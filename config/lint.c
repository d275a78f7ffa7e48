/*
 * Warnings: rules written in the file that say nothing new, or that can never match because a deny rule of
 * the same policy (its own, inherited, or from a file of names) covers them whole. Only what one other rule
 * explains: a rule covered by several together goes unnoticed. Files of names are not looked through: block
 * lists repeat themselves.
 */
#include "config/load.h"

#include <stdlib.h>
#include <string.h>

/* A label no one writes: a deny rule that matches it does so by a wildcard. */
#define ANY_LABEL "sallyport-any-label"

struct written {
    struct acl_rule rule;
    const struct source *source;
    const struct source *earlier; /* says the same */
};

static int compare_nets(const struct cidr *a, const struct cidr *b)
{
    if (a->base.family != b->base.family)
        return a->base.family < b->base.family ? -1 : 1;
    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    return memcmp(a->base.bytes, b->base.bytes, sizeof(a->base.bytes));
}

static int compare_rules(const struct acl_rule *a, const struct acl_rule *b)
{
    const int left[] = {a->scheme, a->deny, a->wildcard, a->port_low, a->port_high};
    const int right[] = {b->scheme, b->deny, b->wildcard, b->port_low, b->port_high};
    for (size_t i = 0; i < sizeof(left) / sizeof(*left); i++)
        if (left[i] != right[i])
            return left[i] < right[i] ? -1 : 1;
    int order = strcmp(a->name, b->name);
    return order ? order : compare_nets(&a->net, &b->net);
}

static int compare_written(const void *left, const void *right)
{
    const struct written *a = *(const struct written *const *)left,
                         *b = *(const struct written *const *)right;
    int order = compare_rules(&a->rule, &b->rule);
    if (order)
        return order;
    if (a->source->mark.line != b->source->mark.line)
        return a->source->mark.line < b->source->mark.line ? -1 : 1;
    return a->source->mark.column < b->source->mark.column ? -1 : 1;
}

/* Neighbours once sorted; the earliest of equals stands first. */
static void find_repeated(struct written **sorted, size_t count)
{
    qsort(sorted, count, sizeof(*sorted), compare_written);
    for (size_t i = 1; i < count; i++)
        if (compare_rules(&sorted[i - 1]->rule, &sorted[i]->rule) == 0)
            sorted[i]->earlier = sorted[i - 1]->source;
}

static void warn_repeated(struct load *load, const struct written *w)
{
    report_warning(load, w->source->mark,
                   "rule \"%.*s\" says the same as \"%.*s\" in line %u: keep one of them",
                   (int)w->source->length, w->source->text, (int)w->earlier->length, w->earlier->text,
                   w->earlier->mark.line);
}

/* ---- allow rules under a deny rule ---- */

static bool name_is_under(const char *name, const char *suffix)
{
    size_t length = strlen(name), suffix_length = strlen(suffix);
    return suffix_length == 0 || (length > suffix_length && name[length - suffix_length - 1] == '.' &&
                                  !strcmp(name + length - suffix_length, suffix));
}

/* Does each name that `allow` matches also match `deny`? */
static bool names_covered(const struct acl_rule *deny, const struct acl_rule *allow)
{
    if (!deny->wildcard)
        return !allow->wildcard && !strcmp(deny->name, allow->name);
    if (allow->wildcard && !strcmp(deny->name, allow->name))
        return true;
    return allow->name[0] && name_is_under(allow->name, deny->name);
}

static bool ports_covered(const struct acl_rule *deny, const struct acl_rule *allow)
{
    return deny->port_low <= allow->port_low && allow->port_high <= deny->port_high;
}

static bool nets_covered(const struct cidr *deny, const struct cidr *allow)
{
    if (deny->base.family == AF_UNSPEC)
        return true;
    return deny->base.family == allow->base.family && deny->length <= allow->length &&
           cidr_contains(deny, &allow->base);
}

static bool rule_covered(const struct acl_rule *deny, const struct acl_rule *allow)
{
    if (allow->scheme == ACL_SCHEME_ADDRESS)
        return deny->scheme == ACL_SCHEME_ADDRESS && nets_covered(&deny->net, &allow->net) &&
               ports_covered(deny, allow);
    if (deny->scheme == ACL_SCHEME_ADDRESS || !names_covered(deny, allow))
        return false;
    return deny->scheme == ACL_SCHEME_WEB || (deny->scheme == allow->scheme && ports_covered(deny, allow));
}

/* Asks the policy about one flow that `allow` is for. */
static struct acl_verdict judge_sample(const struct acl_policy *policy, const struct acl_rule *allow)
{
    static const enum acl_protocol protocols[] = {[ACL_SCHEME_WEB] = ACL_TLS,
                                                  [ACL_SCHEME_HTTPS] = ACL_TLS,
                                                  [ACL_SCHEME_HTTP] = ACL_HTTP,
                                                  [ACL_SCHEME_TCP] = ACL_TCP,
                                                  [ACL_SCHEME_ADDRESS] = ACL_TCP};
    char name[sizeof(ANY_LABEL) + 1 + ACL_NAME_MAX];
    if (allow->scheme == ACL_SCHEME_ADDRESS) {
        struct addr destination = allow->net.base;
        destination.port = allow->port_low;
        return acl_policy_judge_address(policy, &destination);
    }
    strcpy(name, allow->wildcard ? ANY_LABEL : "");
    if (allow->wildcard && allow->name[0])
        strcat(name, ".");
    strcat(name, allow->name);
    return acl_policy_judge_name(policy, protocols[allow->scheme], name, strlen(name),
                                 allow->scheme == ACL_SCHEME_WEB ? 443 : allow->port_low);
}

static void warn_covered(struct load *load, const struct acl_policy *policy, const struct written *w)
{
    struct acl_rule deny;
    struct acl_verdict verdict;
    if (w->rule.deny || (w->rule.scheme == ACL_SCHEME_ADDRESS && w->rule.net.base.family == AF_UNSPEC))
        return;
    verdict = judge_sample(policy, &w->rule);
    if (verdict.reason != ACL_RULE_DENY || !verdict.has_rule ||
        acl_rule_parse(verdict.rule.text, strlen(verdict.rule.text), true, &deny, NULL) < 0 ||
        !rule_covered(&deny, &w->rule))
        return;
    if (verdict.rule.origin.line)
        report_warning(load, w->source->mark, "rule \"%.*s\" never matches: \"%s\" (%s:%u) denies all of it",
                       (int)w->source->length, w->source->text, verdict.rule.text, verdict.rule.origin.file,
                       verdict.rule.origin.line);
    else
        report_warning(load, w->source->mark, "rule \"%.*s\" never matches: \"%s\" (%s) denies all of it",
                       (int)w->source->length, w->source->text, verdict.rule.text, verdict.rule.origin.file);
}

/* The rules that `draft` writes itself, parsed; NULL when there are none or no memory for them. */
static struct written *collect(struct load *load, const struct draft *draft, size_t *ret_count)
{
    size_t count = 0;
    for (const struct source *s = draft->sources; s; s = s->next)
        count += s->text != NULL;
    struct written *all = count ? calloc(count, sizeof(*all)) : NULL;
    if (count && !all)
        load->out_of_memory = true;
    *ret_count = 0;
    for (const struct source *s = draft->sources; s && all; s = s->next) {
        if (!s->text)
            continue;
        struct written *w = &all[*ret_count];
        w->source = s;
        if (acl_rule_parse(s->text, s->length, s->deny, &w->rule, NULL) == 0)
            ++*ret_count;
    }
    return all;
}

static void lint_draft(struct load *load, const struct draft *draft)
{
    size_t count;
    struct written *all = collect(load, draft, &count);
    struct written **sorted = all ? malloc((count + 1) * sizeof(*sorted)) : NULL;
    if (all && !sorted)
        load->out_of_memory = true;
    for (size_t i = 0; i < count && sorted; i++)
        sorted[i] = &all[i];
    if (sorted)
        find_repeated(sorted, count);
    for (size_t i = 0; i < count && sorted; i++) {
        if (all[i].earlier)
            warn_repeated(load, &all[i]);
        else
            warn_covered(load, draft->built, &all[i]);
    }
    free(sorted);
    free(all);
}

void lint_policies(struct load *load)
{
    for (const struct draft *draft = load->drafts; draft; draft = draft->next)
        lint_draft(load, draft);
}
