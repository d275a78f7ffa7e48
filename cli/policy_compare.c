/*
 * Two policies compared by what they do, not by what is written in them: reordered, regrouped or repeated
 * rules are no difference, and a new deny rule is one only for what was allowed.
 *
 * Every rule of either names some flows. One sample of each kind of them is put to both policies, and where
 * the answers differ something opens or closes. The samples are chosen so that no other rule hides what the
 * rule is about:
 *
 *   name     itself; for a wildcard a label that nobody writes
 *   ports    one of every stretch between two ports at which any rule of either begins or ends
 *   network  its first and last address, and the one behind every network that lies in it
 *   request  every method that rules know, and one they do not; the rule's path, or one that nobody writes
 *
 * Limit: of networks that lie in others only the first 2000 are looked behind.
 */
#include "cli/policy_diff.h"

#include <errno.h>
#include <search.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANY_LABEL "sallyport-any-label"
#define ANY_PATH "/sallyport-any-path"
#define NETS_MAX 2000
#define PORTS 65536
#define USE_UDP 0x80 /* beside the bits of acl_policy_port_use() */

static const char *const methods[] = {
    "GET",  "HEAD", "POST",   "PUT",      "DELETE", "PATCH",  "OPTIONS",   "TRACE", "COPY",
    "MOVE", "LOCK", "UNLOCK", "PROPFIND", "MKCOL",  "REPORT", "PROPPATCH", "OTHER"}; /* the last: one that no
                                                                                        rule can name */
#define METHOD_COUNT (sizeof(methods) / sizeof(*methods))
#define EVERY_METHOD ((1u << METHOD_COUNT) - 1)

struct comparison {
    const struct acl_policy *before, *after;
    void (*each)(const struct policy_change *change, void *arg);
    void *arg;
    bool cuts[PORTS + 1];       /* a stretch of ports begins here */
    uint32_t starts[PORTS + 1]; /* the same, sorted; the last is PORTS */
    uint8_t uses[PORTS];        /* of each stretch, by either policy */
    size_t stretch_count;
    struct cidr nets[NETS_MAX];
    size_t net_count;
    void *told; /* tree of texts: what was said already */
    size_t count;
    bool out_of_memory;
};

/* ---- what rules there are ---- */

static bool survey_rule(const struct acl_rule_view *view, void *arg)
{
    struct comparison *c = arg;
    struct acl_rule rule;
    if (acl_rule_parse(view->text, strlen(view->text), view->deny, &rule, NULL) < 0)
        return true;
    c->cuts[rule.port_low] = c->cuts[rule.port_high + 1] = true;
    if (rule.by_address && rule.net.base.family && c->net_count < NETS_MAX)
        c->nets[c->net_count++] = rule.net;
    return true;
}

static uint8_t use_of_port(const struct acl_policy *policy, uint16_t port)
{
    size_t count;
    const struct acl_port_range *udp = acl_policy_udp_ports(policy, &count);
    unsigned use = acl_policy_port_use(policy, port);
    for (size_t i = 0; i < count; i++)
        use |= udp[i].low <= port && port <= udp[i].high ? USE_UDP : 0;
    return (uint8_t)use;
}

static void survey_ports(struct comparison *c)
{
    c->cuts[1] = true;
    for (unsigned port = 1; port < PORTS; port++) {
        if (!c->cuts[port])
            continue;
        c->uses[c->stretch_count] =
            use_of_port(c->before, (uint16_t)port) | use_of_port(c->after, (uint16_t)port);
        c->starts[c->stretch_count++] = port;
    }
    c->starts[c->stretch_count] = PORTS;
}

/* The end of the stretch that `port` is in: where the next begins. */
static unsigned stretch_end(const struct comparison *c, unsigned port)
{
    size_t low = 0, high = c->stretch_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (c->starts[middle] <= port)
            low = middle;
        else
            high = middle;
    }
    return c->starts[low + 1];
}

/* ---- one flow ---- */

struct flow {
    enum acl_protocol protocol;
    bool by_address;
    struct addr address;
    char name[sizeof(ANY_LABEL) + 1 + ACL_NAME_MAX];
    uint16_t port;
    const char *method, *path;
};

static struct acl_verdict judge(const struct acl_policy *policy, const struct flow *flow)
{
    size_t length = strlen(flow->name);
    if (flow->by_address) {
        struct addr a = flow->address;
        a.port = flow->port;
        return acl_policy_judge_address_for(policy, flow->protocol, &a);
    }
    if (flow->protocol != ACL_HTTP)
        return acl_policy_judge_name(policy, flow->protocol, flow->name, length, flow->port);
    const struct acl_request request = {.name = flow->name,
                                        .name_length = length,
                                        .port = flow->port,
                                        .method = flow->method,
                                        .target = flow->path,
                                        .target_length = strlen(flow->path)};
    return acl_policy_judge_request(policy, &request);
}

