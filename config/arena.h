/*
 * Memory of one load: taken piece by piece, given back all at once. What a snapshot keeps is copied out of
 * it.
 */
#pragma once

#include <stddef.h>

struct arena {
    struct arena_block *blocks;
};

/* Zeroed, aligned for anything; NULL when out of memory. */
void *arena_alloc(struct arena *arena, size_t size);
/* `length` bytes and a NUL behind them; NULL when out of memory. */
char *arena_copy(struct arena *arena, const char *text, size_t length);
char *arena_format(struct arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));
void arena_finish(struct arena *arena);
