#include "config/schema.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEAR_WORD_MAX 40

static const char *kind_text(const struct node *node)
{
    switch (node->kind) {
    case NODE_LIST:
        return "a list";
    case NODE_MAP:
        return "a map";
    default:
        return "a single value";
    }
}

/* YAML's words for "nothing here". */
static bool is_null(const struct node *node)
{
    return node->kind == NODE_SCALAR && node->plain &&
           (node->length == 0 || !strcmp(node->text, "~") || !strcasecmp(node->text, "null"));
}

/* Edit distance of two short words; transposed neighbours count as one. */
static size_t distance(const char *a, const char *b)
{
    size_t rows[3][NEAR_WORD_MAX + 1];
    size_t *before = rows[0], *last = rows[1], *now = rows[2];
    size_t b_length = strlen(b);
    for (size_t j = 0; j <= b_length; j++)
        last[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        now[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = last[j] + 1 < best ? last[j] + 1 : best;
            best = now[j - 1] + 1 < best ? now[j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
        size_t *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[b_length];
}

static bool one_begins_the_other(const char *a, const char *b)
{
    size_t shorter = strlen(a) < strlen(b) ? strlen(a) : strlen(b);
    return shorter >= 4 && !strncmp(a, b, shorter);
}

const char *schema_nearest(const char *written, const char *const *words, size_t count)
{
    const char *best = NULL;
    size_t best_distance = 3;
    if (strlen(written) > NEAR_WORD_MAX)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        if (strlen(words[i]) > NEAR_WORD_MAX)
            continue;
        size_t d = distance(written, words[i]);
        if (d < best_distance && d * 2 <= strlen(words[i])) {
            best_distance = d;
            best = words[i];
        }
    }
    for (size_t i = 0; i < count && !best; i++)
        if (one_begins_the_other(written, words[i]))
            best = words[i];
    return best;
}

const char *schema_words(struct load *load, const char *const *words, size_t count, const char *last_joint)
{
    const char *text = count ? words[0] : "nothing";
    for (size_t i = 1; i < count && text; i++)
        text = arena_format(&load->arena, "%s%s%s", text, i + 1 == count ? last_joint : ", ", words[i]);
    return text ? text : "?";
}

static void report_unknown_key(struct load *load, const struct node *key, const char *what,
                               const struct field *fields, size_t count)
{
    const char *words[32];
    for (size_t i = 0; i < count && i < 32; i++)
        words[i] = fields[i].key;
    const char *near = schema_nearest(key->text, words, count);
    if (near)
        report(load, key->mark, "unknown key \"%s\" in %s: did you mean \"%s\"?", key->text, what, near);
    else
        report(load, key->mark, "unknown key \"%s\" in %s: it can have %s", key->text, what,
               schema_words(load, words, count, " and "));
}

static void read_key(struct load *load, const struct node *key, const char *what, const struct field *fields,
                     size_t count, void *object)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(fields[i].key, key->text))
            continue;
        if (key->value->kind != NODE_BAD)
            fields[i].read(load, key->value, object);
        return;
    }
    report_unknown_key(load, key, what, fields, count);
}

static void report_no_map(struct load *load, const struct node *node, const char *what,
                          const struct field *fields, size_t count)
{
    const char *words[32];
    for (size_t i = 0; i < count && i < 32; i++)
        words[i] = fields[i].key;
    if (is_null(node))
        report(load, node->mark, "%s is empty: write its keys below it, or {} for none", what);
    else
        report(load, node->mark, "%s is %s, but has to be a map (\"key: value\") of %s", what,
               kind_text(node), schema_words(load, words, count, " and "));
}

void schema_map(struct load *load, const struct node *node, const char *what, const struct field *fields,
                size_t count, void *object)
{
    if (node->kind == NODE_BAD)
        return;
    if (node->kind != NODE_MAP) {
        report_no_map(load, node, what, fields, count);
        return;
    }
    for (const struct node *key = node->first; key; key = key->next)
        if (key->kind == NODE_SCALAR)
            read_key(load, key, what, fields, count, object);
}

void schema_list(struct load *load, const struct node *node, const char *what,
                 void (*item)(struct load *load, const struct node *node, void *object), void *object)
{
    if (node->kind == NODE_BAD)
        return;
    if (is_null(node)) {
        report(load, node->mark, "%s is empty: write a list, or [] for none", what);
        return;
    }
    if (node->kind != NODE_LIST) {
        report(load, node->mark, "%s is %s, but has to be a list: one \"- item\" a line, or [item, item]",
               what, kind_text(node));
        return;
    }
    for (const struct node *n = node->first; n; n = n->next)
        if (n->kind != NODE_BAD)
            item(load, n, object);
}

