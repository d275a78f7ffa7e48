/*
 * What the commands that engines start, and those that set engines up, have in common: one call to the daemon, in which a refusal
 * is an error.
 */
#pragma once

#include "base/error.h"

#include <jansson.h>
#include <stddef.h>

/* Takes over `request` (NULL: a text was not UTF-8). *ret_answer (may be NULL) is the caller's. -EPERM: the daemon said no, and why;
 * else it could not be asked. */
int ask_gateway(const char *control, json_t *request, const int *fds, size_t count, json_t **ret_answer,
                struct error *err);
/* Where this program is, absolute. */
int ask_own_path(char *ret, size_t size, struct error *err);
/* For whoever looks later: engines throw away much of what a hook says. */
void ask_log_failure(const char *what, const char *id, const struct error *err);
