/*
 * A whole file in memory.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>

#define CONFIG_STANDARD_INPUT "/dev/stdin" /* descriptor 0, whether there is such a path or not */

/* `ret` gets a heap copy with a NUL behind it. -EFBIG when there is more than `limit`; works on pipes too. */
int config_file_read(const char *path, size_t limit, char **ret, size_t *ret_length, struct error *err);