const char *schema_text(struct load *load, const struct node *node, const char *what)
{
    if (node->kind == NODE_BAD)
        return NULL;
    if (node->kind == NODE_SCALAR && node->length > 0 && !is_null(node))
        return node->text;
    if (node->kind == NODE_SCALAR)
        report(load, node->mark, "%s is empty: write a value, or remove it", what);
    else
        report(load, node->mark, "%s is %s, but has to be a single value", what, kind_text(node));
    return NULL;
}

int schema_choice(struct load *load, const struct node *node, const char *what, const char *const *words,
                  size_t count)
{
    const char *text = schema_text(load, node, what);
    if (!text)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (!strcmp(words[i], text))
            return (int)i;
    report(load, node->mark, "%s cannot be \"%s\": write %s", what, text,
           schema_words(load, words, count, " or "));
    return -1;
}

bool schema_network(struct load *load, const struct node *node, const char *what, struct cidr *ret)
{
    char shown[ADDR_TEXT_MAX];
    const char *text = schema_text(load, node, what);
    if (!text)
        return false;
    if (cidr_parse(text, strlen(text), false, ret))
        return true;
    if (cidr_parse(text, strlen(text), true, ret))
        report(load, node->mark, "%s cannot be %s: bits are set behind the prefix; write %s", what, text,
               cidr_format(ret, shown));
    else
        report(load, node->mark, "%s cannot be \"%s\": write ADDR/LEN, as 10.20.0.0/16 or \"2001:db8::/32\"",
               what, text);
    return false;
}

/* Decimal digits, at most nine of them, and what stands behind them. */
static bool read_digits(const char *text, uint64_t *ret, const char **ret_rest)
{
    uint64_t value = 0;
    size_t digits = 0;
    for (; text[digits] >= '0' && text[digits] <= '9'; digits++) {
        if (digits == 9)
            return false;
        value = value * 10 + (uint64_t)(text[digits] - '0');
    }
    *ret = value;
    *ret_rest = text + digits;
    return digits > 0 && (digits == 1 || text[0] != '0');
}

bool schema_count(struct load *load, const struct node *node, const char *what, unsigned low, unsigned high,
                  unsigned *ret)
{
    const char *text = schema_text(load, node, what), *rest;
    uint64_t value;
    if (!text)
        return false;
    if (!node->plain || !read_digits(text, &value, &rest) || *rest) {
        report(load, node->mark, "%s cannot be %s%s%s: write a whole number without quotes, from %u to %u",
               what, node->plain ? "" : "\"", text, node->plain ? "" : "\"", low, high);
        return false;
    }
    if (value < low || value > high) {
        report(load, node->mark, "%s cannot be %s: write a number from %u to %u", what, text, low, high);
        return false;
    }
    *ret = (unsigned)value;
    return true;
}

static const struct unit {
    const char *name;
    unsigned ms;
} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};

static const char *duration_text(struct load *load, unsigned ms)
{
    size_t unit = sizeof(units) / sizeof(*units) - 1;
    while (unit > 0 && ms % units[unit].ms)
        unit--;
    const char *text = arena_format(&load->arena, "%u%s", ms / units[unit].ms, units[unit].name);
    return text ? text : "?";
}

bool schema_duration(struct load *load, const struct node *node, const char *what, unsigned low_ms,
                     unsigned high_ms, unsigned *ret_ms)
{
    const char *text = schema_text(load, node, what), *rest;
    uint64_t value;
    if (!text)
        return false;
    bool number = read_digits(text, &value, &rest);
    if (number && !*rest) {
        report(load, node->mark, "%s needs a unit: write %ss, %sms or %sm", what, text, text, text);
        return false;
    }
    uint64_t ms = 0;
    for (size_t i = 0; number && i < sizeof(units) / sizeof(*units); i++)
        if (!strcmp(rest, units[i].name))
            ms = value * units[i].ms;
    if (!number || (ms == 0 && value != 0)) {
        report(load, node->mark,
               "%s cannot be \"%s\": write a whole number and its unit, as 500ms, 10s, 5m or 1h", what, text);
        return false;
    }
    if (ms < low_ms || ms > high_ms) {
        report(load, node->mark, "%s cannot be %s: write a time from %s to %s", what, text,
               duration_text(load, low_ms), duration_text(load, high_ms));
        return false;
    }
    *ret_ms = (unsigned)ms;
    return true;
}
