/*
 * Formats of lines: INI, the part of TOML that such files use, and plain lists.
 */
#include "cli/import.h"
#include "config/names_file.h"

#include <string.h>
#include <strings.h>

#define LIST_INLINE_MAX 1000 /* of a longer list the file itself is named */

struct span {
    const char *at;
    size_t length;
};

static struct span trim(struct span s)
{
    while (s.length && strchr(" \t\r", s.at[0]))
        s.at++, s.length--;
    while (s.length && strchr(" \t\r", s.at[s.length - 1]))
        s.length--;
    return s;
}

static bool span_is(struct span s, const char *word)
{
    return s.length == strlen(word) && strncasecmp(s.at, word, s.length) == 0;
}

/* The next line, without what follows a comment sign outside quotes. False at the end. */
static bool next_line(const char **at, const char *end, const char *comment_signs, struct span *ret)
{
    char quote = 0;
    size_t length = 0;
    if (*at >= end)
        return false;
    const char *newline = memchr(*at, '\n', (size_t)(end - *at)), *line = *at;
    const char *line_end = newline ? newline : end;
    for (; line + length < line_end; length++) {
        char c = line[length];
        if (quote ? c == quote : c == '"' || c == '\'')
            quote = quote ? 0 : c;
        else if (!quote && strchr(comment_signs, c))
            break;
    }
    *ret = trim((struct span){line, length});
    *at = newline ? newline + 1 : end;
    return true;
}

/* "key = value"; false when there is no "=". */
static bool split_assignment(struct span line, struct span *ret_key, struct span *ret_value)
{
    const char *equals = line.length ? memchr(line.at, '=', line.length) : NULL;
    if (!equals)
        return false;
    *ret_key = trim((struct span){line.at, (size_t)(equals - line.at)});
    *ret_value = trim((struct span){equals + 1, (size_t)(line.at + line.length - equals - 1)});
    return true;
}

static bool is_section(struct span line, struct span *ret_name)
{
    if (line.length < 2 || line.at[0] != '[' || line.at[line.length - 1] != ']')
        return false;
    *ret_name = trim((struct span){line.at + 1, line.length - 2});
    return true;
}

static bool read_bool(struct span value, bool *ret)
{
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
    for (size_t i = 0; i < 4; i++) {
        if (!span_is(value, yes[i]) && !span_is(value, no[i]))
            continue;
        *ret = span_is(value, yes[i]);
        return true;
    }
    return false;
}

/* ---- INI ---- */

static void add_preset(struct import *in, struct import_policy *policy, unsigned line, struct span word)
{
    char name[64];
    snprintf(name, sizeof(name), "%.*s", (int)(word.length < 63 ? word.length : 63), word.at);
    if (preset_find(name))
        import_word(in, &policy->presets, line, name, strlen(name));
    else
        import_note(in, line, "there is no preset \"%s\" here: write the hosts it had under allow", name);
}

/* Each word of a list of words between commas or blanks. */
static void each_word(struct import *in, struct import_policy *policy, unsigned line, struct span value,
                      void (*take)(struct import *in, struct import_policy *policy, unsigned line,
                                   struct span word))
{
    for (size_t start = 0, end; start < value.length; start = end + 1) {
        for (end = start; end < value.length && !strchr(", \t", value.at[end]);)
            end++;
        if (end > start)
            take(in, policy, line, (struct span){value.at + start, end - start});
    }
}

static void add_allowed(struct import *in, struct import_policy *policy, unsigned line, struct span word)
{
    import_host(in, &policy->allow, line, word.at, word.length);
}

static void add_denied(struct import *in, struct import_policy *policy, unsigned line, struct span word)
{
    import_host(in, &policy->deny, line, word.at, word.length);
}

static void ini_key(struct import *in, struct import_policy *policy, unsigned line, struct span key,
                    struct span value)
{
    bool enforce;
    if (span_is(key, "preset") || span_is(key, "presets"))
        each_word(in, policy, line, value, add_preset);
    else if (span_is(key, "allow"))
        each_word(in, policy, line, value, add_allowed);
    else if (span_is(key, "deny") || span_is(key, "block"))
        each_word(in, policy, line, value, add_denied);
    else if (!span_is(key, "default_deny"))
        import_note(in, line, "the key \"%.*s\" means nothing here", (int)key.length, key.at);
    else if (read_bool(value, &enforce))
        policy->audit = !enforce;
    else
        import_note(in, line, "default_deny is neither true nor false: taken for true"),
            policy->audit = false;
}

bool import_ini(struct import *in)
{
    const char *at = in->text, *end = in->text + in->length;
    struct import_policy *policy = import_policy_add(in, in->name);
    struct span line, section = {0}, key, value;
    bool in_egress = false;
    if (!policy)
        return false;
    policy->audit = true; /* informational, until default_deny says otherwise */
    policy->comment = "without default_deny the file only informed, and so does this";
    for (unsigned number = 1; next_line(&at, end, "#;", &line); number++) {
        if (is_section(line, &section)) {
            in_egress = span_is(section, "egress");
            if (!in_egress)
                import_note(in, number, "the section [%.*s] is not about what may leave", (int)section.length,
                            section.at);
        } else if (line.length && in_egress && split_assignment(line, &key, &value)) {
            ini_key(in, policy, number, key, value);
        } else if (line.length && in_egress) {
            import_note(in, number, "no key = value: \"%.*s\"", (int)(line.length > 80 ? 80 : line.length),
                        line.at);
        }
    }
    if (!policy->audit)
        policy->comment = NULL;
    return true;
}

