/*
 * One rule by itself. acl knows the grammar; what is added here is the way from a name in another script to
 * the A-label that belongs into the file, which needs libidn2.
 */
#include "config/load.h"

#include <idn2.h>
#include <string.h>

static bool is_ascii(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] >= 0x80)
            return false;
    return true;
}

/* Where in a rule its name is, behind the scheme and "*." and before the port. */
struct rule_parts {
    size_t name_at, name_length;
};

static struct rule_parts split_rule(const char *text, size_t length)
{
    const char *scheme = memmem(text, length, "://", 3);
    size_t at = scheme ? (size_t)(scheme - text) + 3 : 0;
    while (at < length && (text[at] == '*' || text[at] == '.'))
        at++;
    size_t end = at;
    while (end < length && text[end] != ':' && text[end] != '/')
        end++;
    return (struct rule_parts){at, end - at};
}

/* Rules are ASCII; a name in another script is written as its A-label, which libidn2 knows. */
static void report_non_ascii(struct load *load, const char *file, struct mark mark, const char *text,
                             size_t length)
{
    int shown = (int)(length > 200 ? 200 : length);
    struct rule_parts parts = split_rule(text, length);
    char *name = arena_copy(&load->arena, text + parts.name_at, parts.name_length), *ascii = NULL;
    if (!name) {
        load->out_of_memory = true;
        return;
    }
    int r = idn2_to_ascii_8z(name, &ascii, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);
    if (r == IDN2_OK)
        report_in(load, file, mark, "rule \"%.*s\": names are written in ASCII; write \"%.*s%s%.*s\"", shown,
                  text, (int)parts.name_at, text, ascii, (int)(length - parts.name_at - parts.name_length),
                  text + parts.name_at + parts.name_length);
    else
        report_in(load, file, mark,
                  "rule \"%.*s\": it has a non-ASCII character, and is no internationalised name (%s)", shown,
                  text, idn2_strerror(r));
    idn2_free(ascii);
}

bool check_rule(struct load *load, const char *file, struct mark mark, const char *text, size_t length,
                bool deny)
{
    struct acl_rule rule;
    struct error err;
    if (!is_ascii(text, length)) {
        report_non_ascii(load, file, mark, text, length);
        return false;
    }
    if (acl_rule_parse(text, length, deny, &rule, &err) < 0) {
        report_in(load, file, mark, "%s", err.text);
        return false;
    }
    return true;
}
