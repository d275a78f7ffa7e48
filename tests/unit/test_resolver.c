/*
 * Unit tests of gateway/resolver.c against a name server on loopback that follows a script: what it is asked,
 * and what an attacker or a bad server may answer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/fds.h"
#include "gateway/resolver.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

/* ---- a server, in the same loop as the resolver ---- */

enum script {
    HONEST,
    WRONG_ID_FIRST,
    WRONG_CASE_FIRST,
    TRUNCATED,
    REFUSES,
    SILENT,
    LIES_ABOUT_OWNER,
    NXDOMAIN,
    GARBAGE
};

struct server {
    struct poll_handle udp, tcp_listener, tcp;
    struct poller *poller;
    enum script script;
    struct addr address;
    unsigned questions_udp, questions_tcp;
    struct sockaddr_storage last_peer;
    uint16_t ports[8];
    bool mixed_case;
};

/* "question + one A record 192.0.2.7, TTL 60" in place; returns the length. */
static size_t answer_write(uint8_t *message, size_t length, uint8_t flags3, bool with_record)
{
    static const uint8_t record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7};
    message[2] = 0x84; /* QR, AA */
    message[3] = flags3;
    message[11] = 0; /* no OPT */
    length -= DNS_OPT_LENGTH;
    message[7] = with_record;
    if (with_record) {
        memcpy(message + length, record, sizeof(record));
        length += sizeof(record);
    }
    return length;
}

static void udp_reply(struct server *server, uint8_t *message, size_t length)
{
    sendto(server->udp.fd, message, length, 0, (struct sockaddr *)&server->last_peer,
           sizeof(struct sockaddr_in));
}

static void udp_question(struct server *server, uint8_t *message, size_t length)
{
    uint8_t copy[512];
    memcpy(copy, message, length);
    switch (server->script) {
    case HONEST:
        udp_reply(server, message, answer_write(message, length, 0x80, true));
        break;
    case WRONG_ID_FIRST: /* a guess from off path: another address, and not our id */
        copy[0] ^= 0xff;
        size_t forged = answer_write(copy, length, 0x80, true);
        copy[forged - 1] = 66;
        udp_reply(server, copy, forged);
        udp_reply(server, message, answer_write(message, length, 0x80, true));
        break;
    case WRONG_CASE_FIRST: /* the right id by luck, but the letters' case guessed wrong */
        for (size_t i = 12; i < length; i++)
            copy[i] = isalpha(copy[i]) ? (uint8_t)(copy[i] ^ 0x20) : copy[i];
        size_t guessed = answer_write(copy, length, 0x80, true);
        copy[guessed - 1] = 66;
        udp_reply(server, copy, guessed);
        udp_reply(server, message, answer_write(message, length, 0x80, true));
        break;
    case TRUNCATED: {
        size_t cut = answer_write(message, length, 0x80, false);
        message[2] |= 0x02; /* TC */
        udp_reply(server, message, cut);
        break;
    }
    case REFUSES:
        udp_reply(server, message, answer_write(message, length, 0x80 | DNS_REFUSED, false));
        break;
    case NXDOMAIN:
        udp_reply(server, message, answer_write(message, length, 0x80 | DNS_NXDOMAIN, false));
        break;
    case LIES_ABOUT_OWNER: { /* the record belongs to the name without its first label */
        size_t lie = answer_write(message, length, 0x80, true);
        message[lie - 15] = 12 + 4;
        udp_reply(server, message, lie);
        break;
    }
    case GARBAGE:
        memset(message + 12, 0xff, 20);
        udp_reply(server, message, 32);
        udp_reply(server, message, 3);
        break;
    case SILENT:
        break;
    }
}

static void on_udp(struct poll_handle *handle, uint32_t events)
{
    struct server *server = list_entry(handle, struct server, udp);
    uint8_t message[512];
    (void)events;
    for (;;) {
        socklen_t size = sizeof(server->last_peer);
        ssize_t got =
            recvfrom(handle->fd, message, 400, MSG_DONTWAIT, (struct sockaddr *)&server->last_peer, &size);
        if (got < 0)
            return;
        server->ports[server->questions_udp++ % 8] = ((struct sockaddr_in *)&server->last_peer)->sin_port;
        for (ssize_t i = 12; i < got; i++)
            server->mixed_case |= message[i] >= 'A' && message[i] <= 'Z';
        udp_question(server, message, (size_t)got);
    }
}

