/*
 * Files of names, for allow_files and deny_files: a rule a line, or the lines of a hosts file ("0.0.0.0 name
 * name …"), with # comments and blank lines anywhere. Made for block lists of a million lines: the file is
 * read once into memory and walked in place.
 */
#pragma once

#include "config/load.h"

struct names_file {
    struct names_file *next;
    const char *path; /* as errors and origins call it */
    char *bytes;
    size_t length;
};

struct names_entry {
    struct mark mark;
    const char *text; /* in the file's bytes */
    size_t length;
    bool extra; /* no rule, but something behind one on the same line */
};

struct names_reader {
    const char *at, *end, *line;
    struct mark mark;
    bool hosts, any; /* of the current line: began with an address; a rule was seen */
};

void names_reader_init(struct names_reader *reader, const struct names_file *file);
/* The next entry, or false at the end. The local names that every hosts file starts with are passed over. */
bool names_reader_next(struct names_reader *reader, struct names_entry *ret);

/* Read and check a file once a load, however many policies name it; `path` is relative to the policy file's
 * folder. NULL after a report (at `mark` when it cannot be read, else in the file itself). */
const struct names_file *names_file_load(struct load *load, struct mark mark, const char *path, bool deny);
void names_files_finish(struct load *load);