/* ---- TOML ---- */

/* A string in quotes, without escapes. */
static bool read_string(struct span *value, struct span *ret)
{
    if (value->length < 2 || (value->at[0] != '"' && value->at[0] != '\''))
        return false;
    const char *close = memchr(value->at + 1, value->at[0], value->length - 1);
    if (!close || (value->at[0] == '"' && memchr(value->at, '\\', (size_t)(close - value->at))))
        return false;
    *ret = (struct span){value->at + 1, (size_t)(close - value->at - 1)};
    *value = trim((struct span){close + 1, (size_t)(value->at + value->length - close - 1)});
    return true;
}

/* An array of strings, over as many lines as it takes. */
struct array {
    bool open;
    struct import_list *to;
};

static void array_line(struct import *in, struct array *array, unsigned line, struct span rest)
{
    struct span text;
    while (rest.length && array->open) {
        if (rest.at[0] == ',' || rest.at[0] == '[') {
            rest = trim((struct span){rest.at + 1, rest.length - 1});
        } else if (rest.at[0] == ']') {
            array->open = false;
        } else if (read_string(&rest, &text)) {
            import_host(in, array->to, line, text.at, text.length);
        } else {
            import_note(in, line, "an array of plain strings was expected: \"%.*s\"",
                        (int)(rest.length > 80 ? 80 : rest.length), rest.at);
            return;
        }
    }
}

static void toml_egress(struct import *in, struct import_policy *policy, unsigned line, struct span value)
{
    static const char *const open[] = {"allow", "allow-all", "all", "open", "unrestricted", "full", "any"};
    static const char *const closed[] = {"allowlist", "allow-list", "restricted", "deny",   "deny-all",
                                         "none",      "blocked",    "off",        "limited"};
    struct span word = value;
    bool truth;
    if (!read_string(&value, &word) && read_bool(word, &truth))
        word = truth ? (struct span){"allow", 5} : (struct span){"deny", 4};
    for (size_t i = 0; i < sizeof(open) / sizeof(*open); i++) {
        if (!span_is(word, open[i]))
            continue;
        policy->extends = "unrestricted";
        return;
    }
    for (size_t i = 0; i < sizeof(closed) / sizeof(*closed); i++)
        if (span_is(word, closed[i]))
            return;
    import_note(in, line, "egress = \"%.*s\" is not known: taken for an allowlist",
                (int)(word.length > 80 ? 80 : word.length), word.at);
}

static void toml_key(struct import *in, struct import_policy *policy, struct array *array, unsigned line,
                     struct span key, struct span value)
{
    bool denies = span_is(key, "deny") || span_is(key, "block");
    if (span_is(key, "egress")) {
        toml_egress(in, policy, line, value);
    } else if (span_is(key, "allow") || denies) {
        *array = (struct array){.open = value.length && value.at[0] == '[',
                                .to = denies ? &policy->deny : &policy->allow};
        if (!array->open)
            import_note(in, line, "\"%.*s\" is no array", (int)key.length, key.at);
        array_line(in, array, line, value);
    } else {
        import_note(in, line, "the key \"%.*s\" means nothing here", (int)key.length, key.at);
    }
}

bool import_toml(struct import *in)
{
    const char *at = in->text, *end = in->text + in->length;
    struct import_policy *policy = import_policy_add(in, in->name);
    struct array array = {0};
    struct span line, section, key, value;
    bool in_network = false;
    if (!policy)
        return false;
    for (unsigned number = 1; next_line(&at, end, "#", &line); number++) {
        if (array.open)
            array_line(in, &array, number, line);
        else if (is_section(line, &section))
            in_network = span_is(section, "network");
        else if (line.length && in_network && split_assignment(line, &key, &value))
            toml_key(in, policy, &array, number, key, value);
        else if (line.length && in_network)
            import_note(in, number, "no key = value: \"%.*s\"", (int)(line.length > 80 ? 80 : line.length),
                        line.at);
    }
    if (array.open)
        import_note(in, 0, "an array is still open at the end of the file");
    return true;
}

/* ---- plain lists and hosts files ---- */

bool import_list(struct import *in)
{
    struct names_file file = {.path = in->path, .bytes = (char *)in->text, .length = in->length};
    struct names_reader reader;
    struct names_entry entry;
    size_t count = 0;
    struct import_policy *policy = import_policy_add(in, in->name);
    if (!policy)
        return false;
    names_reader_init(&reader, &file);
    while (names_reader_next(&reader, &entry))
        count++;
    if (count > LIST_INLINE_MAX) {
        import_word(in, in->as_deny ? &policy->deny_files : &policy->allow_files, 0, in->path,
                    strlen(in->path));
        return true;
    }
    names_reader_init(&reader, &file);
    while (names_reader_next(&reader, &entry)) {
        if (entry.extra)
            import_note(in, entry.mark.line, "more than one word in a line: \"%.*s\" is left out",
                        (int)(entry.length > 80 ? 80 : entry.length), entry.text);
        else
            import_host(in, in->as_deny ? &policy->deny : &policy->allow, entry.mark.line, entry.text,
                        entry.length);
    }
    return true;
}
