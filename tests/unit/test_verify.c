/*
 * Unit tests of gateway/verify.c: how fast it goes about it, and what is asked once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "gateway/verify.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

struct bench {
    uv_loop_t loop;
    struct poller poller;
    struct config_snapshot *snapshot;
    struct authorities *authorities;
    struct verifier *verifier;
};

static int bench_start(void **state)
{
    static struct bench b;
    static const char text[] = "version: 1\n";
    struct config_errors errors;
    memset(&b, 0, sizeof(b));
    assert_int_equal(uv_loop_init(&b.loop), 0);
    assert_int_equal(poller_init(&b.poller, &b.loop), 0);
    assert_int_equal(config_load_text("t.yaml", text, strlen(text), &b.snapshot, &errors), 0);
    b.authorities = authorities_create(&b.snapshot);
    b.verifier = verifier_create(&b.loop, &b.poller, b.authorities, &b.snapshot);
    assert_non_null(b.verifier);
    *state = &b;
    return 0;
}

static int bench_stop(void **state)
{
    struct bench *b = *state;
    verifier_destroy(b->verifier);
    authorities_destroy(b->authorities);
    poller_finish(&b->poller);
    uv_run(&b->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&b->loop), 0);
    config_unref(b->snapshot);
    return 0;
}

static unsigned ended, wanted;
static struct poller *poller;

static void on_done(struct verify_waiter *waiter, const struct proof_result *result)
{
    (void)waiter;
    assert_false(result->proven); /* nobody serves there */
    if (++ended == wanted)
        poller_stop(poller);
}

static struct addr nobody(void)
{
    struct addr a;
    assert_true(addr_parse_with_port("127.0.0.1:1", 1, &a));
    return a;
}

static uint64_t verify_many(struct bench *b, struct verify_waiter *waiters, unsigned count, bool same)
{
    struct addr address = nobody();
    char name[32];
    poller = &b->poller;
    wanted = count;
    ended = 0;
    uv_update_time(&b->loop);
    uint64_t began = uv_now(&b->loop);
    for (unsigned i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "n%u.example", same ? 0 : i);
        verify_waiter_init(&waiters[i], on_done);
        assert_int_equal(verify_start(b->verifier, name, &address, &waiters[i]), 0);
    }
    assert_int_equal(ended, 0); /* never from inside */
    poller_run(poller);
    assert_int_equal(ended, count);
    return uv_now(&b->loop) - began;
}

static void no_more_begin_in_a_second_than_may(void **state)
{
    static struct verify_waiter waiters[VERIFY_PER_SECOND + 50];
    assert_true(verify_many(*state, waiters, VERIFY_PER_SECOND + 50, false) >= 1000 * 49 / VERIFY_PER_SECOND);
}

static void the_same_is_asked_once(void **state)
{
    static struct verify_waiter
        waiters[2 * VERIFY_WAITING_MAX]; /* more than could wait, were each a connection */
    struct bench *b = *state;
    struct addr address = nobody();
    verify_many(b, waiters, 2 * VERIFY_WAITING_MAX, true);
    const struct proof_result *known = verify_find(b->verifier, "n0.example", &address);
    assert_true(!known || !known->proven);
}

static void who_leaves_is_not_called(void **state)
{
    struct bench *b = *state;
    struct addr address = nobody();
    static struct verify_waiter gone, stays[1];
    verify_waiter_init(&gone, on_done);
    assert_int_equal(verify_start(b->verifier, "gone.example", &address, &gone), 0);
    verify_cancel(&gone);
    verify_many(b, stays, 1, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(no_more_begin_in_a_second_than_may, bench_start, bench_stop),
        cmocka_unit_test_setup_teardown(the_same_is_asked_once, bench_start, bench_stop),
        cmocka_unit_test_setup_teardown(who_leaves_is_not_called, bench_start, bench_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
