/*
 * Warnings: what is legal in a policy but surely not meant, each with the fix.
 *
 *   says the same    a rule that repeats another of the same policy
 *   never matches    a deny rule covers it whole; or the gateway never lets such a flow come that far
 *   public suffix    a wildcard over a domain under which anyone can have a name (Mozilla's Public Suffix
 * List, as libpsl knows it; top-level names that are not on the list are taken for somebody's own) adds
 * nothing     a wider allow rule, a preset or what is inherited allows all of it already
 *
 * Only what one other rule explains: a rule covered by several together goes unnoticed. Files of names are
 * only looked through for public suffixes: block lists repeat themselves.
 */
#include "config/names_file.h"
#include "acl/guard.h"

#include <libpsl.h>
#include <stdlib.h>
#include <string.h>

/* A label no one writes: a deny rule that matches it does so by a wildcard. */
#define ANY_LABEL "sallyport-any-label"

/* A rule and where it stands. */
struct written {
    struct acl_rule rule;
    const char *text;
    struct acl_origin origin;     /* of a rule in force */
    const struct source *source;  /* of a rule that the policy writes itself */
    const struct source *earlier; /* says the same */
};

/* The rules in force that allow, for look-ups: by name, those without one (addresses) at the end. */
struct effective {
    struct written *rules;
    size_t count, named;
};

static int compare_nets(const struct cidr *a, const struct cidr *b)
{
    if (a->base.family != b->base.family)
        return a->base.family < b->base.family ? -1 : 1;
    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    return memcmp(a->base.bytes, b->base.bytes, sizeof(a->base.bytes));
}

static int compare_paths(const struct written *a, const struct written *b)
{
    if (a->rule.path_length != b->rule.path_length)
        return a->rule.path_length < b->rule.path_length ? -1 : 1;
    return memcmp(a->text + a->rule.path_at, b->text + b->rule.path_at, a->rule.path_length);
}

static int compare_rules(const struct written *left_rule, const struct written *right_rule)
{
    const struct acl_rule *a = &left_rule->rule, *b = &right_rule->rule;
    const int left[] = {a->scheme, a->deny, a->wildcard, a->port_low, a->port_high, a->methods};
    const int right[] = {b->scheme, b->deny, b->wildcard, b->port_low, b->port_high, b->methods};
    for (size_t i = 0; i < sizeof(left) / sizeof(*left); i++)
        if (left[i] != right[i])
            return left[i] < right[i] ? -1 : 1;
    int order = strcmp(a->name, b->name);
    if (order == 0)
        order = compare_nets(&a->net, &b->net);
    return order ? order : compare_paths(left_rule, right_rule);
}

