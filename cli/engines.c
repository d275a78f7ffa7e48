/*
 * `sallyport docker configure` and `sallyport podman configure`: the one command that sets an engine up. Each changes one file of the
 * engine's, keeps whatever else is in it, says what to do next, and can be taken back. Again is no harm.
 */
#include "cli/ask.h"
#include "cli/command.h"
#include "cli/json_file.h"
#include "redirect/engines/oci.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DOCKER_FILE "/etc/docker/daemon.json"
#define PODMAN_FOLDER "/etc/containers/oci/hooks.d"
#define PODMAN_FILE "50-sallyport.json"
#define POLICIES_MAX 64

struct engine_options {
    const char *file, *folder, *control, *runtime;
    const char *policies[POLICIES_MAX];
    size_t policy_count;
    bool make_default, all, attached, remove, dry_run;
};

enum {
    OPTION_CONFIG = 256,
    OPTION_HOOKS,
    OPTION_CONTROL,
    OPTION_RUNTIME,
    OPTION_POLICY,
    OPTION_DEFAULT,
    OPTION_ALL,
    OPTION_ATTACHED,
    OPTION_REMOVE,
    OPTION_DRY_RUN
};

static const struct option docker_options[] = {
    {"help", no_argument, NULL, 'h'},
    {"config", required_argument, NULL, OPTION_CONFIG},
    {"control", required_argument, NULL, OPTION_CONTROL},
    {"runtime", required_argument, NULL, OPTION_RUNTIME},
    {"policy", required_argument, NULL, OPTION_POLICY},
    {"default", no_argument, NULL, OPTION_DEFAULT},
    {"remove", no_argument, NULL, OPTION_REMOVE},
    {"dry-run", no_argument, NULL, OPTION_DRY_RUN},
    {0},
};
static const struct option podman_options[] = {
    {"help", no_argument, NULL, 'h'},
    {"hooks-dir", required_argument, NULL, OPTION_HOOKS},
    {"control", required_argument, NULL, OPTION_CONTROL},
    {"policy", required_argument, NULL, OPTION_POLICY},
    {"all", no_argument, NULL, OPTION_ALL},
    {"attached", no_argument, NULL, OPTION_ATTACHED},
    {"remove", no_argument, NULL, OPTION_REMOVE},
    {"dry-run", no_argument, NULL, OPTION_DRY_RUN},
    {0},
};

static bool take_flag(struct engine_options *o, int option)
{
    bool *place = option == OPTION_DEFAULT    ? &o->make_default
                  : option == OPTION_ALL      ? &o->all
                  : option == OPTION_ATTACHED ? &o->attached
                  : option == OPTION_REMOVE   ? &o->remove
                  : option == OPTION_DRY_RUN  ? &o->dry_run
                                              : NULL;
    if (place)
        *place = true;
    return place != NULL;
}

static bool take_value(struct engine_options *o, int option)
{
    const char **place = option == OPTION_CONFIG    ? &o->file
                         : option == OPTION_HOOKS   ? &o->folder
                         : option == OPTION_CONTROL ? &o->control
                         : option == OPTION_RUNTIME ? &o->runtime
                         : option == OPTION_POLICY && o->policy_count < POLICIES_MAX
                             ? &o->policies[o->policy_count++]
                             : NULL;
    if (place)
        *place = optarg;
    return place != NULL;
}

/* EXIT_YES to go on, -1 when --help was printed. argv[1] is "configure". */
static int read_options(const struct command *self, int argc, char **argv, const struct option *options,
                        struct engine_options *o)
{
    int option;
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        command_help(self);
        return -1;
    }
    if (argc < 2 || strcmp(argv[1], "configure") != 0)
        return command_misuse(self, "write 'sallyport %s configure'", self->name);
    argc--;
    argv++;
    optind = 0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if (option == 'h') {
            command_help(self);
            return -1;
        }
        if (option == ':' || (optarg && !*optarg))
            return command_misuse(self, "configure: %s needs a value", argv[optind - 1]);
        if (!take_flag(o, option) && !take_value(o, option))
            return command_misuse(self, "configure: %s \"%s\"",
                                  option == OPTION_POLICY ? "too many policies:" : "there is no option",
                                  argv[optind - 1]);
    }
    if (optind != argc)
        return command_misuse(self, "configure: \"%s\" is no option", argv[optind]);
    return EXIT_YES;
}

