#include "base/slab.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES 65536u

void slab_init(struct slab *slab, size_t size)
{
    size_t unit = alignof(max_align_t);
    *slab = (struct slab){.size = (size + unit - 1) / unit * unit};
}

#ifdef SALLYPORT_SANITIZED

void *slab_take(struct slab *slab)
{
    return calloc(1, slab->size);
}

void slab_give(struct slab *slab, void *object)
{
    (void)slab;
    free(object);
}

void slab_finish(struct slab *slab)
{
    (void)slab;
}

#else

static void push(void **list, void *object)
{
    *(void **)object = *list;
    *list = object;
}

static void *pop(void **list)
{
    void *object = *list;
    *list = *(void **)object;
    return object;
}

/* The first unit of a piece is its link in the list of pieces. */
static void more(struct slab *slab)
{
    size_t head = alignof(max_align_t);
    uint8_t *piece = malloc(PIECE_BYTES);
    if (!piece)
        return;
    push(&slab->pieces, piece);
    for (size_t at = head; at + slab->size <= PIECE_BYTES; at += slab->size)
        push(&slab->free, piece + at);
}

void *slab_take(struct slab *slab)
{
    if (!slab->free)
        more(slab);
    return slab->free ? memset(pop(&slab->free), 0, slab->size) : NULL;
}

void slab_give(struct slab *slab, void *object)
{
    push(&slab->free, object);
}

void slab_finish(struct slab *slab)
{
    while (slab->pieces)
        free(pop(&slab->pieces));
    slab->free = NULL;
}

#endif
