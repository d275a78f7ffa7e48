#include "config/load.h"
#include "config/file.h"
#include "config/hash.h"
#include "config/names_file.h"
#include "config/schema.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int load_init(struct load *load, const char *name, struct config_errors *errors)
{
    *errors = (struct config_errors){0};
    *load = (struct load){.name = name, .folder = ".", .errors = errors, .hash = HASH_START};
    load->snapshot = snapshot_create();
    load->out_of_memory = !load->snapshot;
    return load->snapshot ? 0 : -ENOMEM;
}

static bool load_failed(const struct load *load)
{
    return load->reported || load->out_of_memory;
}

/* The end of every load: a whole snapshot and 0, or none, a line in errors, and why. */
static int load_finish(struct load *load, int r, struct config_snapshot **ret)
{
    if (r == -ENOMEM)
        load->out_of_memory = true;
    if (load->out_of_memory)
        report(load, (struct mark){0}, "out of memory");
    if (!load_failed(load)) {
        snprintf(load->snapshot->version, sizeof(load->snapshot->version), "%012" PRIx64, load->hash >> 16);
        *ret = load->snapshot;
    } else {
        config_unref(load->snapshot);
    }
    names_files_finish(load);
    arena_finish(&load->arena);
    return load->out_of_memory ? -ENOMEM : load->reported ? -EINVAL : 0;
}

static int resolve_and_build(struct load *load)
{
    resolve_references(load);
    if (load_failed(load))
        return -EINVAL;
    int r = build_policies(load);
    if (r == 0)
        lint_policies(load);
    return r;
}

static int load_text(struct load *load, const char *text, size_t length)
{
    if (length > CONFIG_MAX_BYTES) {
        report(load, (struct mark){0},
               "it is larger than %u MiB: put long lists of names into allow_files and deny_files",
               CONFIG_MAX_BYTES >> 20);
        return -EINVAL;
    }
    load->hash = hash_bytes(load->hash, text, length);
    const struct node *root = tree_read(load, text, length);
    if (!root)
        return -EINVAL;
    read_file(load, root);
    return resolve_and_build(load);
}

/* Relative names in a file are relative to the file. */
static void set_folder(struct load *load)
{
    const char *slash = strrchr(load->name, '/');
    if (!slash)
        return;
    load->folder = slash == load->name ? "" : load_copy(load, load->name, (size_t)(slash - load->name));
}

int config_load_text(const char *name, const char *text, size_t length, struct config_snapshot **ret,
                     struct config_errors *errors)
{
    struct load load;
    int r = load_init(&load, name, errors);
    if (r == 0) {
        set_folder(&load);
        r = load_text(&load, text, length);
    }
    return load_finish(&load, r, ret);
}

static int report_unreadable(const char *path, const struct error *err, struct config_errors *errors)
{
    struct load load;
    struct config_snapshot *none = NULL;
    if (load_init(&load, path, errors) == 0)
        report(&load, (struct mark){0}, "%s", err->text);
    int r = load_finish(&load, 0, &none);
    return r == -ENOMEM ? r : -err->code;
}

int config_load_file(const char *path, struct config_snapshot **ret, struct config_errors *errors)
{
    struct error err;
    char *text;
    size_t length;
    if (config_file_read(path, CONFIG_MAX_BYTES, &text, &length, &err) < 0)
        return report_unreadable(path, &err, errors);
    int r = config_load_text(path, text, length, ret, errors);
    free(text);
    return r;
}

/* ---- without a file ---- */

static void add_rules(struct load *load, struct draft *draft, const char *const *rules, size_t count)
{
    struct source **tail = &draft->sources;
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(rules[i]);
        struct source *source = load_alloc(load, sizeof(*source));
        if (!source || !check_rule(load, load->name, (struct mark){0}, rules[i], length, false))
            continue;
        *source = (struct source){.text = rules[i], .length = length};
        *tail = source;
        tail = &source->next;
        load->hash = hash_bytes(load->hash, rules[i], length + 1);
    }
}

static void report_unknown_profile(struct load *load, const char *name)
{
    const char *words[8];
    size_t count = 0;
    for (; count < profile_count && count < 8; count++)
        words[count] = profiles[count].name;
    report(load, (struct mark){0}, "there is no built-in profile \"%s\" to add rules to: there are %s", name,
           schema_words(load, words, count, " and "));
}

static int load_rules(struct load *load, const char *name, const char *profile, const char *const *rules,
                      size_t count)
{
    struct draft *draft = load_alloc(load, sizeof(*draft));
    if (!draft)
        return -ENOMEM;
    *draft =
        (struct draft){.name = name, .mode = INHERIT, .dns = INHERIT, .bind = INHERIT, .ech_denied = INHERIT};
    load->drafts = draft;
    if (profile_find(name) || !strcmp(name, "deny"))
        report(load, (struct mark){0}, "a policy cannot be named \"%s\", which is built in", name);
    if (profile && !profile_find(profile))
        report_unknown_profile(load, profile);
    draft->extends.name = profile ? profile : "allowlist";
    load->hash = hash_bytes(load->hash, draft->extends.name, strlen(draft->extends.name) + 1);
    add_rules(load, draft, rules, count);
    return load_failed(load) ? -EINVAL : resolve_and_build(load);
}

int config_from_rules(const char *name, const char *profile, const char *const *rules, size_t count,
                      struct config_snapshot **ret, struct config_errors *errors)
{
    struct load load;
    int r = load_init(&load, "--allow", errors);
    if (r == 0)
        r = load_rules(&load, name, profile, rules, count);
    return load_finish(&load, r, ret);
}
