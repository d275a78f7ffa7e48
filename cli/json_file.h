/*
 * Configuration files of others, in JSON, that we change: read as a whole, written as a whole (temporary file, fsync, rename), with
 * the mode and owner they had. A symbolic link stays one: what it points to is written.
 */
#pragma once

#include "base/error.h"

#include <jansson.h>

/* The top must be an object. -ENOENT when there is no file. */
int json_file_read(const char *path, json_t **ret, struct error *err);
int json_file_write(const char *path, const json_t *root, size_t flags, struct error *err);
/* 1 when there is no difference to `before` (NULL: no file), so nothing was written; 0 when it was. A dry run prints the new text. */
int json_file_update(const char *path, const json_t *before, const json_t *root, int dry_run,
                     struct error *err);
