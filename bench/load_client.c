/*
 * The load generator: load_client WORK ADDRESS NAME CONNECTIONS MILLISECONDS [RATE]
 *
 * Closed loop: CONNECTIONS connections, each with one unit of work under way, as fast as they are answered. One thread, one
 * epoll set. With a RATE (units a second; `flows` only) it is an open loop: a unit is due every 1/RATE seconds, whether those
 * before it were answered or not, and its latency counts from when it was due, so that a stall is seen in all that it kept
 * waiting. CONNECTIONS is then how many may be under way. The protocol is that of load_protocol.h. WORK is
 *
 *   flows     a unit is connect, ClientHello, the whole answer, FIN both ways; then a new connection
 *   refused   the same, but it must be refused: a reset or FIN, perhaps a TLS alert, and not one byte of the server's
 *   echo      a unit is 64 bytes there and back; the connections are up, and have answered once, before it begins
 *   down, up  a unit is a byte; `up` waits for the server's own count, which has to be ours
 *   http      a unit is a GET with an answer of 1 KiB, on connections that are kept
 *   hold      no unit: the connections are up, have answered once, and are then left alone
 *
 * It says "ready", waits for a line, works, and says one line of JSON; then it waits for the end of its input (`hold` so
 * keeps its connections). Units that fail are counted with their reason, never repeated; a connection that is broken stays
 * so, except in `flows` and `refused`, where each unit has its own. Whatever has not come GRACE_MS after the end has failed
 * as "unanswered". Latencies are of units, from the first byte (or SYN) to the last.
 */
#include "bench/client_hello.h"
#include "bench/load_protocol.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define GRACE_MS 5000
#define OPENING_MAX 64         /* connections that are being opened at the same time */
#define SWALLOW_SIZE (2 << 20) /* dropped in the kernel, so no buffer is needed */

enum work { FLOWS, REFUSED, ECHO, DOWN, UP, HTTP, HOLD, WORKS };
static const char *const work_names[] = {"flows", "refused", "echo", "down", "up", "http", "hold"};

enum failure { CONNECT, BROKEN, CUT, WRONG, LET_THROUGH, UNANSWERED, FAILURES };
static const char *const failure_names[] = {
    "not connected", "reset", "ended too early", "wrong answer", "let through, not refused", "unanswered"};

enum phase {
    OFF,        /* no socket */
    CONNECTING, /* SYN sent */
    BUSY,       /* a unit is under way */
    COUNTED,    /* `up`: all is sent, the server's count is awaited */
    IDLE        /* up, nothing under way */
};

struct connection {
    int fd;
    enum phase phase;
    uint64_t began;                       /* the unit, ns */
    uint64_t sent, counted, count_coming; /* `up`: counted by the server */
    size_t received, expected;            /* of this unit */
    char head[2048];                      /* the first bytes of an answer */
};

static enum work work;
static struct sockaddr_in server;
static uint8_t hello[CLIENT_HELLO_SIZE], block[256 * 1024];
static char request[512];
static size_t request_length;
static int set;
static struct connection *connections;
static size_t connection_count, busy;
static bool running; /* new units are begun */
static double rate;  /* units a second; 0: a closed loop */
static struct connection *free_one; /* of an open loop: where the search for one begins */
static uint64_t units, failures[FAILURES];
static uint32_t *latencies; /* microseconds */
static size_t latency_count, latency_room;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void note_latency(uint64_t began)
{
    if (latency_count == latency_room) {
        latency_room = latency_room ? latency_room * 2 : 65536;
        if (!(latencies = realloc(latencies, latency_room * sizeof(*latencies))))
            err(1, "latencies");
    }
    latencies[latency_count++] = (uint32_t)((now_ns() - began) / 1000);
}

static void watch(struct connection *c, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(set, operation, c->fd, &event) < 0)
        err(1, "epoll_ctl");
}

static void enter(struct connection *c, enum phase phase)
{
    busy += (phase == CONNECTING || phase == BUSY || phase == COUNTED);
    busy -= (c->phase == CONNECTING || c->phase == BUSY || c->phase == COUNTED);
    c->phase = phase;
}

static void shut(struct connection *c)
{
    if (c->phase == OFF)
        return;
    close(c->fd);
    enter(c, OFF);
}

