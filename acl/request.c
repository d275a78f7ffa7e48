#include "acl/request.h"

#include <string.h>

static const struct {
    const char *name;
    size_t length;
} methods[] = {{"GET", 3},      {"HEAD", 4},      {"POST", 4},   {"PUT", 3},   {"DELETE", 6}, {"PATCH", 5},
               {"OPTIONS", 7},  {"TRACE", 5},     {"REPORT", 6}, {"COPY", 4},  {"MOVE", 4},   {"LOCK", 4},
               {"PROPFIND", 8}, {"PROPPATCH", 9}, {"MKCOL", 5},  {"UNLOCK", 6}};
_Static_assert(sizeof(methods) / sizeof(*methods) == 16, "a bit each");

uint16_t acl_method_bit(const char *name, size_t length)
{
    for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++)
        if (length == methods[i].length && !memcmp(name, methods[i].name, length))
            return (uint16_t)(1u << i);
    return 0;
}

const char *acl_method_names(void)
{
    return "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS, TRACE, or of WebDAV PROPFIND, PROPPATCH, MKCOL, "
           "COPY, "
           "MOVE, LOCK, UNLOCK, REPORT";
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
        return (c | 0x20) - 'a' + 10;
    return -1;
}

/* The byte that "%XX" at `at` stands for, -1 for no escape. */
static int escaped_byte(const char *at, const char *end)
{
    if (end - at < 3 || hex_value(at[1]) < 0 || hex_value(at[2]) < 0)
        return -1;
    return hex_value(at[1]) << 4 | hex_value(at[2]);
}

/* What an escaped byte makes of the path: NULL when it may stay. */
static const char *judge_escape(int byte)
{
    if (byte < 0)
        return "a \"%\" in the path encodes nothing";
    if (byte == '/' || byte == '\\')
        return "an encoded slash in the path";
    if (byte < 0x20 || byte == 0x7f)
        return "an encoded control character in the path";
    return NULL;
}

/* Asked of the normal form: the digits behind an encoded "%" may have been encoded themselves, as in %25%32%66. */
static const char *judge_twice(const char *path, size_t length)
{
    for (const char *at = path; (at = memchr(at, '%', length - (size_t)(at - path))); at++)
        if (escaped_byte(at, path + length) == '%' && length - (size_t)(at - path) >= 5 &&
            hex_value(at[3]) >= 0 && hex_value(at[4]) >= 0)
            return "the path is encoded twice";
    return NULL;
}

static const char *judge_byte(char c)
{
    if (c == '\\')
        return "a backslash in the path";
    if (c == ';')
        return "a \";\" in the path";
    if (c <= ' ' || c >= 0x7f)
        return "a byte in the path that no path has";
    return NULL;
}

/* Printable characters stand for themselves, but for those that would mean something else then. */
static bool stays_escaped(int byte)
{
    return byte <= ' ' || byte >= 0x7f || strchr("%?#;", byte) != NULL;
}

/* "", "." or "..": names[start..end) between two slashes, or behind the last when `last`. */
static const char *judge_segment(const char *segment, size_t length, bool last)
{
    if (length == 0 && !last)
        return "two slashes together in the path";
    if ((length == 1 && segment[0] == '.') || (length == 2 && segment[0] == '.' && segment[1] == '.'))
        return "a dot segment in the path";
    return NULL;
}

static const char *judge_segments(const char *path, size_t length)
{
    const char *why = NULL;
    for (size_t start = 1; start <= length && !why;) {
        const char *slash = start < length ? memchr(path + start, '/', length - start) : NULL;
        size_t end = slash ? (size_t)(slash - path) : length;
        why = judge_segment(path + start, end - start, !slash);
        start = end + 1;
    }
    return why;
}

static size_t put_escape(char *to, int byte)
{
    static const char digits[] = "0123456789ABCDEF";
    if (!stays_escaped(byte)) {
        *to = (char)byte;
        return 1;
    }
    to[0] = '%';
    to[1] = digits[byte >> 4];
    to[2] = digits[byte & 15];
    return 3;
}

const char *acl_path_normalise(const char *target, size_t length, char ret[ACL_PATH_MAX + 1],
                               size_t *ret_length)
{
    char path[ACL_PATH_MAX + 1];
    size_t used = 0;
    const char *query = length ? memchr(target, '?', length) : NULL;
    const char *end = query ? query : target + length, *why = NULL;
    if (target == end || *target != '/')
        return "the target is no path";
    for (const char *at = target; at < end && !why; at++) {
        if (used + 3 > ACL_PATH_MAX)
            return "the path is longer than 2048 bytes";
        if (*at == '%') {
            int byte = escaped_byte(at, end);
            why = judge_escape(byte);
            used += why ? 0 : put_escape(path + used, byte);
            at += why ? 0 : 2;
        } else {
            why = judge_byte(*at);
            path[used++] = *at;
        }
    }
    if (!why)
        why = judge_twice(path, used);
    if (!why)
        why = judge_segments(path, used);
    if (why)
        return why;
    memcpy(ret, path, used);
    ret[used] = 0;
    *ret_length = used;
    return NULL;
}

bool acl_path_matches(const char *pattern, size_t pattern_length, const char *path, size_t length)
{
    size_t at = 0;
    for (size_t p = 0; p < pattern_length; p++) {
        if (pattern[p] != '*') {
            if (at == length || path[at++] != pattern[p])
                return false;
            continue;
        }
        if (p + 1 == pattern_length)
            return true;
        size_t start = at;
        while (at < length && path[at] != '/')
            at++;
        if (at == start)
            return false;
    }
    return at == length;
}