static void make_folder_of(const char *path)
{
    char *copy = strdup(path), *slash = copy ? strchr(copy + 1, '/') : NULL;
    for (; slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(copy, 0755); /* what is wrong with it, writing will say */
        *slash = '/';
    }
    free(copy);
}

/* *ret is NULL when there is no file. */
static int read_if_there(const char *path, json_t **ret, struct error *err)
{
    int r = json_file_read(path, ret, err);
    if (r != -ENOENT)
        return r;
    *ret = NULL;
    return 0;
}

static int report(const struct command *self, const struct engine_options *o, const char *path, int r,
                  const struct error *err, const char *next)
{
    if (r < 0) {
        fprintf(stderr, "sallyport %s configure: %s\n", self->name, err->text);
        return EXIT_WRONG;
    }
    if (r > 0)
        printf("%s stays as it is\n", path);
    else if (!o->dry_run)
        printf("%s is written\n%s\n", path, next);
    return EXIT_YES;
}

/* ---- Docker ---- */

static int edit_docker(const struct engine_options *o, const char *path, struct error *err)
{
    char program[PATH_MAX];
    json_t *before;
    int r = ask_own_path(program, sizeof(program), err);
    if (r < 0 || (r = read_if_there(path, &before, err)) < 0)
        return r;
    const struct oci_docker docker = {.program = program,
                                      .control = o->control,
                                      .runtime = o->runtime,
                                      .policies = o->policies,
                                      .policy_count = o->policy_count,
                                      .make_default = o->make_default};
    json_t *after = before ? json_deep_copy(before) : json_object();
    if (o->remove)
        oci_docker_remove(after);
    else if ((r = oci_docker_configure(after, &docker, err)) < 0)
        error_prefix(err, "%s", path);
    if (r == 0 && !o->dry_run && !o->remove)
        make_folder_of(path);
    if (r == 0)
        r = o->remove && !before ? 1 : json_file_update(path, before, after, o->dry_run, err);
    json_decref(after);
    json_decref(before);
    return r;
}

static int run_docker(const struct command *self, int argc, char **argv)
{
    struct engine_options o = {0};
    struct error err;
    int status = read_options(self, argc, argv, docker_options, &o);
    if (status != EXIT_YES)
        return status < 0 ? EXIT_YES : status;
    if (o.runtime && o.runtime[0] != '/')
        return command_misuse(self, "configure: --runtime %s: write an absolute path, as /usr/sbin/runc",
                              o.runtime);
    const char *path = o.file ? o.file : DOCKER_FILE;
    char next[512] = "Next: systemctl reload docker";
    const char *name = o.policy_count ? o.policies[0] : "", *dash = *name ? "-" : "";
    if (!o.remove)
        snprintf(next, sizeof(next),
                 "Next: systemctl reload docker (or: kill -HUP its process), then\n"
                 "  docker run --runtime sallyport%s%.64s --network none IMAGE    a sealed container\n"
                 "  docker run --runtime sallyport%s%.64s-attached IMAGE          one that keeps its network",
                 dash, name, dash, name);
    return report(self, &o, path, edit_docker(&o, path, &err), &err, next);
}

/* ---- podman, CRI-O ---- */

