/*
 * `sallyport exec`: reads the options, finds the policy, hands both to the monitor.
 * Whatever is wrong with them is said before anything is started.
 */
#include "cli/policy_internal.h"
#include "gateway/worker.h"
#include "redirect/exec/monitor.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIST_MAX 1024
#define RESOLVERS_MAX 8

struct list_option {
    const char *items[LIST_MAX];
    size_t count;
};

struct exec_options {
    const char *file, *policy, *audit;
    struct list_option allow, keep;
    struct config_resolver resolvers[RESOLVERS_MAX];
    size_t resolver_count;
    struct cidr destinations[LIST_MAX];
    size_t destination_count;
    enum sealed_link link;
    bool audit_only, quiet, help;
    char **command;
};

enum {
    OPTION_ALLOW = 256,
    OPTION_AUDIT,
    OPTION_AUDIT_ONLY,
    OPTION_RESOLVER,
    OPTION_KEEP,
    OPTION_DESTINATION,
    OPTION_LINK
};

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"policy", required_argument, NULL, 'p'},
    {"allow", required_argument, NULL, OPTION_ALLOW},
    {"audit", required_argument, NULL, OPTION_AUDIT},
    {"audit-only", no_argument, NULL, OPTION_AUDIT_ONLY},
    {"resolver", required_argument, NULL, OPTION_RESOLVER},
    {"keep", required_argument, NULL, OPTION_KEEP},
    {"allow-destination", required_argument, NULL, OPTION_DESTINATION},
    {"link", required_argument, NULL, OPTION_LINK},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

/* --- reading the options; each returns EXIT_YES or what command_misuse() returned
 * -------------------------------------- */

static int add_item(const struct command *self, struct list_option *list, const char *item,
                    const char *option)
{
    if (list->count == LIST_MAX)
        return command_misuse(self, "more than %d %s: write a policy file", LIST_MAX, option);
    list->items[list->count++] = item;
    return EXIT_YES;
}

static int add_resolver(const struct command *self, struct exec_options *o, const char *text)
{
    struct config_resolver resolver;
    if (!config_resolver_parse(text, &resolver))
        return command_misuse(
            self,
            "--resolver %s: write the address of a DNS server, as 192.0.2.53, 192.0.2.53:5353, "
            "[2001:db8::53]:53 or, for DNS over TLS, tls://192.0.2.53#dns.example.com",
            text);
    if (o->resolver_count == RESOLVERS_MAX)
        return command_misuse(self, "more than %d --resolver: leave some out", RESOLVERS_MAX);
    o->resolvers[o->resolver_count++] = resolver;
    if (config_resolvers_mixed(o->resolvers, o->resolver_count))
        return command_misuse(self, "--resolver %s: write tls:// before all of them or none", text);
    return EXIT_YES;
}

static int add_destination(const struct command *self, struct exec_options *o, const char *text)
{
    struct cidr network;
    if (!cidr_parse(text, strlen(text), false, &network))
        return command_misuse(
            self,
            "--allow-destination %s: write a network whose host bits are zero, as 10.20.0.0/16, or an "
            "address",
            text);
    if (o->destination_count == LIST_MAX)
        return command_misuse(self, "more than %d --allow-destination: write a policy file", LIST_MAX);
    o->destinations[o->destination_count++] = network;
    return EXIT_YES;
}

static int add_keep(const struct command *self, struct exec_options *o, const char *path)
{
    if (path[0] != '/')
        return command_misuse(self, "--keep %s: write an absolute path, as /run/docker.sock", path);
    if (access(path, F_OK) < 0)
        return command_misuse(self, "--keep %s: %s", path, strerror(errno));
    return add_item(self, &o->keep, path, "--keep");
}

static int set_link(const struct command *self, struct exec_options *o, const char *text)
{
    static const char *const names[] = {[SEALED_LINK_AUTO] = "auto",
                                        [SEALED_LINK_DUMMY] = "dummy",
                                        [SEALED_LINK_VETH] = "veth",
                                        [SEALED_LINK_LO] = "lo"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (!strcmp(text, names[i])) {
            o->link = (enum sealed_link)i;
            return EXIT_YES;
        }
    }
    return command_misuse(self, "--link %s: say auto, dummy, veth or lo", text);
}

