/*
 * `sallyport cni install`: the plugin into the folder of plugins, its entry into a network's list. Again is no harm: what is there
 * already is left, or brought up to date.
 */
#include "cli/ask.h"
#include "cli/cni_install.h"
#include "cli/json_file.h"
#include "base/fds.h"
#include "redirect/cni.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

struct install_options {
    const char *bin, *folder, *list, *policy, *control;
    bool no_annotations, copy, uninstall, dry_run;
};

enum {
    OPTION_BIN = 256,
    OPTION_FOLDER,
    OPTION_LIST,
    OPTION_POLICY,
    OPTION_CONTROL,
    OPTION_NO_ANNOTATIONS,
    OPTION_COPY,
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
    case OPTION_UNINSTALL:
        return o->uninstall = true;
    case OPTION_DRY_RUN:
        return o->dry_run = true;
    default:
        return false;
    }
}

/* ---- the program ---- */

static int copy_into(const char *from, const char *to, struct error *err)
{
    _cleanup_fd_ int source = open(from, O_RDONLY | O_CLOEXEC);
    _cleanup_fd_ int target = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0755);
    struct stat status;
    if (source < 0 || target < 0 || fstat(source, &status) < 0 || fchmod(target, 0755) < 0)
        return error_errno(err, errno, "cannot write %s", to);
    for (off_t done = 0; done < status.st_size;) {
        ssize_t n = sendfile(target, source, NULL, (size_t)(status.st_size - done));
        if (n <= 0)
            return error_errno(err, n < 0 ? errno : EIO, "cannot write %s", to);
        done += n;
    }
    return fsync(target) < 0 ? error_errno(err, errno, "cannot write %s", to) : 0;
}

static int place_plugin(const struct install_options *o, const char *plugin, struct error *err)
{
    char program[PATH_MAX], temporary[PATH_MAX];
    int r = ask_own_path(program, sizeof(program), err);
    if (r < 0)
        return r;
    if ((size_t)snprintf(temporary, sizeof(temporary), "%s.new", plugin) >= sizeof(temporary))
        return error_set(err, ENAMETOOLONG, "the path of the plugin is too long");
    unlink(temporary);
    r = o->copy                           ? copy_into(program, temporary, err)
        : symlink(program, temporary) < 0 ? error_errno(err, errno, "cannot write into %s", o->bin)
                                          : 0;
    if (r == 0 && rename(temporary, plugin) < 0)
        r = error_errno(err, errno, "cannot write %s", plugin);
    if (r < 0)
        unlink(temporary);
    return r;
}

static int remove_plugin(const char *plugin, struct error *err)
{
    return unlink(plugin) < 0 && errno != ENOENT ? error_errno(err, errno, "cannot remove %s", plugin) : 0;
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

static int install(const struct install_options *o, const char *list, struct error *err)
{
    char plugin[PATH_MAX];
    if ((size_t)snprintf(plugin, sizeof(plugin), "%s/" CNI_PLUGIN_TYPE, o->bin) >= sizeof(plugin))
        return error_set(err, ENAMETOOLONG, "--bin-dir is too long");
    /* The plugin is there before a list names it, and goes after. */
    int r = o->dry_run || o->uninstall ? 0 : place_plugin(o, plugin, err);
    int same = r < 0 ? r : edit_list(o, list, err);
    if (same < 0)
        return same;
    if (o->uninstall && !o->dry_run && (r = remove_plugin(plugin, err)) < 0)
        return r;
    if (o->dry_run && same)
        printf("%s would stay as it is\n", list);
    else if (!o->dry_run && o->uninstall)
        printf("the plugin is out of %s and %s; pods that run stay captured until they end\n", list, o->bin);
    else if (!o->dry_run)
        printf("the plugin is in %s and %s: pods that start from now on are behind the gateway\n", list,
               o->bin);
    return 0;
}

int cni_install(const struct command *self, int argc, char **argv)
{
    struct install_options o = {.bin = CNI_BIN_DEFAULT, .folder = CNI_CONFIG_DEFAULT};
    struct error err;
    char *found = NULL;
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
    int r = o.list ? 0 : find_list(o.folder, &found, &err);
    if (r == 0)
        r = install(&o, o.list ? o.list : found, &err);
    free(found);
    if (r >= 0)
        return EXIT_YES;
    fprintf(stderr, "sallyport cni install: %s\n", err.text);
    return EXIT_WRONG;
}
