/* Unit tests of redirect/monitor/metrics.c: the page is shared with children, and its text is OpenMetrics that adds up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "redirect/monitor/metrics.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS 1000000ull

static int make(void **state)
{
    *state = metrics_create();
    return *state ? 0 : -1;
}

static int drop(void **state)
{
    metrics_destroy(*state);
    return 0;
}

static char *render(const struct metrics *metrics)
{
    size_t length;
    char *text = metrics_render(metrics, false, &length);
    assert_non_null(text);
    assert_int_equal(length, strlen(text));
    return text;
}

/* Is this a whole line of the text? */
static void assert_line(const struct metrics *metrics, const char *line)
{
    char *text = render(metrics), wanted[256];
    snprintf(wanted, sizeof(wanted), "\n%s\n", line);
    if (!strstr(text, wanted))
        fail_msg("no line \"%s\" in\n%s", line, text);
    free(text);
}

static void assert_no(const struct metrics *metrics, const char *piece)
{
    char *text = render(metrics);
    if (strstr(text, piece))
        fail_msg("\"%s\" in\n%s", piece, text);
    free(text);
}

static void test_slots_are_added_up(void **state)
{
    struct metrics *m = *state;
    metric_set(&m->used, METRICS_WORKERS);
    metric_add(&m->workers[0].flows, 3);
    metric_add(&m->workers[METRICS_WORKERS - 1].flows, 4);
    assert_line(m, "sallyport_flows_total 7");
    metric_add(&m->workers[0].bytes_up, 10);
    metric_add(&m->workers[1].bytes_down, 20);
    assert_line(m, "sallyport_transferred_bytes_total{direction=\"up\"} 10");
    assert_line(m, "sallyport_transferred_bytes_total{direction=\"down\"} 20");
}

static void test_maxima_are_not_added_up(void **state)
{
    struct metrics *m = *state;
    metric_set(&m->used, 2);
    metrics_observe_lag(&m->workers[0], 3 * MS);
    metrics_observe_lag(&m->workers[1], 7 * MS);
    metrics_observe_lag(&m->workers[1], 2 * MS);
    assert_line(m, "sallyport_loop_lag_max_seconds 0.007000000");
    assert_line(m, "sallyport_loop_lag_seconds_count 3");
}

static void test_decisions_say_what_was_decided_and_why(void **state)
{
    struct metrics *m = *state;
    metric_add(&m->workers[0].decisions[METRICS_TLS][METRICS_DENIED][ACL_NO_SNI], 2);
    metric_add(&m->workers[0].decisions[METRICS_DNS][METRICS_WOULD_DENY][ACL_PATH_DENIED], 1);
    assert_line(m, "sallyport_decisions_total{protocol=\"tls\",decision=\"denied\",reason=\"no_sni\"} 2");
    assert_line(m, "sallyport_decisions_total{protocol=\"dns\",decision=\"would_deny\",reason=\"path_denied\"} 1");
    assert_line(m, "sallyport_decisions_total{protocol=\"tls\",decision=\"allowed\",reason=\"rule_allow\"} 0");
    assert_no(m, "reason=\"loop\"");
}

static void test_buckets_are_cumulated_and_their_bounds_belong_to_them(void **state)
{
    struct metrics *m = *state;
    metrics_observe_lag(&m->workers[0], 0);
    metrics_observe_lag(&m->workers[0], 1 * MS);
    metrics_observe_lag(&m->workers[0], 1 * MS + 1);
    metrics_observe_lag(&m->workers[0], 60000 * MS);
    assert_line(m, "sallyport_loop_lag_seconds_bucket{le=\"0.001\"} 2");
    assert_line(m, "sallyport_loop_lag_seconds_bucket{le=\"0.002\"} 3");
    assert_line(m, "sallyport_loop_lag_seconds_bucket{le=\"5.0\"} 3");
    assert_line(m, "sallyport_loop_lag_seconds_bucket{le=\"+Inf\"} 4");
    assert_line(m, "sallyport_loop_lag_seconds_count 4");
    assert_line(m, "sallyport_loop_lag_seconds_sum 60.002000001");
}

