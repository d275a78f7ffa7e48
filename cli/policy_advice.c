/*
 * What would change a verdict. Nothing is guessed: each proposal is tried on a copy of the policy that has
 * the rule more or less, and only what turns the answer around is said.
 */
#include "cli/policy_question.h"
#include "acl/guard.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define REMOVED_MAX 8
#define RULES_MAX 200000 /* copying more takes longer than an answer may */

/* A policy but for some of its rules, and with another. */
struct change {
    struct acl_rule_view removed[REMOVED_MAX];
    size_t removed_count;
    const char *added; /* under allow; NULL: nothing */
};

struct copy {
    const struct change *change;
    struct acl_policy *to;
    size_t rules;
    bool failed;
};

static bool same_rule(const struct acl_rule_view *a, const struct acl_rule_view *b)
{
    return a->deny == b->deny && a->origin.line == b->origin.line &&
           !strcmp(a->origin.file, b->origin.file) && !strcmp(a->text, b->text);
}

static bool is_removed(const struct change *change, const struct acl_rule_view *rule)
{
    for (size_t i = 0; i < change->removed_count; i++) {
        if (same_rule(&change->removed[i], rule))
            return true;
    }
    return false;
}

static bool copy_rule(const struct acl_rule_view *rule, void *arg)
{
    struct copy *copy = arg;
    if (is_removed(copy->change, rule))
        return true;
    copy->failed |= copy->rules++ == RULES_MAX || acl_policy_add(copy->to, rule->text, strlen(rule->text),
                                                                 rule->deny, rule->origin, NULL) < 0;
    return !copy->failed;
}

/* NULL when it cannot be tried. */
static struct acl_policy *changed_policy(const struct acl_policy *policy, const struct change *change)
{
    struct copy copy = {.change = change, .to = acl_policy_create(acl_policy_name(policy))};
    if (!copy.to)
        return NULL;
    acl_policy_set_dns(copy.to, acl_policy_dns(policy));
    acl_policy_each(policy, copy_rule, &copy);
    if (change->added && acl_policy_add(copy.to, change->added, strlen(change->added), false,
                                        (struct acl_origin){.file = "advice"}, NULL) < 0)
        copy.failed = true;
    if (!copy.failed && acl_policy_seal(copy.to) == 0)
        return copy.to;
    acl_policy_destroy(copy.to);
    return NULL;
}

struct search {
    const struct acl_rule_view *wanted;
    struct acl_rule_view found;
};

static bool match_rule(const struct acl_rule_view *rule, void *arg)
{
    struct search *search = arg;
    if (!same_rule(rule, search->wanted))
        return true;
    search->found = *rule;
    return false;
}

/* The answer of the changed policy, with the rule as the original has it. False when it cannot be had. */
static bool try_change(const struct config_snapshot *snapshot, const struct acl_policy *policy,
                       const struct question *q, const struct change *change, struct answer *ret)
{
    struct acl_policy *copy = changed_policy(policy, change);
    if (!copy)
        return false;
    *ret = answer_question(snapshot, copy, q);
    struct search search = {.wanted = &ret->verdict.rule};
    if (ret->verdict.has_rule)
        acl_policy_each(policy, match_rule, &search);
    ret->verdict.has_rule = search.found.text != NULL;
    ret->verdict.rule = search.found;
    acl_policy_destroy(copy);
    return true;
}

/* ---- the rule that would allow it ---- */

static void needed_rule(const struct question *q, const struct answer *answer, char *ret, size_t size)
{
    char address[ADDR_TEXT_MAX];
    char port[8] = "";
    if (q->port != 80)
        snprintf(port, sizeof(port), ":%u", q->port);
    bool http = !strcmp(answer->protocol, "http"), tls = !strcmp(answer->protocol, "tls");
    enum acl_reason reason = answer->verdict.reason;
    if (q->ask == ASK_ICMP)
        snprintf(ret, size, "icmp://%s", q->by_address ? addr_format(&q->address, address) : q->name);
    else if (q->ask == ASK_UDP && q->by_address)
        snprintf(ret, size, "udp://%s", addr_format_with_port(&q->address, address));
    else if (q->ask == ASK_UDP)
        snprintf(ret, size, "udp://%s:%u", q->name, q->port);
    else if (q->by_address)
        snprintf(ret, size, "%s", addr_format_with_port(&q->address, address));
    else if (reason == ACL_METHOD_DENIED || (reason == ACL_PATH_DENIED && !answer->verdict.detail))
        snprintf(ret, size, "%s http://%s%s%.*s", q->method, q->name, port, (int)strcspn(q->target, "?#"),
                 q->target);
    else if (reason == ACL_PATH_DENIED)
        snprintf(ret, size, "%s http://%s%s", q->method, q->name, port);
    else if ((tls && q->port == 443) || (http && q->port == 80))
        snprintf(ret, size, "%s", q->name);
    else
        snprintf(ret, size, "%s://%s:%u",
                 tls || q->ask == ASK_TLS     ? "https"
                 : http || q->ask == ASK_HTTP ? "http"
                                              : "tcp",
                 q->name, q->port);
}

