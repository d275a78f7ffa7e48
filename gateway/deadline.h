/*
 * Timers in O(1): one queue per duration.
 *
 * Every flow waits for the same few durations (hello, connect, idle, …). Within one duration, who started
 * first expires first; so a queue is a list in order of expiry with one uv_timer_t for its head. Starting and
 * stopping are list operations, and ten thousand idle flows cost the loop nothing.
 */
#pragma once

#include "base/list.h"

#include <stdint.h>
#include <uv.h>

struct deadline {
    struct list link;
    uint64_t at; /* loop time in milliseconds */
};

struct deadline_queue {
    uv_timer_t timer;
    struct list waiting;
    uint64_t duration_ms;
    void (*expired)(struct deadline *deadline); /* the deadline is out of its queue already */
};

void deadline_queue_init(struct deadline_queue *queue, uv_loop_t *loop, uint64_t duration_ms,
                         void (*expired)(struct deadline *deadline));
/* Who waits already waits no longer than the new duration from now. */
void deadline_queue_set_duration(struct deadline_queue *queue, uint64_t duration_ms);
void deadline_queue_finish(struct deadline_queue *queue);

void deadline_init(struct deadline *deadline);
/* Moves the deadline here from whatever queue it is in; it expires one duration from now. */
void deadline_start(struct deadline_queue *queue, struct deadline *deadline);
void deadline_stop(struct deadline *deadline);
