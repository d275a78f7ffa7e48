/*
 * gateway/forwarder.c, dns_watch.c: one name server on loopback in the same loop, that counts what it is
 * asked and answers by the first label of the name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/fds.h"
#include "gateway/dns_watch.h"
#include "gateway/forwarder.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static const char config_text[] =
    "version: 1\n"
    "gateway: {hosts: {db: 10.0.0.5, both.example: [192.0.2.1, \"2001:db8::1\", 192.0.2.2]}}\n";

struct bench {
    uv_loop_t loop;
    struct poller poller;
    struct poll_handle server;
    struct resolver resolver;
    struct config_snapshot *snapshot;
    struct forwarder *forwarder;
    unsigned questions;
    bool silent;
};

static size_t put_bytes(uint8_t *to, size_t at, const void *bytes, size_t length)
{
    memcpy(to + at, bytes, length);
    return at + length;
}

/* The answer to the question in `message`, by the first letters of its name:
 *   a…   one address, TTL 60          z…   one address, TTL 0
 *   g…   NXDOMAIN, SOA minimum 60     n…   NXDOMAIN without SOA
 *   f…   an address of another name   o…   only IPv4: silence about AAAA */
static size_t server_answer(uint8_t *m, size_t length)
{
    static const uint8_t address[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7};
    static const uint8_t address6[] = {0xc0, 12,   0, 28, 0, 1, 0, 0, 0, 60, 0, 16, 0x20, 1,
                                       0xd,  0xb8, 0, 0,  0, 0, 0, 0, 0, 0,  0, 0,  0,    9};
    static const uint8_t soa[] = {0, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0, 0, 0, 0, 1,
                                  0, 0, 0, 1, 0, 0, 0, 1, 0,  0, 0,  1, 0, 0, 0, 60};
    char kind = (char)(m[13] | 0x20);
    bool v6 = m[length - DNS_OPT_LENGTH - 3] == 28;
    size_t at = length - DNS_OPT_LENGTH;
    m[2] = 0x84;
    m[3] = 0x80;
    m[11] = 0;
    if (kind == 'g' || kind == 'n') {
        m[3] |= DNS_NXDOMAIN;
        m[9] = kind == 'g';
        return kind == 'g' ? put_bytes(m, at, soa, sizeof(soa)) : at;
    }
    if (kind == 'o' && v6)
        return 0;
    m[7] = 1;
    size_t record = at;
    at = v6 ? put_bytes(m, at, address6, sizeof(address6)) : put_bytes(m, at, address, sizeof(address));
    if (kind == 'z')
        m[record + 9] = 0;
    if (kind == 'f')
        m[record + 1] = (uint8_t)(12 + 1 + m[12]); /* owner: the name without its first label */
    return at;
}

static void on_question(struct poll_handle *handle, uint32_t events)
{
    struct bench *b = list_entry(handle, struct bench, server);
    uint8_t message[512];
    struct sockaddr_storage peer;
    (void)events;
    for (;;) {
        socklen_t size = sizeof(peer);
        ssize_t got = recvfrom(handle->fd, message, 400, MSG_DONTWAIT, (struct sockaddr *)&peer, &size);
        if (got < 0)
            return;
        b->questions++;
        size_t length = b->silent ? 0 : server_answer(message, (size_t)got);
        if (length)
            sendto(handle->fd, message, length, 0, (struct sockaddr *)&peer, size);
    }
}

static int bench_start(void **state)
{
    static struct bench bench;
    struct bench *b = *state = &bench;
    struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(local);
    struct config_errors errors;
    struct config_resolver address = {0};
    memset(b, 0, sizeof(*b));
    assert_int_equal(uv_loop_init(&b->loop), 0);
    assert_int_equal(poller_init(&b->poller, &b->loop), 0);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&local, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&local, &size), 0);
    addr_from_sockaddr((struct sockaddr *)&local, &address.address);
    poll_handle_init(&b->server, on_question);
    assert_int_equal(poller_add(&b->poller, &b->server, fd), 0);
    resolver_init(&b->resolver, &b->loop, &b->poller, NULL, &address, 1);
    b->resolver.timeouts.duration_ms = 100; /* no need to wait for real */
    assert_int_equal(config_load_text("t.yaml", config_text, strlen(config_text), &b->snapshot, &errors), 0);
    b->forwarder = forwarder_create(&b->loop, &b->poller, &b->resolver, &b->snapshot);
    assert_non_null(b->forwarder);
    return 0;
}

