/*
 * A pool of pipes for splice(2): a direction borrows one while it moves bulk, and gives it back empty.
 */
#pragma once

#include <stddef.h>

#define PIPES_MAX 64             /* most at a time; a direction that gets none reads and writes as usual */
#define PIPE_BYTES (1024u * 1024) /* asked for; the kernel may give less, which only costs calls */

struct pipe_pair {
    int ends[2];
    size_t filled;
    struct pipe_pair *next;
};

struct pipe_pool {
    struct pipe_pair *idle;
    unsigned existing;
};

/* An empty pipe, or NULL when the pool is at its bound or out of descriptors. */
struct pipe_pair *pipe_borrow(struct pipe_pool *pool);
/* Takes it back; one that is not empty is closed. Accepts NULL. */
void pipe_return(struct pipe_pool *pool, struct pipe_pair *pipe);
void pipe_pool_finish(struct pipe_pool *pool);
