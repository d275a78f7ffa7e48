/*
 * `policy import FILE`: another program's allowlist as a policy on standard output. What could not be carried
 * over is told on standard error and written into the policy as comments; the result is loaded before it is
 * printed.
 */
#include "cli/import.h"
#include "cli/policy_internal.h"
#include "config/file.h"

#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define IMPORT_MAX_BYTES ((size_t)64 << 20)

static const struct format {
    const char *name, *summary;
    bool (*read)(struct import *in);
} formats[] = {
    {"ini", "network.conf", import_ini},
    {"toml", "[network] of a TOML file", import_toml},
    {"smokescreen", "Smokescreen's ACL", import_smokescreen},
    {"cilium", "Cilium's network policies", import_cilium},
    {"srt", "settings of the sandbox runtime", import_srt},
    {"list", "a list of names or a hosts file", import_list},
};
#define FORMAT_COUNT (sizeof(formats) / sizeof(*formats))

/* ---- which format? ---- */

static const struct format *find_format(const char *name)
{
    for (size_t i = 0; i < FORMAT_COUNT; i++)
        if (!strcmp(formats[i].name, name))
            return &formats[i];
    return NULL;
}

/* Does a line begin with this, but for blanks? */
static bool has_line(const char *text, const char *start)
{
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += strspn(line, "\n\r\t ");
        if (!strncmp(line, start, strlen(start)))
            return true;
        if (!*line)
            break;
    }
    return false;
}

static const struct format *guess_format(const char *text)
{
    static const struct {
        const char *line, *format;
    } signs[] = {{"{", "srt"},
                 {"[egress]", "ini"},
                 {"[network]", "toml"},
                 {"apiVersion: cilium.io/", "cilium"},
                 {"apiVersion: \"cilium.io/", "cilium"},
                 {"global_deny_list:", "smokescreen"},
                 {"global_allow_list:", "smokescreen"},
                 {"allowed_domains:", "smokescreen"},
                 {"services:", "smokescreen"}};
    for (size_t i = 0; i < sizeof(signs) / sizeof(*signs); i++)
        if (has_line(text, signs[i].line))
            return find_format(signs[i].format);
    return find_format("list");
}

/* ---- the policy file ---- */

/* A YAML scalar: plain where it may be, else in single quotes. */
static void print_scalar(FILE *to, const char *text)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,@+~=%&$!()";
    bool quote = !*text ||
                 !strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/", *text) ||
                 strstr(text, ": ") || text[strlen(text) - 1] == ':';
    for (const char *c = text; *c && !quote; c++)
        quote = !strchr(plain, *c) && !(*c == ' ' && c[1] != '#') && *c != '*';
    if (!quote && strspn(text, "0123456789.") == strlen(text))
        quote = true; /* not a number */
    if (!quote) {
        fputs(text, to);
        return;
    }
    putc('\'', to);
    for (const char *c = text; *c; c++)
        fprintf(to, *c == '\'' ? "''" : "%c", *c);
    putc('\'', to);
}

static void print_list(FILE *to, const char *key, const struct import_list *list)
{
    if (list->count)
        fprintf(to, "    %s:\n", key);
    for (const struct import_entry *e = list->first; e; e = e->next) {
        fprintf(to, "      - ");
        print_scalar(to, e->text);
        putc('\n', to);
    }
}

static void print_policy(FILE *to, const struct import_policy *p)
{
    bool empty = !p->extends && !p->audit && !p->presets.count && !p->allow.count && !p->deny.count &&
                 !p->allow_files.count && !p->deny_files.count;
    fprintf(to, "  %s:%s\n", p->name, empty ? " {}" : "");
    if (p->extends)
        fprintf(to, "    extends: %s\n", p->extends);
    if (p->audit)
        fprintf(to, "    mode: audit%s%s\n", p->comment ? "    # " : "", p->comment ? p->comment : "");
    print_list(to, "presets", &p->presets);
    print_list(to, "allow", &p->allow);
    print_list(to, "deny", &p->deny);
    print_list(to, "allow_files", &p->allow_files);
    print_list(to, "deny_files", &p->deny_files);
}

