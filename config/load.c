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
    *load = (struct load){.name = name, .folder = ".", .errors = errors, .record = {-1}, .hash = HASH_START};
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
        load->snapshot->hash = load->hash;
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

static int copy_from_bundle(const struct bundle *bundle, const char *path, size_t limit, char **ret, size_t *ret_length,
                            struct error *err)
{
    struct bundle_file file;
    if (!bundle_find(bundle, path, &file))
        return error_set(err, ENOENT, "it is not in the bundle");
    if (file.length > limit)
        return error_set(err, EFBIG, "it is larger than %zu MiB", limit >> 20);
    char *copy = malloc(file.length + 1);
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    memcpy(copy, file.bytes, file.length);
    copy[file.length] = 0;
    *ret = copy;
    *ret_length = file.length;
    return 0;
}

int load_file_read(struct load *load, const char *path, size_t limit, char **ret, size_t *ret_length, struct error *err)
{
    if (load->bundle)
        return copy_from_bundle(load->bundle, path, limit, ret, ret_length, err);
    if (load->noted && config_files_add(load->noted, path) < 0)
        return error_set(err, ENOMEM, "out of memory");
    int r = config_file_read(path, limit, ret, ret_length, err);
    if (r < 0 || (r = bundle_add(&load->record, path, *ret, *ret_length)) == 0)
        return r;
    free(*ret);
    return error_errno(err, -r, "cannot copy it");
}

/* The whole of a load from files or from a bundle, after load_init(); its name is the path. */
static int load_files(struct load *load, struct config_snapshot **ret)
{
    struct error err;
    char *text = NULL;
    size_t length;
    int r = load_file_read(load, load->name, CONFIG_MAX_BYTES, &text, &length, &err);
    if (r < 0) {
        report(load, (struct mark){0}, "%s", err.text);
        int finished = load_finish(load, 0, ret);
        return finished == -ENOMEM ? finished : r;
    }
    set_folder(load);
    r = load_text(load, text, length);
    r = load_finish(load, r, ret);
    free(text);
    return r;
}

int config_load_file(const char *path, struct config_snapshot **ret, struct config_errors *errors)
{
    struct load load;
    int r = load_init(&load, path, errors);
    return r == 0 ? load_files(&load, ret) : load_finish(&load, r, ret);
}

static int report_trouble(struct load *load, const struct error *err, struct config_snapshot **ret)
{
    report(load, (struct mark){0}, "%s", err->text);
    return load_finish(load, -err->code, ret);
}

static int load_bundled(const char *path, struct config_snapshot **ret, int *ret_bundle, struct config_errors *errors,
                        struct config_files *noted)
{
    struct load load;
    struct error err;
    struct config_snapshot *snapshot = NULL;
    int r = load_init(&load, path, errors);
    if (r < 0)
        return load_finish(&load, r, ret);
    load.noted = noted;
    if (bundle_create(&load.record, &err) < 0)
        return report_trouble(&load, &err, ret);
    r = load_files(&load, &snapshot);
    if (r < 0) {
        bundle_abandon(&load.record);
        return r;
    }
    if (bundle_finish(&load.record, ret_bundle, &err) < 0) {
        config_unref(snapshot);
        load_init(&load, path, errors);
        return report_trouble(&load, &err, ret);
    }
    *ret = snapshot;
    return 0;
}

int config_load_file_bundled(const char *path, struct config_snapshot **ret, int *ret_bundle, struct config_errors *errors)
{
    return load_bundled(path, ret, ret_bundle, errors, NULL);
}

int config_load_file_noted(const char *path, struct config_snapshot **ret, int *ret_bundle, struct config_errors *errors,
                           struct config_files *ret_files)
{
    *ret_files = (struct config_files){0};
    return load_bundled(path, ret, ret_bundle, errors, ret_files);
}

int config_load_bundle(int fd, struct config_snapshot **ret, struct config_errors *errors)
{
    struct load load;
    struct error err;
    struct bundle bundle;
    struct bundle_file first;
    int r = bundle_open(fd, &bundle, &err);
    if (r < 0) {
        r = load_init(&load, "bundle", errors);
        return r == 0 ? report_trouble(&load, &err, ret) : load_finish(&load, r, ret);
    }
    char *name = bundle_find(&bundle, NULL, &first) ? strndup(first.path, first.path_length) : NULL;
    r = load_init(&load, name ? name : "bundle", errors);
    load.bundle = &bundle;
    r = r == 0 && name ? load_files(&load, ret) : load_finish(&load, -ENOMEM, ret);
    free(name);
    bundle_close(&bundle);
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
        (struct draft){.name = name, .mode = INHERIT, .dns = INHERIT, .bind = INHERIT, .verify = INHERIT, .ech_denied = INHERIT};
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
