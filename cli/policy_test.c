/*
 * `policy test`: one question, answered as the gateway would (gateway/flow.c) as far as it can be without a
 * connection: names are not resolved, so what an address rule or the address guard says about a name's
 * addresses is not known here.
 */
#include "cli/policy_question.h"
#include "acl/guard.h"
#include "base/json.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ALLOW_MAX 1024

/* ---- reading the question ---- */

static bool take_scheme(const char **text, enum ask *ret_ask, uint16_t *ret_port)
{
    static const struct {
        const char *prefix;
        enum ask ask;
        uint16_t port;
    } schemes[] = {{"https://", ASK_TLS, 443},
                   {"http://", ASK_HTTP, 80},
                   {"tcp://", ASK_PORT, 0},
                   {"udp://", ASK_UDP, 0},
                   {"icmp://", ASK_ICMP, 0}};
    for (size_t i = 0; i < sizeof(schemes) / sizeof(*schemes); i++) {
        size_t length = strlen(schemes[i].prefix);
        if (strncasecmp(*text, schemes[i].prefix, length))
            continue;
        *text += length;
        *ret_ask = schemes[i].ask;
        *ret_port = schemes[i].port;
        return true;
    }
    *ret_ask = ASK_PORT;
    *ret_port = 443;
    return strstr(*text, "://") == NULL;
}

/* HOST, HOST:PORT, ADDR, ADDR:PORT, [V6], [V6]:PORT; *port stays when none is written. False: no port where a
 * ':' is. */
static bool split_host(const char *text, size_t length, const char **ret_host, size_t *ret_length,
                       uint16_t *port)
{
    const char *colon = memrchr(text, ':', length), *close = memrchr(text, ']', length);
    struct addr ignored;
    *ret_host = text;
    *ret_length = length;
    if (addr_parse(text, length, &ignored))
        return true; /* also a bare IPv6 address, whose colons are its own */
    if (colon && (!close || colon > close)) {
        *ret_length = (size_t)(colon - text);
        if (!addr_parse_port(colon + 1, length - *ret_length - 1, port))
            return false;
    }
    if (*ret_length >= 2 && text[0] == '[' && text[*ret_length - 1] == ']') {
        *ret_host = text + 1;
        *ret_length -= 2;
    }
    return true;
}

/* NULL, or what is wrong with it. */
static const char *read_question(const char *text, struct question *ret)
{
    struct question q = {.method = "GET", .target = "/"};
    const char *host;
    size_t length;
    if (!take_scheme(&text, &q.ask, &q.port))
        return "write https://, http://, tcp://, udp:// or icmp:// in front of the host, or no scheme";
    size_t authority = strcspn(text, "/?#");
    if (text[authority] == '/')
        q.target = text + authority;
    if (memchr(text, '@', authority))
        return "leave out what stands before the @";
    if (!split_host(text, authority, &host, &length, &q.port))
        return "the port has to be a number from 1 to 65535";
    if (q.ask == ASK_ICMP && q.port)
        return "ICMP has no ports: write icmp://HOST";
    if (q.port == 0 && q.ask == ASK_UDP)
        return "udp:// needs a port: write udp://HOST:PORT";
    if (q.port == 0 && q.ask == ASK_PORT)
        return "tcp:// needs a port: write tcp://HOST:PORT";
    if (addr_parse(host, length, &q.address)) {
        q.by_address = true;
        q.address.port = q.port;
        *ret = q;
        return NULL;
    }
    enum acl_name_kind kind = acl_name_normalise(host, length, q.name, &q.name_length);
    if (kind != ACL_NAME_OK)
        return acl_name_kind_text(kind);
    *ret = q;
    return NULL;
}

/* ---- answering it ---- */

static struct acl_verdict refused(enum acl_reason reason)
{
    return (struct acl_verdict){.allowed = false, .reason = reason};
}

/* Of two answers about one port: a deny rule beats an allow rule, which beats silence. */
static void weigh(struct answer *best, const char *protocol, struct acl_verdict verdict)
{
    bool better = !best->protocol ||
                  (verdict.reason == ACL_RULE_DENY && best->verdict.reason != ACL_RULE_DENY) ||
                  (verdict.allowed && best->verdict.reason == ACL_NO_RULE);
    if (better)
        *best = (struct answer){.protocol = protocol, .verdict = verdict};
}

