#include "cli/policy_internal.h"
#include "base/json.h"
#include "config/presets.h"
#include "config/profiles.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define LINE_BYTES 8192

/* A comma-separated list of JSON objects that may be longer than any buffer: one object a line. */
struct json_rows {
    bool any;
};

static void put_row(struct json_rows *rows, struct json *j)
{
    if (json_end(j) < 0)
        return;
    printf("%s\n%s", rows->any ? "," : "", j->text);
    rows->any = true;
}

/* ---- one policy ---- */

static bool print_rule(const struct acl_rule_view *rule, void *arg)
{
    char origin[512];
    (void)arg;
    printf("%-5s  %-45s  %s\n", rule->deny ? "deny" : "allow", rule->text,
           policy_origin_text(&rule->origin, origin, sizeof(origin)));
    return true;
}

static bool print_rule_json(const struct acl_rule_view *rule, void *arg)
{
    struct json j;
    char text[LINE_BYTES];
    json_begin(&j, text, sizeof(text));
    json_object(&j, NULL);
    json_string(&j, "rule", rule->text);
    json_string(&j, "action", rule->deny ? "deny" : "allow");
    json_string(&j, "file", rule->origin.file);
    if (rule->origin.line)
        json_unsigned(&j, "line", rule->origin.line);
    json_object_end(&j);
    put_row(arg, &j);
    return true;
}

static void put_options(struct json *j, const struct acl_policy *policy)
{
    json_string(j, "name", acl_policy_name(policy));
    json_string(j, "mode", policy_mode_text(acl_policy_mode(policy)));
    json_string(j, "dns", policy_dns_text(acl_policy_dns(policy)));
    json_string(j, "bind", policy_bind_text(acl_policy_bind(policy)));
    if (acl_policy_verify(policy) != ACL_VERIFY_OFF)
        json_string(j, "verify_origin", policy_verify_text(acl_policy_verify(policy)));
    json_string(j, "ech", acl_policy_ech_denied(policy) ? "deny" : "record");
    const struct acl_limits *limits = acl_policy_limits(policy);
    if (limits->flows)
        json_unsigned(j, "flows_per_container", limits->flows);
    if (limits->flows_per_second)
        json_unsigned(j, "flows_per_second", limits->flows_per_second);
    if (limits->dns_queries_per_second)
        json_unsigned(j, "dns_queries_per_second", limits->dns_queries_per_second);
}

static void show_policy_json(const struct acl_policy *policy)
{
    struct json j;
    struct json_rows rows = {0};
    char text[LINE_BYTES];
    json_begin(&j, text, sizeof(text));
    json_object(&j, NULL);
    put_options(&j, policy);
    json_object_end(&j);
    ssize_t length = json_end(&j);
    if (length < 1)
        return;
    printf("%.*s,\"rules\":[", (int)length - 1, text); /* the object stays open for the rules */
    acl_policy_each(policy, print_rule_json, &rows);
    printf("]}\n");
}

static void show_policy(const struct acl_policy *policy)
{
    const struct acl_limits *limits = acl_policy_limits(policy);
    printf("policy %s: mode %s, dns %s, bind %s, ech %s", acl_policy_name(policy),
           policy_mode_text(acl_policy_mode(policy)), policy_dns_text(acl_policy_dns(policy)),
           policy_bind_text(acl_policy_bind(policy)), acl_policy_ech_denied(policy) ? "deny" : "record");
    if (acl_policy_verify(policy) != ACL_VERIFY_OFF)
        printf(", verify_origin %s", policy_verify_text(acl_policy_verify(policy)));
    if (limits->flows)
        printf(", flows_per_container %u", limits->flows);
    if (limits->flows_per_second)
        printf(", flows_per_second %u", limits->flows_per_second);
    if (limits->dns_queries_per_second)
        printf(", dns_queries_per_second %u", limits->dns_queries_per_second);
    printf("\n");
    acl_policy_each(policy, print_rule, NULL);
}

/* ---- one preset ---- */

static int print_host(const struct preset *from, const struct preset_host *host, void *arg)
{
    (void)from;
    (void)arg;
    printf("%-40s  %s\n", host->name, host->why);
    return 0;
}

static int print_host_json(const struct preset *from, const struct preset_host *host, void *arg)
{
    struct json j;
    char text[LINE_BYTES];
    json_begin(&j, text, sizeof(text));
    json_object(&j, NULL);
    json_string(&j, "host", host->name);
    json_string(&j, "why", host->why);
    json_string(&j, "preset", from->name);
    json_object_end(&j);
    put_row(arg, &j);
    return 0;
}

