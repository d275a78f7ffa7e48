/*
 * Every file that a load read, in one memory file: so that a process without a file system (the worker) can load the very
 * same configuration again. It is sealed, so both see the same bytes, however the files change meanwhile.
 *
 *   "sallyport bundle 1\n", then for each file:  u32 length of the path, u64 length of the contents, path, contents
 *
 * in the byte order of this machine: it never leaves it. The first file is the policy file itself.
 */
#pragma once

#include "base/cursor.h"
#include "base/error.h"

struct bundle_writer {
    int fd; /* -1: nothing is recorded */
};

/* A memory file with nothing but the header. 0 or a negative errno. */
int bundle_create(struct bundle_writer *writer, struct error *err);
/* 0, or a negative errno; does nothing when nothing is recorded. */
int bundle_add(const struct bundle_writer *writer, const char *path, const void *bytes, size_t length);
/* Seals it and hands over the descriptor. */
int bundle_finish(struct bundle_writer *writer, int *ret, struct error *err);
void bundle_abandon(struct bundle_writer *writer);

struct bundle_file {
    const char *path; /* not NUL-terminated */
    size_t path_length;
    const char *bytes;
    size_t length;
};

struct bundle {
    void *map;
    size_t size;
};
/* Maps the file; the caller keeps the descriptor. Refuses what is not sealed, or no bundle. */
int bundle_open(int fd, struct bundle *ret, struct error *err);
void bundle_close(struct bundle *bundle);
/* The file of this path; NULL: the first. Valid until it is closed. */
bool bundle_find(const struct bundle *bundle, const char *path, struct bundle_file *ret);
