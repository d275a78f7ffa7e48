#include "gateway/buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_FIRST 4096
#define SPARE_MAX 64

/* Almost every buffer lives for a moment at its first size. Kept for the next one, they do not tear holes into the heap between
 * what lives long: the flows. */
static _Thread_local uint8_t *spare[SPARE_MAX];
static _Thread_local unsigned spares;

static uint8_t *grow(struct buffer *buffer, size_t capacity)
{
    if (!buffer->bytes && capacity == BUFFER_FIRST && spares)
        return spare[--spares];
    return realloc(buffer->bytes, capacity);
}

void buffer_borrow(struct buffer *buffer, uint8_t *bytes, size_t length)
{
    *buffer = (struct buffer){.bytes = bytes, .end = length};
}

int buffer_keep(struct buffer *buffer)
{
    size_t length = buffer_length(buffer);
    if (buffer->capacity || !buffer->bytes)
        return 0;
    uint8_t *own = malloc(length ? length : 1);
    if (!own)
        return -ENOMEM;
    memcpy(own, buffer->bytes + buffer->start, length);
    *buffer = (struct buffer){.bytes = own, .end = length, .capacity = length ? length : 1};
    return 0;
}

int buffer_reserve(struct buffer *buffer, size_t room)
{
    size_t length = buffer_length(buffer);
    if (buffer_keep(buffer) < 0)
        return -ENOMEM;
    if (buffer->capacity - buffer->end >= room)
        return 0;
    if (buffer->start > 0) {
        memmove(buffer->bytes, buffer->bytes + buffer->start, length);
        buffer->start = 0;
        buffer->end = length;
    }
    if (buffer->capacity - buffer->end >= room)
        return 0;
    size_t capacity = buffer->capacity > BUFFER_FIRST ? buffer->capacity : BUFFER_FIRST;
    while (capacity - length < room)
        capacity *= 2;
    uint8_t *bytes = grow(buffer, capacity);
    if (!bytes)
        return -ENOMEM;
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    return 0;
}

void buffer_free(struct buffer *buffer)
{
    if (buffer->capacity == BUFFER_FIRST && spares < SPARE_MAX)
        spare[spares++] = buffer->bytes;
    else if (buffer->capacity)
        free(buffer->bytes);
    *buffer = (struct buffer){0};
}