/* A rule for any address (":22", "*:*") speaks for a name too: wherever it resolves to, but for the guard. */
static bool any_address_allows(const struct acl_policy *policy, uint16_t port, struct acl_verdict *ret)
{
    struct acl_rule rule;
    struct addr sample = {.family = AF_INET, .port = port, .bytes = {192, 0, 2, 1}};
    struct acl_verdict verdict = acl_policy_judge_address(policy, &sample);
    if (!verdict.allowed || !verdict.has_rule ||
        acl_rule_parse(verdict.rule.text, strlen(verdict.rule.text), false, &rule, NULL) < 0 ||
        rule.scheme != ACL_SCHEME_ADDRESS || rule.net.base.family != AF_UNSPEC)
        return false;
    *ret = verdict;
    return true;
}

static struct acl_verdict judge_request(const struct acl_policy *policy, const struct question *q)
{
    const struct acl_request request = {.name = q->name,
                                        .name_length = q->name_length,
                                        .port = q->port,
                                        .method = q->method,
                                        .target = q->target,
                                        .target_length = strcspn(q->target, "#")};
    return acl_policy_judge_request(policy, &request);
}

static struct answer answer_name(const struct acl_policy *policy, const struct question *q, unsigned use)
{
    struct answer best = {0};
    if (q->ask == ASK_TLS || (q->ask == ASK_PORT && (use & ACL_PORT_TLS)))
        weigh(&best, "tls", acl_policy_judge_name(policy, ACL_TLS, q->name, q->name_length, q->port));
    if (q->ask == ASK_HTTP)
        weigh(&best, "http", judge_request(policy, q));
    if (q->ask == ASK_PORT && (use & ACL_PORT_HTTP))
        weigh(&best, "http", acl_policy_judge_name(policy, ACL_HTTP, q->name, q->name_length, q->port));
    if (q->ask == ASK_PORT && (use & (ACL_PORT_TCP_NAME | ACL_PORT_ADDRESS)))
        weigh(&best, "tcp", acl_policy_judge_name(policy, ACL_TCP, q->name, q->name_length, q->port));
    if (!best.protocol)
        best.protocol = q->ask == ASK_TLS ? "tls" : q->ask == ASK_HTTP ? "http" : "tcp";
    if (!best.verdict.allowed && best.verdict.reason != ACL_RULE_DENY && (use & ACL_PORT_ADDRESS) &&
        !any_address_allows(policy, q->port, &best.verdict) && best.verdict.reason == ACL_NO_RULE)
        best.detail =
            "no rule names it; an address rule opens this port for some addresses: test the address itself";
    return best;
}

/* Private ranges are open where a rule for that protocol, or the configuration, names them. */
static bool is_guarded(const struct config_snapshot *snapshot, const struct acl_policy *policy,
                       enum acl_protocol protocol, const struct addr *address)
{
    enum acl_guard_class guard = acl_guard_classify(address);
    return guard == ACL_GUARD_NEVER ||
           (guard == ACL_GUARD_PRIVATE && !acl_policy_names_network_for(policy, protocol, address) &&
            !config_destination_allowed(snapshot, address));
}

/* UDP, or an echo request: nothing in it shows a name, which comes from the binding. */
static struct answer answer_packet(const struct config_snapshot *snapshot, const struct acl_policy *policy,
                                   const struct question *q)
{
    enum acl_protocol protocol = q->ask == ASK_UDP ? ACL_UDP : ACL_ICMP;
    struct answer answer = {.protocol = q->ask == ASK_UDP ? "udp" : "icmp"};
    if (q->ask == ASK_UDP && q->port == 53)
        return (struct answer){"udp", refused(ACL_PORT_DENIED),
                               "the gateway answers port 53 itself, as DNS"};
    answer.verdict = q->by_address
                         ? acl_policy_judge_address_for(policy, protocol, &q->address)
                         : acl_policy_judge_name(policy, protocol, q->name, q->name_length, q->port);
    if (q->by_address && answer.verdict.allowed && is_guarded(snapshot, policy, protocol, &q->address)) {
        answer.verdict = refused(ACL_DESTINATION_GUARDED);
        answer.detail = acl_guard_range_name(&q->address);
    }
    return answer;
}