/* ---- the words for one rule's differences ---- */

struct words {
    char text[2048];
    size_t used;
    struct acl_rule_view rule; /* text NULL: none */
};

static void __attribute__((format(printf, 2, 3))) add_words(struct words *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(w->text + w->used, sizeof(w->text) - w->used, format, args);
    va_end(args);
    if (n > 0)
        w->used = w->used + (size_t)n < sizeof(w->text) ? w->used + (size_t)n : sizeof(w->text) - 1;
}

/* The stretch of ports that is being looked at, as long as the answers stay the same. */
struct stretch {
    unsigned low, high;
    unsigned opens, closes; /* bits: of methods, or 1 */
    bool partly;            /* closed but for single requests */
};

struct report {
    struct comparison *c;
    struct flow *flow;
    unsigned asked; /* bits of methods that the rule is about */
    const char *path;
    struct words opens, closes;
};

/* Not by assignment, which would clear all room for words for each of a million rules. */
static void report_init(struct report *r, struct comparison *c, struct flow *flow, unsigned asked)
{
    r->c = c;
    r->flow = flow;
    r->asked = asked;
    r->path = NULL;
    r->opens.used = r->closes.used = 0;
    r->opens.rule = r->closes.rule = (struct acl_rule_view){0};
}

static void add_methods(struct words *w, unsigned bits, const struct report *r)
{
    bool some = bits != r->asked || r->asked != EVERY_METHOD;
    if (!some && !r->path)
        return;
    add_words(w, " (");
    for (size_t i = 0, n = 0; i < METHOD_COUNT && some; i++) {
        if (bits & 1u << i)
            add_words(w, "%s%s", n++ ? ", " : "", i + 1 == METHOD_COUNT ? "others" : methods[i]);
    }
    if (r->path)
        add_words(w, "%s%s", some ? " of " : "", r->path);
    add_words(w, ")");
}

static void add_stretch(struct words *w, const struct report *r, const struct stretch *s, unsigned bits)
{
    static const char *const names[] = {[ACL_TLS] = "TLS",
                                        [ACL_HTTP] = "HTTP",
                                        [ACL_TCP] = "any TCP",
                                        [ACL_UDP] = "UDP",
                                        [ACL_ICMP] = "ICMP echo"};
    add_words(w, "%s%s", w->used ? ", " : "", names[r->flow->protocol]);
    if (r->flow->protocol == ACL_ICMP)
        return;
    add_words(w, " on ");
    if (s->low == 1 && s->high == PORTS - 1)
        add_words(w, "every port");
    else if (s->low == s->high)
        add_words(w, "%u", s->low);
    else
        add_words(w, "%u-%u", s->low, s->high);
    if (r->flow->protocol == ACL_HTTP && !r->flow->by_address)
        add_methods(w, bits, r);
    if (s->partly && w == &r->closes)
        add_words(w, " but for requests that rules name");
}

static void flush_stretch(struct report *r, const struct stretch *s)
{
    if (s->opens)
        add_stretch(&r->opens, r, s, s->opens);
    if (s->closes)
        add_stretch(&r->closes, r, s, s->closes);
}

/* Puts the flow to both policies; `bit` goes to opens or closes when they differ. */
static void ask_both(struct report *r, struct stretch *s, unsigned bit)
{
    struct acl_verdict before = judge(r->c->before, r->flow), after = judge(r->c->after, r->flow);
    if (before.allowed == after.allowed)
        return;
    struct words *w = after.allowed ? &r->opens : &r->closes;
    if (after.allowed)
        s->opens |= bit;
    else
        s->closes |= bit;
    s->partly |= after.reason == ACL_METHOD_DENIED || after.reason == ACL_PATH_DENIED;
    if (after.has_rule && !w->rule.text)
        w->rule = after.rule;
}

static struct stretch ask_port(struct report *r, unsigned port)
{
    struct stretch s = {.low = port, .high = port};
    r->flow->port = (uint16_t)port;
    if (r->flow->protocol != ACL_HTTP || r->flow->by_address) {
        ask_both(r, &s, 1);
        return s;
    }
    if (!acl_policy_judges_requests(r->c->before) && !acl_policy_judges_requests(r->c->after)) {
        r->flow->method = methods[0]; /* as any other */
        ask_both(r, &s, r->asked);
        return s;
    }
    for (size_t i = 0; i < METHOD_COUNT; i++) {
        r->flow->method = methods[i];
        if (r->asked & 1u << i)
            ask_both(r, &s, 1u << i);
    }
    return s;
}