static void begin(struct connection *c);

static bool one_connection_a_unit(void)
{
    return work == FLOWS || work == REFUSED;
}

static void fail(struct connection *c, enum failure why)
{
    failures[why]++;
    shut(c);
    if (running && rate == 0 && one_connection_a_unit())
        begin(c);
}

static void succeed(struct connection *c)
{
    units++;
    note_latency(c->began);
    if (one_connection_a_unit())
        shut(c);
    else
        enter(c, IDLE);
    if (running && rate == 0)
        begin(c);
}

static void say(struct connection *c, const void *bytes, size_t length)
{
    if (send(c->fd, bytes, length, MSG_NOSIGNAL) != (ssize_t)length)
        fail(c, BROKEN);
}

static void dial(struct connection *c)
{
    const int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        err(1, "socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    enter(c, CONNECTING);
    if (connect(c->fd, (struct sockaddr *)&server, sizeof(server)) < 0 && errno != EINPROGRESS) {
        failures[CONNECT]++; /* no way out, no port, no memory: at once the next try would be no different */
        shut(c);
        return;
    }
    watch(c, EPOLLOUT, EPOLL_CTL_ADD);
}

/* A unit; when there is no connection yet, its opening belongs to it. */
static void begin_at(struct connection *c, uint64_t due)
{
    c->began = due;
    c->received = 0;
    if (c->phase == OFF) {
        dial(c);
        return;
    }
    enter(c, BUSY);
    c->expected = work == HTTP ? 0 : LOAD_ECHO_SIZE; /* of HTTP the head will tell */
    if (work == HTTP)
        say(c, request, request_length);
    else
        say(c, block, LOAD_ECHO_SIZE);
}

static void begin(struct connection *c)
{
    begin_at(c, now_ns());
}

static void connected(struct connection *c)
{
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        fail(c, CONNECT);
        return;
    }
    enter(c, BUSY);
    watch(c, work == UP ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
    c->expected = work == ECHO || work == HOLD ? LOAD_ECHO_SIZE : 0;
    if (work == HTTP) {
        say(c, request, request_length);
        return;
    }
    say(c, hello, sizeof(hello));
    if (c->phase == BUSY && c->expected)
        say(c, block, LOAD_ECHO_SIZE);
}

/* ---- answers ---- */

static void keep_head(struct connection *c, const uint8_t *bytes, size_t length)
{
    size_t room = c->received < sizeof(c->head) - 1 ? sizeof(c->head) - 1 - c->received : 0;
    memcpy(c->head + (room ? c->received : 0), bytes, length < room ? length : room);
    c->received += length;
    c->head[c->received < sizeof(c->head) ? c->received : sizeof(c->head) - 1] = '\0';
}

static void end_of_answer(struct connection *c, bool reset)
{
    if (work == REFUSED) {
        if (c->received && c->head[0] == 'a')
            fail(c, LET_THROUGH);
        else
            succeed(c);
    } else if (work == FLOWS && !reset && c->received == LOAD_ANSWER_SIZE) {
        succeed(c);
    } else {
        fail(c, reset ? BROKEN : CUT);
    }
}

static void check_echo(struct connection *c, const uint8_t *bytes, size_t length)
{
    if (c->received + length > c->expected || memcmp(bytes, block + c->received, length) != 0) {
        fail(c, WRONG);
        return;
    }
    c->received += length;
    if (c->received < c->expected)
        return;
    if (running)
        succeed(c);
    else
        enter(c, IDLE);
}

/* The server's counts, eight bytes each, however they come in. The last one must be ours. */
static void check_count(struct connection *c, const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        c->count_coming = c->count_coming << 8 | bytes[i];
        if (++c->received % sizeof(uint64_t) == 0)
            c->counted = c->count_coming;
    }
    if (c->phase == COUNTED && c->counted == c->sent) {
        units += c->sent;
        shut(c);
    }
}