static int bench_stop(void **state)
{
    struct bench *b = *state;
    int fd = b->server.fd;
    forwarder_destroy(b->forwarder);
    resolver_finish(&b->resolver);
    poller_remove(&b->poller, &b->server);
    fd_close(&fd);
    poller_finish(&b->poller);
    uv_run(&b->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&b->loop), 0);
    config_unref(b->snapshot);
    return 0;
}

/* ---- one question ---- */

struct asked {
    struct forwarder_waiter waiter;
    struct bench *bench;
    unsigned calls;
    int status, rcode;
    bool lies, at_once;
    uint32_t ttl, age;
    size_t addresses;
};

static void note(struct asked *asked, const struct forwarder_answer *answer)
{
    asked->calls++;
    asked->status = answer->status;
    asked->lies = answer->lies;
    asked->rcode = answer->rcode;
    asked->ttl = answer->ttl;
    asked->age = answer->age;
    asked->addresses = answer->address_count;
}

static void on_answered(struct forwarder_waiter *waiter, const struct forwarder_answer *answer)
{
    struct asked *asked = list_entry(waiter, struct asked, waiter);
    note(asked, answer);
    poller_stop(&asked->bench->poller);
}

static int begin(struct bench *b, struct asked *asked, const char *name, uint16_t type)
{
    struct forwarder_answer answer;
    *asked = (struct asked){.bench = b};
    forwarder_waiter_init(&asked->waiter, on_answered);
    asked->at_once = forwarder_find(b->forwarder, name, strlen(name), type, &answer);
    if (!asked->at_once)
        return forwarder_wait(b->forwarder, name, strlen(name), type, &asked->waiter);
    note(asked, &answer);
    return 0;
}

static struct asked ask(struct bench *b, const char *name, uint16_t type)
{
    struct asked asked;
    assert_true(begin(b, &asked, name, type) >= 0);
    if (!asked.at_once)
        poller_run(&b->poller);
    assert_int_equal(asked.calls, 1);
    return asked;
}

/* The loop's clock moves on, without waiting for it. */
static void let_pass(struct bench *b, uint64_t ms)
{
    b->loop.time += ms;
}

static void answers_are_kept_as_long_as_they_say(void **state)
{
    static const struct {
        const char *name;
        int status, rcode;
        size_t addresses;
        bool lies, kept;
        uint64_t gone_after_ms;
    } cases[] = {
        {"a.example", 0, DNS_NOERROR, 1, false, true, 60000},
        {"zero.example", 0, DNS_NOERROR, 1, false, false, 0},
        {"gone.example", 0, DNS_NXDOMAIN, 0, false, true, 60000},
        {"no-soa.example", 0, DNS_NXDOMAIN, 0, false, false, 0},
        {"foreign.example", -EBADMSG, 0, 0, true, true, FORWARDER_FAILURE_MS},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        bench_start(state);
        struct bench *b = *state;
        struct asked first = ask(b, cases[i].name, DNS_TYPE_A);
        if (first.status != cases[i].status || first.rcode != cases[i].rcode ||
            first.addresses != cases[i].addresses || first.lies != cases[i].lies)
            fail_msg("%s: status %d rcode %d addresses %zu", cases[i].name, first.status, first.rcode,
                     first.addresses);
        struct asked second = ask(b, cases[i].name, DNS_TYPE_A);
        assert_int_equal(second.at_once, cases[i].kept);
        assert_int_equal(b->questions, cases[i].kept ? 1 : 2);
        if (cases[i].kept) {
            assert_int_equal(second.status, cases[i].status);
            assert_int_equal(second.addresses, cases[i].addresses);
            let_pass(b, cases[i].gone_after_ms);
            ask(b, cases[i].name, DNS_TYPE_A);
            assert_int_equal(b->questions, 2);
        }
        bench_stop(state);
    }
}