static void ask_icmp(struct report *r)
{
    r->flow->protocol = ACL_ICMP;
    struct stretch s = ask_port(r, 0);
    flush_stretch(r, &s);
}

/* Every stretch of ports from low to high. */
static void ask_ports(struct report *r, enum acl_protocol protocol, unsigned low, unsigned high)
{
    struct stretch run = {0};
    r->flow->protocol = protocol;
    for (unsigned port = low, next; port <= high; port = next) {
        next = stretch_end(r->c, port);
        next = next <= high ? next : high + 1;
        struct stretch s = ask_port(r, port);
        s.high = next - 1;
        if (run.low && s.opens == run.opens && s.closes == run.closes && s.partly == run.partly) {
            run.high = s.high;
            continue;
        }
        if (run.low)
            flush_stretch(r, &run);
        run = s;
    }
    flush_stretch(r, &run);
}

/* A deny rule without scheme speaks of all that anything allows. */
static void ask_every_use(struct report *r)
{
    const struct comparison *c = r->c;
    for (size_t i = 0; i < c->stretch_count; i++) {
        unsigned low = c->starts[i], high = c->starts[i + 1] - 1;
        if ((c->uses[i] & ACL_PORT_TLS) && low != 443)
            ask_ports(r, ACL_TLS, low, high);
        if ((c->uses[i] & ACL_PORT_HTTP) && low != 80)
            ask_ports(r, ACL_HTTP, low, high);
        if (c->uses[i] & ACL_PORT_TCP_NAME)
            ask_ports(r, ACL_TCP, low, high);
        if (c->uses[i] & USE_UDP)
            ask_ports(r, ACL_UDP, low, high);
    }
    ask_icmp(r);
}

static void tell(struct comparison *c, const char *subject, bool opens, const struct words *w)
{
    char *line = NULL;
    if (!w->used)
        return;
    if (asprintf(&line, "%d %s: %s", opens, subject, w->text) < 0) {
        c->out_of_memory = true;
        return;
    }
    char **found = tsearch(line, &c->told, (int (*)(const void *, const void *))strcmp);
    c->out_of_memory |= !found;
    if (!found || *found != line) {
        free(line);
        return;
    }
    const struct policy_change change = {
        .opens = opens, .subject = subject, .flows = w->text, .rule = w->rule.text ? &w->rule : NULL};
    c->count++;
    c->each(&change, c->arg);
}

/* ---- one rule ---- */

static unsigned methods_of(const struct acl_rule *rule)
{
    unsigned bits = 0;
    for (size_t i = 0; i < METHOD_COUNT; i++)
        if (rule->methods & acl_method_bit(methods[i], strlen(methods[i])))
            bits |= 1u << i;
    return rule->methods ? bits : EVERY_METHOD;
}

/* A path that the pattern matches. */
static const char *sample_path(const char *pattern, size_t length, char *ret, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < length && used + sizeof("any-path") < size; i++) {
        if (pattern[i] == '*')
            used += (size_t)snprintf(ret + used, size - used, "any-path");
        else
            ret[used++] = pattern[i];
    }
    ret[used] = 0;
    return ret;
}

/* What a rule with a scheme speaks of, and an address without one. */
static void ask_rule(struct report *r, const struct acl_rule *rule)
{
    static const enum acl_protocol protocols[] = {[ACL_SCHEME_HTTPS] = ACL_TLS,
                                                  [ACL_SCHEME_HTTP] = ACL_HTTP,
                                                  [ACL_SCHEME_TCP] = ACL_TCP,
                                                  [ACL_SCHEME_ADDRESS] = ACL_TCP,
                                                  [ACL_SCHEME_UDP] = ACL_UDP};
    bool every_protocol = rule->deny && rule->scheme == ACL_SCHEME_ADDRESS;
    if (rule->scheme != ACL_SCHEME_ICMP)
        ask_ports(r, protocols[rule->scheme], rule->port_low, rule->port_high);
    if (every_protocol)
        ask_ports(r, ACL_UDP, rule->port_low, rule->port_high);
    if (rule->scheme == ACL_SCHEME_ICMP ||
        (every_protocol && rule->port_low == 1 && rule->port_high == PORTS - 1))
        ask_icmp(r);
}

