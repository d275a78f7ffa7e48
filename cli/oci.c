/*
 * `sallyport oci-hook` and `sallyport oci-runtime`: how container engines put every container behind the gateway.
 *
 *   hook      podman, CRI-O, containerd: run by the runtime at createRuntime, when namespaces are there and nothing of the
 *             container runs yet, and at poststop. A hook that fails keeps the container from starting.
 *   runtime   Docker has no hooks: it calls this in place of runc. At `create` the hook is written into the bundle's
 *             config.json; everything is then runc's.
 *
 * The engine's environment is not to be trusted: nothing here is looked up in PATH.
 */
#include "cli/ask.h"
#include "cli/command.h"
#include "cli/json_file.h"
#include "base/fds.h"
#include "config/file.h"
#include "redirect/daemon/control.h"
#include "redirect/engines/oci.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where distributions put runc. Never looked up in PATH, which is the engine's. */
static const char *const runtimes[] = {"/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc", "/usr/local/bin/runc"};
#define RUNTIMES (sizeof(runtimes) / sizeof(*runtimes))

/* Some runtimes throw away what a hook says: so it is in the system's log, too. */
static int fail(const char *what, const char *id, const struct error *err)
{
    bool said = strstr(err->text, id);
    fprintf(stderr, "sallyport %s: %s%s%s\n", what, said ? "" : id, said ? "" : ": ", err->text);
    ask_log_failure(what, id, err);
    return EXIT_NO;
}

/* ---- oci-hook ---- */

static int enroll(const char *control, const struct oci_state *state, struct error *err)
{
    const struct state_record *record = &state->record;
    int fds[2];
    int r = process_open(record->pid, &fds[0], &fds[1], err);
    if (r < 0)
        return r;
    json_t *request =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "do", "enroll", "id", record->id, "name", record->name, "image",
                  record->image, "policy", record->policy, "pod", record->pod, "pod_namespace", record->pod_namespace, "publish",
                  record->publish);
    /* Nothing said: sealed, unless the namespace is captured already (a pod's, by the CNI plugin). */
    if (request && (state->names_capture || record->attached))
        json_object_set_new(request, "attached", json_boolean(record->attached));
    r = ask_gateway(control, request, fds, 2, NULL, err);
    close(fds[0]);
    close(fds[1]);
    return r;
}

static int read_state(struct oci_state *ret, struct error *err)
{
    char *text;
    size_t length;
    int r = config_file_read(CONFIG_STANDARD_INPUT, OCI_STATE_MAX, &text, &length, err);
    if (r < 0)
        return error_prefix(err, "the container's state on standard input");
    r = oci_state_parse(text, length, ret, err);
    free(text);
    return r;
}

