/*
 * Other programs' allowlists: whatever is in the file, each reader comes to policies whose rules are rules, and to notes
 * that may be printed.
 */
#include "tests/fuzz/fuzz.h"

#include "cli/import.h"

static void check_rules(const struct import_list *list)
{
    struct acl_rule rule;
    size_t count = 0;
    for (const struct import_entry *e = list->first; e; e = e->next, count++)
        CHECK(acl_rule_parse(e->text, strlen(e->text), false, &rule, NULL) == 0);
    CHECK(count == list->count);
}

static void check_import(const struct import *in)
{
    for (const struct import_policy *p = in->policies; p; p = p->next) {
        CHECK(p->name && p->name[0]);
        check_rules(&p->allow);
        check_rules(&p->deny);
    }
    for (const struct import_entry *e = in->notes.first; e; e = e->next)
        for (const char *c = e->text; *c; c++)
            CHECK(*c >= 0x20 && *c < 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool (*const readers[])(struct import * in) = {import_ini,         import_toml,   import_list,
                                                          import_smokescreen, import_cilium, import_srt};
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    for (size_t i = 0; i < sizeof(readers) / sizeof(*readers) && !memchr(text, 0, size); i++) {
        struct import in = {.path = "fuzz", .text = text, .length = size, .name = "imported"};
        in.load = (struct load){.name = "fuzz", .folder = ".", .errors = &in.errors};
        readers[i](&in);
        check_import(&in);
        config_errors_finish(&in.errors);
        arena_finish(&in.load.arena);
    }
    free(text);
    return 0;
}
