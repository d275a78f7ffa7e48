/*
 * Folders where daemons and agents keep unix sockets, outside /run. Connecting is judged socket by socket
 * (enclosure_connect.c); this is the second line, and the convenience: instead of sockets that refuse, the
 * command finds an empty folder of its own, where a server that it starts itself (tmux, X11) can make its
 * socket without removing that of the server outside.
 */
#include "redirect/exec/enclosure_internal.h"

#include <errno.h>
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

/* Is something below the folder to be kept? Then the folder stays. */
static bool holds_kept(const struct paths *keep, const char *folder)
{
    for (size_t i = 0; i < keep->count; i++)
        if (path_is_within(keep->items[i], folder))
            return true;
    return false;
}

static int cover_folder(const struct stage *stage, const struct paths *keep, const char *path,
                        struct error *err)
{
    char resolved[PATH_MAX];
    struct stat status;
    if (!realpath(path, resolved) || stat(resolved, &status) < 0 || !S_ISDIR(status.st_mode) ||
        paths_cover(keep, resolved) || holds_kept(keep, resolved) || enclosure_works_in(resolved))
        return 0;
    return stage_cover_own(stage, resolved, status.st_mode & 07777, err);
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

int enclosure_mask_sockets(const struct stage *stage, const struct paths *keep, struct error *err)
{
    char path[PATH_MAX];
    const char *runtime = getenv("XDG_RUNTIME_DIR"), *tmux = getenv("TMUX_TMPDIR");
    int failed = 0;
    make_tmux_folder();
    for (size_t i = 0; i < sizeof(known_folders) / sizeof(*known_folders) && !failed; i++) {
        expand(known_folders[i], path);
        failed = cover_folder(stage, keep, path, err);
    }
    if (!failed && tmux && *tmux == '/') {
        snprintf(path, sizeof(path), "%s/tmux-%u", tmux, (unsigned)geteuid());
        failed = cover_folder(stage, keep, path, err);
    }
    if (!failed && runtime && *runtime == '/' && !path_is_within(runtime, "/run") &&
        !path_is_within(runtime, "/var/run"))
        failed = cover_folder(stage, keep, runtime, err);
    return failed;
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