/* A flow to an address shows no name. */
static struct answer answer_address(const struct config_snapshot *snapshot, const struct acl_policy *policy,
                                    const struct question *q, unsigned use)
{
    bool sniffed = use & (ACL_PORT_TLS | ACL_PORT_HTTP);
    struct answer answer = {q->ask == ASK_TLS    ? "tls"
                            : q->ask == ASK_HTTP ? "http"
                                                 : "tcp",
                            acl_policy_judge_address(policy, &q->address), NULL};
    if (answer.verdict.allowed && sniffed && acl_policy_denies_names(policy)) {
        answer.verdict = refused(ACL_IP_LITERAL);
        answer.detail = "the policy denies names, so a flow on this port has to show one";
    }
    if (!answer.verdict.allowed)
        return answer;
    if (is_guarded(snapshot, policy, ACL_TCP, &q->address)) {
        answer.verdict = refused(ACL_DESTINATION_GUARDED);
        answer.detail = acl_guard_range_name(&q->address);
    }
    return answer;
}

struct answer answer_question(const struct config_snapshot *snapshot, const struct acl_policy *policy,
                              const struct question *q)
{
    if (q->ask == ASK_UDP || q->ask == ASK_ICMP)
        return answer_packet(snapshot, policy, q);
    unsigned use = acl_policy_port_use(policy, q->port);
    if (!use)
        return (struct answer){"tcp", refused(ACL_PORT_DENIED), NULL};
    return q->by_address ? answer_address(snapshot, policy, q, use) : answer_name(policy, q, use);
}

/* ---- printing it ---- */

static const char *reason_text(const struct answer *answer)
{
    if (answer->detail)
        return answer->detail;
    if (answer->verdict.detail)
        return answer->verdict.detail;
    switch (answer->verdict.reason) {
    case ACL_RULE_ALLOW:
        return "a rule allows it";
    case ACL_RULE_DENY:
        return "a rule denies it";
    case ACL_IP_LITERAL:
        return "no rule names the address";
    case ACL_PORT_DENIED:
        return "no rule opens this port";
    case ACL_METHOD_DENIED:
        return "rules allow other methods";
    case ACL_PATH_DENIED:
        return "rules allow other paths";
    default:
        return "no rule names it";
    }
}

static const char *target_text(const struct question *q, char *text, size_t size)
{
    if (q->by_address) {
        char address[ADDR_TEXT_MAX];
        snprintf(text, size, "%s",
                 q->ask == ASK_ICMP ? addr_format(&q->address, address)
                                    : addr_format_with_port(&q->address, address));
    } else {
        snprintf(text, size, q->ask == ASK_ICMP ? "%s" : "%s:%u", q->name, q->port);
    }
    return text;
}

static void print_text(const struct acl_policy *policy, const struct question *q, const struct answer *answer,
                       const char *advice)
{
    char target[ACL_NAME_MAX + 16], origin[512];
    const struct acl_verdict *v = &answer->verdict;
    printf("%s: %s %s by policy %s: ", v->allowed ? "allow" : "deny", answer->protocol,
           target_text(q, target, sizeof(target)), acl_policy_name(policy));
    if (v->has_rule)
        printf("rule \"%s\" (%s), ", v->rule.text,
               policy_origin_text(&v->rule.origin, origin, sizeof(origin)));
    printf("%s (%s)", acl_reason_name(v->reason), reason_text(answer));
    if (!v->allowed && acl_policy_mode(policy) == ACL_MODE_AUDIT)
        printf("; mode audit lets it through and logs it");
    printf("\n  %s\n", advice);
}

static void print_json(const struct acl_policy *policy, const struct question *q, const struct answer *answer,
                       const char *advice)
{
    char text[8192], target[ACL_NAME_MAX + 16];
    struct json j;
    const struct acl_verdict *v = &answer->verdict;
    json_begin(&j, text, sizeof(text));
    json_object(&j, NULL);
    json_string(&j, "target", target_text(q, target, sizeof(target)));
    json_string(&j, "protocol", answer->protocol);
    json_string(&j, "policy", acl_policy_name(policy));
    json_string(&j, "mode", policy_mode_text(acl_policy_mode(policy)));
    json_string(&j, "verdict", v->allowed ? "allow" : "deny");
    json_string(&j, "reason", acl_reason_name(v->reason));
    json_string(&j, "detail", reason_text(answer));
    json_string(&j, "change", advice);
    if (v->has_rule) {
        json_object(&j, "rule");
        json_string(&j, "text", v->rule.text);
        json_string(&j, "action", v->rule.deny ? "deny" : "allow");
        json_string(&j, "file", v->rule.origin.file);
        if (v->rule.origin.line)
            json_unsigned(&j, "line", v->rule.origin.line);
        json_object_end(&j);
    }
    json_object_end(&j);
    if (json_end(&j) >= 0)
        puts(text);
}

