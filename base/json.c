#include "base/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static inline void put(struct json *j, const char *text, size_t length)
{
    if (j->failed || length >= j->size - j->used) {
        j->failed = true;
        return;
    }
    memcpy(j->text + j->used, text, length);
    j->used += length;
}

static void put_text(struct json *j, const char *text)
{
    put(j, text, strlen(text));
}

static void open_value(struct json *j, struct json_word key)
{
    if (key.length + 4 >= j->size - j->used) { /* comma, quotes, colon */
        j->failed = true;
        return;
    }
    char *at = j->text + j->used;
    if (j->comma)
        *at++ = ',';
    if (key.text) {
        *at++ = '"';
        at = (char *)memcpy(at, key.text, key.length) + key.length;
        *at++ = '"';
        *at++ = ':';
    }
    j->used = (size_t)(at - j->text);
    j->comma = true;
}

/* Length of the well-formed UTF-8 sequence at `s` (Unicode 15, table 3-7), 0 when there is none. */
static size_t utf8_sequence(const uint8_t *s, size_t left)
{
    uint8_t low = 0x80, high = 0xbf;
    size_t length;
    if (s[0] >= 0xc2 && s[0] <= 0xdf)
        length = 2;
    else if ((s[0] & 0xf0) == 0xe0)
        length = 3;
    else if (s[0] >= 0xf0 && s[0] <= 0xf4)
        length = 4;
    else
        return 0;
    if (s[0] == 0xe0)
        low = 0xa0;
    else if (s[0] == 0xed)
        high = 0x9f;
    else if (s[0] == 0xf0)
        low = 0x90;
    else if (s[0] == 0xf4)
        high = 0x8f;
    if (left < length || s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return length;
}

/* Bytes that stand for themselves: printable ASCII but the quote and the backslash. */
static const bool plain[256] = {[0x20 ... 0x21] = true, [0x23 ... 0x5b] = true, [0x5d ... 0x7e] = true};

/* Is one of these eight bytes not plain? The usual arithmetic on all of them at once: a byte that is zero (or below n) borrows
 * from its top bit; a quote or backslash is zero after xor. May say yes for no reason, never no. */
static bool eight_not_plain(const uint8_t *s)
{
    const uint64_t ones = 0x0101010101010101, tops = 0x8080808080808080;
    uint64_t eight;
    memcpy(&eight, s, sizeof(eight));
    uint64_t quote = eight ^ ones * '"', backslash = eight ^ ones * '\\';
    uint64_t below_space = eight - ones * 0x20, delete_or_more = eight + ones;
    return ((below_space | delete_or_more | (quote - ones) | (backslash - ones) | eight) & tops) != 0;
}

static void put_escaped(struct json *j, const uint8_t *s, size_t length)
{
    char escape[8];
    for (size_t i = 0; i < length;) {
        size_t run = i;
        while (run + 8 <= length && !eight_not_plain(s + run))
            run += 8;
        while (run < length && plain[s[run]])
            run++;
        put(j, (const char *)s + i, run - i);
        i = run;
        if (i == length)
            break;
        size_t sequence = utf8_sequence(s + i, length - i);
        if (sequence) {
            put(j, (const char *)s + i, sequence);
            i += sequence;
        } else if (s[i] >= 0x80) {
            put_text(j, "\\ufffd");
            i++;
        } else {
            if (s[i] == '"' || s[i] == '\\')
                snprintf(escape, sizeof(escape), "\\%c", s[i]);
            else
                snprintf(escape, sizeof(escape), "\\u%04x", s[i]);
            put_text(j, escape);
            i++;
        }
    }
}

void json_begin(struct json *j, char *text, size_t size)
{
    *j = (struct json){.text = text, .size = size, .failed = size == 0};
}

void json_put_open(struct json *j, struct json_word key, char bracket)
{
    open_value(j, key);
    put(j, &bracket, 1);
    j->comma = false;
}

void json_put_close(struct json *j, char bracket)
{
    put(j, &bracket, 1);
    j->comma = true;
}

void json_put_bytes(struct json *j, struct json_word key, const void *bytes, size_t length)
{
    open_value(j, key);
    put(j, "\"", 1);
    put_escaped(j, bytes, length);
    put(j, "\"", 1);
}

void json_put_constant(struct json *j, struct json_word key, struct json_word text)
{
    open_value(j, key);
    if (j->failed || text.length + 2 >= j->size - j->used) {
        j->failed = true;
        return;
    }
    char *at = j->text + j->used;
    *at++ = '"';
    at = (char *)memcpy(at, text.text, text.length) + text.length;
    *at = '"';
    j->used += text.length + 2;
}

void json_put_unsigned(struct json *j, struct json_word key, uint64_t value)
{
    char digits[20], *at = digits + sizeof(digits);
    open_value(j, key);
    do
        *--at = (char)('0' + value % 10);
    while (value /= 10);
    put(j, at, (size_t)(digits + sizeof(digits) - at));
}

void json_put_bool(struct json *j, struct json_word key, bool value)
{
    open_value(j, key);
    put_text(j, value ? "true" : "false");
}

void json_put_members(struct json *j, struct json_word members)
{
    open_value(j, (struct json_word){0});
    put(j, members.text, members.length);
}

ssize_t json_end(struct json *j)
{
    if (j->failed)
        return -ENOSPC;
    j->text[j->used] = 0;
    return (ssize_t)j->used;
}