/* The head is looked at once it is whole; then only bytes are counted. */
static void check_http(struct connection *c)
{
    if (c->expected == 0) {
        const char *end = strstr(c->head, "\r\n\r\n");
        if (!end)
            return;
        const char *length = strcasestr(c->head, "\r\ncontent-length:");
        if (strncmp(c->head, "HTTP/1.1 200 ", 13) != 0 || !length || length > end ||
            atoi(length + 17) != LOAD_ANSWER_SIZE) {
            fail(c, WRONG);
            return;
        }
        c->expected = (size_t)(end + 4 - c->head) + LOAD_ANSWER_SIZE;
    }
    if (c->received > c->expected)
        fail(c, WRONG);
    else if (c->received == c->expected)
        succeed(c);
}

static void take(struct connection *c)
{
    if (work == DOWN) {
        ssize_t got = recv(c->fd, NULL, SWALLOW_SIZE, MSG_TRUNC);
        if (got > 0)
            units += (uint64_t)got;
        else if (got == 0 || errno != EAGAIN)
            end_of_answer(c, got < 0);
        return;
    }
    static uint8_t bytes[65536];
    ssize_t got = recv(c->fd, bytes, sizeof(bytes), 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        end_of_answer(c, got < 0);
        return;
    }
    if (work == ECHO || work == HOLD) {
        check_echo(c, bytes, (size_t)got);
        return;
    }
    if (work == UP) {
        check_count(c, bytes, (size_t)got);
        return;
    }
    keep_head(c, bytes, (size_t)got);
    if (work == FLOWS && (bytes[0] != 'a' || bytes[got - 1] != 'a' || c->received > LOAD_ANSWER_SIZE))
        fail(c, WRONG);
    else if (work == HTTP)
        check_http(c);
}

/* Fills up to the next count when time is over. */
static void pour(struct connection *c)
{
    size_t length = sizeof(block);
    if (!running) {
        size_t over = c->sent % LOAD_COUNT_EVERY;
        if (over == 0) {
            enter(c, COUNTED);
            watch(c, EPOLLIN, EPOLL_CTL_MOD);
            check_count(c, NULL, 0); /* it may have been here first */
            return;
        }
        if (length > LOAD_COUNT_EVERY - over)
            length = LOAD_COUNT_EVERY - over;
    }
    ssize_t sent = send(c->fd, block, length, MSG_NOSIGNAL);
    if (sent > 0)
        c->sent += (uint64_t)sent;
    else if (errno != EAGAIN)
        fail(c, BROKEN);
}