static int set_once(const struct command *self, const char **value, const char *text, const char *option)
{
    if (*value)
        return command_misuse(self, "%s is given twice: leave one out", option);
    if (!*text)
        return command_misuse(self, "%s needs a value", option);
    *value = text;
    return EXIT_YES;
}

static int take_option(const struct command *self, struct exec_options *o, int option, char **argv)
{
    switch (option) {
    case 'c':
        return set_once(self, &o->file, optarg, "-c");
    case 'p':
        return set_once(self, &o->policy, optarg, "--policy");
    case OPTION_ALLOW:
        return add_item(self, &o->allow, optarg, "--allow");
    case OPTION_AUDIT:
        return set_once(self, &o->audit, optarg, "--audit");
    case OPTION_AUDIT_ONLY:
        o->audit_only = true;
        return EXIT_YES;
    case OPTION_RESOLVER:
        return add_resolver(self, o, optarg);
    case OPTION_KEEP:
        return add_keep(self, o, optarg);
    case OPTION_DESTINATION:
        return add_destination(self, o, optarg);
    case OPTION_LINK:
        return set_link(self, o, optarg);
    case 'q':
        o->quiet = true;
        return EXIT_YES;
    case 'h':
        o->help = true;
        return EXIT_YES;
    case ':':
        return command_misuse(self, "%s needs a value", argv[optind - 1]);
    default:
        return command_misuse(self, "there is no option \"%s\"; write -- before the command",
                              argv[optind - 1]);
    }
}

static int read_options(const struct command *self, int argc, char **argv, struct exec_options *o)
{
    int option, status;
    opterr = 0;
    /* "+": options of the command are its own, with or without "--". */
    while ((option = getopt_long(argc, argv, "+:c:qh", long_options, NULL)) != -1)
        if ((status = take_option(self, o, option, argv)) != EXIT_YES)
            return status;
    if (o->help)
        return EXIT_YES;
    if (optind == argc)
        return command_misuse(self, "name the command to run: sallyport exec [options] -- COMMAND");
    if (!*argv[optind])
        return command_misuse(self, "the command's name is empty");
    if (o->allow.count && o->file)
        return command_misuse(
            self, "--allow stands for a policy file: write the rules into %s, or leave out -c", o->file);
    o->command = argv + optind;
    return EXIT_YES;
}

/* --- the policy
 * -------------------------------------------------------------------------------------------------- */

static struct config_snapshot *load(const struct exec_options *o)
{
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    if (!o->allow.count)
        return policy_load(o->file);
    int r = config_from_rules("command-line", o->policy, o->allow.items, o->allow.count, &snapshot, &errors);
    policy_print_errors(&errors);
    return r < 0 ? NULL : snapshot;
}

/* NULL when the user has to say more; *ret_status is the exit status then. */
static const struct acl_policy *choose(const struct command *self, const struct config_snapshot *snapshot,
                                       const struct exec_options *o, int *ret_status)
{
    const char *name = o->allow.count ? "command-line" : o->policy;
    bool has_file = o->file || access(POLICY_DEFAULT_FILE, F_OK) == 0;
    const struct acl_policy *policy;
    if (!name)
        name = config_only_policy(snapshot);
    if (name) {
        policy = config_policy(snapshot, name);
        if (!policy)
            *ret_status =
                command_misuse(self, "there is no policy \"%s\": 'sallyport policy show' lists them", name);
        return policy;
    }
    if (has_file) {
        *ret_status =
            command_misuse(self, "say which policy: --policy NAME ('sallyport policy show%s%s' lists them)",
                           o->file ? " -c " : "", o->file ? o->file : "");
        return NULL;
    }
    if (!o->quiet)
        fprintf(stderr, "sallyport: no policy is named and there is no " POLICY_DEFAULT_FILE
                        ": everything is denied; allow with "
                        "--allow NAME or --policy agent\n");
    return config_assign(snapshot, NULL, NULL);
}

