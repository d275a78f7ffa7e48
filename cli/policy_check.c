#include "cli/policy_internal.h"
#include "base/json.h"
#include "gateway/admin.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#define JSON_LINE_MAX (256u << 10) /* the number of errors and warnings is bounded, and so are they */

/* What one file came to. */
struct report {
    const char *file;
    struct config_snapshot *snapshot; /* NULL: it has errors */
    struct config_errors errors;
    size_t policies, rules;
};

static bool count_rule(const struct acl_rule_view *rule, void *arg)
{
    (void)rule;
    ++*(size_t *)arg;
    return true;
}

static void count_policy(const struct acl_policy *policy, void *arg)
{
    struct report *report = arg;
    report->policies++;
    acl_policy_each(policy, count_rule, &report->rules);
}

static void print_text(struct report *report)
{
    size_t count;
    policy_print_errors(&report->errors);
    if (!report->snapshot)
        return;
    const char *const *warnings = config_warnings(report->snapshot, &count);
    for (size_t i = 0; i < count; i++)
        fprintf(stderr, "%s\n", warnings[i]);
    printf("%s: ok: %zu %s, %zu %s\n", report->file, report->policies,
           report->policies == 1 ? "policy" : "policies", report->rules,
           report->rules == 1 ? "rule" : "rules");
}

static void put_lines(struct json *j, const char *key, const char *const *lines, size_t count)
{
    json_array(j, key);
    for (size_t i = 0; i < count; i++)
        json_string(j, NULL, lines[i]);
    json_array_end(j);
}

/* One object a line and file. */
static bool print_json(struct report *report)
{
    struct json j;
    char *text = malloc(JSON_LINE_MAX);
    if (!text)
        return false;
    json_begin(&j, text, JSON_LINE_MAX);
    json_object(&j, NULL);
    json_string(&j, "file", report->file);
    json_bool(&j, "ok", report->snapshot != NULL);
    if (report->snapshot) {
        size_t count;
        const char *const *warnings = config_warnings(report->snapshot, &count);
        json_string(&j, "version", config_version(report->snapshot));
        json_unsigned(&j, "policies", report->policies);
        json_unsigned(&j, "rules", report->rules);
        put_lines(&j, "warnings", warnings, count);
    }
    put_lines(&j, "errors", (const char *const *)report->errors.lines, report->errors.count);
    json_object_end(&j);
    bool whole = json_end(&j) >= 0;
    if (whole)
        puts(text);
    free(text);
    config_errors_finish(&report->errors);
    return whole;
}

/* What the gateway would say when it loads the file. */
static void check_admin(struct report *report)
{
    struct error err;
    char *line = NULL;
    const struct config_admin *admin = config_admin(report->snapshot);
    if (admin_check(report->snapshot, &err) == 0)
        return;
    report->errors.lines = calloc(1, sizeof(*report->errors.lines));
    if (report->errors.lines && asprintf(&line, "%s:%u:%u: %s", report->file, admin->line, admin->column, err.text) >= 0)
        report->errors.lines[report->errors.count++] = line;
    config_unref(report->snapshot);
    report->snapshot = NULL;
}

static bool check_file(const char *file, bool json)
{
    struct report report = {.file = file};
    bool good = config_load_file(file, &report.snapshot, &report.errors) == 0;
    if (good) {
        config_each_policy(report.snapshot, count_policy, &report);
        check_admin(&report);
        good = report.snapshot != NULL;
    }
    if (json)
        good &= print_json(&report);
    else
        print_text(&report);
    config_unref(report.snapshot);
    return good;
}

int policy_check(const struct command *self, int argc, char **argv)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
    bool json = false, good = true;
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
        if (option == 'h')
            return command_help(self);
        if (option != 'j')
            return command_misuse(self, "check: there is no option \"%s\"", argv[optind - 1]);
        json = true;
    }
    if (optind == argc)
        return command_misuse(self, "check: name at least one policy file");
    for (int i = optind; i < argc; i++)
        good &= check_file(argv[i], json);
    return good ? EXIT_YES : EXIT_WRONG;
}
