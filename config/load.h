/*
 * One load, from text to snapshot. It runs in four steps, each of which reports all it finds before the next
 * begins:
 *
 *   tree      YAML events become nodes that know their line and column       (tree.c)
 *   read      the schema: keys, types, single values, each rule by itself    (schema.c, read.c, names_file.c)
 *   resolve   names that point at policies, profiles and presets             (resolve.c)
 *   build     drafts become acl policies; only memory can fail here          (build.c), and warnings (lint.c)
 *
 * A step that reported something ends the load behind it; no snapshot leaves a load that reported anything.
 */
#pragma once

#include "config/arena.h"
#include "config/bundle.h"
#include "config/presets.h"
#include "config/profiles.h"
#include "config/snapshot.h"
#include "config/snapshot_internal.h"

/* A place in a file, counted from 1. Line 0: no place, only the file. */
struct mark {
    unsigned line, column;
};

struct names_file;

/* One entry of allow, deny, allow_files or deny_files. */
struct source {
    struct source *next;
    struct mark mark;
    const char *text; /* the rule; NULL when `file` is set */
    size_t length;
    const struct names_file *file;
    bool deny;
};

/* A name that another part of the file uses, and where. */
struct reference {
    struct reference *next;
    struct mark mark;
    const char *name; /* NULL: nothing was written */
};

#define INHERIT (-1) /* of an option: as the parent has it */

/* A policy as written. */
struct draft {
    struct draft *next;
    struct mark mark;
    const char *name;
    struct reference extends;
    struct reference *presets;
    struct source *sources;
    int mode, dns, bind, verify, ech_denied; /* INHERIT or the enum's value */
    struct acl_limits limits;        /* 0: inherited */

    /* filled by resolve */
    const struct draft *parent;
    const struct profile *profile;  /* when the parent is built in */
    const struct acl_policy *built; /* by build; owned by the snapshot */
};

/* An entry of `assign`. */
struct assign_draft {
    struct assign_draft *next;
    const char *container; /* glob, or NULL */
    bool has_subnet;
    struct cidr subnet;
    struct reference policy;
};

/* An entry of `networks`: the network is in the snapshot already, but for its policy. */
struct network_draft {
    struct network_draft *next;
    size_t index; /* in the snapshot */
    struct reference policy;
};

struct load {
    const char *name;   /* what errors call the text */
    const char *folder; /* relative paths start here */
    struct arena arena;
    struct config_errors *errors;
    size_t reported; /* also those that were left out of `errors` */
    bool out_of_memory;

    struct draft *drafts;
    struct assign_draft *assigns;
    struct reference fallback; /* `default` */
    struct network_draft *networks;
    struct names_file *files;
    struct bundle_writer record;  /* what is read goes there as well */
    const struct bundle *bundle;  /* read from it, not from files */
    struct config_files *noted;   /* paths that were looked for; NULL: nobody asks */
    uint64_t hash;                    /* of everything that was read */
    struct config_snapshot *snapshot; /* under construction */
};

/* report.c: "file:line:col: message". The message has no line breaks or other control characters when it
 * comes out. */
void report(struct load *load, struct mark mark, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void report_in(struct load *load, const char *file, struct mark mark, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void report_warning(struct load *load, struct mark mark, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void report_warning_in(struct load *load, const char *file, struct mark mark, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* arena_alloc() that notes its failure in `load`. */
void *load_alloc(struct load *load, size_t size);
/* A path of the file, which is relative to the file's folder. NULL when out of memory. */
const char *load_path(struct load *load, const char *path);
char *load_copy(struct load *load, const char *text, size_t length);

/* load.c: a whole file, from the bundle when the load is from one; recorded when it is to be. */
int load_file_read(struct load *load, const char *path, size_t limit, char **ret, size_t *ret_length, struct error *err);

/* read.c: the schema of the file. */
struct node;
void read_file(struct load *load, const struct node *root);
/* read_networks.c */
void read_networks(struct load *load, const struct node *node, void *object);
/* check_rule.c: one rule by itself; reports what is wrong with it. `file` is what errors call the place. */
bool check_rule(struct load *load, const char *file, struct mark mark, const char *text, size_t length,
                bool deny);

/* resolve.c: every reference must lead somewhere, and `extends` to an end. */
void resolve_references(struct load *load);

/* build.c: policies of the drafts and of the built-in profiles, and what assign and default point to, into
 * the snapshot. */
int build_policies(struct load *load);
/* lint.c: rules that say nothing new, or can never match. */
void lint_policies(struct load *load);
