/*
 * The one binary: finds the command, hands it its arguments.
 */
#include "cli/command.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct command *const command_table[] = {
    &command_exec, &command_gateway, &command_status, &command_enroll, &command_withdraw,
    &command_verify, &command_ps, &command_reload, &command_upgrade, &command_show, &command_allow, &command_deny,
    &command_set, &command_forget, &command_oci_hook,
    &command_oci_runtime, &command_cni, &command_docker, &command_podman, &command_log, &command_inspect, &command_policy, &command_completion,
};
const size_t command_count = sizeof(command_table) / sizeof(*command_table);

int command_help(const struct command *self)
{
    printf("usage: sallyport %s %s\n\n%s.\n", self->name, self->arguments, self->summary);
    if (self->help)
        printf("\n%s", self->help);
    return EXIT_YES;
}

int command_misuse(const struct command *self, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    fprintf(stderr, "sallyport %s: %s (see 'sallyport %s --help')\n", self->name, text, self->name);
    return EXIT_WRONG;
}

static void print_usage(FILE *to)
{
    fprintf(to, "usage: sallyport COMMAND …\n\nThe one guarded exit for containers and AI agents.\n\n");
    for (size_t i = 0; i < command_count; i++)
        fprintf(to, "  %-11s %s\n", command_table[i]->name, command_table[i]->summary);
    fprintf(to, "\n'sallyport COMMAND --help' tells its options; 'sallyport --version' the version.\n");
}

/* Container runtimes start their plugins without an argument, by whatever name the file has. */
static int started_as_cni_plugin(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    if (argc > 0 && !strcmp(slash ? slash + 1 : argv[0], "sallyport-cni"))
        return 1;
    return argc == 1 && getenv("CNI_COMMAND");
}

int main(int argc, char **argv)
{
    if (started_as_cni_plugin(argc, argv))
        return command_cni.run(&command_cni, argc, argv);
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_WRONG;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_usage(stdout);
        return EXIT_YES;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("sallyport %s\n", SALLYPORT_VERSION);
        return EXIT_YES;
    }
    for (size_t i = 0; i < command_count; i++) {
        if (strcmp(argv[1], command_table[i]->name))
            continue;
        optind = 0;
        return command_table[i]->run(command_table[i], argc - 1, argv + 1);
    }
    fprintf(stderr, "sallyport: there is no command \"%s\" (see 'sallyport --help')\n", argv[1]);
    return EXIT_WRONG;
}
