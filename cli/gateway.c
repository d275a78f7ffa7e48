/*
 * `sallyport gateway`: reads the options and the configuration, then is the daemon.
 */
#include "cli/ask.h"
#include "cli/policy_internal.h"
#include "base/log.h"
#include "gateway/admin.h"
#include "gateway/worker.h"
#include "redirect/daemon/control.h"
#include "redirect/daemon/daemon.h"
#include "redirect/rules/network_rules.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STATE_DEFAULT_PATH "/var/lib/sallyport"
#define DRAIN_DEFAULT_SECONDS 10
#define DRAIN_MAX_SECONDS 86400

struct gateway_options {
    const char *file, *control, *state, *audit, *drain, *api;
    bool watch, help, remove_networks, take_over;
};

enum {
    OPTION_CONTROL = 256,
    OPTION_STATE,
    OPTION_AUDIT,
    OPTION_DRAIN,
    OPTION_WATCH,
    OPTION_REMOVE_NETWORKS,
    OPTION_API,
    OPTION_TAKE_OVER
};

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"control", required_argument, NULL, OPTION_CONTROL},
    {"state", required_argument, NULL, OPTION_STATE},
    {"audit", required_argument, NULL, OPTION_AUDIT},
    {"drain", required_argument, NULL, OPTION_DRAIN},
    {"watch", no_argument, NULL, OPTION_WATCH},
    {"remove-networks", no_argument, NULL, OPTION_REMOVE_NETWORKS},
    {"api", required_argument, NULL, OPTION_API},
    {"take-over", no_argument, NULL, OPTION_TAKE_OVER},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static int take_option(const struct command *self, struct gateway_options *o, int option, char **argv)
{
    const char **value = option == 'c'              ? &o->file
                         : option == OPTION_CONTROL ? &o->control
                         : option == OPTION_STATE   ? &o->state
                         : option == OPTION_AUDIT   ? &o->audit
                         : option == OPTION_DRAIN   ? &o->drain
                         : option == OPTION_API     ? &o->api
                                                    : NULL;
    if (option == 'h')
        o->help = true;
    else if (option == OPTION_WATCH)
        o->watch = true;
    else if (option == OPTION_REMOVE_NETWORKS)
        o->remove_networks = true;
    else if (option == OPTION_TAKE_OVER)
        o->take_over = true;
    else if (option == ':')
        return command_misuse(self, "%s needs a value", argv[optind - 1]);
    else if (!value)
        return command_misuse(self, "there is no option \"%s\"", argv[optind - 1]);
    else if (*value)
        return command_misuse(self, "%s is given twice: leave one out", argv[optind - 2]);
    else if (!*optarg)
        return command_misuse(self, "%s needs a value", argv[optind - 2]);
    else
        *value = optarg;
    return EXIT_YES;
}

static int read_options(const struct command *self, int argc, char **argv, struct gateway_options *o)
{
    int option, status;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "+:c:h", long_options, NULL)) != -1)
        if ((status = take_option(self, o, option, argv)) != EXIT_YES)
            return status;
    if (!o->help && optind != argc)
        return command_misuse(self, "\"%s\" is no option: there are no arguments", argv[optind]);
    return EXIT_YES;
}

static bool read_seconds(const char *text, unsigned *ret_ms)
{
    char *end;
    if (strspn(text, "0123456789") != strlen(text))
        return false;
    unsigned long seconds = strtoul(text, &end, 10);
    if (seconds > DRAIN_MAX_SECONDS)
        return false;
    *ret_ms = (unsigned)seconds * 1000;
    return true;
}

/* The daemon must be able to read it again at any time, wherever it was started. Links are left as they are: they may lead to
 * another file then. */
static char *absolute(const char *path)
{
    char *folder = NULL, *ret = NULL;
    if (access(path, F_OK) < 0)
        return NULL;
    if (path[0] == '/')
        return strdup(path);
    folder = getcwd(NULL, 0);
    if (!folder || asprintf(&ret, "%s/%s", folder, path) < 0)
        ret = NULL;
    free(folder);
    return ret;
}

/* Beside the control socket, unless another place is named. NULL: nowhere, or out of memory (*ret_failed). */
static char *api_path(const struct gateway_options *o, bool *ret_failed)
{
    const char *control = o->control ? o->control : CONTROL_DEFAULT_PATH, *slash = strrchr(control, '/');
    char *path = NULL;
    if (o->api && !strcmp(o->api, "none"))
        return NULL;
    if (o->api)
        path = strdup(o->api);
    else if (asprintf(&path, "%.*sapi.sock", slash ? (int)(slash + 1 - control) : 0, control) < 0)
        path = NULL;
    *ret_failed = !path;
    return path;
}

