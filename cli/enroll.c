/*
 * `sallyport enroll`, `withdraw`, `verify`, `ps` and `reload`: requests to the daemon.
 *
 * Namespace and process are opened here and travel as descriptors: so they mean the same to the daemon whatever file system and
 * pid namespace either of us sees, and no number can be used again in between.
 */
#include "cli/command.h"
#include "cli/request.h"
#include "base/fds.h"
#include "redirect/daemon/control.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct request_options {
    const char *control, *pid, *netns, *id, *name, *image, *policy;
    char publish[PUBLISH_TEXT_MAX];
    bool attached, json, help;
};

enum { OPTION_CONTROL = 256, OPTION_PID, OPTION_NETNS, OPTION_ID, OPTION_NAME, OPTION_IMAGE, OPTION_POLICY, OPTION_ATTACHED, OPTION_JSON, OPTION_PUBLISH };

static const struct option all_options[] = {
    {"help", no_argument, NULL, 'h'},
    {"control", required_argument, NULL, OPTION_CONTROL},
    {"json", no_argument, NULL, OPTION_JSON}, /* so far those that all commands have */
    {"pid", required_argument, NULL, OPTION_PID},
    {"netns", required_argument, NULL, OPTION_NETNS},
    {"id", required_argument, NULL, OPTION_ID},
    {"name", required_argument, NULL, OPTION_NAME},
    {"image", required_argument, NULL, OPTION_IMAGE},
    {"policy", required_argument, NULL, OPTION_POLICY},
    {"attached", no_argument, NULL, OPTION_ATTACHED},
    {"publish", required_argument, NULL, OPTION_PUBLISH},
    {0},
};
#define COMMON_OPTIONS 3

/* ---- options ---- */

static const char **place_of(struct request_options *o, int option)
{
    switch (option) {
    case OPTION_CONTROL:
        return &o->control;
    case OPTION_PID:
        return &o->pid;
    case OPTION_NETNS:
        return &o->netns;
    case OPTION_ID:
        return &o->id;
    case OPTION_NAME:
        return &o->name;
    case OPTION_IMAGE:
        return &o->image;
    case OPTION_POLICY:
        return &o->policy;
    default:
        return NULL;
    }
}

/* One more, behind a comma. Whether it is understood is looked at when all are there. */
static bool add_publish(struct request_options *o, const char *text)
{
    size_t used = strlen(o->publish), room = sizeof(o->publish) - used;
    int length = snprintf(o->publish + used, room, "%s%s", used ? "," : "", text);
    return length > 0 && (size_t)length < room;
}

static int take_option(const struct command *self, struct request_options *o, int option, char **argv)
{
    const char **place = place_of(o, option);
    if (option == 'h')
        o->help = true;
    else if (option == OPTION_JSON)
        o->json = true;
    else if (option == OPTION_ATTACHED)
        o->attached = true;
    else if (option == ':')
        return command_misuse(self, "%s needs a value", argv[optind - 1]);
    else if (option == OPTION_PUBLISH)
        return *optarg && add_publish(o, optarg) ? EXIT_YES : command_misuse(self, "--publish %s is empty or too long", optarg);
    else if (!place)
        return command_misuse(self, "there is no option \"%s\"", argv[optind - 1]);
    else if (*place)
        return command_misuse(self, "%s is given twice: leave one out", argv[optind - 2]);
    else if (!*optarg)
        return command_misuse(self, "%s needs a value", argv[optind - 2]);
    else
        *place = optarg;
    return EXIT_YES;
}

/* `arguments` is how many follow the options. */
static int read_options(const struct command *self, int argc, char **argv, bool enrolls, int arguments,
                        struct request_options *o)
{
    struct option common[COMMON_OPTIONS + 1] = {0};
    int option, status;
    memcpy(common, all_options, COMMON_OPTIONS * sizeof(*common));
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":h", enrolls ? all_options : common, NULL)) != -1)
        if ((status = take_option(self, o, option, argv)) != EXIT_YES)
            return status;
    if (o->help)
        return EXIT_YES;
    if (argc - optind < arguments)
        return command_misuse(self, "name the container by its id");
    if (argc - optind > arguments)
        return command_misuse(self, "\"%s\" is one argument too many", argv[optind + arguments]);
    return EXIT_YES;
}

