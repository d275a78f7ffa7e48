/*
 * `policy diff A B`: what a change of policy files opens and closes, for the person who has to agree to it.
 */
#include "cli/policy_diff.h"
#include "base/json.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct diff {
    const struct config_snapshot *before, *after;
    const char *policy; /* that is being compared */
    bool json;
    size_t differences;
    bool failed;
};

/* ---- saying it ---- */

/* "web: mode: enforce -> audit", or {"policy": …}; `policy` may be NULL. */
static void say_option(struct diff *d, const char *key, const char *before, const char *after,
                       const char *meaning)
{
    char text[4096];
    struct json j;
    d->differences++;
    if (!d->json) {
        printf("%s%s%s: %s -> %s%s%s\n", d->policy ? d->policy : "", d->policy ? ": " : "", key, before,
               after, meaning ? ": " : "", meaning ? meaning : "");
        return;
    }
    json_begin(&j, text, sizeof(text));
    json_object(&j, NULL);
    if (d->policy)
        json_string(&j, "policy", d->policy);
    json_string(&j, "change", "sets");
    json_string(&j, "key", key);
    json_string(&j, "before", before);
    json_string(&j, "after", after);
    json_object_end(&j);
    if (json_end(&j) >= 0)
        puts(text);
}

static void print_change(const struct diff *d, const struct policy_change *change)
{
    char origin[512];
    printf("%s: %s %s: %s", d->policy, change->opens ? "opens " : "closes", change->subject, change->flows);
    if (change->rule)
        printf("  (%s \"%s\", %s)", change->rule->deny ? "deny" : "allow", change->rule->text,
               policy_origin_text(&change->rule->origin, origin, sizeof(origin)));
    printf("\n");
}

static void print_change_json(const struct diff *d, const struct policy_change *change)
{
    char text[16384];
    struct json j;
    json_begin(&j, text, sizeof(text));
    json_object(&j, NULL);
    json_string(&j, "policy", d->policy);
    json_string(&j, "change", change->opens ? "opens" : "closes");
    json_string(&j, "subject", change->subject);
    json_string(&j, "flows", change->flows);
    if (change->rule) {
        json_object(&j, "rule");
        json_string(&j, "text", change->rule->text);
        json_string(&j, "action", change->rule->deny ? "deny" : "allow");
        json_string(&j, "file", change->rule->origin.file);
        if (change->rule->origin.line)
            json_unsigned(&j, "line", change->rule->origin.line);
        json_object_end(&j);
    }
    json_object_end(&j);
    if (json_end(&j) >= 0)
        puts(text);
}

static void say_change(const struct policy_change *change, void *arg)
{
    struct diff *d = arg;
    if (d->json)
        print_change_json(d, change);
    else
        print_change(d, change);
}

/* ---- one policy ---- */

static void compare_limit(struct diff *d, const char *key, unsigned before, unsigned after)
{
    char left[32] = "the gateway's", right[32] = "the gateway's";
    if (before == after)
        return;
    if (before)
        snprintf(left, sizeof(left), "%u", before);
    if (after)
        snprintf(right, sizeof(right), "%u", after);
    say_option(d, key, left, right, NULL);
}

static void compare_options(struct diff *d, const struct acl_policy *a, const struct acl_policy *b)
{
    if (acl_policy_mode(a) != acl_policy_mode(b))
        say_option(d, "mode", policy_mode_text(acl_policy_mode(a)), policy_mode_text(acl_policy_mode(b)),
                   acl_policy_mode(b) == ACL_MODE_AUDIT ? "what it denies is let through, and written down"
                                                        : "what it denies is refused from now on");
    if (acl_policy_dns(a) != acl_policy_dns(b))
        say_option(d, "dns", policy_dns_text(acl_policy_dns(a)), policy_dns_text(acl_policy_dns(b)), NULL);
    if (acl_policy_bind(a) != acl_policy_bind(b))
        say_option(d, "bind", policy_bind_text(acl_policy_bind(a)), policy_bind_text(acl_policy_bind(b)),
                   NULL);
    if (acl_policy_verify(a) != acl_policy_verify(b))
        say_option(d, "verify_origin", policy_verify_text(acl_policy_verify(a)),
                   policy_verify_text(acl_policy_verify(b)), NULL);
    if (acl_policy_ech_denied(a) != acl_policy_ech_denied(b))
        say_option(d, "ech", acl_policy_ech_denied(a) ? "deny" : "record",
                   acl_policy_ech_denied(b) ? "deny" : "record", NULL);
    const struct acl_limits *left = acl_policy_limits(a), *right = acl_policy_limits(b);
    compare_limit(d, "limits.flows_per_container", left->flows, right->flows);
    compare_limit(d, "limits.flows_per_second", left->flows_per_second, right->flows_per_second);
    compare_limit(d, "limits.dns_queries_per_second", left->dns_queries_per_second,
                  right->dns_queries_per_second);
}