static void print_notes(FILE *to, const char *before, const struct import_list *notes)
{
    for (const struct import_entry *e = notes->first; e; e = e->next) {
        fprintf(to, "%s", before);
        if (e->line)
            fprintf(to, "line %u: ", e->line);
        fprintf(to, "%s\n", e->text);
    }
}

static void print_file(FILE *to, const struct import *in, const struct format *format)
{
    bool any_assign = false;
    fprintf(to, "# Imported by sallyport policy import (%s: %s).\n", format->name, format->summary);
    if (in->notes.count)
        fprintf(to, "# Not carried over as it was:\n");
    print_notes(to, "#   ", &in->notes);
    fprintf(to, "version: 1\npolicies:%s\n", in->policies ? "" : " {}");
    for (const struct import_policy *p = in->policies; p; p = p->next) {
        print_policy(to, p);
        any_assign |= p->assign;
    }
    if (any_assign)
        fprintf(to, "assign:\n");
    for (const struct import_policy *p = in->policies; p; p = p->next)
        if (p->assign)
            fprintf(to, "  - {container: %s, policy: %s}\n", p->name, p->name);
    if (in->fallback)
        fprintf(to, "default: %s\n", in->fallback);
}

static bool is_valid(const char *text, size_t length)
{
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    bool valid = config_load_text("import", text, length, &snapshot, &errors) == 0;
    policy_print_errors(&errors);
    config_unref(snapshot);
    return valid;
}

static int print_import(const struct import *in, const struct format *format)
{
    char *text = NULL;
    size_t length;
    FILE *to = open_memstream(&text, &length);
    if (!to)
        return EXIT_WRONG;
    print_file(to, in, format);
    bool good = fclose(to) == 0 && !in->load.out_of_memory && is_valid(text, length);
    if (good)
        fwrite(text, 1, length, stdout);
    free(text);
    if (!good)
        return EXIT_WRONG;
    char before[PATH_MAX + 8];
    snprintf(before, sizeof(before), "%s: ", in->path);
    print_notes(stderr, before, &in->notes);
    return in->notes.count ? EXIT_NO : EXIT_YES;
}

/* ---- the command ---- */

static int import_file(const struct command *self, const char *path, const char *from, const char *name,
                       bool deny)
{
    struct import in = {.path = path, .name = name, .as_deny = deny};
    const struct format *format = from ? find_format(from) : NULL;
    struct error err;
    char *text, full[PATH_MAX];
    int status = EXIT_WRONG;
    if (from && !format)
        return command_misuse(
            self, "import: there is no format \"%s\": there are ini, toml, smokescreen, cilium, srt and list",
            from);
    if (config_file_read(path, IMPORT_MAX_BYTES, &text, &in.length, &err) < 0) {
        fprintf(stderr, "%s: %s\n", path, err.text);
        return EXIT_WRONG;
    }
    in.text = text;
    in.load = (struct load){.name = path, .folder = ".", .errors = &in.errors};
    format = format ? format : guess_format(text);
    if (format->read == import_list && realpath(path, full))
        in.path = full; /* a long list is named in the policy, wherever that will be */
    if (memchr(text, 0, in.length))
        fprintf(stderr, "%s: it is no text\n", path);
    else if (format->read(&in) && !in.errors.count)
        status = print_import(&in, format);
    policy_print_errors(&in.errors);
    arena_finish(&in.load.arena);
    free(text);
    return status;
}

int policy_import(const struct command *self, int argc, char **argv)
{
    static const struct option options[] = {{"from", required_argument, NULL, 'f'},
                                            {"policy", required_argument, NULL, 'p'},
                                            {"deny", no_argument, NULL, 'd'},
                                            {0}};
    const char *from = NULL, *name = "imported";
    bool deny = false;
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (option == 'f')
            from = optarg;
        else if (option == 'p')
            name = optarg;
        else if (option == 'd')
            deny = true;
        else
            return command_misuse(
                self, option == ':' ? "import: %s needs a value" : "import: there is no option \"%s\"",
                argv[optind - 1]);
    }
    if (argc - optind != 1)
        return command_misuse(self, "import: name one file");
    return import_file(self, argv[optind], from, name, deny);
}