static void test_errors_of_origins_have_a_word(void **state)
{
    static const struct {
        int error;
        const char *word;
    } known[] = {{ECONNREFUSED, "refused"}, {EHOSTUNREACH, "unreachable"}, {ENETUNREACH, "unreachable"}, {ECONNRESET, "reset"},
                 {ETIMEDOUT, "timeout"},    {EPROTO, "other"}};
    struct metrics *m = *state;
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        char line[128], *text = render(m);
        snprintf(line, sizeof(line), "sallyport_upstream_errors_total{error=\"%s\"} ", known[i].word);
        unsigned long before = strtoul(strstr(text, line) + strlen(line), NULL, 10);
        free(text);
        metrics_upstream_failed(&m->workers[0], -known[i].error);
        snprintf(line + strlen(line), 16, "%lu", before + 1);
        assert_line(m, line);
    }
}

static void test_a_new_worker_keeps_counters_and_starts_gauges_anew(void **state)
{
    struct metrics *m = *state;
    struct metrics_worker *w = &m->workers[0];
    metric_add(&w->flows, 5);
    metric_set(&w->flows_active, 5);
    metric_set(&w->audit_failing, 1);
    metrics_observe_lag(w, 9 * MS);
    metrics_worker_start(w);
    assert_line(m, "sallyport_flows_total 5");
    assert_line(m, "sallyport_flows_active 0");
    assert_line(m, "sallyport_audit_failing 0");
    assert_line(m, "sallyport_loop_lag_max_seconds 0.000000000");
    assert_line(m, "sallyport_loop_lag_seconds_count 1");
}

static void test_a_child_counts_in_the_same_page(void **state)
{
    struct metrics *m = *state;
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        metric_add(&m->workers[0].dns_cache_hits, 11);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_line(m, "sallyport_dns_cache_hits_total 11");
}

/* As the gateway that takes another's place does it, in a process of its own. */
static void take_over(int fd, bool same_form)
{
    struct metrics *mine = metrics_create();
    metric_add(&mine->workers[0].flows, 1000);
    if (metrics_adopt(mine, fd) != same_form)
        _exit(1);
    if (!same_form)
        _exit(metric_get(&mine->workers[0].flows) == 1000 && metrics_worker_slot(mine, 0) == &mine->workers[0] ? 0 : 2);
    struct metrics_worker *slot = metrics_worker_slot(mine, 0);
    if (slot != &mine->workers[1] || metric_get(&mine->workers[0].flows) != 5)
        _exit(3);
    metric_add(&slot->flows, 2);
    metric_set(&slot->flows_active, 2);
    _exit(0);
}