static void a_kept_answer_ages(void **state)
{
    struct bench *b = *state;
    assert_int_equal(ask(b, "a.example", DNS_TYPE_A).ttl, 60);
    let_pass(b, 40500);
    struct asked later = ask(b, "a.example", DNS_TYPE_A);
    assert_true(later.at_once);
    assert_int_equal(later.age, 40);
    assert_int_equal(later.ttl, 20);
}

static void a_type_is_part_of_the_question(void **state)
{
    struct bench *b = *state;
    ask(b, "a.example", DNS_TYPE_A);
    assert_false(ask(b, "a.example", DNS_TYPE_AAAA).at_once);
    assert_int_equal(b->questions, 2);
}

static void a_question_on_its_way_is_not_sent_twice(void **state)
{
    struct bench *b = *state;
    struct asked asked[50];
    for (int i = 0; i < 50; i++)
        assert_int_equal(begin(b, &asked[i], "a.example", DNS_TYPE_A), i == 0);
    forwarder_cancel(&asked[7].waiter);
    poller_run(&b->poller);
    assert_int_equal(b->questions, 1);
    for (int i = 0; i < 50; i++)
        assert_int_equal(asked[i].calls, i != 7);
}

static void nobody_answers_is_remembered_for_a_moment(void **state)
{
    struct bench *b = *state;
    b->silent = true;
    assert_int_equal(ask(b, "a.example", DNS_TYPE_A).status, -ETIMEDOUT);
    unsigned before = b->questions;
    assert_true(ask(b, "a.example", DNS_TYPE_A).at_once);
    assert_int_equal(b->questions, before);
    b->silent = false; /* and it recovers */
    let_pass(b, FORWARDER_FAILURE_MS);
    assert_int_equal(ask(b, "a.example", DNS_TYPE_A).status, 0);
}

