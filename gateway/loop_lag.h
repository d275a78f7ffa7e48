/*
 * How long the loop is busy without looking at its sockets: the longest time that an event may have waited for its turn.
 *
 * Every turn is measured, not a sample: from the moment at which the loop woke (uv_now(), which libuv sets when poll
 * returns) to the moment before it polls again. uv_now() is in whole milliseconds, so what is told is up to one
 * millisecond too long, never too short. It costs one reading of the clock a turn.
 */
#pragma once

#include "redirect/metrics.h"

#include <uv.h>

struct loop_lag {
    uv_prepare_t before_poll;
    uv_check_t after_poll;
    struct metrics_worker *metrics;
    uint64_t woke_ms; /* 0: the first turn */
};

/* Start it before other uv_prepare handles: libuv calls the one started first last. */
void loop_lag_start(struct loop_lag *lag, uv_loop_t *loop, struct metrics_worker *metrics);
/* Closes the handles; the loop must run once more. */
void loop_lag_stop(struct loop_lag *lag);
