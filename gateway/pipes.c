#include "gateway/pipes.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static struct pipe_pair *pipe_create(void)
{
    struct pipe_pair *pipe = calloc(1, sizeof(*pipe));
    if (!pipe)
        return NULL;
    if (pipe2(pipe->ends, O_NONBLOCK | O_CLOEXEC) < 0) {
        free(pipe);
        return NULL;
    }
    fcntl(pipe->ends[1], F_SETPIPE_SZ, PIPE_BYTES);
    return pipe;
}

static void pipe_destroy(struct pipe_pool *pool, struct pipe_pair *pipe)
{
    close(pipe->ends[0]);
    close(pipe->ends[1]);
    free(pipe);
    pool->existing--;
}

struct pipe_pair *pipe_borrow(struct pipe_pool *pool)
{
    struct pipe_pair *pipe = pool->idle;
    if (pipe) {
        pool->idle = pipe->next;
        return pipe;
    }
    if (pool->existing >= PIPES_MAX || !(pipe = pipe_create()))
        return NULL;
    pool->existing++;
    return pipe;
}

void pipe_return(struct pipe_pool *pool, struct pipe_pair *pipe)
{
    if (!pipe)
        return;
    if (pipe->filled) {
        pipe_destroy(pool, pipe);
        return;
    }
    pipe->next = pool->idle;
    pool->idle = pipe;
}

void pipe_pool_finish(struct pipe_pool *pool)
{
    while (pool->idle) {
        struct pipe_pair *pipe = pool->idle;
        pool->idle = pipe->next;
        pipe_destroy(pool, pipe);
    }
}
