/*
 * `sallyport cni install`: the plugin into the folder of plugins, its entry into a network's list. Again is no harm: what is there
 * already is left, or brought up to date.
 */
#include "cli/ask.h"
#include "cli/cni_bundle.h"
#include "cli/cni_install.h"
#include "cli/json_file.h"
#include "base/fds.h"
#include "redirect/engines/cni.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct install_options {
    const char *bin, *folder, *list, *policy, *control;
    bool no_annotations, copy, watch, uninstall, dry_run;
    bool placed; /* the plugin is there */
};

enum {
    OPTION_BIN = 256,
    OPTION_FOLDER,
    OPTION_LIST,
    OPTION_POLICY,
    OPTION_CONTROL,
    OPTION_NO_ANNOTATIONS,
    OPTION_COPY,
    OPTION_WATCH,
    OPTION_UNINSTALL,
    OPTION_DRY_RUN
};

static const struct option all_options[] = {
    {"help", no_argument, NULL, 'h'},
    {"bin-dir", required_argument, NULL, OPTION_BIN},
    {"conf-dir", required_argument, NULL, OPTION_FOLDER},
    {"conflist", required_argument, NULL, OPTION_LIST},
    {"policy", required_argument, NULL, OPTION_POLICY},
    {"control", required_argument, NULL, OPTION_CONTROL},
    {"no-annotations", no_argument, NULL, OPTION_NO_ANNOTATIONS},
    {"copy", no_argument, NULL, OPTION_COPY},
    {"watch", no_argument, NULL, OPTION_WATCH},
    {"uninstall", no_argument, NULL, OPTION_UNINSTALL},
    {"dry-run", no_argument, NULL, OPTION_DRY_RUN},
    {0},
};

static bool take_option(struct install_options *o, int option)
{
    switch (option) {
    case OPTION_BIN:
        o->bin = optarg;
        return true;
    case OPTION_FOLDER:
        o->folder = optarg;
        return true;
    case OPTION_LIST:
        o->list = optarg;
        return true;
    case OPTION_POLICY:
        o->policy = optarg;
        return true;
    case OPTION_CONTROL:
        o->control = optarg;
        return true;
    case OPTION_NO_ANNOTATIONS:
        return o->no_annotations = true;
    case OPTION_COPY:
        return o->copy = true;
    case OPTION_WATCH:
        return o->watch = true;
    case OPTION_UNINSTALL:
        return o->uninstall = true;
    case OPTION_DRY_RUN:
        return o->dry_run = true;
    default:
        return false;
    }
}

/* ---- the program ---- */

static int link_to(const char *program, const char *plugin, struct error *err)
{
    char temporary[PATH_MAX];
    if ((size_t)snprintf(temporary, sizeof(temporary), "%s.new", plugin) >= sizeof(temporary))
        return error_set(err, ENAMETOOLONG, "the path of the plugin is too long");
    unlink(temporary);
    if (symlink(program, temporary) == 0 && rename(temporary, plugin) == 0)
        return 0;
    error_errno(err, errno, "cannot write %s", plugin);
    unlink(temporary);
    return -err->code;
}

static int place_plugin(const struct install_options *o, const char *plugin, struct error *err)
{
    char program[PATH_MAX];
    if (o->copy)
        return cni_bundle_write(plugin, err);
    int r = ask_own_path(program, sizeof(program), err);
    return r < 0 ? r : link_to(program, plugin, err);
}

static int remove_plugin(const char *plugin, struct error *err)
{
    if (unlink(plugin) < 0 && errno != ENOENT)
        return error_errno(err, errno, "cannot remove %s", plugin);
    return cni_bundle_remove(plugin, err);
}

/* ---- the list ---- */

static int is_list(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);
    return length > 9 && !strcmp(entry->d_name + length - 9, ".conflist");
}

/* The first by name. *ret is the caller's. */
static int find_list(const char *folder, char **ret, struct error *err)
{
    struct dirent **found;
    int count = scandir(folder, &found, is_list, alphasort), r = 0;
    if (count < 0)
        return error_errno(err, errno, "%s", folder);
    if (count == 0)
        r = error_set(err, ENOENT,
                      "%s has no .conflist: install a network first, or name its file by --conflist", folder);
    else if (asprintf(ret, "%s/%s", folder, found[0]->d_name) < 0)
        r = error_set(err, ENOMEM, "out of memory");
    for (int i = 0; i < count; i++)
        free(found[i]);
    free(found);
    return r;
}

static json_t *entry_of(const struct install_options *o)
{
    json_t *entry =
        json_pack("{s:s, s:s*, s:s*}", "type", CNI_PLUGIN_TYPE, "policy", o->policy, "control", o->control);
    if (entry && !o->no_annotations)
        json_object_set_new(entry, "capabilities", json_pack("{s:b}", CNI_ANNOTATIONS_CAPABILITY, 1));
    return entry;
}

