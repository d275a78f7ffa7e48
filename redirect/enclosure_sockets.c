/*
 * Unix sockets outside /run that would act for the command outside: docker, tmux, ssh and gpg agents, X11,
 * D-Bus, …. A socket with a path belongs to the file system, not to the network namespace, so whoever sees it
 * can connect to it.
 *
 *   by name     folders that programs are known to keep sockets in: the whole folder is covered, so that a
 * socket made later is covered, too by listing  every socket with a path in the caller's /proc/net/unix,
 * wherever another mount of the same file system shows it. A folder that holds nothing but sockets is covered
 * as a whole; else the one file
 *
 *   by mount    a socket that is itself a mount point, as a container engine hands in docker.sock, and what
 * lies in a tmpfs that somebody mounted (the host's /run in a container): their servers live in other network
 *               namespaces, so the list does not have them
 *
 * Sockets without a path (abstract ones) belong to the network namespace and are out of reach anyway.
 */
#include "redirect/enclosure_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* %h: $HOME, %u: the uid. */
static const char *const known_folders[] = {
    "/tmp/.X11-unix",     "/tmp/.ICE-unix",     "/tmp/tmux-%u",       "/tmp/screens",
    "/tmp/uscreens",      "/tmp/emacs%u",       "/var/lib/lxd",       "/var/snap/lxd/common/lxd",
    "/var/lib/incus",     "/var/spool/postfix", "/mnt/wslg",          "%h/.docker/run",
    "%h/.docker/desktop", "%h/.colima",         "%h/.lima",           "%h/.rd",
    "%h/.orbstack",       "%h/.1password",      "%h/.emacs.d/server",
};

/* Does the path stand in the way of the command's own work? Then it is not covered as a whole. */
static bool is_in_use(const char *folder)
{
    char cwd[PATH_MAX];
    const char *home = getenv("HOME");
    return !strcmp(folder, "/tmp") || !strcmp(folder, "/var/tmp") || !strcmp(folder, "/") ||
           (getcwd(cwd, sizeof(cwd)) && path_is_within(cwd, folder)) ||
           (home && path_is_within(home, folder));
}

/* Is something below the folder to be kept? Then the folder is not covered as a whole either, its other
 * sockets are. */
static bool holds_kept(const struct paths *keep, const char *folder)
{
    for (size_t i = 0; i < keep->count; i++)
        if (path_is_within(keep->items[i], folder))
            return true;
    return false;
}

static int cover_folder(const struct stage *stage, const struct paths *keep, const char *name,
                        const char *path, struct error *err)
{
    char resolved[PATH_MAX];
    struct stat status;
    if (!realpath(path, resolved) || stat(resolved, &status) < 0 || !S_ISDIR(status.st_mode) ||
        paths_cover(keep, resolved) || holds_kept(keep, resolved) || is_in_use(resolved))
        return 0;
    return stage_cover(stage, name, resolved, err);
}

static void expand(const char *pattern, char ret[PATH_MAX])
{
    const char *home = getenv("HOME"), *mark = strchr(pattern, '%');
    if (!mark)
        snprintf(ret, PATH_MAX, "%s", pattern);
    else if (mark[1] == 'h')
        snprintf(ret, PATH_MAX, "%s%s", home && *home == '/' ? home : "/root", mark + 2);
    else
        snprintf(ret, PATH_MAX, "%.*s%u%s", (int)(mark - pattern), pattern, (unsigned)geteuid(), mark + 2);
}

/* tmux runs commands for whoever may write to its socket, so its folder must be covered before it exists.
 * tmux itself makes it like this. */
static void make_tmux_folder(void)
{
    char path[PATH_MAX];
    const char *parent = getenv("TMUX_TMPDIR");
    snprintf(path, sizeof(path), "%s/tmux-%u", parent && *parent ? parent : "/tmp", (unsigned)geteuid());
    (void)!mkdir(path, 0700);
}