/* What is missing on one side denies everything there. */
static void compare_policies(struct diff *d, const char *name, const struct acl_policy *a,
                             const struct acl_policy *b)
{
    d->policy = name;
    if (!a)
        say_option(d, "policy", "none", "new", NULL);
    if (!b)
        say_option(d, "policy", "there", "removed", NULL);
    a = a ? a : config_policy(d->before, "deny");
    b = b ? b : config_policy(d->after, "deny");
    compare_options(d, a, b);
    ssize_t count = policy_compare(a, b, say_change, d);
    if (count < 0)
        d->failed = true;
    else
        d->differences += (size_t)count;
    d->policy = NULL;
}

static void compare_with_after(const struct acl_policy *policy, void *arg)
{
    struct diff *d = arg;
    const char *name = acl_policy_name(policy);
    compare_policies(d, name, policy, config_policy(d->after, name));
}

static void compare_new(const struct acl_policy *policy, void *arg)
{
    struct diff *d = arg;
    const char *name = acl_policy_name(policy);
    if (!config_policy(d->before, name))
        compare_policies(d, name, NULL, policy);
}

/* ---- who gets which, and where names may lead ---- */

static void put_assignment(const char *container, const struct cidr *subnet, const struct acl_policy *policy,
                           void *to)
{
    char net[ADDR_TEXT_MAX];
    fprintf(to, "%s%s%s%s%s=%s ", container ? container : "", container && subnet ? "+" : "",
            subnet ? cidr_format(subnet, net) : "", "", "", acl_policy_name(policy));
}

/* One text for the whole of `assign`; to be freed. */
static char *assignments_text(const struct config_snapshot *snapshot)
{
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    config_each_assignment(snapshot, put_assignment, to);
    if (fclose(to) != 0)
        return NULL;
    if (size)
        text[size - 1] = 0;
    return text;
}

static void compare_assignments(struct diff *d)
{
    char *before = assignments_text(d->before), *after = assignments_text(d->after);
    d->failed |= !before || !after;
    if (before && after && strcmp(before, after))
        say_option(d, "assign", *before ? before : "none", *after ? after : "none", NULL);
    free(before);
    free(after);
    const char *left = acl_policy_name(config_assign(d->before, NULL, NULL)),
               *right = acl_policy_name(config_assign(d->after, NULL, NULL));
    if (strcmp(left, right))
        say_option(d, "default", left, right, NULL);
}

static bool is_listed(const struct cidr *nets, size_t count, const struct cidr *net)
{
    for (size_t i = 0; i < count; i++)
        if (nets[i].length <= net->length && cidr_contains(&nets[i], &net->base))
            return true;
    return false;
}

/* Networks of `from` that `to` does not have. */
static void compare_destinations(struct diff *d, const struct config_snapshot *from,
                                 const struct config_snapshot *to, bool opens)
{
    size_t count, other_count;
    const struct cidr *nets = config_destinations(from, &count),
                      *others = config_destinations(to, &other_count);
    for (size_t i = 0; i < count; i++) {
        char text[ADDR_TEXT_MAX];
        const struct policy_change change = {
            .opens = opens, .subject = cidr_format(&nets[i], text), .flows = "names may resolve into it"};
        if (is_listed(others, other_count, &nets[i]))
            continue;
        d->policy = "destinations";
        d->differences++;
        say_change(&change, d);
        d->policy = NULL;
    }
}

static void compare_files(struct diff *d)
{
    const char *left = config_only_policy(d->before), *right = config_only_policy(d->after);
    if (left && right) { /* whatever they are called */
        compare_policies(d, right, config_policy(d->before, left), config_policy(d->after, right));
    } else {
        config_each_policy(d->before, compare_with_after, d);
        config_each_policy(d->after, compare_new, d);
    }
    compare_destinations(d, d->after, d->before, true);
    compare_destinations(d, d->before, d->after, false);
    compare_assignments(d);
}

/* ---- the command ---- */

static int diff(const struct command *self, struct diff *d, const char *policy)
{
    if (!policy) {
        compare_files(d);
    } else {
        const struct acl_policy *a = config_policy(d->before, policy), *b = config_policy(d->after, policy);
        if (!a && !b)
            return command_misuse(self, "diff: neither file has a policy \"%s\"", policy);
        compare_policies(d, policy, a, b);
    }
    if (d->failed) {
        fprintf(stderr, "sallyport policy: diff: out of memory\n");
        return EXIT_WRONG;
    }
    return d->differences ? EXIT_NO : EXIT_YES;
}

int policy_diff(const struct command *self, int argc, char **argv)
{
    static const struct option options[] = {{"policy", required_argument, NULL, 'p'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct diff d = {0};
    const char *policy = NULL;
    int option, status = EXIT_WRONG;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if (option == 'h')
            return command_help(self);
        if (option == 'p')
            policy = optarg;
        else if (option == 'j')
            d.json = true;
        else
            return command_misuse(
                self, option == ':' ? "diff: %s needs a value" : "diff: there is no option \"%s\"",
                argv[optind - 1]);
    }
    if (argc - optind != 2)
        return command_misuse(self, "diff: name two policy files, the old one and the new one");
    struct config_snapshot *before = policy_load(argv[optind]), *after = policy_load(argv[optind + 1]);
    d.before = before;
    d.after = after;
    if (before && after)
        status = diff(self, &d, policy);
    config_unref(before);
    config_unref(after);
    return status;
}
