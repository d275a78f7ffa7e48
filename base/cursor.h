/*
 * A bounds-checked reader over bytes that an attacker chose.
 *
 * Every read is checked; the first one that would run past the end sets `failed`, and from then on every read
 * returns 0 / NULL and consumes nothing. So a parser reads a whole structure and asks cursor_ok() once.
 * One cursor per enclosing length: cursor_sub() carves a child out of its parent.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cursor {
    const uint8_t *at;
    size_t left;
    bool failed;
};

static inline struct cursor cursor_over(const void *bytes, size_t length)
{
    return (struct cursor){.at = bytes, .left = length};
}

static inline bool cursor_ok(const struct cursor *c)
{
    return !c->failed;
}

/* True when everything was read and nothing failed: a length that lies leaves bytes over. */
static inline bool cursor_done(const struct cursor *c)
{
    return !c->failed && c->left == 0;
}

/* The next `n` bytes, or NULL when there are fewer (sticky). They stay owned by whoever owns the buffer. */
static inline const uint8_t *cursor_take(struct cursor *c, size_t n)
{
    if (c->failed || n > c->left) {
        c->failed = true;
        return NULL;
    }
    const uint8_t *p = c->at;
    c->at += n;
    c->left -= n;
    return p;
}

static inline uint8_t cursor_u8(struct cursor *c)
{
    const uint8_t *p = cursor_take(c, 1);
    return p ? p[0] : 0;
}

static inline uint16_t cursor_u16(struct cursor *c)
{
    const uint8_t *p = cursor_take(c, 2);
    return p ? (uint16_t)(p[0] << 8 | p[1]) : 0;
}

static inline uint32_t cursor_u24(struct cursor *c)
{
    const uint8_t *p = cursor_take(c, 3);
    return p ? (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2] : 0;
}

static inline uint32_t cursor_u32(struct cursor *c)
{
    const uint8_t *p = cursor_take(c, 4);
    return p ? (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3] : 0;
}

/* A child over the next `n` bytes; failed (and empty) when there are fewer, and the parent fails with it. */
static inline struct cursor cursor_sub(struct cursor *c, size_t n)
{
    const uint8_t *p = cursor_take(c, n);
    return (struct cursor){.at = p, .left = p ? n : 0, .failed = p == NULL};
}
