#include "gateway/loop_lag.h"

#include <uv.h>

void loop_lag_observe(struct metrics_worker *metrics, uint64_t woke_ms)
{
    uint64_t now = uv_hrtime(), woke_ns = woke_ms * 1000000;
    if (now > woke_ns)
        metrics_observe_lag(metrics, now - woke_ns);
}