/* ---- asking ---- */

void request_print_json(const json_t *value)
{
    json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    putchar('\n');
}

json_t *request_ask(const struct command *self, const char *control, bool json, json_t *request, const int *fds, size_t count,
                    int *ret_status)
{
    json_t *answer = NULL;
    struct error err;
    int r = request ? control_call(control ? control : CONTROL_DEFAULT_PATH, request, fds, count, &answer, &err)
                    : error_set(&err, EINVAL, "an argument is not UTF-8");
    json_decref(request);
    if (r < 0) {
        fprintf(stderr, "sallyport %s: %s\n", self->name, err.text);
        *ret_status = EXIT_WRONG;
        return NULL;
    }
    if (json_is_true(json_object_get(answer, "ok"))) {
        *ret_status = EXIT_YES;
        return answer;
    }
    const char *code = json_string_value(json_object_get(answer, "code"));
    const char *text = json_string_value(json_object_get(answer, "error"));
    fprintf(stderr, "sallyport %s: %s\n", self->name, text ? text : "the gateway's answer is not understood");
    if (json)
        request_print_json(answer);
    *ret_status = code && strcmp(code, "invalid") ? EXIT_NO : EXIT_WRONG;
    json_decref(answer);
    return NULL;
}

static json_t *ask(const struct command *self, const struct request_options *o, json_t *request, const int *fds, size_t count,
                   int *ret_status)
{
    return request_ask(self, o->control, o->json, request, fds, count, ret_status);
}

static void print_warning(const struct command *self, const json_t *answer)
{
    const char *warning = json_string_value(json_object_get(answer, "warning"));
    if (warning)
        fprintf(stderr, "sallyport %s: warning: %s\n", self->name, warning);
}

/* ---- enroll ---- */

static bool read_pid(const char *text, pid_t *ret)
{
    unsigned long value = strtoul(text, NULL, 10);
    if (strspn(text, "0123456789") != strlen(text) || strlen(text) > 9 || value == 0)
        return false;
    *ret = (pid_t)value;
    return true;
}

static int check_enroll(const struct command *self, const struct request_options *o, pid_t *ret_pid)
{
    struct publish_port ports[PUBLISH_MAX];
    struct error err;
    size_t port_count;
    if (!o->pid == !o->netns)
        return command_misuse(self, "name the container's first process or its network namespace: --pid N or --netns PATH");
    if (o->pid && !read_pid(o->pid, ret_pid))
        return command_misuse(self, "--pid %s: write the number of a process", o->pid);
    if (o->netns && o->netns[0] != '/')
        return command_misuse(self, "--netns %s: write an absolute path, as /run/netns/name", o->netns);
    if (!o->id)
        return command_misuse(self, "--id is missing: what withdraw and ps will call it");
    if (publish_parse(o->publish, ports, &port_count, &err) < 0)
        return command_misuse(self, "--publish: %s", err.text);
    if (!state_id_valid(o->id))
        return command_misuse(self, "--id %s: write 1 to %d letters, digits, \"_\", \".\" and \"-\", the first one a letter or a "
                              "digit", o->id, CHANNEL_ID_MAX - 1);
    return EXIT_YES;
}