static void show_preset(const struct preset *preset, bool json)
{
    struct json_rows rows = {0};
    if (json) {
        printf("{\"preset\":\"%s\",\"hosts\":[", preset->name);
        preset_each(preset, print_host_json, &rows);
        printf("]}\n");
        return;
    }
    printf("preset %s: %s\n", preset->name, preset->summary);
    preset_each(preset, print_host, NULL);
}

/* ---- all there is ---- */

static void list_policy(const struct acl_policy *policy, void *arg)
{
    (void)arg;
    printf("policy   %-22s  mode %s, dns %s, bind %s\n", acl_policy_name(policy),
           policy_mode_text(acl_policy_mode(policy)), policy_dns_text(acl_policy_dns(policy)),
           policy_bind_text(acl_policy_bind(policy)));
}

static void list_policy_json(const struct acl_policy *policy, void *arg)
{
    struct json j;
    char text[LINE_BYTES];
    json_begin(&j, text, sizeof(text));
    json_object(&j, NULL);
    put_options(&j, policy);
    json_object_end(&j);
    put_row(arg, &j);
}

static void put_builtin(struct json_rows *rows, const char *name, const char *synonym, const char *summary)
{
    struct json j;
    char text[LINE_BYTES];
    json_begin(&j, text, sizeof(text));
    json_object(&j, NULL);
    json_string(&j, "name", name);
    if (synonym)
        json_string(&j, "synonym", synonym);
    json_string(&j, "summary", summary);
    json_object_end(&j);
    put_row(rows, &j);
}

static void list_all_json(const struct config_snapshot *snapshot)
{
    struct json_rows rows = {0};
    printf("{\"version\":\"%s\",\"policies\":[", config_version(snapshot));
    config_each_policy(snapshot, list_policy_json, &rows);
    printf("],\"profiles\":[");
    rows.any = false;
    for (size_t i = 0; i < profile_count; i++)
        put_builtin(&rows, profiles[i].name, profiles[i].synonym, profiles[i].summary);
    printf("],\"presets\":[");
    rows.any = false;
    for (size_t i = 0; i < preset_count; i++)
        put_builtin(&rows, presets[i].name, NULL, presets[i].summary);
    printf("]}\n");
}

static void list_all(const struct config_snapshot *snapshot)
{
    char names[64];
    config_each_policy(snapshot, list_policy, NULL);
    for (size_t i = 0; i < profile_count; i++) {
        snprintf(names, sizeof(names), "%s%s%s", profiles[i].name, profiles[i].synonym ? ", " : "",
                 profiles[i].synonym ? profiles[i].synonym : "");
        printf("profile  %-24s  %s\n", names, profiles[i].summary);
    }
    for (size_t i = 0; i < preset_count; i++)
        printf("preset   %-24s  %s\n", presets[i].name, presets[i].summary);
}

/* A policy or profile; for a name that only a preset has, the preset. (A profile may share its name:
 * `agent`.) */
static int show_name(const struct command *self, const struct config_snapshot *snapshot, const char *name,
                     bool json)
{
    const struct acl_policy *policy = config_policy(snapshot, name);
    const struct preset *preset = preset_find(name);
    if (!policy && !preset)
        return command_misuse(
            self, "show: there is no policy, profile or preset \"%s\": 'sallyport policy show' lists them",
            name);
    if (!policy)
        show_preset(preset, json);
    else if (json)
        show_policy_json(policy);
    else
        show_policy(policy);
    return EXIT_YES;
}

int policy_show(const struct command *self, int argc, char **argv)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *file = NULL;
    bool json = false;
    int option, status = EXIT_YES;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":c:h", options, NULL)) != -1) {
        if (option == 'h')
            return command_help(self);
        if (option == 'c')
            file = optarg;
        else if (option == 'j')
            json = true;
        else
            return command_misuse(
                self, option == ':' ? "show: %s needs a value" : "show: there is no option \"%s\"",
                argv[optind - 1]);
    }
    if (argc - optind > 1)
        return command_misuse(self, "show: one name at a time, not \"%s\" too", argv[optind + 1]);
    struct config_snapshot *snapshot = policy_load(file);
    if (!snapshot)
        return EXIT_WRONG;
    if (optind < argc)
        status = show_name(self, snapshot, argv[optind], json);
    else if (json)
        list_all_json(snapshot);
    else
        list_all(snapshot);
    config_unref(snapshot);
    return status;
}