/* ---- the command ---- */

struct options {
    const char *file, *policy, *target, *method;
    const char *allow[ALLOW_MAX];
    size_t allow_count;
    bool json, help;
};

/* EXIT_YES, or what command_misuse() returned. */
static int read_options(const struct command *self, int argc, char **argv, struct options *o)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"policy", required_argument, NULL, 'p'},
                                            {"allow", required_argument, NULL, 'a'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"method", required_argument, NULL, 'm'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":c:h", options, NULL)) != -1) {
        if (option == 'h')
            o->help = true;
        else if (option == 'c')
            o->file = optarg;
        else if (option == 'p')
            o->policy = optarg;
        else if (option == 'a' && o->allow_count < ALLOW_MAX)
            o->allow[o->allow_count++] = optarg;
        else if (option == 'a')
            return command_misuse(self, "test: more than %d --allow: write a policy file", ALLOW_MAX);
        else if (option == 'j')
            o->json = true;
        else if (option == 'm')
            o->method = optarg;
        else
            return command_misuse(
                self, option == ':' ? "test: %s needs a value" : "test: there is no option \"%s\"",
                argv[optind - 1]);
    }
    if (o->help)
        return EXIT_YES;
    if (argc - optind != 1)
        return command_misuse(self, argc == optind ? "test: name a URL, HOST:PORT or HOST to test"
                                                   : "test: one target at a time");
    if (o->allow_count && o->file)
        return command_misuse(
            self, "test: --allow stands for a policy file: write the rules into %s, or leave out -c",
            o->file);
    o->target = argv[optind];
    return EXIT_YES;
}

static struct config_snapshot *load(const struct options *o)
{
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    if (!o->allow_count)
        return policy_load(o->file);
    int r = config_from_rules("command-line", o->policy, o->allow, o->allow_count, &snapshot, &errors);
    policy_print_errors(&errors);
    return r < 0 ? NULL : snapshot;
}

static int test(const struct command *self, const struct config_snapshot *snapshot, const struct options *o,
                const struct question *q)
{
    const char *name = o->policy && !o->allow_count ? o->policy : config_only_policy(snapshot);
    if (!name)
        return command_misuse(self,
                              "test: say which policy: --policy NAME ('sallyport policy show' lists them)");
    const struct acl_policy *policy = config_policy(snapshot, name);
    if (!policy)
        return command_misuse(self, "test: there is no policy \"%s\": 'sallyport policy show' lists them",
                              name);
    struct answer answer = answer_question(snapshot, policy, q);
    char text[ADVICE_MAX];
    const char *advice = advise(snapshot, policy, q, &answer, text);
    if (o->json)
        print_json(policy, q, &answer, advice);
    else
        print_text(policy, q, &answer, advice);
    return answer.verdict.allowed ? EXIT_YES : EXIT_NO;
}

int policy_test(const struct command *self, int argc, char **argv)
{
    struct options o = {0};
    struct question q;
    int status = read_options(self, argc, argv, &o);
    if (status != EXIT_YES)
        return status;
    if (o.help)
        return command_help(self);
    const char *wrong = read_question(o.target, &q);
    if (wrong)
        return command_misuse(self, "test: \"%s\" cannot be tested: %s", o.target, wrong);
    if (o.method && q.ask != ASK_HTTP)
        return command_misuse(self,
                              "test: methods are seen in plain HTTP only: write http://HOST[:PORT]/PATH");
    if (o.method)
        q.method = o.method;
    struct config_snapshot *snapshot = load(&o);
    if (!snapshot)
        return EXIT_WRONG;
    status = test(self, snapshot, &o, &q);
    config_unref(snapshot);
    return status;
}