static int serve(const struct gateway_options *o, unsigned drain_ms, char **argv)
{
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    int bundle = -1;
    char program[PATH_MAX];
    struct error err;
    if (ask_own_path(program, sizeof(program), &err) < 0) {
        fprintf(stderr, "sallyport gateway: %s\n", err.text);
        return EXIT_NO;
    }
    char *path = absolute(o->file ? o->file : POLICY_DEFAULT_FILE);
    const char *named = path ? path : o->file ? o->file : POLICY_DEFAULT_FILE;
    int r = config_load_file_bundled(named, &snapshot, &bundle, &errors);
    policy_print_errors(&errors);
    if (r < 0) {
        free(path);
        return EXIT_WRONG;
    }
    struct metrics *metrics = metrics_create();
    bool failed = false;
    char *api = api_path(o, &failed);
    if (!metrics || failed) {
        fprintf(stderr, "sallyport gateway: out of memory\n");
        free(path);
        return EXIT_NO;
    }
    struct worker_options worker = {.snapshot = snapshot, .confine = true, .metrics = metrics};
    const struct daemon_options options = {.config_path = named,
                                           .audit_path = o->audit,
                                           .control_path = o->control ? o->control : CONTROL_DEFAULT_PATH,
                                           .api_path = api,
                                           .state_path = o->state ? o->state : STATE_DEFAULT_PATH,
                                           .watch = o->watch,
                                           .drain_ms = drain_ms,
                                           .check = admin_check,
                                           .take_over = o->take_over,
                                           .program = program,
                                           .arguments = argv,
                                           .metrics = metrics,
                                           .worker = worker_main,
                                           .worker_arg = &worker,
                                           .worker_snapshot = &worker.snapshot,
                                           .worker_seat = &worker.seat};
    int status = daemon_run(&options, snapshot, bundle);
    metrics_destroy(metrics);
    free(api);
    free(path);
    return status;
}

/* A gateway that runs would not notice, and its networks would be open. */
static int remove_networks(const struct gateway_options *o)
{
    const char *control = o->control ? o->control : CONTROL_DEFAULT_PATH;
    struct error err;
    json_t *answer = NULL, *question = json_pack("{s:s}", "do", "status");
    bool there = question && control_call(control, question, NULL, 0, &answer, &err) == 0;
    json_decref(question);
    json_decref(answer);
    if (there) {
        fprintf(stderr, "sallyport gateway: a gateway answers at %s: take the networks out of its policy file and load it "
                        "anew (sallyport reload), or end it first\n", control);
        return EXIT_NO;
    }
    if (network_rules_remove(&err) == 0)
        return EXIT_YES;
    fprintf(stderr, "sallyport gateway: %s\n", err.text);
    return EXIT_NO;
}

static int run(const struct command *self, int argc, char **argv)
{
    struct gateway_options o = {0};
    unsigned drain_ms = DRAIN_DEFAULT_SECONDS * 1000;
    int status = read_options(self, argc, argv, &o);
    if (status != EXIT_YES)
        return status;
    if (o.help)
        return command_help(self);
    if (o.drain && !read_seconds(o.drain, &drain_ms))
        return command_misuse(self, "--drain %s: write a number of seconds up to %d", o.drain, DRAIN_MAX_SECONDS);
    if (geteuid() != 0) {
        fprintf(stderr, "sallyport gateway: must be started by root, to enter the containers' network namespaces\n");
        return EXIT_WRONG;
    }
    log_set_level(LOG_LEVEL_INFO);
    if (o.remove_networks)
        return remove_networks(&o);
    return serve(&o, drain_ms, argv);
}

const struct command command_gateway = {
    .name = "gateway",
    .arguments = "[-c FILE] [--control SOCKET] [--api SOCKET] [--state FOLDER] [--audit FILE] [--drain SECONDS] [--watch] [--take-over] | --remove-networks",
    .summary = "is the daemon that containers are captured by",
    .run = run,
    .help = "  -c, --config FILE    the policy file; without it " POLICY_DEFAULT_FILE "\n"
            "  --control SOCKET     where enroll, ps and the others find it; without it " CONTROL_DEFAULT_PATH "\n"
            "  --api SOCKET         where the same is to be had by HTTP (API.md); without it api.sock beside the control socket;\n"
            "                       none: nowhere\n"
            "  --state FOLDER       what must outlive a restart; without it " STATE_DEFAULT_PATH "\n"
            "  --audit FILE         append the audit events to FILE, whatever the policy file says\n"
            "  --drain SECONDS      how long flows that are up may go on after SIGTERM; without it 10\n"
            "  --watch              load the policy file anew when it, or a file that it names, has changed\n"
            "  --remove-networks    take the rules of captured networks out of force for good, and end\n"
            "  --take-over          take the place of the gateway that runs at the control socket: no connection is refused, no flow is\n"
            "                       lost; if that fails it runs on. 'sallyport upgrade' has it done by the gateway itself\n"
            "\n"
            "Stays in the foreground. SIGHUP loads the policy file anew (one with errors changes nothing), SIGUSR1 opens\n"
            "the audit file anew, SIGTERM ends it: containers stay enrolled, and closed, until it is started again.\n"
            "\n"
            "Exit status: 0 after SIGTERM; 1 it could not start or go on; 2 wrong use, or a file with errors.\n",
};
