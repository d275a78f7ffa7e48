/*
 * How long the loop is busy without looking at its sockets: the longest time that an event may have waited for its turn.
 *
 * Every turn is measured, not a sample: from the moment at which the loop woke (uv_now()) to the moment before it polls again.
 * uv_now() is in whole milliseconds, so what is told is up to one millisecond too long, never too short. It costs one reading of the
 * clock a turn.
 */
#pragma once

#include "redirect/monitor/metrics.h"

/* At the end of a turn; `woke_ms` is when it began. */
void loop_lag_observe(struct metrics_worker *metrics, uint64_t woke_ms);
