#include "config/syntax.h"

#include <stdio.h>
#include <string.h>

/* The text around a mistake, for quoting. */
struct place {
    struct mark mark;
    const char *at, *end; /* end: of the whole text */
};

/* libyaml counts characters. */
static struct place place_of(yaml_mark_t mark, const char *text, size_t length)
{
    struct place place = {{(unsigned)mark.line + 1, (unsigned)mark.column + 1}, text, text + length};
    for (size_t left = mark.index; left > 0 && place.at < place.end; left--) {
        place.at++;
        while (place.at < place.end && (*place.at & 0xc0) == 0x80)
            place.at++;
    }
    return place;
}

/* Bytes up to white space or one of `stops`. */
static int token_length(const struct place *place, const char *stops)
{
    const char *p = place->at;
    while (p < place->end && p - place->at < 256 && (unsigned char)*p > ' ' && !strchr(stops, *p))
        p++;
    return (int)(p - place->at);
}

/* The position of a byte that the reader refused; columns count characters. */
static struct mark mark_of_offset(const char *text, size_t length, size_t offset)
{
    struct mark mark = {1, 1};
    for (size_t i = 0; i < offset && i < length; i++) {
        if (text[i] == '\n')
            mark = (struct mark){mark.line + 1, 1};
        else if ((text[i] & 0xc0) != 0x80)
            mark.column++;
    }
    return mark;
}

static void report_reader(struct load *load, const yaml_parser_t *parser, const char *text, size_t length)
{
    struct mark mark = mark_of_offset(text, length, parser->problem_offset);
    if (strstr(parser->problem, "control"))
        report(load, mark, "a control character (0x%02x) has no place in a policy file: remove it",
               (unsigned)parser->problem_value);
    else
        report(load, mark, "not UTF-8 text (%s): save the file as UTF-8", parser->problem);
}

/* `- [2001:db8::]/32:443`: the bracket opens a list. Looks at the line that `place` is in. */
static bool report_unquoted_bracket(struct load *load, const struct place *place, const char *text)
{
    const char *start = place->at;
    while (start > text && start[-1] != '\n')
        start--;
    const char *end = start;
    while (end < place->end && *end != '\n')
        end++;
    for (const char *p = start; p < end; p++) {
        const char *close = *p == '[' ? memchr(p, ']', (size_t)(end - p)) : NULL;
        if (!close || close + 1 >= end || (close[1] != '/' && close[1] != ':') ||
            memchr(p + 1, '[', (size_t)(close - p)))
            continue;
        struct place rest = {{0}, close + 1, place->end};
        report(load, (struct mark){place->mark.line, (unsigned)(p - start) + 1},
               "an unquoted [ starts a list; quote the address: \"%.*s\"",
               (int)(close - p) + 1 + token_length(&rest, ",]}"), p);
        return true;
    }
    return false;
}

static void report_bad_start(struct load *load, const struct place *place)
{
    if (place->at < place->end && *place->at == '\t')
        report(load, place->mark, "a tab cannot indent YAML: use spaces");
    else
        report(load, place->mark, "a value cannot start with '%.1s': quote it",
               place->at < place->end ? place->at : "");
}

/* libyaml's "problem, context" pairs that have a plain cause; %u is the line where the context begins. */
static const struct cause {
    const char *problem, *context, *message;
} causes[] = {
    {"", "parsing a flow sequence", "a comma or a ] is missing: the [ of line %u is still open here"},
    {"", "parsing a flow mapping", "a comma or a } is missing: the { of line %u is still open here"},
    {"unexpected end of stream", "scanning a quoted scalar", "the quote that begins in line %u has no end"},
    {"document indicator", "scanning a quoted scalar", "the quote that begins in line %u has no end"},
    {"escape", "",
     "in double quotes a \\ starts an escape, and this is none: write \\\\, or use single quotes"},
    {"", "parsing a block mapping",
     "this does not line up: begin the line in the same column as the keys of the map that begins in line "
     "%u"},
    {"", "parsing a block collection",
     "this does not line up: begin the line with a - in the same column as in line %u, where the list "
     "begins"},
    {"could not find expected ':'", "", "a key without \":\": write \"key: value\", or mend the indentation"},
};

static void report_cause(struct load *load, const yaml_parser_t *parser, struct mark mark)
{
    char message[256];
    const char *context = parser->context ? parser->context : "";
    for (size_t i = 0; i < sizeof(causes) / sizeof(*causes); i++) {
        if (!strstr(parser->problem, causes[i].problem) || !strstr(context, causes[i].context))
            continue;
        const char *line = strstr(causes[i].message, "%u");
        if (line)
            snprintf(message, sizeof(message), "%.*s%u%s", (int)(line - causes[i].message), causes[i].message,
                     (unsigned)parser->context_mark.line + 1, line + 2);
        else
            snprintf(message, sizeof(message), "%s", causes[i].message);
        report(load, mark, "%s", message);
        return;
    }
    report(load, mark, "not valid YAML: %s%s%s", parser->problem, *context ? ", " : "", context);
}

void syntax_report(struct load *load, const yaml_parser_t *parser, const char *text, size_t length)
{
    if (parser->error == YAML_MEMORY_ERROR) {
        load->out_of_memory = true;
        return;
    }
    if (parser->error == YAML_READER_ERROR) {
        report_reader(load, parser, text, length);
        return;
    }
    const char *context = parser->context ? parser->context : "";
    struct place place = place_of(parser->problem_mark, text, length);
    if (strstr(context, "scanning an alias")) {
        struct place star = place_of(parser->context_mark, text, length);
        report(load, star.mark, "an unquoted * starts a YAML alias; quote it: \"%.*s\"",
               token_length(&star, ",]}\"'"), star.at);
    } else if (strstr(parser->problem, "tab character")) {
        report(load, place.mark, "a tab cannot indent YAML: use spaces");
    } else if (strstr(parser->problem, "cannot start any token")) {
        report_bad_start(load, &place);
    } else if (report_unquoted_bracket(load, &place, text)) {
        return;
    } else if (strstr(parser->problem, "mapping values are not allowed")) {
        report(load, place.mark,
               "a \": \" cannot stand here: mend the indentation of this line, or quote the value if it "
               "belongs to it");
    } else {
        report_cause(load, parser, place.mark);
    }
}
