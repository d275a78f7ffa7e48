/*
 * `sallyport status`: does the gateway serve, and how is it?
 */
#include "cli/command.h"
#include "cli/request.h"
#include "redirect/daemon/control.h"

#include <getopt.h>
#include <stdio.h>

struct status_options {
    const char *control;
    bool json, help;
};

enum { OPTION_CONTROL = 256, OPTION_JSON };

static int read_options(const struct command *self, int argc, char **argv, struct status_options *o)
{
    static const struct option options[] = {{"control", required_argument, NULL, OPTION_CONTROL},
                                            {"json", no_argument, NULL, OPTION_JSON},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if (option == OPTION_CONTROL)
            o->control = optarg;
        else if (option == OPTION_JSON)
            o->json = true;
        else if (option == 'h')
            o->help = true;
        else
            return command_misuse(self, option == ':' ? "%s needs a value" : "there is no option \"%s\"", argv[optind - 1]);
    }
    if (!o->help && optind < argc)
        return command_misuse(self, "\"%s\" is one argument too many", argv[optind]);
    return EXIT_YES;
}

static json_int_t number(const json_t *answer, const char *key)
{
    return json_integer_value(json_object_get(answer, key));
}

static void print_processes(const json_t *answer)
{
    const json_t *workers = json_object_get(answer, "workers"), *one;
    size_t i, count = json_array_size(workers);
    printf("sallyport %s: monitor %" JSON_INTEGER_FORMAT ", worker%s", json_string_value(json_object_get(answer, "version")),
           number(answer, "monitor"), count > 1 ? "s" : "");
    json_array_foreach (workers, i, one)
        printf(json_is_true(json_object_get(one, "ready")) ? " %" JSON_INTEGER_FORMAT : " (%" JSON_INTEGER_FORMAT ")",
               number(one, "pid"));
}

static void print(const json_t *answer, bool ready)
{
    json_int_t restarts = number(answer, "worker_restarts"), draining = number(answer, "draining_workers");
    printf("%s: policy %s, containers %" JSON_INTEGER_FORMAT ", flows %" JSON_INTEGER_FORMAT "\n", ready ? "ready" : "not ready",
           json_string_value(json_object_get(answer, "policy_version")), number(answer, "containers"), number(answer, "flows_active"));
    print_processes(answer);
    if (restarts)
        printf(", %s replaced %" JSON_INTEGER_FORMAT " time%s", json_array_size(json_object_get(answer, "workers")) > 1 ? "of which some were" : "which was", restarts, restarts == 1 ? "" : "s");
    putchar('\n');
    if (draining)
        printf("%" JSON_INTEGER_FORMAT " worker%s of before an upgrade still with flows\n", draining, draining == 1 ? "" : "s");
    if (json_is_true(json_object_get(answer, "audit_failing")))
        printf("the audit file cannot be written: no new flow is let through, unless on_full is drop\n");
    if (json_is_true(json_object_get(answer, "reload_failed")))
        printf("the policy file has errors: the policy before it is in force\n");
}

static int run(const struct command *self, int argc, char **argv)
{
    struct status_options o = {0};
    int status = read_options(self, argc, argv, &o);
    if (status != EXIT_YES)
        return status;
    if (o.help)
        return command_help(self);
    json_t *answer = request_ask(self, o.control, o.json, json_pack("{s:s}", "do", "status"), NULL, 0, &status);
    if (!answer)
        return status;
    bool ready = json_is_true(json_object_get(answer, "ready"));
    if (o.json)
        request_print_json(answer);
    else
        print(answer, ready);
    json_decref(answer);
    return ready ? EXIT_YES : EXIT_NO;
}

const struct command command_status = {
    .name = "status",
    .arguments = "[--json]",
    .summary = "says whether the gateway serves, and how it is",
    .run = run,
    .help = "  --control SOCKET  the gateway's socket; without it " CONTROL_DEFAULT_PATH "\n"
            "  --json            the answer as JSON\n"
            "\nExit status: 0 it serves; 1 it does not serve yet; 2 wrong use, or no gateway answers.\n",
};
