/*
 * Running a command of cli/ inside a unit test: what it printed, and its exit status.
 */
#pragma once

#include "cli/command.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARGS_MAX 12

/* What cli/main.c offers commands; the texts are its own. */
int command_help(const struct command *self)
{
    printf("%s\n", self->help);
    return EXIT_YES;
}

int command_misuse(const struct command *self, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "sallyport %s: ", self->name);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    return EXIT_WRONG;
}

/* ---- running it ---- */

struct outcome {
    int status;
    char out[65536], err[8192];
};

/* From here on `stream` goes to a file of its own; what was there before is returned. */
static int divert(FILE *stream, FILE **ret_to)
{
    fflush(stream);
    int kept = dup(fileno(stream));
    *ret_to = tmpfile();
    assert_non_null(*ret_to);
    assert_true(kept >= 0 && dup2(fileno(*ret_to), fileno(stream)) >= 0);
    return kept;
}

static void restore(FILE *stream, int kept, FILE *from, char *text, size_t size)
{
    fflush(stream);
    dup2(kept, fileno(stream));
    close(kept);
    rewind(from);
    text[fread(text, 1, size - 1, from)] = 0;
    fclose(from);
}

static void run_command(const struct command *command, const char *const *args, struct outcome *ret)
{
    char *argv[ARGS_MAX + 2] = {(char *)command->name};
    int argc = 1;
    FILE *out, *err;
    for (; args[argc - 1]; argc++)
        argv[argc] = (char *)args[argc - 1];
    int kept_out = divert(stdout, &out), kept_err = divert(stderr, &err);
    optind = 0;
    ret->status = command->run(command, argc, argv);
    restore(stdout, kept_out, out, ret->out, sizeof(ret->out));
    restore(stderr, kept_err, err, ret->err, sizeof(ret->err));
}