static int cover_known_folders(const struct stage *stage, const struct paths *keep, struct error *err)
{
    char path[PATH_MAX];
    const char *runtime = getenv("XDG_RUNTIME_DIR"), *tmux = getenv("TMUX_TMPDIR");
    int failed = 0;
    make_tmux_folder();
    for (size_t i = 0; i < sizeof(known_folders) / sizeof(*known_folders) && !failed; i++) {
        expand(known_folders[i], path);
        failed = cover_folder(stage, keep, "empty", path, err);
    }
    if (!failed && tmux && *tmux == '/') {
        snprintf(path, sizeof(path), "%s/tmux-%u", tmux, (unsigned)geteuid());
        failed = cover_folder(stage, keep, "empty", path, err);
    }
    if (!failed && runtime && *runtime == '/' && !path_is_within(runtime, "/run") &&
        !path_is_within(runtime, "/var/run"))
        failed = cover_folder(stage, keep, "user", runtime, err);
    return failed;
}

/* Sockets and what goes with them: pid files, locks, fifos. */
static bool holds_only_sockets(const char *path)
{
    DIR *folder = opendir(path);
    bool only = folder != NULL;
    unsigned seen = 0;
    if (!folder)
        return false;
    for (struct dirent *entry; only && (entry = readdir(folder)) && seen < 256;) {
        struct stat status;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        seen++;
        only = fstatat(dirfd(folder), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
               (S_ISSOCK(status.st_mode) || S_ISFIFO(status.st_mode) ||
                (S_ISREG(status.st_mode) && (status.st_size == 0 || !fnmatch("*.pid", entry->d_name, 0) ||
                                             !fnmatch("*lock", entry->d_name, 0))));
    }
    closedir(folder);
    return only && seen < 256;
}

/* `path` as seen after /run and /dev have been rebuilt: what lay there is not visible any more, and so not a
 * socket. */
static int cover_socket(const struct stage *stage, const struct paths *keep, const char *path,
                        struct error *err)
{
    char folder[PATH_MAX], socket[PATH_MAX + NAME_MAX + 2], parent[PATH_MAX];
    struct stat status;
    const char *slash = strrchr(path, '/');
    if ((size_t)snprintf(parent, sizeof(parent), "%.*s", slash == path ? 1 : (int)(slash - path), path) >=
            sizeof(parent) ||
        !realpath(parent, folder))
        return 0;
    snprintf(socket, sizeof(socket), "%s/%s", folder[1] ? folder : "", slash + 1);
    if (lstat(socket, &status) < 0 || !S_ISSOCK(status.st_mode) || paths_cover(keep, socket) ||
        paths_cover(keep, path))
        return 0;
    if (!is_in_use(folder) && !holds_kept(keep, folder) && holds_only_sockets(folder))
        return stage_cover(stage, "empty", folder, err);
    return stage_cover(stage, "inert", socket, err);
}

/* The mount that `path` lies on: the last of those with the longest point. */
static const struct mount_entry *mount_of(const struct mount_table *mounts, const char *path)
{
    const struct mount_entry *found = NULL;
    for (size_t i = 0; i < mounts->count; i++) {
        const struct mount_entry *entry = &mounts->entries[i];
        if (path_is_within(path, entry->point) && (!found || strlen(entry->point) >= strlen(found->point)))
            found = entry;
    }
    return found;
}

/* What is behind `prefix` in `path`, without a leading slash. */
static const char *remainder_of(const char *path, const char *prefix)
{
    path += strlen(prefix);
    while (*path == '/')
        path++;
    return path;
}

/* The socket, and the same file wherever another mount of its file system shows it. */
static int cover_everywhere(const struct stage *stage, const struct mount_table *mounts,
                            const struct paths *keep, const char *path, struct error *err)
{
    const struct mount_entry *home = mount_of(mounts, path);
    int failed = cover_socket(stage, keep, path, err);
    char inner[2 * PATH_MAX], alias[3 * PATH_MAX];
    if (failed || !home)
        return failed;
    snprintf(inner, sizeof(inner), "%s/%s", home->root[1] ? home->root : "", remainder_of(path, home->point));
    for (size_t i = 0; i < mounts->count && !failed; i++) {
        const struct mount_entry *other = &mounts->entries[i];
        if (other == home || other->major != home->major || other->minor != home->minor ||
            !path_is_within(inner, other->root))
            continue;
        const char *rest = remainder_of(inner, other->root);
        snprintf(alias, sizeof(alias), "%s%s%s", other->point, *rest && other->point[1] ? "/" : "", rest);
        failed = cover_socket(stage, keep, alias, err);
    }
    return failed;
}

/* "0000000000000000: 00000002 00000000 00010000 0001 01 21012 /run/docker.sock"; NULL for no name and for
 * abstract ones. */
static char *path_of_line(char *line)
{
    for (unsigned field = 0; line && field < 7; field++) {
        line = strchr(line, ' ');
        if (line)
            line += strspn(line, " ");
    }
    return line && *line && *line != '@' ? line : NULL;
}

/* A socket bound by a relative path is listed so. Its process may still be where it was then, and only where
 * a socket of that name is can it be. */
static int cover_relative(const struct stage *stage, const struct mount_table *mounts,
                          const struct paths *keep, const struct paths *folders, const char *name,
                          struct error *err)
{
    char path[PATH_MAX];
    int failed = 0;
    for (size_t i = 0; i < folders->count && !failed; i++)
        if ((size_t)snprintf(path, sizeof(path), "%s/%s", folders->items[i], name) < sizeof(path))
            failed = cover_everywhere(stage, mounts, keep, path, err);
    return failed;
}

int enclosure_working_folders(const char *unix_table, struct paths *ret)
{
    char *table = strdup(unix_table), *next;
    bool needed = false;
    for (char *line = table; line && *line && !needed; line = next) {
        next = strchrnul(line, '\n');
        if (*next)
            *next++ = '\0';
        const char *path = path_of_line(line);
        needed = path && *path != '/' && strcmp(path, "Path");
    }
    free(table);
    DIR *processes = needed ? opendir("/proc") : NULL;
    for (struct dirent *entry; processes && (entry = readdir(processes));) {
        char link[sizeof("/proc//cwd") + NAME_MAX], folder[PATH_MAX];
        snprintf(link, sizeof(link), "/proc/%s/cwd", entry->d_name);
        ssize_t length = readlink(link, folder, sizeof(folder) - 1);
        if (length <= 0)
            continue;
        folder[length] = '\0';
        if (!paths_contain(ret, folder) && paths_add(ret, folder) < 0)
            break;
    }
    if (processes)
        closedir(processes);
    return table ? 0 : -ENOMEM;
}

/* What is left to look through of mounted tmpfs; a big one is data, not somebody's /run. */
#define SCAN_DEPTH 3
#define SCAN_ENTRIES 4096

static int cover_below(const struct stage *stage, const struct paths *keep, const char *path, unsigned depth,
                       unsigned *entries, struct error *err)
{
    DIR *folder = opendir(path);
    int failed = 0;
    for (struct dirent *entry; folder && !failed && *entries > 0 && (entry = readdir(folder));) {
        char below[PATH_MAX];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") ||
            (size_t)snprintf(below, sizeof(below), "%s/%s", path, entry->d_name) >= sizeof(below))
            continue;
        --*entries;
        if (entry->d_type == DT_SOCK)
            failed = cover_socket(stage, keep, below, err);
        else if (entry->d_type == DT_DIR && depth > 1)
            failed = cover_below(stage, keep, below, depth - 1, entries, err);
    }
    if (folder)
        closedir(folder);
    return failed;
}