static int compare_written(const void *left, const void *right)
{
    const struct written *a = *(const struct written *const *)left,
                         *b = *(const struct written *const *)right;
    int order = compare_rules(a, b);
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
        if (compare_rules(sorted[i - 1], sorted[i]) == 0)
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

/* Does every request that `narrow` is about fall under `wide`? */
static bool requests_covered(const struct written *wide, const struct written *narrow)
{
    const struct acl_rule *w = &wide->rule, *n = &narrow->rule;
    if (w->methods && (!n->methods || (n->methods & ~w->methods)))
        return false;
    return !w->path_length || (n->path_length && acl_path_matches(wide->text + w->path_at, w->path_length,
                                                                  narrow->text + n->path_at, n->path_length));
}

/* The scheme, with an address that has none taken for what it allows. */
static enum acl_scheme scheme_of(const struct acl_rule *rule)
{
    return rule->scheme == ACL_SCHEME_ADDRESS ? ACL_SCHEME_TCP : rule->scheme;
}

/* Does the deny rule speak of all protocols and ports that the allow rule does? By address. */
static bool protocol_denied(const struct acl_rule *deny, const struct acl_rule *allow)
{
    if (deny->scheme == ACL_SCHEME_ADDRESS && allow->scheme == ACL_SCHEME_ICMP)
        return deny->port_low == 1 && deny->port_high == 65535;
    return (deny->scheme == ACL_SCHEME_ADDRESS || deny->scheme == scheme_of(allow)) &&
           ports_covered(deny, allow);
}

static bool denied_whole(const struct written *deny, const struct written *allow)
{
    const struct acl_rule *d = &deny->rule, *a = &allow->rule;
    if (a->by_address)
        return d->by_address && nets_covered(&d->net, &a->net) && protocol_denied(d, a);
    if (d->by_address || !names_covered(d, a))
        return false;
    return d->scheme == ACL_SCHEME_WEB ||
           (d->scheme == a->scheme && ports_covered(d, a) && requests_covered(deny, allow));
}

/* A rule that names a network also opens the guard of private ranges, which one for any address does not. */
static bool names_network(const struct acl_rule *rule)
{
    return rule->net.base.family != AF_UNSPEC && rule->net.length > 0;
}

static bool allowed_whole(const struct written *wide, const struct written *narrow)
{
    const struct acl_rule *w = &wide->rule, *n = &narrow->rule;
    if (n->by_address)
        return w->by_address && scheme_of(w) == scheme_of(n) && nets_covered(&w->net, &n->net) &&
               ports_covered(w, n) && (names_network(w) || !names_network(n));
    if (w->by_address || !names_covered(w, n))
        return false;
    if (w->scheme == ACL_SCHEME_WEB)
        return n->scheme == ACL_SCHEME_WEB ||
               (n->scheme == ACL_SCHEME_HTTPS && n->port_low == 443 && n->port_high == 443) ||
               (n->scheme == ACL_SCHEME_HTTP && n->port_low == 80 && n->port_high == 80);
    return w->scheme == n->scheme && ports_covered(w, n) && requests_covered(wide, narrow);
}

/* Asks the policy about one flow that `allow` is for. */
static struct acl_verdict judge_sample(const struct acl_policy *policy, const struct written *written)
{
    static const enum acl_protocol protocols[] = {[ACL_SCHEME_WEB] = ACL_TLS,
                                                  [ACL_SCHEME_HTTPS] = ACL_TLS,
                                                  [ACL_SCHEME_HTTP] = ACL_HTTP,
                                                  [ACL_SCHEME_TCP] = ACL_TCP,
                                                  [ACL_SCHEME_ADDRESS] = ACL_TCP,
                                                  [ACL_SCHEME_UDP] = ACL_UDP,
                                                  [ACL_SCHEME_ICMP] = ACL_ICMP};
    const struct acl_rule *allow = &written->rule;
    char name[sizeof(ANY_LABEL) + 1 + ACL_NAME_MAX], method[16] = "GET";
    if (allow->by_address) {
        struct addr sample = allow->net.base;
        sample.port = allow->port_low;
        return acl_policy_judge_address_for(policy, protocols[allow->scheme], &sample);
    }
    strcpy(name, allow->wildcard ? ANY_LABEL : "");
    if (allow->wildcard && allow->name[0])
        strcat(name, ".");
    strcat(name, allow->name);
    if (allow->scheme != ACL_SCHEME_HTTP)
        return acl_policy_judge_name(policy, protocols[allow->scheme], name, strlen(name),
                                     allow->scheme == ACL_SCHEME_WEB ? 443 : allow->port_low);
    if (allow->methods) /* the first it names */
        memcpy(method, written->text, strcspn(written->text, ", "));
    const struct acl_request request = {.name = name,
                                        .name_length = strlen(name),
                                        .port = allow->port_low,
                                        .method = method,
                                        .target = allow->path_length ? written->text + allow->path_at : "/",
                                        .target_length = allow->path_length ? allow->path_length : 1};
    return acl_policy_judge_request(policy, &request);
}

static const char *origin_text(struct load *load, const struct acl_origin *origin)
{
    const char *text =
        origin->line ? arena_format(&load->arena, "%s:%u", origin->file, origin->line) : origin->file;
    return text ? text : "?";
}

static bool warn_denied(struct load *load, const struct acl_policy *policy, const struct written *w)
{
    struct written deny = {0};
    if (w->rule.by_address && w->rule.net.base.family == AF_UNSPEC)
        return false;
    struct acl_verdict verdict = judge_sample(policy, w);
    deny.text = verdict.rule.text;
    if (verdict.reason != ACL_RULE_DENY || !verdict.has_rule ||
        acl_rule_parse(verdict.rule.text, strlen(verdict.rule.text), true, &deny.rule, NULL) < 0 ||
        !denied_whole(&deny, w))
        return false;
    report_warning(load, w->source->mark, "rule \"%s\" never matches: \"%s\" (%s) denies all of it", w->text,
                   verdict.rule.text, origin_text(load, &verdict.rule.origin));
    return true;
}

/* ---- allow rules that no flow reaches ---- */

static struct addr last_address(const struct cidr *net)
{
    struct addr last = net->base;
    unsigned bits = net->base.family == AF_INET ? 32 : 128;
    for (unsigned bit = net->length; bit < bits; bit++)
        last.bytes[bit / 8] |= (uint8_t)(0x80u >> bit % 8);
    return last;
}

/* Why the gateway lets nothing of it come so far that a rule is asked; NULL when it does. */
static const char *unreachable(const struct acl_rule *rule)
{
    if (rule->port_low == 53 && rule->port_high == 53)
        return "the gateway answers port 53 itself; name other servers under gateway: resolvers";
    if (!rule->by_address || rule->net.base.family == AF_UNSPEC)
        return NULL;
    struct addr last = last_address(&rule->net);
    if (acl_guard_classify(&rule->net.base) == ACL_GUARD_NEVER &&
        acl_guard_classify(&last) == ACL_GUARD_NEVER &&
        !strcmp(acl_guard_range_name(&rule->net.base), acl_guard_range_name(&last)))
        return acl_guard_range_name(&last);
    return NULL;
}

static bool warn_unreachable(struct load *load, const struct written *w)
{
    const char *why = unreachable(&w->rule);
    if (!why)
        return false;
    if (w->rule.port_low == 53 && w->rule.port_high == 53)
        report_warning(load, w->source->mark, "rule \"%s\" never matches: %s", w->text, why);
    else
        report_warning(load, w->source->mark,
                       "rule \"%s\" never matches: %s addresses are guarded always; remove it", w->text, why);
    return true;
}

/* ---- wildcards over public suffixes ---- */

static bool is_public_suffix(const struct acl_rule *rule)
{
    return rule->wildcard && rule->name[0] && !rule->deny &&
           psl_is_public_suffix2(psl_builtin(), rule->name, PSL_TYPE_ANY | PSL_TYPE_NO_STAR_RULE);
}

#define SUFFIX_WARNING                                                                                       \
    "rule \"%s\" is over a public suffix: anyone can have a name under %s; name the hosts you mean, or the " \
    "domain, as "                                                                                            \
    "\"*.NAME.%s\""

static bool warn_suffix(struct load *load, const struct written *w)
{
    if (!is_public_suffix(&w->rule))
        return false;
    report_warning(load, w->source->mark, SUFFIX_WARNING, w->text, w->rule.name, w->rule.name);
    return true;
}

static void warn_suffixes_of_file(struct load *load, const struct names_file *file)
{
    struct names_reader reader;
    struct names_entry entry;
    struct acl_rule rule;
    names_reader_init(&reader, file);
    while (names_reader_next(&reader, &entry)) {
        if (!memchr(entry.text, '*', entry.length) ||
            acl_rule_parse(entry.text, entry.length, false, &rule, NULL) < 0 || !is_public_suffix(&rule))
            continue;
        const char *text = load_copy(load, entry.text, entry.length);
        if (text)
            report_warning_in(load, file->path, entry.mark, SUFFIX_WARNING, text, rule.name, rule.name);
    }
}

/* ---- allow rules under wider ones ---- */

static int compare_effective(const void *left, const void *right)
{
    const struct written *a = left, *b = right;
    bool a_named = !a->rule.by_address, b_named = !b->rule.by_address;
    if (a_named != b_named)
        return a_named ? -1 : 1;
    return strcmp(a->rule.name, b->rule.name);
}

#define EFFECTIVE_MAX 100000 /* longer policies are made by programs */

static bool collect_effective(const struct acl_rule_view *view, void *arg)
{
    struct effective *all = arg;
    struct written *w = &all->rules[all->count];
    if (view->deny)
        return true;
    if (all->count == EFFECTIVE_MAX)
        return false;
    *w = (struct written){.text = view->text, .origin = view->origin};
    all->count += acl_rule_parse(view->text, strlen(view->text), false, &w->rule, NULL) == 0;
    all->named += !w->rule.by_address;
    return true;
}

static bool count_rule(const struct acl_rule_view *view, void *arg)
{
    size_t *count = arg;
    *count += !view->deny;
    return *count < EFFECTIVE_MAX;
}

static bool effective_init(struct load *load, const struct acl_policy *policy, struct effective *ret)
{
    size_t count = 0;
    acl_policy_each(policy, count_rule, &count);
    *ret = (struct effective){.rules = malloc((count + 1) * sizeof(*ret->rules))};
    if (!ret->rules) {
        load->out_of_memory = true;
        return false;
    }
    acl_policy_each(policy, collect_effective, ret);
    qsort(ret->rules, ret->count, sizeof(*ret->rules), compare_effective);
    return true;
}

/* The first rule of this name; `named` when there is none. */
static size_t first_of_name(const struct effective *all, const char *name)
{
    size_t low = 0, high = all->named;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(all->rules[middle].rule.name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_itself(const struct load *load, const struct written *effective, const struct written *own)
{
    return effective->origin.line == own->source->mark.line && !strcmp(effective->origin.file, load->name) &&
           !strcmp(effective->text, own->text);
}

/* Another rule of rules[from..to) that allows all that `own` allows; of two that say the same, one that
 * stands elsewhere or earlier. */
static const struct written *find_wider(const struct load *load, const struct effective *all, size_t from,
                                        size_t to, const char *name, const struct written *own)
{
    for (size_t i = from; i < to && (!name || !strcmp(all->rules[i].rule.name, name)); i++) {
        const struct written *wide = &all->rules[i];
        if (is_itself(load, wide, own) || !allowed_whole(wide, own))
            continue;
        if (!allowed_whole(own, wide) || strcmp(wide->origin.file, load->name) != 0 ||
            wide->origin.line < own->source->mark.line)
            return wide;
    }
    return NULL;
}

static const struct written *find_wider_name(const struct load *load, const struct effective *all,
                                             const struct written *own)
{
    const char *name = own->rule.name;
    const struct written *wide = NULL;
    while (!wide) {
        wide = find_wider(load, all, first_of_name(all, name), all->named, name, own);
        if (!*name)
            break;
        const char *dot = strchr(name, '.');
        name = dot ? dot + 1 : "";
    }
    return wide;
}

static bool warn_shadowed(struct load *load, const struct effective *all, const struct written *w)
{
    const struct written *wide = w->rule.by_address
                                     ? find_wider(load, all, all->named, all->count, NULL, w)
                                     : find_wider_name(load, all, w);
    if (!wide)
        return false;
    report_warning(
        load, w->source->mark,
        "rule \"%s\" adds nothing: \"%s\" (%s) allows all of it; remove it, or the other if that is too wide",
        w->text, wide->text, origin_text(load, &wide->origin));
    return true;
}

/* ---- a policy ---- */

static bool warn_front_page(struct load *load, const struct written *w)
{
    if (w->rule.path_length != 1)
        return false;
    report_warning(
        load, w->source->mark,
        "rule \"%s\" is about the front page alone: leave the \"/\" out for every path, or write \"/*\"",
        w->text);
    return true;
}

static void lint_rule(struct load *load, const struct acl_policy *policy, const struct effective *all,
                      const struct written *w)
{
    if (w->earlier)
        warn_repeated(load, w);
    else if (!w->rule.deny)
        (void)(warn_denied(load, policy, w) || warn_unreachable(load, w) || warn_suffix(load, w) ||
               warn_shadowed(load, all, w) || warn_front_page(load, w));
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
        w->text = s->text;
        if (acl_rule_parse(s->text, s->length, s->deny, &w->rule, NULL) == 0)
            ++*ret_count;
    }
    return all;
}

static void lint_rules(struct load *load, const struct draft *draft, struct written *all, size_t count)
{
    struct effective effective;
    struct written **sorted = malloc((count + 1) * sizeof(*sorted));
    load->out_of_memory |= !sorted;
    for (size_t i = 0; i < count && sorted; i++)
        sorted[i] = &all[i];
    if (sorted)
        find_repeated(sorted, count);
    free(sorted);
    if (!sorted || !effective_init(load, draft->built, &effective))
        return;
    for (size_t i = 0; i < count; i++)
        lint_rule(load, draft->built, &effective, &all[i]);
    free(effective.rules);
}

static void lint_draft(struct load *load, const struct draft *draft)
{
    size_t count;
    struct written *all = collect(load, draft, &count);
    if (count)
        lint_rules(load, draft, all, count);
    free(all);
    for (const struct source *s = draft->sources; s; s = s->next)
        if (s->file && !s->deny)
            warn_suffixes_of_file(load, s->file);
}

void lint_policies(struct load *load)
{
    for (const struct draft *draft = load->drafts; draft; draft = draft->next)
        lint_draft(load, draft);
}
