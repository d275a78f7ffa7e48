/*
 * Bytes on their way.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* [start, end) of an allocation that exists only while needed. */
struct buffer {
    uint8_t *bytes;
    size_t start, end, capacity;
};
/* Room for `room` bytes behind `end`, moving what is there to the front first. 0 or -ENOMEM. */
int buffer_reserve(struct buffer *buffer, size_t room);
void buffer_free(struct buffer *buffer);
static inline size_t buffer_length(const struct buffer *buffer)
{
    return buffer->end - buffer->start;
}
