/*
 * Objects of one size, many and long-lived: taken from pieces of memory that hold nothing else, so that what lives for a moment
 * does not tear holes between them. What was given back is the next to be taken; pieces go back to the system at the end only.
 *
 * For one thread. In sanitized builds every object is an allocation of its own, so that its use after its end is seen.
 */
#pragma once

#include <stddef.h>

struct slab {
    size_t size;         /* of an object */
    void *pieces, *free; /* lists through their first word */
};

void slab_init(struct slab *slab, size_t size);
/* Zeroed; NULL when out of memory. */
void *slab_take(struct slab *slab);
void slab_give(struct slab *slab, void *object);
/* Every object must have been given back. */
void slab_finish(struct slab *slab);
