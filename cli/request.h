/*
 * Asking the daemon, for the commands that do.
 */
#pragma once

#include "cli/command.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* `control` is the socket, NULL the usual one; `request` is taken over. The answer when it is a yes (the caller's); else NULL, with
 * *ret_status, and all has been said, with `json` also as JSON. */
json_t *request_ask(const struct command *self, const char *control, bool json, json_t *request,
                    const int *fds, size_t count, int *ret_status);
void request_print_json(const json_t *value);