static void on_tcp(struct poll_handle *handle, uint32_t events)
{
    struct server *server = list_entry(handle, struct server, tcp);
    uint8_t message[512];
    (void)events;
    ssize_t got = recv(handle->fd, message, sizeof(message), MSG_DONTWAIT);
    if (got < 2)
        return;
    server->questions_tcp++;
    size_t length = answer_write(message + 2, (size_t)got - 2, 0x80, true);
    message[0] = 0;
    message[1] = (uint8_t)length;
    assert_int_equal(send(handle->fd, message, 1, 0), 1); /* in two pieces */
    assert_int_equal(send(handle->fd, message + 1, length + 1, 0), (ssize_t)length + 1);
}

static void on_tcp_listener(struct poll_handle *handle, uint32_t events)
{
    struct server *server = list_entry(handle, struct server, tcp_listener);
    (void)events;
    int fd = accept4(handle->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    poll_handle_init(&server->tcp, on_tcp);
    assert_int_equal(poller_add(server->poller, &server->tcp, fd), 0);
}

static void server_start(struct server *server, struct poller *poller, enum script script)
{
    struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(local);
    *server = (struct server){.poller = poller, .script = script};
    int udp = -1, tcp = -1;
    do { /* the port that UDP got may be taken for TCP */
        fd_close(&udp);
        fd_close(&tcp);
        local.sin_port = 0;
        udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(udp, (struct sockaddr *)&local, size), 0);
        assert_int_equal(getsockname(udp, (struct sockaddr *)&local, &size), 0);
    } while (bind(tcp, (struct sockaddr *)&local, size) < 0);
    assert_int_equal(listen(tcp, 5), 0);
    addr_from_sockaddr((struct sockaddr *)&local, &server->address);
    poll_handle_init(&server->udp, on_udp);
    poll_handle_init(&server->tcp_listener, on_tcp_listener);
    poll_handle_init(&server->tcp, on_tcp);
    assert_int_equal(poller_add(poller, &server->udp, udp), 0);
    assert_int_equal(poller_add(poller, &server->tcp_listener, tcp), 0);
}

static void handle_close(struct poller *poller, struct poll_handle *handle)
{
    int fd = handle->fd;
    poller_remove(poller, handle);
    fd_close(&fd);
}

static void server_stop(struct server *server)
{
    handle_close(server->poller, &server->udp);
    handle_close(server->poller, &server->tcp_listener);
    handle_close(server->poller, &server->tcp);
}

/* ---- one question through a loop of its own ---- */

struct outcome {
    struct poller *poller;
    int calls, status, rcode;
    size_t address_count;
    uint8_t last_byte;
    bool foreign;
};

static void on_answer(void *arg, int status, uint8_t *answer, size_t length, const struct dns_answer *facts)
{
    struct outcome *outcome = arg;
    (void)answer;
    (void)length;
    outcome->calls++;
    outcome->status = status;
    if (status == 0) {
        outcome->rcode = facts->rcode;
        outcome->address_count = facts->address_count;
        outcome->last_byte = facts->addresses[0].bytes[3];
        outcome->foreign = facts->foreign_addresses;
    }
    poller_stop(outcome->poller);
}

struct bench {
    uv_loop_t loop;
    struct poller poller;
    struct server servers[2];
    struct resolver resolver;
};

static void bench_start(struct bench *b, enum script first, enum script second)
{
    assert_int_equal(uv_loop_init(&b->loop), 0);
    assert_int_equal(poller_init(&b->poller, &b->loop), 0);
    server_start(&b->servers[0], &b->poller, first);
    server_start(&b->servers[1], &b->poller, second);
    struct config_resolver servers[2] = {{.address = b->servers[0].address}, {.address = b->servers[1].address}};
    resolver_init(&b->resolver, &b->loop, &b->poller, NULL, servers, 2);
    b->resolver.timeouts.duration_ms = 100; /* no need to wait for real */
}

static void bench_stop(struct bench *b)
{
    server_stop(&b->servers[0]);
    server_stop(&b->servers[1]);
    resolver_finish(&b->resolver);
    poller_finish(&b->poller);
    uv_run(&b->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&b->loop), 0);
}

static struct outcome ask(struct bench *b)
{
    struct outcome outcome = {.poller = &b->poller};
    assert_non_null(resolver_ask(&b->resolver, "abc.example", DNS_TYPE_A, true, on_answer, &outcome));
    assert_int_equal(outcome.calls, 0); /* never from inside */
    poller_run(&b->poller);
    assert_int_equal(outcome.calls, 1);
    return outcome;
}

