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
#include <sys/types.h>

struct json {
    char *text;
    size_t size, used;
    bool failed;
    bool comma; /* a value was written at this depth: the next one needs a comma */
};

void json_begin(struct json *j, char *text, size_t size);

/* libjansson, with which other parts read JSON, exports some of these names as well; in object files ours are others. */
#define JSON_SYMBOL(name) __asm__("sallyport_" #name)

/* `key` is NULL inside arrays and at the top. Keys are ours, not a client's: they are not escaped. */
void json_object(struct json *j, const char *key) JSON_SYMBOL(json_object);
void json_object_end(struct json *j) JSON_SYMBOL(json_object_end);
void json_array(struct json *j, const char *key) JSON_SYMBOL(json_array);
void json_array_end(struct json *j) JSON_SYMBOL(json_array_end);
void json_string(struct json *j, const char *key, const char *text) JSON_SYMBOL(json_string);
void json_bytes(struct json *j, const char *key, const void *bytes, size_t length);
/* A text of our own that needs no escape, as keys. */
void json_constant(struct json *j, const char *key, const char *text);
void json_unsigned(struct json *j, const char *key, uint64_t value);
void json_bool(struct json *j, const char *key, bool value);

/* Length of the text (NUL-terminated, without a newline), or -ENOSPC. */
ssize_t json_end(struct json *j);
