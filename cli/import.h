/*
 * `policy import`: other programs' allowlists as policies. A reader for each format fills one model, which is
 * printed as YAML; what a reader cannot carry over it notes, with the line, and nothing is ever made wider
 * without a note.
 */
#pragma once

#include "config/tree.h"

#include <stdio.h>

struct import_entry {
    struct import_entry *next;
    const char *text;
    unsigned line; /* 0: none */
};

struct import_list {
    struct import_entry *first, **tail;
    size_t count;
};

struct import_policy {
    struct import_policy *next;
    const char *name;
    const char *extends, *comment; /* may be NULL */
    bool audit;                    /* mode: audit */
    bool assign;                   /* a container of the same name gets it */
    struct import_list presets, allow, deny, allow_files, deny_files;
};

struct import {
    const char *path;
    const char *text; /* NUL-terminated */
    size_t length;
    bool as_deny;         /* of a plain list: names to deny */
    const char *name;     /* of the policy, where the format has no names */
    const char *fallback; /* `default:`; NULL: not written */
    struct import_policy *policies, **tail;
    struct import_list notes;
    struct config_errors errors; /* of the parser: nothing is imported then */
    struct load load;            /* arena, and the parser's errors */
};

/* Each reads text into policies; false when it is not of that format at all (then an error was noted). */
bool import_ini(struct import *in);
bool import_toml(struct import *in);
bool import_list(struct import *in);
bool import_smokescreen(struct import *in);
bool import_cilium(struct import *in);
bool import_srt(struct import *in);

/* ---- for the readers ---- */

/* A policy at the end; its name is made one that a policy may have. NULL when out of memory. */
struct import_policy *import_policy_add(struct import *in, const char *name);
/* "line 7: …" */
void import_note(struct import *in, unsigned line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A rule as it is; noted instead when it is none. Repeated ones are dropped. False when it was noted. */
bool import_rule(struct import *in, struct import_list *to, unsigned line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* A host as people write it: name, *.name, name:port, network, network:port, URL: the rule it means. */
void import_host(struct import *in, struct import_list *to, unsigned line, const char *text, size_t length);
/* A word as it is, for presets and files. */
void import_word(struct import *in, struct import_list *to, unsigned line, const char *text, size_t length);