static void scripts_end_as_they_should(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        enum script first, second;
        int status, rcode;
        size_t addresses;
        unsigned udp_first, tcp_first, udp_second;
    } cases[] = {
        {"honest", HONEST, SILENT, 0, 0, 1, 1, 0, 0},
        {"a forged id is waited out", WRONG_ID_FIRST, SILENT, 0, 0, 1, 1, 0, 0},
        {"a forged spelling is waited out", WRONG_CASE_FIRST, SILENT, 0, 0, 1, 1, 0, 0},
        {"truncated: again over TCP", TRUNCATED, SILENT, 0, 0, 1, 1, 1, 0},
        {"refused: the next server", REFUSES, HONEST, 0, 0, 1, 1, 0, 1},
        {"silent: the next server", SILENT, HONEST, 0, 0, 1, 1, 0, 1},
        {"garbage: the next server", GARBAGE, HONEST, 0, 0, 1, 1, 0, 1},
        {"NXDOMAIN is an answer", NXDOMAIN, HONEST, 0, DNS_NXDOMAIN, 0, 1, 0, 0},
        {"all refuse: the last word is theirs", REFUSES, REFUSES, 0, DNS_REFUSED, 0, 2, 0, 2},
        {"nobody answers", SILENT, SILENT, -ETIMEDOUT, 0, 0, 2, 0, 2},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct bench b;
        bench_start(&b, cases[i].first, cases[i].second);
        struct outcome o = ask(&b);
        if (o.status != cases[i].status || o.rcode != cases[i].rcode ||
            o.address_count != cases[i].addresses || b.servers[0].questions_udp != cases[i].udp_first ||
            b.servers[0].questions_tcp != cases[i].tcp_first ||
            b.servers[1].questions_udp != cases[i].udp_second)
            fail_msg("%s: status %d rcode %d addresses %zu, asked %u/%u/%u", cases[i].what, o.status, o.rcode,
                     o.address_count, b.servers[0].questions_udp, b.servers[0].questions_tcp,
                     b.servers[1].questions_udp);
        if (o.address_count)
            assert_int_equal(o.last_byte, 7); /* not the forger's 66 */
        bench_stop(&b);
    }
}

static void a_record_for_another_name_is_foreign(void **state)
{
    (void)state;
    struct bench b;
    bench_start(&b, LIES_ABOUT_OWNER, SILENT);
    struct outcome o = ask(&b);
    assert_int_equal(o.status, 0);
    assert_int_equal(o.address_count, 0);
    assert_true(o.foreign);
    bench_stop(&b);
}

static void ports_and_spelling_vary(void **state)
{
    (void)state;
    struct bench b;
    bench_start(&b, HONEST, SILENT);
    for (int i = 0; i < 8; i++)
        ask(&b);
    unsigned distinct = 0;
    for (int i = 0; i < 8; i++) {
        unsigned seen = 0;
        for (int j = 0; j < i; j++)
            seen += b.servers[0].ports[i] == b.servers[0].ports[j];
        distinct += seen == 0;
    }
    assert_true(distinct >= 4); /* chance could repeat one, never all */
    assert_true(b.servers[0].mixed_case);
    bench_stop(&b);
}

static void a_silent_server_is_asked_last_for_a_while(void **state)
{
    (void)state;
    struct bench b;
    bench_start(&b, SILENT, HONEST);
    for (unsigned i = 1; i <= 4; i++) {
        ask(&b);
        assert_int_equal(b.servers[0].questions_udp, i < RESOLVER_FAILURES ? i : RESOLVER_FAILURES);
        assert_int_equal(b.servers[1].questions_udp, i);
    }
    b.servers[0].script = HONEST; /* after its time it is asked first again, and stays so */
    b.loop.time += RESOLVER_SICK_MS;
    ask(&b);
    ask(&b);
    assert_int_equal(b.servers[0].questions_udp, RESOLVER_FAILURES + 2);
    assert_int_equal(b.servers[1].questions_udp, 4);
    bench_stop(&b);
}

static void a_cancelled_question_never_calls_back(void **state)
{
    (void)state;
    struct bench b;
    bench_start(&b, HONEST, SILENT);
    struct outcome cancelled = {.poller = &b.poller};
    resolver_cancel(resolver_ask(&b.resolver, "abc.example", DNS_TYPE_A, true, on_answer, &cancelled));
    ask(&b);
    assert_int_equal(cancelled.calls, 0);
    assert_int_equal(b.resolver.outstanding, 0);
    bench_stop(&b);
}

static void without_servers_nothing_is_asked(void **state)
{
    (void)state;
    struct bench b;
    struct outcome outcome = {.poller = &b.poller};
    bench_start(&b, HONEST, SILENT);
    b.resolver.server_count = 0;
    assert_null(resolver_ask(&b.resolver, "abc.example", DNS_TYPE_A, true, on_answer, &outcome));
    bench_stop(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scripts_end_as_they_should),
        cmocka_unit_test(a_record_for_another_name_is_foreign),
        cmocka_unit_test(ports_and_spelling_vary),
        cmocka_unit_test(a_silent_server_is_asked_last_for_a_while),
        cmocka_unit_test(a_cancelled_question_never_calls_back),
        cmocka_unit_test(without_servers_nothing_is_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
