/*
 * Where a chunked body ends (RFC 9112 section 7.1), read as the strictest server would.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_chunked {
    uint64_t left;       /* of the chunk's data, or its size while that is read */
    uint32_t line_bytes; /* of a size line, or of all trailers */
    uint8_t state;
    uint8_t name_length; /* of the trailer that is read; stops at sizeof(name) */
    char name[18];
    const char *fault; /* a static sentence once a byte did not fit */
};

void http_chunked_start(struct http_chunked *chunked);
/* How many of the bytes belong to the body: all of them, or those up to its end or up to the first that is
 * wrong. */
size_t http_chunked_advance(struct http_chunked *chunked, const uint8_t *bytes, size_t length);
bool http_chunked_done(const struct http_chunked *chunked);
