#include "redirect/daemon/file_watch.h"

#include "base/fds.h"
#include "redirect/monitor/supervisor.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUIET_MS 100    /* after the last event */
#define LONGEST_MS 2000 /* after the first one, however many come */
#define LINKS_MAX 40    /* as the kernel */
#define EVENTS                                                                                              \
    (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | \
     IN_ATTRIB)

static bool counts(const struct file_watch *w, const char *name)
{
    for (size_t i = 0; i < w->names.count; i++)
        if (!strcmp(w->names.paths[i], name))
            return true;
    return false;
}

/* path[0..length) and the name behind it. A folder that is not there cannot be watched; the one above it may be. */
static void watch_place(struct file_watch *w, const char *path, size_t length, const char *name,
                        size_t name_length)
{
    char folder[PATH_MAX], own[NAME_MAX + 1];
    if (name_length == 0 || name_length > NAME_MAX)
        return;
    snprintf(folder, sizeof(folder), "%.*s", (int)(length ? length : 1), length ? path : "/");
    snprintf(own, sizeof(own), "%.*s", (int)name_length, name);
    inotify_add_watch(w->inotify, folder, EVENTS | IN_ONLYDIR);
    if (!counts(w, own))
        config_files_add(&w->names, own);
}

/* The path with its first symbolic link followed; false when there is none. Every place on the way where something else could be
 * put is watched. */
static bool follow(struct file_watch *w, char path[PATH_MAX])
{
    char prefix[PATH_MAX], target[PATH_MAX], next[2 * PATH_MAX + 2];
    struct stat status;
    for (char *at = path; *at;) {
        char *name = at + strspn(at, "/"), *end = name + strcspn(name, "/");
        size_t folder = (size_t)(at - path);
        snprintf(prefix, sizeof(prefix), "%.*s", (int)(end - path), path);
        bool missing = lstat(prefix, &status) < 0, link = !missing && S_ISLNK(status.st_mode);
        if (missing || link || !*end)
            watch_place(w, path, folder, name, (size_t)(end - name));
        if (missing)
            return false;
        if (link) {
            ssize_t n = readlink(prefix, target, sizeof(target) - 1);
            if (n <= 0)
                return false;
            target[n] = 0;
            snprintf(next, sizeof(next), "%.*s%s%s%s", target[0] == '/' ? 0 : (int)folder, path,
                     target[0] == '/' ? "" : "/", target, end);
            if (strlen(next) >= PATH_MAX)
                return false;
            memcpy(path, next, strlen(next) + 1);
            return true;
        }
        at = end;
    }
    return false;
}

static void watch_file(struct file_watch *w, const char *file)
{
    char path[PATH_MAX];
    if (file[0] != '/' || strlen(file) >= sizeof(path))
        return;
    memcpy(path, file, strlen(file) + 1);
    for (int links = 0; links < LINKS_MAX && follow(w, path); links++)
        ;
}

/* ---- events ---- */

static void note_change(struct file_watch *w)
{
    uint64_t now = monotonic_ms();
    if (!w->first_ms)
        w->first_ms = now;
    uint64_t left = w->first_ms + LONGEST_MS > now ? w->first_ms + LONGEST_MS - now : 0;
    loop_timer_start(w->loop, &w->timer, left < QUIET_MS ? left : QUIET_MS);
}

static void on_quiet(struct loop_timer *timer)
{
    struct file_watch *w = list_entry(timer, struct file_watch, timer);
    w->first_ms = 0;
    w->changed(w);
}

static bool matters(const struct file_watch *w, const struct inotify_event *event)
{
    if (event->mask & (IN_Q_OVERFLOW | IN_DELETE_SELF | IN_MOVE_SELF))
        return true;
    return event->len > 0 && counts(w, event->name);
}

static void on_events(struct watch *watch, uint32_t ready)
{
    struct file_watch *w = list_entry(watch, struct file_watch, watch);
    _Alignas(struct inotify_event) char buffer[8192];
    ssize_t got = read(watch->fd, buffer, sizeof(buffer));
    (void)ready;
    for (char *at = buffer; got > 0 && at < buffer + got;) {
        const struct inotify_event *event = (const struct inotify_event *)(const void *)at;
        if (matters(w, event))
            note_change(w);
        at += sizeof(*event) + event->len;
    }
}

/* ---- its life ---- */

void file_watch_init(struct file_watch *w, struct loop *loop, void (*changed)(struct file_watch *watch))
{
    *w = (struct file_watch){.loop = loop, .inotify = -1, .watch = WATCH_NONE, .changed = changed};
    loop_timer_init(&w->timer, on_quiet);
}

static void forget(struct file_watch *w)
{
    if (w->inotify >= 0)
        watch_stop(w->loop, &w->watch);
    fd_close(&w->inotify);
    config_files_finish(&w->names);
}

int file_watch_set(struct file_watch *w, const struct config_files *files)
{
    forget(w);
    w->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (w->inotify < 0)
        return -errno;
    for (size_t i = 0; i < files->count; i++)
        watch_file(w, files->paths[i]);
    int r = watch_start(w->loop, &w->watch, w->inotify, EPOLLIN, on_events);
    if (r < 0)
        forget(w);
    return r;
}

void file_watch_finish(struct file_watch *w)
{
    loop_timer_stop(&w->timer);
    forget(w);
}