static void ready(struct connection *c, uint32_t events)
{
    if (c->phase == OFF)
        return;
    if (c->phase == CONNECTING) {
        connected(c);
        return;
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        take(c);
    if (events & EPOLLOUT && c->phase == BUSY && work == UP)
        pour(c);
}

static void turn_for(uint64_t ns)
{
    const struct timespec patience = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    struct epoll_event events[256];
    int count = epoll_pwait2(set, events, 256, &patience, NULL);
    for (int i = 0; i < count; i++)
        ready(events[i].data.ptr, events[i].events);
}

static void turn(unsigned timeout_ms)
{
    turn_for(timeout_ms * 1000000ull);
}

/* ---- the course of a run ---- */

static void open_all(void)
{
    uint64_t deadline = now_ns() + (uint64_t)(GRACE_MS + connection_count) * 1000000;
    for (size_t next = 0; next < connection_count || busy;) {
        while (next < connection_count && busy < OPENING_MAX)
            begin(&connections[next++]);
        turn(100);
        if (now_ns() > deadline)
            break;
    }
}

/* One that is not in use, or NULL: then what is due waits, and its latency grows. */
static struct connection *find_free(void)
{
    for (size_t i = 0; i < connection_count; i++) {
        struct connection *c = free_one;
        free_one = free_one + 1 == connections + connection_count ? connections : free_one + 1;
        if (c->phase == OFF)
            return c;
    }
    return NULL;
}

static double run_open_loop(unsigned milliseconds)
{
    uint64_t start = now_ns(), end = start + (uint64_t)milliseconds * 1000000, begun = 0;
    running = true;
    free_one = connections;
    for (uint64_t now = start; now < end; now = now_ns()) {
        uint64_t due = start + (uint64_t)((double)begun * 1e9 / rate);
        struct connection *c = due <= now ? find_free() : NULL;
        if (c) {
            begin_at(c, due);
            begun++;
        }
        turn_for(c || due <= now ? 0 : due - now);
    }
    running = false;
    for (uint64_t patience = now_ns() + GRACE_MS * 1000000ull; busy && now_ns() < patience;)
        turn(10);
    return (double)(end - start) / 1e9;
}

static double run(unsigned milliseconds)
{
    uint64_t start = now_ns(), end = start + (uint64_t)milliseconds * 1000000;
    running = true;
    for (size_t i = 0; i < connection_count; i++)
        begin(&connections[i]);
    while (now_ns() < end && busy)
        turn(10);
    running = false;
    double seconds = (double)(now_ns() - start) / 1e9;
    if (work != DOWN) /* has no end of its own */
        for (end = now_ns() + GRACE_MS * 1000000ull; busy && now_ns() < end;)
            turn(10);
    return seconds;
}

static void give_up_rest(void)
{
    if (work == DOWN)
        return;
    for (size_t i = 0; i < connection_count; i++)
        if (connections[i].phase != OFF && connections[i].phase != IDLE)
            fail(&connections[i], UNANSWERED);
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t quantile(double q)
{
    if (!latency_count)
        return 0;
    size_t at = (size_t)(q * (double)latency_count);
    return latencies[at < latency_count ? at : latency_count - 1];
}

static void report(double seconds)
{
    size_t up = 0;
    for (size_t i = 0; i < connection_count; i++)
        up += connections[i].phase != OFF;
    if (latency_count)
        qsort(latencies, latency_count, sizeof(*latencies), ascending);
    printf("{\"units\": %llu, \"seconds\": %.6f, \"up\": %zu, \"failures\": {", (unsigned long long)units,
           seconds, up);
    const char *comma = "";
    for (int i = 0; i < FAILURES; i++) {
        if (!failures[i])
            continue;
        printf("%s\"%s\": %llu", comma, failure_names[i], (unsigned long long)failures[i]);
        comma = ", ";
    }
    printf("}, \"latency_us\": {\"p50\": %u, \"p99\": %u, \"p999\": %u, \"max\": %u}}\n", quantile(0.5),
           quantile(0.99), quantile(0.999), quantile(1));
    fflush(stdout);
}

static void prepare(char **argv)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
    while (work < WORKS && strcmp(argv[1], work_names[work]) != 0)
        work++;
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(work == HTTP ? 80 : 443)};
    if (work == WORKS || inet_pton(AF_INET, argv[2], &server.sin_addr) != 1)
        errx(2, "%s %s: no such work, or not an IPv4 address", argv[1], argv[2]);
    client_hello_write(argv[3], hello);
    for (size_t i = 0; i < sizeof(block); i++)
        block[i] = (uint8_t)(i * 7);
    request_length =
        (size_t)snprintf(request, sizeof(request),
                         "GET /api/v1/items?page=3 HTTP/1.1\r\nHost: %s\r\nUser-Agent: load/1\r\n"
                         "Accept: application/json, text/plain, */*\r\nAccept-Encoding: gzip, deflate\r\n"
                         "Accept-Language: en\r\n\r\n",
                         argv[3]);
    connection_count = strtoul(argv[4], NULL, 10);
    connections = calloc(connection_count, sizeof(*connections));
    set = epoll_create1(EPOLL_CLOEXEC);
    if (!connections || set < 0)
        err(1, "start");
}

int main(int argc, char **argv)
{
    if (argc != 6 && argc != 7)
        errx(2, "usage: load_client flows|refused|echo|down|up|http|hold ADDRESS NAME CONNECTIONS MILLISECONDS [RATE]");
    prepare(argv);
    rate = argc == 7 ? strtod(argv[6], NULL) : 0;
    if (argc == 7 && (rate <= 0 || work != FLOWS))
        errx(2, "a rate is positive, and of flows");
    if (work == ECHO || work == HOLD)
        open_all();
    printf("ready\n");
    fflush(stdout);
    while (getchar() != '\n')
        if (feof(stdin))
            return 1;
    unsigned milliseconds = (unsigned)strtoul(argv[5], NULL, 10);
    double seconds = work == HOLD ? 0 : rate > 0 ? run_open_loop(milliseconds) : run(milliseconds);
    give_up_rest();
    report(seconds);
    while (getchar() != EOF)
        ;
    return 0;
}