/* /run, /dev and /proc have been dealt with, and are what is seen at their paths now. */
static bool is_foreign_tmpfs(const struct mount_entry *entry)
{
    static const char *const own[] = {"/run", "/var/run", "/dev", "/proc", "/sys"};
    if (!strcmp(entry->point, "/tmp") || !strcmp(entry->point, "/var/tmp"))
        return false; /* everybody's, and big */
    for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
        if (path_is_within(entry->point, own[i]))
            return false;
    return !strcmp(entry->type, "tmpfs");
}

static int cover_mounted_sockets(const struct stage *stage, const struct mount_table *mounts,
                                 const struct paths *keep, struct error *err)
{
    unsigned entries = SCAN_ENTRIES;
    int failed = 0;
    for (size_t i = 0; i < mounts->count && !failed; i++) {
        const struct mount_entry *entry = &mounts->entries[i];
        struct stat status;
        if (lstat(entry->point, &status) < 0)
            continue;
        if (S_ISSOCK(status.st_mode))
            failed = cover_socket(stage, keep, entry->point, err);
        else if (S_ISDIR(status.st_mode) && is_foreign_tmpfs(entry))
            failed = cover_below(stage, keep, entry->point, SCAN_DEPTH, &entries, err);
    }
    return failed;
}

int enclosure_mask_sockets(const struct stage *stage, const struct mount_table *mounts,
                           const struct paths *keep, const char *unix_table, const struct paths *folders,
                           struct error *err)
{
    char *table = strdup(unix_table), *next;
    int failed = table ? cover_known_folders(stage, keep, err)
                       : error_errno(err, ENOMEM, "cannot read /proc/net/unix");
    for (char *line = table; !failed && line && *line; line = next) {
        next = strchrnul(line, '\n');
        if (*next)
            *next++ = '\0';
        const char *path = path_of_line(line);
        if (path && *path == '/' && strlen(path) < PATH_MAX)
            failed = cover_everywhere(stage, mounts, keep, path, err);
        else if (path)
            failed = cover_relative(stage, mounts, keep, folders, path, err);
    }
    free(table);
    return failed ? failed : cover_mounted_sockets(stage, mounts, keep, err);
}