static int run_hook(const struct command *self, int argc, char **argv)
{
    static const struct option options[] = {{"control", required_argument, NULL, 'c'},
                                            {"default-policy", required_argument, NULL, 'p'},
                                            {"policy", required_argument, NULL, 'P'},
                                            {"attached", no_argument, NULL, 'a'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *control = CONTROL_DEFAULT_PATH;
    struct oci_defaults defaults = {0};
    struct oci_state state = {0};
    struct error err;
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if (option == 'h')
            return command_help(self);
        if (option == 'c')
            control = optarg;
        else if (option == 'p' || option == 'P') {
            defaults.policy = optarg;
            defaults.binding = option == 'P';
        } else if (option == 'a')
            defaults.attached = true;
        else
            return command_misuse(self, option == ':' ? "%s needs a value" : "there is no option \"%s\"", argv[optind - 1]);
    }
    if (optind != argc)
        return command_misuse(self, "\"%s\" is no option: there are no arguments", argv[optind]);
    if (read_state(&state, &err) < 0 || oci_state_apply(&state, &defaults, &err) < 0)
        return fail(self->name, "", &err);
    const struct state_record *record = &state.record;
    if (record->pid > 0)
        return enroll(control, &state, &err) < 0 ? fail(self->name, record->id, &err) : EXIT_YES;
    /* It has ended: the gateway has noticed by itself, or will. */
    if (ask_gateway(control, json_pack("{s:s, s:s}", "do", "withdraw", "id", record->id), NULL, 0, NULL, &err) < 0)
        fail(self->name, record->id, &err);
    return EXIT_YES;
}

/* ---- oci-runtime ---- */

struct runtime_options {
    const char *runtime, *control;
    struct oci_defaults defaults;
};

#define RUNTIME_OPTIONS 4
#define RUNTIME_BINDING 3

/* Ours come first; what is not ours begins the runtime's. Returns the index of that, or -1. */
static int read_runtime_options(int argc, char **argv, struct runtime_options *o)
{
    static const struct option names[] = {
        {"runtime", required_argument, NULL, 0}, {"control", required_argument, NULL, 0}, {"default-policy", required_argument, NULL, 0}, {"policy", required_argument, NULL, 0}};
    const char **places[] = {&o->runtime, &o->control, &o->defaults.policy, &o->defaults.policy};
    int at = 1;
    while (at < argc) { /* getopt_long() would stumble over the first of the others */
        size_t i = 0;
        if (!strcmp(argv[at], "--attached")) {
            o->defaults.attached = true;
            at++;
            continue;
        }
        while (i < RUNTIME_OPTIONS && (strncmp(argv[at], "--", 2) || strcmp(argv[at] + 2, names[i].name)))
            i++;
        if (i == RUNTIME_OPTIONS)
            break;
        if (at + 1 >= argc || !*argv[at + 1])
            return -1;
        *places[i] = argv[at + 1];
        o->defaults.binding |= i == RUNTIME_BINDING;
        at += 2;
    }
    return at;
}

/* The bundle's folder when the runtime is asked to make a container, else NULL. */
static const char *bundle_of(int argc, char **argv)
{
    const char *bundle = ".";
    bool makes = false;
    for (int i = 0; i < argc; i++) {
        bool value_follows = i + 1 < argc;
        if (!strcmp(argv[i], "create") || !strcmp(argv[i], "run"))
            makes = true;
        else if ((!strcmp(argv[i], "--bundle") || !strcmp(argv[i], "-b")) && value_follows)
            bundle = argv[++i];
        else if (!strncmp(argv[i], "--bundle=", 9))
            bundle = argv[i] + 9;
        else if ((!strcmp(argv[i], "--root") || !strcmp(argv[i], "--log") || !strcmp(argv[i], "--log-format") ||
                  !strcmp(argv[i], "--criu") || !strcmp(argv[i], "--rootless")) && value_follows)
            i++; /* the value of a global option: never a command */
        else if (!makes && argv[i][0] != '-')
            return NULL; /* another command */
    }
    return makes ? bundle : NULL;
}

static int add_hooks(const char *bundle, const struct runtime_options *o, struct error *err)
{
    char path[STATE_PATH_MAX + 16], program[STATE_PATH_MAX];
    json_error_t why;
    char *text;
    size_t length;
    int r = ask_own_path(program, sizeof(program), err);
    if (r < 0)
        return r;
    if ((size_t)snprintf(path, sizeof(path), "%s/config.json", bundle) >= sizeof(path))
        return error_set(err, ENAMETOOLONG, "the bundle's path is too long");
    r = config_file_read(path, OCI_CONFIG_MAX, &text, &length, err);
    if (r < 0)
        return error_prefix(err, "%s", path);
    json_t *config = json_loadb(text, length, 0, &why);
    free(text);
    if (!config)
        return error_set(err, EINVAL, "%s: %s", path, why.text);
    r = oci_config_add_hooks(config, program, o->control, &o->defaults, err);
    if (r == 0)
        r = json_file_write(path, config, JSON_COMPACT, err);
    json_decref(config);
    return r;
}

static int run_runtime(const struct command *self, int argc, char **argv)
{
    struct runtime_options o = {0};
    struct error err;
    if (argc == 2 && !strcmp(argv[1], "--help"))
        return command_help(self);
    int first = read_runtime_options(argc, argv, &o);
    if (first < 0)
        return command_misuse(self, "--runtime, --control, --policy and --default-policy need a value");
    if (o.runtime && o.runtime[0] != '/')
        return command_misuse(self, "--runtime %s: write an absolute path, as /usr/sbin/runc", o.runtime);
    for (size_t i = 0; !o.runtime && i < RUNTIMES; i++)
        if (access(runtimes[i], X_OK) == 0)
            o.runtime = runtimes[i];
    if (!o.runtime) {
        error_set(&err, ENOENT, "runc is in none of /usr/sbin, /usr/bin, /usr/local/sbin, /usr/local/bin: name it by --runtime");
        return fail(self->name, "", &err);
    }
    const char *bundle = bundle_of(argc - first, argv + first);
    if (bundle && add_hooks(bundle, &o, &err) < 0)
        return fail(self->name, "", &err);
    argv[first - 1] = (char *)o.runtime;
    execv(o.runtime, argv + first - 1);
    error_errno(&err, errno, "cannot execute %s", o.runtime);
    return fail(self->name, "", &err);
}

const struct command command_oci_hook = {
    .name = "oci-hook",
    .arguments = "[--control SOCKET] [--policy POLICY|--default-policy POLICY] [--attached]",
    .summary = "enrolls and withdraws containers for an engine (OCI hook createRuntime, poststop)",
    .run = run_hook,
    .help = "  --control SOCKET  the gateway's socket; without it " CONTROL_DEFAULT_PATH "\n"
            "  --policy POLICY   whatever a container (or its image) names\n"
            "  --default-policy POLICY  for containers that name none; without it the assign rules decide\n"
            "  --attached        containers that do not say keep their own links\n"
            "\n"
            "Reads the container's state on standard input. The annotation " OCI_POLICY_ANNOTATION " names the policy; \"assign\"\n"
            "leaves it to the assign rules. " OCI_CAPTURE_ANNOTATION "=attached is for containers with links of their own.\n"
            "\n"
            "Exit status: 0 done; 1 the container must not start.\n",
};

const struct command command_oci_runtime = {
    .name = "oci-runtime",
    .arguments = "[--runtime PATH] [--control SOCKET] [--policy POLICY|--default-policy POLICY] [--attached] ARGUMENT…",
    .summary = "stands in for runc, with the hook in every container that is created",
    .run = run_runtime,
    .help = "  --runtime PATH           the runtime that does the work; without it runc, where distributions put it\n"
            "  --control SOCKET         the gateway's socket; without it " CONTROL_DEFAULT_PATH "\n"
            "  --policy POLICY          whatever a container (or its image) names; its environment is not looked at\n"
            "  --default-policy POLICY  for containers that name none, by annotation or " OCI_POLICY_VARIABLE "; without it the\n"
            "                           assign rules decide\n"
            "  --attached               containers that do not say, by annotation or " OCI_CAPTURE_VARIABLE ", keep their own links\n"
            "\n"
            "'sallyport docker configure' sets it up.\n",
};