static int adjust(const struct exec_options *o, struct config_snapshot *snapshot)
{
    int failed = o->resolver_count ? config_set_resolvers(snapshot, o->resolvers, o->resolver_count) : 0;
    for (size_t i = 0; i < o->destination_count && !failed; i++)
        failed = config_allow_destination(snapshot, &o->destinations[i]);
    if (failed)
        fprintf(stderr, "sallyport exec: cannot take the options: %s\n", strerror(-failed));
    return failed;
}

static int start(const struct exec_options *o, struct config_snapshot *snapshot,
                 const struct acl_policy *policy)
{
    struct worker_options worker = {.snapshot = snapshot, .audit_only = o->audit_only, .confine = true};
    const struct monitor_exec options = {
        .argv = o->command,
        .policy = policy,
        .every_port = o->audit_only || acl_policy_mode(policy) == ACL_MODE_AUDIT,
        .audit_path = o->audit ? o->audit : config_audit_file(snapshot),
        .keep = o->keep.items,
        .keep_count = o->keep.count,
        .link = o->link,
        .summary = !o->quiet,
        .worker = worker_main,
        .worker_arg = &worker,
    };
    return monitor_exec(&options);
}

static int run(const struct command *self, int argc, char **argv)
{
    static struct exec_options o;
    int status = read_options(self, argc, argv, &o);
    if (status != EXIT_YES)
        return status;
    if (o.help)
        return command_help(self);
    struct config_snapshot *snapshot = load(&o);
    if (!snapshot)
        return EXIT_WRONG;
    const struct acl_policy *policy = choose(self, snapshot, &o, &status);
    if (policy)
        status = adjust(&o, snapshot) < 0 ? MONITOR_EXIT_FAILURE : start(&o, snapshot, policy);
    config_unref(snapshot);
    return status;
}

const struct command command_exec = {
    .name = "exec",
    .arguments = "[options] [--] COMMAND [ARGUMENT…]",
    .summary = "runs a command whose only way to the network is the gateway",
    .run = run,
    .help = "  -c, --config FILE      the policy file; without it " POLICY_DEFAULT_FILE "\n"
            "                         when there is one, else only what is built in\n"
            "  --policy NAME          a policy of the file, or a profile: agent, allowlist, airgapped, "
            "unrestricted;\n"
            "                         may be left out when the file has only one policy\n"
            "  --allow RULE           no file: allow this, as example.com, *.example.org, "
            "tcp://git.example.com:22 or\n"
            "                         10.0.0.0/8:5432; may be repeated, and adds to the profile that "
            "--policy names\n"
            "  --audit FILE           append the audit events to FILE (SIGUSR1 opens it anew)\n"
            "  --audit-only           let everything through and write what would be denied\n"
            "  --resolver ADDR[:PORT] ask this DNS server instead of the host's; may be repeated;\n"
            "                         tls://ADDR#NAME: over TLS, with a certificate for NAME\n"
            "  --allow-destination NETWORK\n"
            "                         names may resolve into this private network; may be repeated\n"
            "  --keep PATH            leave this socket, folder or device visible to the command; may be "
            "repeated\n"
            "  --link KIND            what eth0 is inside: auto, dummy, veth or lo\n"
            "  -q, --quiet            no summary of what was denied at the end\n"
            "\n"
            "The command sees files as you do, but no process, no socket and no network outside. Its "
            "environment gains\n"
            "SALLYPORT=1 and loses variables that name sockets (SSH_AUTH_SOCK, DOCKER_HOST, …) unless these "
            "are kept.\n"
            "\n"
            "Exit status: the command's; 128+n when signal n ended it; 127 not found, 126 cannot be "
            "executed, 125 the\n"
            "command could not be sealed and was not started; 2 wrong use, or a file with errors.\n",
};
