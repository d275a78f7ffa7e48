/*
 * What the files of the enclosure share. Everything here runs in the builder, in init or in the command's
 * process before it is executed, single-threaded (but for enclosure_connect.c once it serves), and may leave
 * its process in any state when it fails: the process then ends.
 */
#pragma once

#include "redirect/exec/enclosure.h"

/* A growing list of heap strings. */
struct paths {
    char **items;
    size_t count;
};
int paths_add(struct paths *paths, const char *path);
bool paths_contain(const struct paths *paths, const char *path);
/* Is `path` one of them, or below one of them? */
bool paths_cover(const struct paths *paths, const char *path);

/* Is `path` the folder `folder` or below it? Both absolute and without "..". */
bool path_is_within(const char *path, const char *folder);
/* How much of an absolute path names its folder. */
int path_folder_length(const char *path);
/* The whole file as a heap string, NULL on error (errno). */
char *file_read(const char *path);
/* One write(2) into a file that is there. 0 or a negative errno. */
int file_write(const char *path, const char *text);

struct mount_entry {
    char *point, *root, *type;
    unsigned major, minor;
    bool nodev;
};
struct mount_table {
    struct mount_entry *entries;
    size_t count;
};
/* /proc/self/mountinfo, in its order: later entries lie over earlier ones. */
int mount_table_read(struct mount_table *ret, struct error *err);

/* The folders and files that masks are made of, in one tmpfs that nothing inside can reach by itself. */
struct stage {
    int root; /* O_PATH */
};
/* Bind stage `name` ("empty": a read-only folder; "inert": a file of nothing; others writable) over `target`.
 */
int stage_cover(const struct stage *stage, const char *name, const char *target, struct error *err);
/* Cover the folder `target` with a new, empty, writable one. */
int stage_cover_own(const struct stage *stage, const char *target, mode_t mode, struct error *err);

/* enclosure_mounts.c: what is to be kept, by both spellings of each path. 0 or -ENOMEM. */
int enclosure_keep(const struct enclosure_plan *plan, struct paths *ret);
/* The whole file system of the enclosure except /proc, then /proc. */
int enclosure_mount(const struct enclosure_plan *plan, const struct paths *keep, struct error *err);

/* enclosure_sockets.c: folders of sockets that would act for the command outside. */
int enclosure_mask_sockets(const struct stage *stage, const struct paths *keep, struct error *err);
/* Variables that name sockets which are not there any more. */
int enclosure_environment(const struct paths *keep);

/* enclosure_filter.c: no_new_privs and the system call filters. `datagrams`: unix datagram sockets stay as
 * they are. *ret_listener tells of the calls that are decided outside; -1 when the kernel has none to give:
 * then there is nothing to decide. */
int enclosure_filter(bool datagrams, int *ret_listener, struct error *err);

/* enclosure_connect.c: is one of these a socket that takes datagrams? */
bool enclosure_keeps_datagrams(const struct paths *keep);
/* Decide from now on about connect(2) and the like, in threads of this process, which is init and has all
 * capabilities of user namespace A; the calling thread has none afterwards. Takes `listener`. `command` has
 * the user namespace whose capabilities count; `single_id`: all inside have one user id. */
int enclosure_supervise(int listener, const struct paths *keep, pid_t command, bool single_id,
                        struct error *err);
