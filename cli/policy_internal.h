/*
 * `sallyport policy`: what its subcommands share.
 */
#pragma once

#include "cli/command.h"
#include "config/snapshot.h"

#define POLICY_DEFAULT_FILE "/etc/sallyport/sallyport.yaml"

/* Each gets argv[0] = its own name, and optind 0. Returns the exit status. */
int policy_check(const struct command *self, int argc, char **argv);
int policy_test(const struct command *self, int argc, char **argv);
int policy_show(const struct command *self, int argc, char **argv);
int policy_diff(const struct command *self, int argc, char **argv);
int policy_suggest(const struct command *self, int argc, char **argv);
int policy_import(const struct command *self, int argc, char **argv);

/* The file `path`; when it is NULL the default file, when there is none of that either only what is built in.
 * Prints what is wrong. NULL when it could not be loaded: exit EXIT_WRONG then. */
struct config_snapshot *policy_load(const char *path);
/* Each error on a line of standard error; frees them. */
void policy_print_errors(struct config_errors *errors);

/* "file:12", or "preset git-hosts" where there is no line. Returns `text`. */
const char *policy_origin_text(const struct acl_origin *origin, char *text, size_t size);
const char *policy_mode_text(enum acl_mode mode);
const char *policy_dns_text(enum acl_dns dns);
const char *policy_bind_text(enum acl_bind bind);
const char *policy_verify_text(enum acl_verify verify);