/* Each names sockets, by path or by number; the second column is where, if the variable does not say. */
static const char *const socket_variables[][2] = {
    {"SSH_AUTH_SOCK", NULL},
    {"SSH_AGENT_PID", NULL},
    {"GPG_AGENT_INFO", NULL},
    {"DBUS_SESSION_BUS_ADDRESS", NULL},
    {"DBUS_SYSTEM_BUS_ADDRESS", NULL},
    {"DBUS_STARTER_ADDRESS", NULL},
    {"DOCKER_HOST", NULL},
    {"CONTAINER_HOST", NULL},
    {"CONTAINERD_ADDRESS", NULL},
    {"BUILDKIT_HOST", NULL},
    {"DISPLAY", "/tmp/.X11-unix"},
    {"WAYLAND_DISPLAY", "/run/user"},
    {"WAYLAND_SOCKET", NULL},
    {"PULSE_SERVER", NULL},
    {"PIPEWIRE_REMOTE", NULL},
    {"SESSION_MANAGER", "/tmp/.ICE-unix"},
    {"GNOME_KEYRING_CONTROL", NULL},
    {"TMUX", NULL},
    {"TMUX_PANE", NULL},
    {"STY", "/run/screen"},
    {"NOTIFY_SOCKET", NULL},
    {"LISTEN_FDS", NULL},
    {"LISTEN_PID", NULL},
    {"LISTEN_FDNAMES", NULL},
    {"JOURNAL_STREAM", NULL},
    {"VSCODE_IPC_HOOK_CLI", NULL},
    {"VSCODE_GIT_IPC_HANDLE", NULL},
    {"WSL_INTEROP", NULL},
    {"EMACS_SERVER_FILE", NULL},
};

static bool names_kept_socket(const struct paths *keep, const char *value, const char *where)
{
    for (size_t i = 0; i < keep->count; i++)
        if (strstr(value, keep->items[i]) || (where && path_is_within(keep->items[i], where)))
            return true;
    return false;
}

int enclosure_environment(const struct paths *keep)
{
    for (size_t i = 0; i < sizeof(socket_variables) / sizeof(*socket_variables); i++) {
        const char *value = getenv(socket_variables[i][0]);
        if (value && !names_kept_socket(keep, value, socket_variables[i][1]))
            unsetenv(socket_variables[i][0]);
    }
    return setenv("SALLYPORT", "1", 1) < 0 ? -ENOMEM : 0;
}
