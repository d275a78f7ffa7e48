/*
 * Writes JSON text into a buffer of fixed size; never allocates, never overruns, never emits anything but valid JSON.
 *
 * Strings may hold any bytes: control characters are escaped, and bytes that are not UTF-8 come out as U+FFFD, so a
 * hostile name cannot break a log line. When the buffer is too small the writer fails as a whole (json_end returns
 * -ENOSPC): half an object is never used.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

struct json {
    char *text;
    size_t size, used;
    bool failed;
    bool comma; /* a value was written at this depth: the next one needs a comma */
};

/* A text of our own with its length, which the compiler knows where it is a literal. NULL: none. */
struct json_word {
    const char *text;
    size_t length;
};
static inline struct json_word json_word(const char *text)
{
    return (struct json_word){text, text ? strlen(text) : 0};
}

void json_begin(struct json *j, char *text, size_t size);

/* `key` is NULL inside arrays and at the top. Keys are ours, not a client's: they are not escaped. */
void json_put_open(struct json *j, struct json_word key, char bracket);
void json_put_close(struct json *j, char bracket);
void json_put_constant(struct json *j, struct json_word key, struct json_word text);
void json_put_bytes(struct json *j, struct json_word key, const void *bytes, size_t length);
void json_put_unsigned(struct json *j, struct json_word key, uint64_t value);
void json_put_bool(struct json *j, struct json_word key, bool value);
void json_put_members(struct json *j, struct json_word members);

static inline void json_object(struct json *j, const char *key)
{
    json_put_open(j, json_word(key), '{');
}
static inline void json_object_end(struct json *j)
{
    json_put_close(j, '}');
}
static inline void json_array(struct json *j, const char *key)
{
    json_put_open(j, json_word(key), '[');
}
static inline void json_array_end(struct json *j)
{
    json_put_close(j, ']');
}
static inline void json_bytes(struct json *j, const char *key, const void *bytes, size_t length)
{
    json_put_bytes(j, json_word(key), bytes, length);
}
static inline void json_string(struct json *j, const char *key, const char *text)
{
    json_put_bytes(j, json_word(key), text, strlen(text));
}
/* A text of our own that needs no escape, as keys. */
static inline void json_constant(struct json *j, const char *key, const char *text)
{
    json_put_constant(j, json_word(key), json_word(text));
}
static inline void json_unsigned(struct json *j, const char *key, uint64_t value)
{
    json_put_unsigned(j, json_word(key), value);
}
static inline void json_bool(struct json *j, const char *key, bool value)
{
    json_put_bool(j, json_word(key), value);
}
/* Members that never change, as text: "\"kind\":\"event\"". */
static inline void json_members(struct json *j, const char *members)
{
    json_put_members(j, json_word(members));
}

/* Length of the text (NUL-terminated, without a newline), or -ENOSPC. */
ssize_t json_end(struct json *j);