static int edit_podman(const struct engine_options *o, const char *path, struct error *err)
{
    char program[PATH_MAX];
    json_t *before;
    const struct oci_defaults defaults = {
        .policy = o->policy_count ? o->policies[0] : NULL, .binding = o->policy_count > 0, .attached = o->attached};
    int r = ask_own_path(program, sizeof(program), err);
    if (r < 0)
        return r;
    if (o->remove && o->dry_run) {
        printf("%s would be removed\n", path);
        return 0;
    }
    if (o->remove)
        return unlink(path) == 0 ? 0
               : errno == ENOENT ? 1
                                 : error_errno(err, errno, "cannot remove %s", path);
    if ((r = read_if_there(path, &before, err)) < 0)
        return r;
    json_t *after = oci_hook_file(program, o->control, &defaults, o->all);
    if (!o->dry_run)
        make_folder_of(path);
    r = after ? json_file_update(path, before, after, o->dry_run, err)
              : error_set(err, EINVAL, "an argument is not UTF-8");
    json_decref(before);
    json_decref(after);
    return r;
}

static int run_podman(const struct command *self, int argc, char **argv)
{
    struct engine_options o = {.folder = PODMAN_FOLDER};
    struct error err;
    char path[PATH_MAX];
    int status = read_options(self, argc, argv, podman_options, &o);
    if (status != EXIT_YES)
        return status < 0 ? EXIT_YES : status;
    if (o.policy_count > 1)
        return command_misuse(self,
                              "configure: one --policy is enough: containers name others by the annotation");
    if ((size_t)snprintf(path, sizeof(path), "%s/" PODMAN_FILE, o.folder) >= sizeof(path))
        return command_misuse(self, "configure: --hooks-dir is too long");
    const char *next = o.remove ? "Containers that run stay behind the gateway."
                       : o.all
                           ? "Next: every container that podman starts as root is behind the gateway, as\n"
                             "  podman run --network none IMAGE"
                           : "Next: podman run --annotation sallyport.policy=POLICY --network none IMAGE\n"
                             "  (with a network: --annotation sallyport.capture=attached)";
    return report(self, &o, path, edit_podman(&o, path, &err), &err, next);
}

const struct command command_docker = {
    .name = "docker",
    .arguments = "configure [OPTION…]",
    .summary = "sets Docker up: its containers behind the gateway, by runtime",
    .run = run_docker,
    .help =
        "  --config FILE     Docker's; without it " DOCKER_FILE "\n"
        "  --policy POLICY   runtimes sallyport-POLICY and sallyport-POLICY-attached, of that policy whatever the container\n"
        "                    or its image names; may be given again. Without it: sallyport and sallyport-attached, where\n"
        "                    containers choose, or the assign rules\n"
        "  --default         the (first) attached one becomes Docker's default: all containers are behind "
        "the gateway\n"
        "  --control SOCKET  the gateway's socket; without it the usual one\n"
        "  --runtime PATH    the runtime that does the work; without it runc, where distributions put it\n"
        "  --remove          takes ours out of the file\n"
        "  --dry-run         prints what the file would be, and writes nothing\n"
        "\n"
        "A container names its policy by the annotation " OCI_POLICY_ANNOTATION
        " (Docker 24) or by -e " OCI_POLICY_VARIABLE "=POLICY.\n"
        "\n"
        "Exit status: 0 done; 2 not.\n",
};

const struct command command_podman = {
    .name = "podman",
    .arguments = "configure [OPTION…]",
    .summary = "sets podman and CRI-O up: their containers behind the gateway, by hook",
    .run = run_podman,
    .help =
        "  --hooks-dir DIR   where the hook goes; without it " PODMAN_FOLDER "\n"
        "  --all             for every container, not only those with the annotation " OCI_POLICY_ANNOTATION
        "\n"
        "  --policy POLICY   whatever a container or its image names; without it containers choose, or the assign rules\n"
        "  --attached        those that do not say keep their own links\n"
        "  --control SOCKET  the gateway's socket; without it the usual one\n"
        "  --remove          takes the hook away\n"
        "  --dry-run         prints what the file would be, and writes nothing\n"
        "\n"
        "Exit status: 0 done; 2 not.\n",
};
