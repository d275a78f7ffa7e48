#include "config/names_file.h"
#include "config/hash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_FILE_MAX_BYTES ((size_t)256 << 20)

/* What hosts files name besides the names they are for (StevenBlack's list and /etc/hosts of the
 * distributions). */
static bool is_local_name(const char *text, size_t length)
{
    static const char *const names[] = {"localhost",      "localhost.localdomain", "local",
                                        "broadcasthost",  "ip6-localhost",         "ip6-loopback",
                                        "ip6-localnet",   "ip6-mcastprefix",       "ip6-allnodes",
                                        "ip6-allrouters", "ip6-allhosts",          "0.0.0.0"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (length == strlen(names[i]) && !memcmp(text, names[i], length))
            return true;
    return false;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

void names_reader_init(struct names_reader *reader, const struct names_file *file)
{
    *reader = (struct names_reader){.at = file->bytes, .end = file->bytes + file->length, .mark = {1, 1}};
    if (file->length >= 3 && !memcmp(file->bytes, "\xef\xbb\xbf", 3)) /* byte order mark */
        reader->at += 3;
    reader->line = reader->at;
}

/* Passes over blanks, comments and line ends; false at the end of the file. */
static bool to_next_token(struct names_reader *r)
{
    while (r->at < r->end) {
        if (*r->at == '\n') {
            r->line = ++r->at;
            r->mark.line++;
            r->hosts = r->any = false;
        } else if (*r->at == '#') {
            const char *newline = memchr(r->at, '\n', (size_t)(r->end - r->at));
            r->at = newline ? newline : r->end;
        } else if (is_blank(*r->at)) {
            r->at++;
        } else {
            return true;
        }
    }
    return false;
}

static bool more_on_this_line(const struct names_reader *r)
{
    const char *p = r->at;
    while (p < r->end && is_blank(*p))
        p++;
    return p < r->end && *p != '\n' && *p != '#';
}

bool names_reader_next(struct names_reader *r, struct names_entry *ret)
{
    struct addr ignored;
    while (to_next_token(r)) {
        const char *start = r->at;
        while (r->at < r->end && !is_blank(*r->at) && *r->at != '\n' && *r->at != '#')
            r->at++;
        size_t length = (size_t)(r->at - start);
        bool first = !r->any && !r->hosts;
        if (first && more_on_this_line(r) && addr_parse(start, length, &ignored)) {
            r->hosts = true;
            continue;
        }
        if (r->hosts && is_local_name(start, length))
            continue;
        r->mark.column = (unsigned)(start - r->line) + 1;
        *ret = (struct names_entry){r->mark, start, length, .extra = !r->hosts && r->any};
        r->any = true;
        return true;
    }
    return false;
}

static void check_entries(struct load *load, const struct names_file *file, bool deny)
{
    struct names_reader reader;
    struct names_entry entry;
    names_reader_init(&reader, file);
    while (names_reader_next(&reader, &entry)) {
        if (entry.extra)
            report_in(load, file->path, entry.mark,
                      "\"%.*s\" follows a rule on the same line: write one a line, and # before a comment",
                      (int)(entry.length > 80 ? 80 : entry.length), entry.text);
        else
            check_rule(load, file->path, entry.mark, entry.text, entry.length, deny);
    }
}

const char *load_path(struct load *load, const char *path)
{
    if (path[0] == '/' || !strcmp(load->folder, "."))
        return path;
    const char *joined = arena_format(&load->arena, "%s/%s", load->folder, path);
    if (!joined)
        load->out_of_memory = true;
    return joined;
}

static struct names_file *read_names(struct load *load, struct mark mark, const char *path)
{
    struct error err;
    struct names_file *file = load_alloc(load, sizeof(*file));
    if (!file)
        return NULL;
    file->path = path;
    if (load_file_read(load, path, NAMES_FILE_MAX_BYTES, &file->bytes, &file->length, &err) < 0) {
        report(load, mark, "%s: %s", path, err.text);
        return NULL;
    }
    file->next = load->files;
    load->files = file;
    load->hash = hash_bytes(load->hash, file->bytes, file->length);
    return file;
}

const struct names_file *names_file_load(struct load *load, struct mark mark, const char *path, bool deny)
{
    const char *full = load_path(load, path);
    if (!full)
        return NULL;
    for (const struct names_file *file = load->files; file; file = file->next)
        if (!strcmp(file->path, full))
            return file;
    struct names_file *file = read_names(load, mark, full);
    if (file)
        check_entries(load, file, deny);
    return file;
}

void names_files_finish(struct load *load)
{
    for (struct names_file *file = load->files; file; file = file->next)
        free(file->bytes);
    load->files = NULL;
}