static int in_a_child(int fd, bool same_form)
{
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        take_over(fd, same_form);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void test_another_gateway_takes_the_page_over(void **state)
{
    struct metrics *m = *state;
    metric_add(&m->workers[0].flows, 5);
    metric_set(&m->workers[0].flows_active, 1);
    assert_int_equal(in_a_child(metrics_descriptor(), true), 0);
    assert_line(m, "sallyport_flows_total 7");
    assert_line(m, "sallyport_flows_active 3");
    metrics_elders_gone(m); /* the slot is the child's now, so it is the first worker's that is empty */
    assert_line(m, "sallyport_flows_total 7");
    assert_line(m, "sallyport_flows_active 2");
    metrics_detach(m);
    metric_add(&m->workers[0].flows, 100); /* seen by nobody */
    assert_line(m, "sallyport_flows_total 100");
}

static void test_each_worker_has_a_slot(void **state)
{
    struct metrics *m = *state;
    metric_set(&m->worker_count, 3);
    for (unsigned i = 0; i < 3; i++) {
        struct metrics_worker *slot = metrics_worker_slot(m, i);
        metric_add(&slot->flows, i + 1);
        metric_set(&slot->flows_active, i + 1);
    }
    assert_line(m, "sallyport_flows_total 6");
    assert_line(m, "sallyport_workers 3");
    assert_int_equal(metrics_flows_active(m), 6);
    assert_ptr_not_equal(metrics_worker_slot(m, 0), metrics_worker_slot(m, 2));
    metrics_elders_gone(m); /* there are none: ours keep what they have */
    assert_int_equal(metrics_flows_active(m), 6);
    metric_set(&m->first, METRICS_WORKERS - 1); /* as after so many changes of hands: a ring */
    assert_ptr_equal(metrics_worker_slot(m, 1), &m->workers[0]);
    metrics_elders_gone(m);
    assert_int_equal(metrics_flows_active(m), 1 + 2); /* the slots 0 and 1 are ours, 2 is not any more */
}

static void test_a_page_of_another_form_is_not_taken(void **state)
{
    struct metrics *m = *state;
    int fds[2];
    metric_set(&m->form, METRICS_FORM + ((uint64_t)1 << 32));
    assert_int_equal(in_a_child(metrics_descriptor(), false), 0);
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(in_a_child(fds[0], false), 0);
    close(fds[0]);
    close(fds[1]);
}

static bool is_name(const char *text, size_t length)
{
    return length > 10 && !strncmp(text, "sallyport_", 10) && strspn(text, "abcdefghijklmnopqrstuvwxyz_") == length;
}

/* The grammar, as far as it concerns us: every sample belongs to the family that was declared last, counters end in _total,
 * and nothing is declared twice. */
static void test_the_text_is_well_formed(void **state)
{
    char declared[128] = "", type[32] = "", seen[8192] = "\n", *text = render(*state), *rest = text;
    assert_non_null(strstr(text, "\n# EOF\n"));
    assert_string_equal(strstr(text, "# EOF\n"), "# EOF\n");
    for (char *line; (line = strsep(&rest, "\n")) && *line;) {
        if (!strncmp(line, "# TYPE ", 7)) {
            char mark[140];
            assert_int_equal(sscanf(line, "# TYPE %127s %31s", declared, type), 2);
            assert_true(is_name(declared, strlen(declared)));
            snprintf(mark, sizeof(mark), "\n%s\n", declared);
            assert_null(strstr(seen, mark));
            strcat(seen, mark + 1);
            continue;
        }
        if (!strncmp(line, "# UNIT ", 7)) { /* the name has to end in it */
            const char *unit = strrchr(line, ' ') + 1;
            assert_string_equal(declared + strlen(declared) - strlen(unit), unit);
        }
        if (*line == '#') {
            assert_true(!strcmp(line, "# EOF") || !strncmp(line + 7, declared, strlen(declared)));
            continue;
        }
        size_t length = strcspn(line, "{ ");
        assert_true(is_name(line, length));
        assert_memory_equal(line, declared, strlen(declared));
        const char *suffix = line + strlen(declared);
        if (!strcmp(type, "counter"))
            assert_memory_equal(suffix, "_total", 6);
        else if (!strcmp(type, "gauge"))
            assert_true(*suffix == ' ' || *suffix == '{');
        else
            assert_true(!strncmp(suffix, "_bucket{le=\"", 12) || !strncmp(suffix, "_sum ", 5) || !strncmp(suffix, "_count ", 7));
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_slots_are_added_up, make, drop),
        cmocka_unit_test_setup_teardown(test_maxima_are_not_added_up, make, drop),
        cmocka_unit_test_setup_teardown(test_decisions_say_what_was_decided_and_why, make, drop),
        cmocka_unit_test_setup_teardown(test_buckets_are_cumulated_and_their_bounds_belong_to_them, make, drop),
        cmocka_unit_test_setup_teardown(test_errors_of_origins_have_a_word, make, drop),
        cmocka_unit_test_setup_teardown(test_a_new_worker_keeps_counters_and_starts_gauges_anew, make, drop),
        cmocka_unit_test_setup_teardown(test_a_child_counts_in_the_same_page, make, drop),
        cmocka_unit_test_setup_teardown(test_another_gateway_takes_the_page_over, make, drop),
        cmocka_unit_test_setup_teardown(test_each_worker_has_a_slot, make, drop),
        cmocka_unit_test_setup_teardown(test_a_page_of_another_form_is_not_taken, make, drop),
        cmocka_unit_test_setup_teardown(test_the_text_is_well_formed, make, drop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
