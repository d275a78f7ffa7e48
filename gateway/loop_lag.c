#include "gateway/loop_lag.h"

static void woke(uv_check_t *check)
{
    struct loop_lag *lag = check->data;
    lag->woke_ms = uv_now(check->loop);
}

static void polls(uv_prepare_t *prepare)
{
    struct loop_lag *lag = prepare->data;
    uint64_t now = uv_hrtime(), woke_ns = lag->woke_ms * 1000000;
    if (lag->woke_ms && now > woke_ns)
        metrics_observe_lag(lag->metrics, now - woke_ns);
}

void loop_lag_start(struct loop_lag *lag, uv_loop_t *loop, struct metrics_worker *metrics)
{
    lag->metrics = metrics;
    lag->woke_ms = 0;
    uv_prepare_init(loop, &lag->before_poll);
    uv_check_init(loop, &lag->after_poll);
    lag->before_poll.data = lag->after_poll.data = lag;
    uv_prepare_start(&lag->before_poll, polls);
    uv_check_start(&lag->after_poll, woke);
}

void loop_lag_stop(struct loop_lag *lag)
{
    uv_close((uv_handle_t *)&lag->before_poll, NULL);
    uv_close((uv_handle_t *)&lag->after_poll, NULL);
}