static int edit_list(const struct install_options *o, const char *path, struct error *err)
{
    json_t *before = NULL, *entry = o->uninstall ? NULL : entry_of(o);
    int r = !entry && !o->uninstall ? error_set(err, EINVAL, "an argument is not UTF-8")
                                    : json_file_read(path, &before, err);
    if (r == 0) {
        json_t *list = json_deep_copy(before);
        r = cni_list_edit(list, entry, err);
        if (r < 0)
            error_prefix(err, "%s", path);
        else
            r = json_file_update(path, before, list, o->dry_run, err);
        json_decref(list);
    }
    json_decref(before);
    json_decref(entry);
    return r;
}

static void report(const struct install_options *o, const char *list, bool same)
{
    if (o->dry_run && same)
        printf("%s would stay as it is\n", list);
    else if (!o->dry_run && o->uninstall)
        printf("the plugin is out of %s and %s; pods that run stay captured until they end\n", list, o->bin);
    else if (!o->dry_run)
        printf("the plugin is in %s and %s: pods that start from now on are behind the gateway\n", list,
               o->bin);
}

static int install(struct install_options *o, const char *list, struct error *err)
{
    char plugin[PATH_MAX];
    bool again = o->placed;
    if ((size_t)snprintf(plugin, sizeof(plugin), "%s/" CNI_PLUGIN_TYPE, o->bin) >= sizeof(plugin))
        return error_set(err, ENAMETOOLONG, "--bin-dir is too long");
    /* The plugin is there before a list names it, and goes after. */
    int r = o->dry_run || o->uninstall || o->placed ? 0 : place_plugin(o, plugin, err);
    int same = r < 0 ? r : edit_list(o, list, err);
    if (same < 0)
        return same;
    o->placed = !o->dry_run && !o->uninstall;
    if (o->uninstall && !o->dry_run && (r = remove_plugin(plugin, err)) < 0)
        return r;
    if (!again || !same)
        report(o, list, same);
    return 0;
}

static int install_once(struct install_options *o, struct error *err)
{
    char *found = NULL;
    int r = o->list ? 0 : find_list(o->folder, &found, err);
    if (r == 0)
        r = install(o, o->list ? o->list : found, err);
    free(found);
    return r;
}

/* ---- watching ----
 *
 * The plugin that makes the interfaces writes its list anew when it is upgraded, and then ours is not in it: pods would start past
 * the gateway. So it is put in again whenever something in the folder changes.
 */

#define SETTLE_MS 100 /* a list comes in several steps */

static int watch_folder(const struct install_options *o, int *ret_changes, int *ret_signals,
                        struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    *ret_signals = signalfd(-1, &set, SFD_CLOEXEC);
    *ret_changes = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (*ret_signals < 0 || *ret_changes < 0 ||
        inotify_add_watch(*ret_changes, o->folder, IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM) <
            0)
        return error_errno(err, errno, "cannot watch %s", o->folder);
    return 0;
}

static void forget_changes(int changes)
{
    char events[4096];
    while (read(changes, events, sizeof(events)) > 0)
        ;
}

static int keep_installed(struct install_options *o, struct error *err)
{
    _cleanup_fd_ int changes = -1;
    _cleanup_fd_ int signals = -1;
    int r = watch_folder(o, &changes, &signals, err);
    if (r < 0)
        return r;
    for (;;) {
        struct pollfd polled[] = {{.fd = signals, .events = POLLIN}, {.fd = changes, .events = POLLIN}};
        if (install_once(o, err) < 0) /* no list yet, or half of one: the next change may be the rest */
            fprintf(stderr, "sallyport cni install: %s\n", err->text);
        fflush(stdout);
        while (poll(polled, 2, -1) < 0 && errno == EINTR)
            ;
        if (polled[0].revents)
            return 0;
        while (poll(&polled[1], 1, SETTLE_MS) > 0)
            forget_changes(changes);
    }
}

int cni_install(const struct command *self, int argc, char **argv)
{
    struct install_options o = {.bin = CNI_BIN_DEFAULT, .folder = CNI_CONFIG_DEFAULT};
    struct error err;
    int option;
    opterr = 0;
    optind = 0;
    while ((option = getopt_long(argc, argv, ":h", all_options, NULL)) != -1) {
        if (option == 'h')
            return command_help(self);
        if (option == ':' || (optarg && !*optarg))
            return command_misuse(self, "install: %s needs a value", argv[optind - 1]);
        if (!take_option(&o, option))
            return command_misuse(self, "install: there is no option \"%s\"", argv[optind - 1]);
    }
    if (optind != argc)
        return command_misuse(self, "install: \"%s\" is no option", argv[optind]);
    if (o.watch && (o.list || o.uninstall || o.dry_run))
        return command_misuse(
            self,
            "install: --watch is for a folder, and goes with neither --conflist, --uninstall nor --dry-run");
    int r = o.watch ? keep_installed(&o, &err) : install_once(&o, &err);
    if (r >= 0)
        return EXIT_YES;
    fprintf(stderr, "sallyport cni install: %s\n", err.text);
    return EXIT_WRONG;
}
