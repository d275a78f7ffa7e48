/*
 * What the files of the enclosure share. Everything here runs in the builder, in init or in the command's
 * process before it is executed, single-threaded, and may leave its process in any state when it fails: the
 * process then ends.
 */
#pragma once

#include "redirect/enclosure.h"

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

/* enclosure_mounts.c: the whole file system of the enclosure except /proc, then /proc. `unix_table` is the
 * caller's /proc/net/unix, `folders` what enclosure_working_folders() made of it. */
int enclosure_mount(const struct enclosure_plan *plan, const char *unix_table, const struct paths *folders,
                    struct error *err);

/* enclosure_sockets.c: unix sockets that would act for the command outside. */
int enclosure_mask_sockets(const struct stage *stage, const struct mount_table *mounts,
                           const struct paths *keep, const char *unix_table, const struct paths *folders,
                           struct error *err);
/* The working folders of the processes in /proc, in case the table has sockets with relative paths. 0 or
 * -ENOMEM. */
int enclosure_working_folders(const char *unix_table, struct paths *ret);
/* Variables that name sockets which are not there any more. */
int enclosure_environment(const struct paths *keep);

/* enclosure_filter.c: no_new_privs and the system call filter. */
int enclosure_filter(struct error *err);