static int open_target(const struct request_options *o, pid_t pid, int fds[2], struct error *err)
{
    if (o->pid)
        return process_open(pid, &fds[0], &fds[1], err);
    fds[0] = open(o->netns, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return fds[0] < 0 ? error_errno(err, errno, "--netns %s", o->netns) : 0;
}

static int enroll(const struct command *self, int argc, char **argv)
{
    struct request_options o = {0};
    struct error err;
    pid_t pid = 0;
    int fds[2] = {-1, -1};
    int status = read_options(self, argc, argv, true, 0, &o);
    if (status != EXIT_YES)
        return status;
    if (o.help)
        return command_help(self);
    if ((status = check_enroll(self, &o, &pid)) != EXIT_YES)
        return status;
    if (open_target(&o, pid, fds, &err) < 0) {
        fprintf(stderr, "sallyport enroll: %s\n", err.text);
        return EXIT_WRONG;
    }
    json_t *request = json_pack("{s:s, s:s, s:s*, s:s*, s:s*, s:s*, s:b, s:s*}", "do", "enroll", "id", o.id, "name", o.name,
                                "image", o.image, "policy", o.policy, "path", o.netns, "attached", o.attached, "publish",
                                *o.publish ? o.publish : NULL);
    json_t *answer = ask(self, &o, request, fds, fds[1] < 0 ? 1 : 2, &status);
    fd_close(&fds[0]);
    fd_close(&fds[1]);
    if (!answer)
        return status;
    print_warning(self, answer);
    if (o.json)
        request_print_json(answer);
    else
        printf("%s is enrolled, with policy %s\n", o.id, json_string_value(json_object_get(answer, "policy")));
    json_decref(answer);
    return EXIT_YES;
}

/* ---- the others ---- */

/* The answer to a command with the common options, and a container's id where `about` says so. NULL: it ends with *ret_status. */
static json_t *ask_plainly(const struct command *self, int argc, char **argv, const char *what, bool about,
                           struct request_options *o, int *ret_status)
{
    *ret_status = read_options(self, argc, argv, false, about, o);
    if (*ret_status != EXIT_YES)
        return NULL;
    if (o->help) {
        *ret_status = command_help(self);
        return NULL;
    }
    json_t *request = about ? json_pack("{s:s, s:s}", "do", what, "id", argv[optind]) : json_pack("{s:s}", "do", what);
    return ask(self, o, request, NULL, 0, ret_status);
}

/* Commands that say one word about one container. */
static int about_one(const struct command *self, int argc, char **argv)
{
    struct request_options o = {0};
    int status;
    json_t *answer = ask_plainly(self, argc, argv, self->name, true, &o, &status);
    if (!answer)
        return status;
    if (o.json)
        request_print_json(answer);
    else if (!strcmp(self->name, "verify"))
        printf("%s is captured, its rules are in force, and it is served\n", argv[optind]);
    else if (json_is_true(json_object_get(answer, "withdrawn")))
        printf("%s is withdrawn\n", argv[optind]);
    else
        printf("nothing was enrolled as %s\n", argv[optind]);
    json_decref(answer);
    return EXIT_YES;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text && *text ? text : "-";
}

static void print_table(const json_t *containers)
{
    size_t i, port;
    const json_t *one, *published;
    printf("%-14s %-20s %-16s %-9s %-9s %s\n", "ID", "NAME", "POLICY", "CAPTURE", "STATE", "PID");
    json_array_foreach (containers, i, one) {
        json_int_t pid = json_integer_value(json_object_get(one, "pid"));
        printf("%-14.*s %-20s %-16s %-9s %-9s ", (int)(strlen(text_of(one, "id")) > 32 ? 12 : 127), text_of(one, "id"),
               text_of(one, "name"), text_of(one, "policy"), text_of(one, "capture"), text_of(one, "state"));
        if (pid)
            printf("%" JSON_INTEGER_FORMAT, pid);
        else
            printf("%s", text_of(one, "path"));
        json_array_foreach (json_object_get(one, "publish"), port, published)
            printf("%s%s", port ? "," : "  published ", json_string_value(published));
        putchar('\n');
    }
}

static int ps(const struct command *self, int argc, char **argv)
{
    struct request_options o = {0};
    int status;
    json_t *answer = ask_plainly(self, argc, argv, "list", false, &o, &status);
    if (!answer)
        return status;
    if (o.json)
        request_print_json(json_object_get(answer, "containers"));
    else
        print_table(json_object_get(answer, "containers"));
    json_decref(answer);
    return EXIT_YES;
}

static int reload(const struct command *self, int argc, char **argv)
{
    struct request_options o = {0};
    int status;
    json_t *answer = ask_plainly(self, argc, argv, "reload", false, &o, &status);
    if (!answer)
        return status;
    if (o.json)
        request_print_json(answer);
    else
        printf("policy %s is in force\n", text_of(answer, "policy_version"));
    print_warning(self, answer);
    json_decref(answer);
    return EXIT_YES;
}

static int upgrade(const struct command *self, int argc, char **argv)
{
    struct request_options o = {0};
    int status;
    json_t *answer = ask_plainly(self, argc, argv, "upgrade", false, &o, &status);
    if (!answer)
        return status;
    if (o.json)
        request_print_json(answer);
    else
        printf("process %lld is the gateway now\n", (long long)json_integer_value(json_object_get(answer, "monitor")));
    json_decref(answer);
    return EXIT_YES;
}

#define COMMON_HELP \
    "  --control SOCKET  the gateway's socket; without it " CONTROL_DEFAULT_PATH "\n" \
    "  --json            the answer as JSON\n"

const struct command command_enroll = {
    .name = "enroll",
    .arguments = "--pid N|--netns PATH --id ID [--name NAME] [--image NAME] [--policy POLICY] [--attached|--publish PORTS…]",
    .summary = "puts a container behind the gateway",
    .run = enroll,
    .help = "  --pid N           the container's first process: when it ends the container is withdrawn by itself\n"
            "  --netns PATH      its network namespace, as /run/netns/name, where there is no process yet\n"
            "  --id ID           what withdraw, verify and ps call it, and the audit log's container.id\n"
            "  --name NAME       the audit log's container.name; the policy file's assign rules go by it\n"
            "  --image NAME      the audit log's container.image.name\n"
            "  --policy POLICY   a policy of the file or a profile; without it the assign rules decide\n"
            "  --attached        the container keeps its own links; without this it must have none but lo\n"
            "  --publish [ADDRESS:]PORT:PORT   connections to a port of this machine lead to one of the (sealed) container; the\n"
            "                    address is 127.0.0.1 without; may be given again\n" COMMON_HELP
            "\n"
            "Exit status: 0 enrolled; 1 refused; 2 wrong use, or no gateway answers.\n",
};

const struct command command_withdraw = {
    .name = "withdraw",
    .arguments = "[--json] ID",
    .summary = "takes a container from behind the gateway, and back what was put into its namespace",
    .run = about_one,
    .help = COMMON_HELP "\nExit status: 0 nothing is enrolled by that name (any more); 1 failed; 2 wrong use, or no gateway answers.\n",
};

const struct command command_verify = {
    .name = "verify",
    .arguments = "[--json] ID",
    .summary = "looks whether a container's rules are in force and it is served",
    .run = about_one,
    .help = COMMON_HELP "\nExit status: 0 yes; 1 no, and why; 2 wrong use, or no gateway answers.\n",
};

const struct command command_ps = {
    .name = "ps",
    .arguments = "[--json]",
    .summary = "lists the containers behind the gateway",
    .run = ps,
    .help = COMMON_HELP,
};

const struct command command_reload = {
    .name = "reload",
    .arguments = "[--json]",
    .summary = "has the gateway load its policy file anew",
    .run = reload,
    .help = COMMON_HELP "\nExit status: 0 it is in force; 1 it has errors, and the old one stays; 2 wrong use, or no gateway answers.\n",
};

const struct command command_upgrade = {
    .name = "upgrade",
    .arguments = "[--json]",
    .summary = "has the gateway replaced by the program that is installed now, without a connection lost",
    .run = upgrade,
    .help = COMMON_HELP "\nExit status: 0 it is replaced; 1 the new one failed, and the old one runs on; 2 wrong use, or no gateway answers.\n",
};
