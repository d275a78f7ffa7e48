/*
 * Commands: one file each, found through the table in main.c; the usage text is made from the same table.
 */
#pragma once

#include <stddef.h>

#define EXIT_YES 0
#define EXIT_NO 1    /* a negative answer: denied, not valid */
#define EXIT_WRONG 2 /* wrong use or input */

struct command {
    const char *name;
    const char *arguments; /* "[--json] FILE…" */
    const char *summary;   /* one line, lower case, no full stop */
    /* argv[0] is the command's name; getopt's optind is 0 when it is called. Returns the exit status. */
    int (*run)(const struct command *self, int argc, char **argv);
    const char *help; /* the options, a line each, printed behind the usage line by --help */
};

/* All of them, as --help lists them (main.c). */
extern const struct command *const command_table[];
extern const size_t command_count;

extern const struct command command_status, command_completion;
extern const struct command command_allow, command_deny, command_set, command_forget, command_show; /* runtime.c */
extern const struct command command_exec, command_inspect, command_policy, command_gateway, command_enroll, command_withdraw,
    command_verify, command_ps, command_reload, command_upgrade, command_oci_hook, command_oci_runtime, command_log, command_cni, command_docker,
    command_podman;

/* "usage: sallyport NAME ARGUMENTS" and the help text, on standard output. Returns EXIT_YES. */
int command_help(const struct command *self);
/* One line on standard error: "sallyport NAME: text (see 'sallyport NAME --help')". Returns EXIT_WRONG. */
int command_misuse(const struct command *self, const char *format, ...) __attribute__((format(printf, 2, 3)));
