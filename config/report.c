/*
 * Errors are for people: one line each, with a place, in the order found. A list of a million wrong names
 * must not become a million lines: behind the first hundred they are only counted.
 */
#include "config/load.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ERRORS_MAX 100
#define LINE_MAX_BYTES 1024

/* Values come from the file: a line break or an escape sequence in one must not reach the terminal. U+0080 to
 * U+009F (c2 80 to c2 9f) are control characters too. */
static void blank_controls(char *text)
{
    for (; *text; text++) {
        bool c1 = (unsigned char)text[0] == 0xc2 && (unsigned char)text[1] >= 0x80 &&
                  (unsigned char)text[1] <= 0x9f;
        if ((unsigned char)*text < 0x20 || *text == 0x7f || c1)
            *text = '?';
        if (c1)
            *++text = '?';
    }
}

static bool append(char ***lines, size_t *count, const char *text)
{
    char **grown = realloc(*lines, (*count + 1) * sizeof(char *));
    if (!grown)
        return false;
    *lines = grown;
    grown[*count] = strdup(text);
    if (!grown[*count])
        return false;
    ++*count;
    return true;
}

static void compose(char line[LINE_MAX_BYTES], const char *file, struct mark mark, const char *format,
                    va_list args)
{
    int used = mark.line ? snprintf(line, LINE_MAX_BYTES, "%.256s:%u:%u: ", file, mark.line, mark.column)
                         : snprintf(line, LINE_MAX_BYTES, "%.256s: ", file);
    vsnprintf(line + used, LINE_MAX_BYTES - (size_t)used, format, args);
    blank_controls(line);
}

static void add_error(struct load *load, const char *file, struct mark mark, const char *format, va_list args)
{
    char line[LINE_MAX_BYTES];
    struct config_errors *errors = load->errors;
    load->reported++;
    if (load->reported <= ERRORS_MAX) {
        compose(line, file, mark, format, args);
    } else {
        snprintf(line, sizeof(line), "%.256s: and %zu more", load->name, load->reported - ERRORS_MAX);
        if (errors->count > ERRORS_MAX)
            free(errors->lines[--errors->count]);
    }
    if (!append(&errors->lines, &errors->count, line))
        load->out_of_memory = true;
}

void report(struct load *load, struct mark mark, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add_error(load, load->name, mark, format, args);
    va_end(args);
}

void report_in(struct load *load, const char *file, struct mark mark, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add_error(load, file, mark, format, args);
    va_end(args);
}

static void add_warning(struct load *load, const char *file, struct mark mark, const char *format,
                        va_list args)
{
    char line[LINE_MAX_BYTES];
    if (load->snapshot->warning_count >= ERRORS_MAX)
        return;
    int used = mark.line
                   ? snprintf(line, sizeof(line), "%.256s:%u:%u: warning: ", file, mark.line, mark.column)
                   : snprintf(line, sizeof(line), "%.256s: warning: ", file);
    vsnprintf(line + used, sizeof(line) - (size_t)used, format, args);
    blank_controls(line);
    if (!append(&load->snapshot->warnings, &load->snapshot->warning_count, line))
        load->out_of_memory = true;
}

void report_warning(struct load *load, struct mark mark, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add_warning(load, load->name, mark, format, args);
    va_end(args);
}

void report_warning_in(struct load *load, const char *file, struct mark mark, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add_warning(load, file, mark, format, args);
    va_end(args);
}

void *load_alloc(struct load *load, size_t size)
{
    void *piece = arena_alloc(&load->arena, size);
    if (!piece)
        load->out_of_memory = true;
    return piece;
}

char *load_copy(struct load *load, const char *text, size_t length)
{
    char *copy = arena_copy(&load->arena, text, length);
    if (!copy)
        load->out_of_memory = true;
    return copy;
}

int config_files_add(struct config_files *files, const char *path)
{
    return append(&files->paths, &files->count, path) ? 0 : -ENOMEM;
}

void config_files_finish(struct config_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        free(files->paths[i]);
    free(files->paths);
    *files = (struct config_files){0};
}

void config_errors_finish(struct config_errors *errors)
{
    for (size_t i = 0; i < errors->count; i++)
        free(errors->lines[i]);
    free(errors->lines);
    *errors = (struct config_errors){0};
}
