/* Unit tests of gateway/loop_lag.c, driven by gateway/poller.c: a turn that is long is told, wherever in the turn the time went; waiting is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "gateway/loop_lag.h"
#include "gateway/poller.h"

#include <string.h>
#include <time.h>

#define MS 1000000ull

static struct metrics_worker counted;
static uv_loop_t loop;
static struct poller poller;

static uint64_t turns(void)
{
    uint64_t sum = 0;
    for (size_t i = 0; i <= METRICS_BUCKETS_MAX; i++)
        sum += metric_get(&counted.lag.buckets[i]);
    return sum;
}

static void turned(void *arg)
{
    (void)arg;
    loop_lag_observe(&counted, poller.woke_ms);
}

static int start(void **state)
{
    (void)state;
    memset(&counted, 0, sizeof(counted));
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(poller_init(&poller, &loop), 0);
    poller.turned = turned;
    return 0;
}

static int stop(void **state)
{
    (void)state;
    poller_finish(&poller);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop);
}

static void sleep_20_ms(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 20 * (long)MS}, NULL);
}

static void in_a_timer(uv_timer_t *timer)
{
    sleep_20_ms();
    uv_close((uv_handle_t *)timer, NULL);
}

static void in_an_event(uv_async_t *async)
{
    sleep_20_ms();
    uv_close((uv_handle_t *)async, NULL);
}

static void end(uv_timer_t *timer)
{
    uv_close((uv_handle_t *)timer, NULL);
    poller_stop(&poller);
}

static void run_for(uint64_t ms)
{
    uv_timer_t timer;
    uv_timer_init(&loop, &timer);
    uv_timer_start(&timer, end, ms, 0);
    poller_run(&poller);
}

static void assert_one_long_turn(void)
{
    assert_true(metric_get(&counted.lag_max_ns) >= 20 * MS);
    assert_true(metric_get(&counted.lag.sum_ns) >= 20 * MS);
    assert_true(turns() >= 2);
}

static void a_long_event_is_told(void **state)
{
    uv_async_t async;
    (void)state;
    uv_async_init(&loop, &async, in_an_event);
    uv_async_send(&async);
    run_for(50);
    assert_one_long_turn();
}

static void a_long_timer_is_told(void **state)
{
    uv_timer_t timer;
    (void)state;
    uv_timer_init(&loop, &timer);
    uv_timer_start(&timer, in_a_timer, 5, 0);
    run_for(50);
    assert_one_long_turn();
}

/* Two hundred milliseconds without anything to do: the turns are counted, and their sum is not that long. */
static void waiting_is_no_lag(void **state)
{
    (void)state;
    uint64_t before = uv_hrtime();
    run_for(200);
    uint64_t passed = uv_hrtime() - before;
    assert_true(turns() >= 1);
    assert_true(metric_get(&counted.lag.sum_ns) + 50 * MS < passed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_long_event_is_told, start, stop),
        cmocka_unit_test_setup_teardown(a_long_timer_is_told, start, stop),
        cmocka_unit_test_setup_teardown(waiting_is_no_lag, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