static void hosts_are_answered_here(void **state)
{
    struct bench *b = *state;
    static const struct {
        const char *name;
        uint16_t type;
        size_t addresses;
    } cases[] = {{"db", DNS_TYPE_A, 1},
                 {"db", DNS_TYPE_AAAA, 0},
                 {"both.example", DNS_TYPE_A, 2},
                 {"both.example", DNS_TYPE_AAAA, 1},
                 {"both.example", DNS_TYPE_HTTPS, 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct asked asked = ask(b, cases[i].name, cases[i].type);
        assert_true(asked.at_once);
        assert_int_equal(asked.status, 0);
        assert_int_equal(asked.rcode, DNS_NOERROR);
        assert_int_equal(asked.addresses, cases[i].addresses);
    }
    assert_int_equal(b->questions, 0);
    assert_false(ask(b, "a.db", DNS_TYPE_A).at_once); /* a name below is another name */
}

static void memory_is_bounded(void **state)
{
    struct bench *b = *state;
    char name[80], long_label[51];
    size_t count = 0, bytes = 0, kept = 0;
    memset(long_label, 'x', 50);
    long_label[50] = 0;
    /* Filling 32 MiB over sockets takes too long here; what one name costs can be seen. */
    for (unsigned i = 0; i < 2000; i++) {
        snprintf(name, sizeof(name), "a%u-%s.example", i, long_label);
        assert_int_equal(ask(b, name, DNS_TYPE_A).status, 0);
    }
    bytes = forwarder_kept(b->forwarder, &count);
    assert_int_equal(count, 2000);
    kept = bytes / count;
    print_message("%zu bytes a name of 63 bytes\n", kept);
    assert_true(kept < 400);
}

/* ---- A and AAAA ---- */

struct looked_up {
    struct bench *bench;
    unsigned calls;
    int status;
    size_t count;
};

static void on_looked_up(void *arg, int status, const struct lookup_addresses *found)
{
    struct looked_up *l = arg;
    l->calls++;
    l->status = status;
    l->count = found->count;
    poller_stop(&l->bench->poller);
}

static void a_lookup_asks_both_families(void **state)
{
    struct bench *b = *state;
    static const struct {
        const char *name;
        int status;
        size_t count;
    } cases[] = {{"a.example", 0, 2},          {"a.example", 0, 2} /* now kept: still called later */,
                 {"gone.example", -ENOENT, 0}, {"foreign.example", -EBADMSG, 0},
                 {"only-v4.example", 0, 1},    {"both.example", 0, 3}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct looked_up l = {.bench = b};
        assert_non_null(lookup_start(b->forwarder, cases[i].name, on_looked_up, &l));
        assert_int_equal(l.calls, 0); /* never from inside */
        poller_run(&b->poller);
        if (l.calls != 1 || l.status != cases[i].status || l.count != cases[i].count)
            fail_msg("%s: %u calls, status %d, %zu addresses", cases[i].name, l.calls, l.status, l.count);
    }
    struct looked_up cancelled = {.bench = b};
    lookup_cancel(lookup_start(b->forwarder, "a.example", on_looked_up, &cancelled));
    lookup_cancel(lookup_start(b->forwarder, "another.example", on_looked_up, &cancelled));
    ask(b, "another2.example", DNS_TYPE_A);
    assert_int_equal(cancelled.calls, 0);
}

/* ---- tunnels ---- */

static void many_long_new_names_are_noticed(void **state)
{
    (void)state;
    static const char rule[] = "*.example.org", other[] = "https://*.example.net:443",
                      exact[] = "example.org";
    struct dns_watch watch = {0};
    char name[128];
    unsigned told = 0, told_at = 0;
    for (unsigned i = 0; i < 400; i++) {
        snprintf(name, sizeof(name), "%08x%08x%08x.example.org", i * 2654435761u, i, ~i);
        if (dns_watch_note(&watch, rule, name, strlen(name), 1000 + i) && !told++)
            told_at = i;
        assert_false(dns_watch_note(&watch, exact, name, strlen(name), 1000 + i)); /* no wildcard */
        assert_false(
            dns_watch_note(&watch, other, "www.example.net", 15, 1000 + i)); /* short, and the same */
    }
    assert_int_equal(told, 1); /* once a window */
    assert_in_range(told_at, DNS_WATCH_NAMES - 1,
                    DNS_WATCH_NAMES + 20); /* a small bitmap takes some for seen */
    for (unsigned i = 0; i < 400; i++) {   /* the same again in the next window */
        snprintf(name, sizeof(name), "%08x%08x%08x.example.org", i * 2654435761u, i, ~i);
        told += dns_watch_note(&watch, rule, name, strlen(name), 1000 + DNS_WATCH_WINDOW_MS + i);
    }
    assert_int_equal(told, 2);
    static const char *const wildcards[] = {"*", "**.example.org", "GET http://*.example.org/api/*",
                                            "tcp://*.example.org:22"};
    for (size_t k = 0; k < sizeof(wildcards) / sizeof(*wildcards); k++) {
        struct dns_watch another = {0};
        for (unsigned i = told = 0; i < 400; i++) {
            snprintf(name, sizeof(name), "%08x%08x%08x.example.org", i * 2654435761u, i, ~i);
            told += dns_watch_note(&another, wildcards[k], name, strlen(name), 1000 + i);
            assert_false(dns_watch_note(&another, "http://example.org/*", name, strlen(name),
                                        1000 + i)); /* of a path */
        }
        assert_int_equal(told, 1);
    }
    for (unsigned i = 0; i < 1000; i++) /* one long name, over and over */
        assert_false(dns_watch_note(&watch, other, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example.net", 50,
                                    2000 + i));
    for (unsigned i = 0; i < 1000; i++) { /* slowly: in no window enough */
        snprintf(name, sizeof(name), "slow-%08x%08x%08x.example.net", i * 2654435761u, i, ~i);
        assert_false(dns_watch_note(&watch, other, name, strlen(name), 200000 + i * 1000));
    }
}

#define WITH_BENCH(test) cmocka_unit_test_setup_teardown(test, bench_start, bench_stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_kept_as_long_as_they_say),
        WITH_BENCH(a_kept_answer_ages),
        WITH_BENCH(a_type_is_part_of_the_question),
        WITH_BENCH(a_question_on_its_way_is_not_sent_twice),
        WITH_BENCH(nobody_answers_is_remembered_for_a_moment),
        WITH_BENCH(hosts_are_answered_here),
        WITH_BENCH(memory_is_bounded),
        WITH_BENCH(a_lookup_asks_both_families),
        cmocka_unit_test(many_long_new_names_are_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
