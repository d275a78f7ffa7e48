/*
 * Bytes on their way.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* [start, end) of an allocation that exists only while needed. With `capacity` 0 the bytes are borrowed: somebody else's memory,
 * to be read until the next buffer_keep() or buffer_reserve(), which make them the buffer's own. */
struct buffer {
    uint8_t *bytes;
    size_t start, end, capacity;
};
/* Room for `room` bytes behind `end`, moving what is there to the front first. 0 or -ENOMEM. */
int buffer_reserve(struct buffer *buffer, size_t room);
/* An empty buffer now reads borrowed bytes. */
void buffer_borrow(struct buffer *buffer, uint8_t *bytes, size_t length);
/* Borrowed bytes become the buffer's own, in an allocation of just their size. 0 or -ENOMEM. */
int buffer_keep(struct buffer *buffer);
void buffer_free(struct buffer *buffer);
static inline size_t buffer_length(const struct buffer *buffer)
{
    return buffer->end - buffer->start;
}
