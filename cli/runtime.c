/*
 * `sallyport allow`, `deny`, `set`, `forget` and `show`: run-time changes of what a container or a policy may do, and what that is.
 */
#include "cli/command.h"
#include "cli/request.h"
#include "redirect/daemon/control.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

struct runtime_options {
    const char *control;
    bool of_policy, remove, gone, json, help;
};

enum { OPTION_CONTROL = 256, OPTION_POLICY, OPTION_REMOVE, OPTION_GONE, OPTION_JSON };

static int read_options(const struct command *self, int argc, char **argv, struct runtime_options *o)
{
    static const struct option options[] = {{"control", required_argument, NULL, OPTION_CONTROL},
                                            {"policy", no_argument, NULL, OPTION_POLICY},
                                            {"remove", no_argument, NULL, OPTION_REMOVE},
                                            {"gone", no_argument, NULL, OPTION_GONE},
                                            {"json", no_argument, NULL, OPTION_JSON},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        switch (option) {
        case OPTION_CONTROL:
            o->control = optarg;
            break;
        case OPTION_POLICY:
            o->of_policy = true;
            break;
        case OPTION_REMOVE:
            o->remove = true;
            break;
        case OPTION_GONE:
            o->gone = true;
            break;
        case OPTION_JSON:
            o->json = true;
            break;
        case 'h':
            o->help = true;
            return EXIT_YES;
        default:
            return command_misuse(self, option == ':' ? "%s needs a value" : "there is no option \"%s\"",
                                  argv[optind - 1]);
        }
    }
    if (o->gone && strcmp(self->name, "forget") != 0)
        return command_misuse(self, "there is no option \"--gone\"");
    return EXIT_YES;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* ---- changes ---- */

static const char *target_key(const struct runtime_options *o)
{
    return o->of_policy ? "policy" : "container";
}

/* Sends it, and says what came of it. */
static int change(const struct command *self, const struct runtime_options *o, json_t *request)
{
    int status;
    if (o->remove)
        json_object_set_new(request, "remove", json_true());
    json_t *answer = request_ask(self, o->control, o->json, request, NULL, 0, &status);
    if (!answer)
        return status;
    const char *warning = text_of(answer, "warning");
    if (*warning)
        fprintf(stderr, "sallyport %s: warning: %s\n", self->name, warning);
    if (o->json)
        request_print_json(answer);
    else if (json_is_true(json_object_get(answer, "changed")))
        printf("in force: policy version %s\n", text_of(answer, "policy_version"));
    else
        printf("nothing to change\n");
    json_decref(answer);
    return EXIT_YES;
}

static int allow_or_deny(const struct command *self, int argc, char **argv)
{
    struct runtime_options o = {0};
    int status = read_options(self, argc, argv, &o);
    if (status != EXIT_YES)
        return status;
    if (o.help)
        return command_help(self);
    if (argc - optind < 2)
        return command_misuse(self, "name the container (or, with --policy, the policy), then the rules");
    json_t *rules = json_array();
    for (int i = optind + 1; i < argc; i++) {
        json_t *rule = json_string(argv[i]);
        if (!rule) {
            json_decref(rules);
            return command_misuse(self, "a rule is not UTF-8");
        }
        json_array_append_new(rules, rule);
    }
    return change(
        self, &o,
        json_pack("{s:s, s:s, s:o}", "do", self->name, target_key(&o), argv[optind], "rules", rules));
}

static int set(const struct command *self, int argc, char **argv)
{
    struct runtime_options o = {0};
    int status = read_options(self, argc, argv, &o);
    if (status != EXIT_YES)
        return status;
    if (o.help)
        return command_help(self);
    if (o.of_policy)
        return command_misuse(self, "a container is set to a policy: leave --policy out");
    if (argc - optind != (o.remove ? 1 : 2))
        return command_misuse(self, o.remove ? "name the container" : "name the container, then the policy");
    json_t *request = json_pack("{s:s, s:s}", "do", "set", "container", argv[optind]);
    if (request && !o.remove)
        json_object_set_new(request, "policy", json_string(argv[optind + 1]));
    return change(self, &o, request);
}

static int forget(const struct command *self, int argc, char **argv)
{
    struct runtime_options o = {0};
    int status = read_options(self, argc, argv, &o);
    if (status != EXIT_YES)
        return status;
    if (o.help)
        return command_help(self);
    if (o.remove)
        return command_misuse(self, "forget takes everything back: leave --remove out");
    if (o.gone && (o.of_policy || argc != optind))
        return command_misuse(self, "--gone is about all containers that are not enrolled: name none");
    if (o.gone)
        return change(self, &o, json_pack("{s:s, s:b}", "do", "forget", "gone", 1));
    if (argc - optind != 1)
        return command_misuse(self, "name the container (or, with --policy, the policy)");
    return change(self, &o, json_pack("{s:s, s:s}", "do", "forget", target_key(&o), argv[optind]));
}

/* ---- show ---- */

static void print_rule(const json_t *rule)
{
    const char *file = text_of(rule, "file");
    json_int_t line = json_integer_value(json_object_get(rule, "line"));
    if (!json_object_get(rule, "rule")) {
        printf("       %" JSON_INTEGER_FORMAT " allow and %" JSON_INTEGER_FORMAT " deny rules  %s\n",
               json_integer_value(json_object_get(rule, "allow_rules")),
               json_integer_value(json_object_get(rule, "deny_rules")), file);
        return;
    }
    printf("%-5s  %-45s  %s", text_of(rule, "action"), text_of(rule, "rule"), file);
    if (line)
        printf(":%" JSON_INTEGER_FORMAT, line);
    putchar('\n');
}

static void print_limit(const json_t *answer, const char *key)
{
    const json_t *limit = json_object_get(answer, key);
    if (limit)
        printf(", %s %" JSON_INTEGER_FORMAT, key, json_integer_value(limit));
}

static void print_container(const json_t *answer)
{
    const char *name = text_of(answer, "name"), *image = text_of(answer, "image"),
               *failure = text_of(answer, "failure");
    if (!json_object_get(answer, "id"))
        return;
    printf("container %s", text_of(answer, "id"));
    if (*name)
        printf(", name %s", name);
    if (*image)
        printf(", image %s", image);
    printf(": %s, %s", text_of(answer, "capture"), text_of(answer, "state"));
    if (*failure)
        printf(" (%s)", failure);
    putchar('\n');
}

static void print_policy(const json_t *answer)
{
    size_t i;
    const json_t *rule;
    if (!json_object_get(answer, "policy"))
        return;
    printf("policy %s: mode %s, dns %s, bind %s, verify_origin %s, ech %s", text_of(answer, "policy"),
           text_of(answer, "mode"), text_of(answer, "dns"), text_of(answer, "bind"),
           text_of(answer, "verify_origin"), text_of(answer, "ech"));
    print_limit(answer, "flows_per_container");
    print_limit(answer, "dns_queries_per_second");
    printf("; version %s\n", text_of(answer, "policy_version"));
    json_array_foreach(json_object_get(answer, "rules"), i, rule) print_rule(rule);
}

/* Rules that were added are among the others, with their origin. */
static void print_change(const json_t *changed)
{
    const json_t *set = json_object_get(changed, "set");
    const char *container = text_of(changed, "container");
    size_t rules = json_array_size(json_object_get(changed, "rules"));
    printf("changed at run time for %s%s%s:", *container ? "" : "policy ",
           *container ? container : text_of(changed, "policy"),
           json_is_true(json_object_get(changed, "gone")) ? " (not enrolled)" : "");
    if (set)
        printf(" set to policy %s by %s, %s%s", text_of(set, "policy"), text_of(set, "by"),
               text_of(set, "at"), rules ? ";" : "");
    if (rules)
        printf(" %zu rule%s", rules, rules == 1 ? "" : "s");
    putchar('\n');
}

/* With the rules, where no policy is shown that they are in. */
static void print_changed_rules(const json_t *changed)
{
    size_t i;
    const json_t *rule;
    json_array_foreach(json_object_get(changed, "rules"), i, rule)
    {
        const char *denied = text_of(rule, "deny");
        printf("%-5s  %-45s  by %s, %s\n", *denied ? "deny" : "allow",
               *denied ? denied : text_of(rule, "allow"), text_of(rule, "by"), text_of(rule, "at"));
    }
}

static int show(const struct command *self, int argc, char **argv)
{
    struct runtime_options o = {0};
    size_t i;
    const json_t *changed;
    int status = read_options(self, argc, argv, &o);
    if (status != EXIT_YES)
        return status;
    if (o.help)
        return command_help(self);
    if (o.remove)
        return command_misuse(self, "there is no option \"--remove\"");
    bool all = argc == optind && !o.of_policy;
    if (argc - optind != 1 && !all)
        return command_misuse(self, "name the container (or, with --policy, the policy)");
    json_t *request = json_pack("{s:s}", "do", "show");
    if (!all)
        json_object_set_new(request, target_key(&o), json_string(argv[optind]));
    json_t *answer = request_ask(self, o.control, o.json, request, NULL, 0, &status);
    if (!answer)
        return status;
    if (o.json) {
        request_print_json(answer);
    } else {
        print_container(answer);
        print_policy(answer);
        json_array_foreach(json_object_get(answer, "changes"), i, changed)
        {
            print_change(changed);
            if (!json_object_get(answer, "policy"))
                print_changed_rules(changed);
        }
    }
    json_decref(answer);
    return EXIT_YES;
}

#define TARGET_HELP                                                                                    \
    "  NAME              a container, by its id, the beginning of its id, or its name (then also its " \
    "successors of that name)\n"                                                                       \
    "  --policy          NAME is a policy; what changes holds for those that extend it, too\n"
#define COMMON_HELP                                                                   \
    "  --control SOCKET  the gateway's socket; without it " CONTROL_DEFAULT_PATH "\n" \
    "  --json            the answer as JSON\n"
#define CHANGE_HELP                                                                                          \
    "\nIn force when the command returns: live flows that are denied now were reset. Kept over restarts of " \
    "the gateway until it is\n"                                                                              \
    "taken back by --remove or 'sallyport forget'; 'sallyport show' lists it.\n"                             \
    "\nExit status: 0 in force, or nothing to change; 1 refused; 2 wrong use, or no gateway answers.\n"

const struct command command_allow = {
    .name = "allow",
    .arguments = "[--policy] [--remove] [--json] NAME RULE...",
    .summary = "allows a container more, at run time",
    .run = allow_or_deny,
    .help = TARGET_HELP
    "  RULE              as in a policy file's allow, as example.com or tcp://git.example.com:22\n"
    "  --remove          take such rules back\n" COMMON_HELP
    "\nDeny beats allow, also one of the policy file: the answer warns of it. A rule that was denied in the "
    "same words at run\n"
    "time is not denied any more.\n" CHANGE_HELP,
};

const struct command command_deny = {
    .name = "deny",
    .arguments = "[--policy] [--remove] [--json] NAME RULE...",
    .summary = "denies a container something, at run time",
    .run = allow_or_deny,
    .help = TARGET_HELP "  RULE              as in a policy file's deny, as example.com\n"
                        "  --remove          take such rules back\n" COMMON_HELP CHANGE_HELP,
};

const struct command command_set = {
    .name = "set",
    .arguments = "[--json] NAME POLICY | --remove NAME",
    .summary = "gives a container another policy, at run time",
    .run = set,
    .help = "  NAME              a container, by its id, the beginning of its id, or its name\n"
            "  POLICY            a policy of the file, or a profile\n"
            "  --remove          give it back the one it had\n" COMMON_HELP CHANGE_HELP,
};

const struct command command_forget = {
    .name = "forget",
    .arguments = "[--policy] [--json] NAME | --gone",
    .summary = "takes back all that was changed at run time for a container or policy",
    .run = forget,
    .help = TARGET_HELP
    "  --gone            all that was changed for containers that are not enrolled now\n" COMMON_HELP
    "\nExit status: 0 nothing is changed (any more); 1 failed; 2 wrong use, or no gateway answers.\n",
};

const struct command command_show = {
    .name = "show",
    .arguments = "[--policy] [--json] [NAME]",
    .summary = "says what a container may do, rule by rule, and who said so",
    .run = show,
    .help = TARGET_HELP COMMON_HELP
    "\nWithout a name it lists all that was changed at run time. A file of more than 200 rules is told by "
    "their number.\n"
    "\nExit status: 0; 1 there is none of that name; 2 wrong use, or no gateway answers.\n",
};