/* ---- the sentences ---- */

struct sentence {
    char *text;
    size_t size, used;
};

static void __attribute__((format(printf, 2, 3))) say(struct sentence *s, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(s->text + s->used, s->size - s->used, format, args);
    va_end(args);
    if (n > 0)
        s->used = s->used + (size_t)n < s->size ? s->used + (size_t)n : s->size - 1;
}

static void say_rule(struct sentence *s, const struct acl_rule_view *rule)
{
    char origin[512];
    say(s, "\"%s\" (%s)", rule->text, policy_origin_text(&rule->origin, origin, sizeof(origin)));
}

static void say_removals(struct sentence *s, const struct change *change)
{
    say(s, "remove the deny %s ", change->removed_count == 1 ? "rule" : "rules");
    for (size_t i = 0; i < change->removed_count; i++) {
        say(s, i == 0 ? "" : i + 1 == change->removed_count ? " and " : ", ");
        say_rule(s, &change->removed[i]);
    }
}

/* No rule is asked about these. */
static bool guarded(struct sentence *s, const struct question *q, const struct answer *answer)
{
    char address[ADDR_TEXT_MAX];
    if (answer->verdict.reason != ACL_DESTINATION_GUARDED)
        return false;
    if (acl_guard_classify(&q->address) == ACL_GUARD_NEVER)
        say(s, "nothing opens it: %s addresses are guarded always", acl_guard_range_name(&q->address));
    else
        say(s, "to allow it, write a network that holds %s under destinations: allow, or as an address rule",
            addr_format(&q->address, address));
    return true;
}

static void advise_to_allow(struct sentence *s, const struct config_snapshot *snapshot,
                            const struct acl_policy *policy, const struct question *q, struct answer answer)
{
    char rule[ACL_NAME_MAX + ACL_PATH_MAX + 64];
    struct change change = {0};
    while (answer.verdict.reason == ACL_RULE_DENY && answer.verdict.has_rule &&
           change.removed_count < REMOVED_MAX) {
        change.removed[change.removed_count++] = answer.verdict.rule;
        if (!try_change(snapshot, policy, q, &change, &answer))
            break;
    }
    if (guarded(s, q, &answer))
        return;
    if (!answer.verdict.allowed) {
        needed_rule(q, &answer, rule, sizeof(rule));
        change.added = rule;
        if (!try_change(snapshot, policy, q, &change, &answer) || !answer.verdict.allowed) {
            if (!guarded(s, q, &answer))
                say(s, "no single rule would allow it");
            return;
        }
    }
    say(s, "to allow it, ");
    if (change.removed_count)
        say_removals(s, &change);
    if (change.added)
        say(s, "%swrite \"%s\" under allow", change.removed_count ? ", and " : "", rule);
}

static void advise_to_deny(struct sentence *s, const struct config_snapshot *snapshot,
                           const struct acl_policy *policy, const struct question *q, struct answer answer)
{
    char address[ADDR_TEXT_MAX];
    struct change change = {0};
    say(s, "to deny it, write \"%s\" under deny",
        q->by_address ? addr_format(&q->address, address) : q->name);
    if (!answer.verdict.has_rule)
        return;
    change.removed[change.removed_count++] = answer.verdict.rule;
    if (try_change(snapshot, policy, q, &change, &answer) && !answer.verdict.allowed) {
        say(s, ", or remove the allow rule ");
        say_rule(s, &change.removed[0]);
    }
}

const char *advise(const struct config_snapshot *snapshot, const struct acl_policy *policy,
                   const struct question *q, const struct answer *answer, char ret[ADVICE_MAX])
{
    struct sentence s = {.text = ret, .size = ADVICE_MAX};
    ret[0] = 0;
    if (answer->verdict.allowed)
        advise_to_deny(&s, snapshot, policy, q, *answer);
    else
        advise_to_allow(&s, snapshot, policy, q, *answer);
    return ret;
}