static void compare_name(struct comparison *c, const struct acl_rule *rule, const char *text)
{
    char subject[ACL_NAME_MAX + 3], path[ACL_PATH_MAX], pattern[ACL_PATH_MAX];
    struct flow flow = {.path = ANY_PATH};
    struct report r;
    report_init(&r, c, &flow, methods_of(rule));
    const char *dot = rule->wildcard && rule->name[0] ? "." : "";
    snprintf(subject, sizeof(subject), "%s%s%s", rule->wildcard ? "*" : "", dot, rule->name);
    snprintf(flow.name, sizeof(flow.name), "%s%s%s", rule->wildcard ? ANY_LABEL : "", dot, rule->name);
    if (rule->path_length) {
        snprintf(pattern, sizeof(pattern), "%.*s", rule->path_length, text + rule->path_at);
        r.path = pattern;
        flow.path = sample_path(text + rule->path_at, rule->path_length, path, sizeof(path));
    }
    if (rule->scheme == ACL_SCHEME_WEB) {
        ask_ports(&r, ACL_TLS, 443, 443);
        ask_ports(&r, ACL_HTTP, 80, 80);
        if (rule->deny)
            ask_every_use(&r);
    } else {
        ask_rule(&r, rule);
    }
    tell(c, subject, true, &r.opens);
    tell(c, subject, false, &r.closes);
}

/* The address behind a network; false when there is none. */
static bool address_behind(const struct cidr *net, struct addr *ret)
{
    size_t size = net->base.family == AF_INET ? 4 : 16;
    *ret = net->base;
    for (size_t bit = net->length; bit < size * 8; bit++)
        ret->bytes[bit / 8] |= (uint8_t)(0x80u >> bit % 8);
    for (size_t i = size; i-- > 0;)
        if (++ret->bytes[i])
            return true;
    return false;
}

static bool compare_address(struct comparison *c, const struct acl_rule *rule, const char *subject,
                            const struct addr *address, bool whole)
{
    struct flow flow = {.by_address = true, .address = *address};
    struct report r;
    report_init(&r, c, &flow, 1);
    ask_rule(&r, rule);
    if (!whole && r.opens.used)
        add_words(&r.opens, " for a part of it");
    if (!whole && r.closes.used)
        add_words(&r.closes, " for a part of it");
    tell(c, subject, true, &r.opens);
    tell(c, subject, false, &r.closes);
    return r.opens.used || r.closes.used;
}

static void compare_net(struct comparison *c, const struct acl_rule *rule)
{
    char subject[ADDR_TEXT_MAX];
    struct addr sample, behind;
    cidr_format(&rule->net, subject);
    bool differs = compare_address(c, rule, subject, &rule->net.base, true);
    for (size_t i = 0; i < c->net_count && !differs; i++)
        if (c->nets[i].base.family == rule->net.base.family && address_behind(&c->nets[i], &sample) &&
            cidr_contains(&rule->net, &sample))
            differs = compare_address(c, rule, subject, &sample, false);
    sample = rule->net.base;
    if (!differs && address_behind(&rule->net, &behind)) { /* the last is the one in front of it */
        sample = behind;
        for (size_t i = sample.family == AF_INET ? 4 : 16; i-- > 0;)
            if (sample.bytes[i]--)
                break;
        compare_address(c, rule, subject, &sample, false);
    }
}

/* No list names these: one of either family, from the ranges for benchmarks and documentation. */
static void compare_any_address(struct comparison *c, const struct acl_rule *rule)
{
    const struct addr samples[] = {
        {.family = AF_INET, .bytes = {198, 19, 255, 254}},
        {.family = AF_INET6, .bytes = {0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff, [15] = 0xfe}}};
    for (size_t i = 0; i < 2; i++)
        if (compare_address(c, rule, "any address", &samples[i], true))
            return;
}

static bool compare_rule(const struct acl_rule_view *view, void *arg)
{
    struct comparison *c = arg;
    struct acl_rule rule;
    if (acl_rule_parse(view->text, strlen(view->text), view->deny, &rule, NULL) < 0)
        return true;
    if (!rule.by_address)
        compare_name(c, &rule, view->text);
    else if (rule.net.base.family)
        compare_net(c, &rule);
    else
        compare_any_address(c, &rule);
    return !c->out_of_memory;
}

ssize_t policy_compare(const struct acl_policy *before, const struct acl_policy *after,
                       void (*each)(const struct policy_change *change, void *arg), void *arg)
{
    struct comparison *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->before = before;
    c->after = after;
    c->each = each;
    c->arg = arg;
    acl_policy_each(after, survey_rule, c);
    acl_policy_each(before, survey_rule, c);
    c->cuts[80] = c->cuts[81] = c->cuts[443] = c->cuts[444] = true;
    survey_ports(c);
    acl_policy_each(after, compare_rule, c);
    if (!c->out_of_memory)
        acl_policy_each(before, compare_rule, c);
    ssize_t count = c->out_of_memory ? -ENOMEM : (ssize_t)c->count;
    tdestroy(c->told, free);
    free(c);
    return count;
}
