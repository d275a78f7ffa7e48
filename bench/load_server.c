/*
 * The servers of the load lab: load_server FLOW-ADDRESS ECHO-ADDRESS DOWN-ADDRESS UP-ADDRESS HTTP-ADDRESS
 *
 * One process, one thread, one epoll set; port 443 on the first four addresses, port 80 on the fifth (load_protocol.h). It
 * does as little as can be done, so that it stands beside what is measured with room to spare: level-triggered reads, no
 * timers, bytes that nobody looks at are dropped in the kernel (MSG_TRUNC, tcp(7)). Prints "ready" when it listens.
 */
#include "bench/client_hello.h"
#include "bench/load_protocol.h"

#include <arpa/inet.h>
#include <endian.h>
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
#include <unistd.h>

enum kind { FLOW, ECHO, DOWN, UP, HTTP, KINDS };

struct connection {
    int fd;
    enum kind kind;
    bool listens;
    size_t hello_left;
    uint64_t received;
    unsigned line_ends; /* of "\r\n\r\n", matched so far */
};

static int set;
#define SWALLOW_SIZE (2 << 20) /* at once; dropped in the kernel, so no buffer is needed */

static uint8_t block[256 * 1024], answer[LOAD_ANSWER_SIZE];
static char http_answer[LOAD_ANSWER_SIZE + 256];
static size_t http_answer_length;

static void watch(struct connection *c, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(set, operation, c->fd, &event) < 0)
        err(1, "epoll_ctl");
}

static void start(int fd, enum kind kind, bool listens)
{
    struct connection *c = calloc(1, sizeof(*c));
    if (!c)
        err(1, "connection");
    *c = (struct connection){.fd = fd, .kind = kind, .listens = listens, .hello_left = CLIENT_HELLO_SIZE};
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
}

static void end(struct connection *c)
{
    close(c->fd);
    free(c);
}

static void listen_at(const char *address, enum kind kind)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(kind == HTTP ? 80 : 443)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0 || inet_pton(AF_INET, address, &at.sin_addr) != 1)
        errx(1, "%s: not an IPv4 address", address);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* inherited */
    if (bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 8192) < 0)
        err(1, "%s", address);
    start(fd, kind, true);
}

static void accept_all(struct connection *listener)
{
    int fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        start(fd, listener->kind, false);
}

/* Sends what is small against an empty socket buffer: all of it goes, or the connection is of no use. */
static bool say(struct connection *c, const void *bytes, size_t length)
{
    return send(c->fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length;
}

/* The hello is through: what the server does unasked. False: the connection is over. */
static bool greet(struct connection *c)
{
    if (c->kind == FLOW) {
        say(c, answer, sizeof(answer));
        return false;
    }
    if (c->kind == DOWN)
        watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    return true;
}

/* 1: through; 0: not yet; -1: over. */
static int take_hello(struct connection *c)
{
    if (c->hello_left == 0)
        return 1;
    ssize_t got = recv(c->fd, block, c->hello_left, 0);
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got <= 0)
        return -1;
    c->hello_left -= (size_t)got;
    if (c->hello_left)
        return 0;
    return greet(c) ? 1 : -1;
}

static bool echo(struct connection *c)
{
    ssize_t got = recv(c->fd, block, sizeof(block), 0);
    return got > 0 ? say(c, block, (size_t)got) : got < 0 && errno == EAGAIN;
}

static bool pour(struct connection *c, uint32_t events)
{
    if (events & EPOLLIN && recv(c->fd, block, sizeof(block), 0) == 0)
        return false;
    if (!(events & EPOLLOUT))
        return true;
    return send(c->fd, block, sizeof(block), MSG_NOSIGNAL) >= 0 || errno == EAGAIN;
}

static bool swallow(struct connection *c)
{
    ssize_t got = recv(c->fd, NULL, SWALLOW_SIZE, MSG_TRUNC);
    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    uint64_t told = c->received / LOAD_COUNT_EVERY;
    c->received += (uint64_t)got;
    uint64_t count = c->received / LOAD_COUNT_EVERY;
    return count == told || say(c, &(uint64_t){htobe64(count * LOAD_COUNT_EVERY)}, sizeof(uint64_t));
}

static bool serve_http(struct connection *c)
{
    static const char head_end[] = "\r\n\r\n";
    ssize_t got = recv(c->fd, block, sizeof(block), 0);
    for (ssize_t i = 0; i < got; i++) {
        c->line_ends = block[i] == (uint8_t)head_end[c->line_ends] ? c->line_ends + 1 : block[i] == '\r';
        if (c->line_ends < 4)
            continue;
        c->line_ends = 0;
        if (!say(c, http_answer, http_answer_length))
            return false;
    }
    return got > 0 || (got < 0 && errno == EAGAIN);
}

static bool serve(struct connection *c, uint32_t events)
{
    if (events & EPOLLERR)
        return false;
    if (c->kind == HTTP)
        return serve_http(c);
    if (c->hello_left)
        return take_hello(c) >= 0;
    if (c->kind == DOWN)
        return pour(c, events);
    return c->kind == UP ? swallow(c) : echo(c);
}

static void prepare(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
    memset(answer, 'a', sizeof(answer));
    int head = snprintf(http_answer, sizeof(http_answer),
                        "HTTP/1.1 200 OK\r\nServer: load\r\nContent-Type: text/plain\r\n"
                        "Cache-Control: no-store\r\nContent-Length: %d\r\n\r\n",
                        LOAD_ANSWER_SIZE);
    memset(http_answer + head, 'h', LOAD_ANSWER_SIZE);
    http_answer_length = (size_t)head + LOAD_ANSWER_SIZE;
    if ((set = epoll_create1(EPOLL_CLOEXEC)) < 0)
        err(1, "epoll_create1");
}

int main(int argc, char **argv)
{
    struct epoll_event ready[256];
    if (argc != 1 + KINDS)
        errx(2, "usage: load_server FLOW-ADDRESS ECHO-ADDRESS DOWN-ADDRESS UP-ADDRESS HTTP-ADDRESS");
    prepare();
    for (enum kind kind = FLOW; kind < KINDS; kind++)
        listen_at(argv[1 + kind], kind);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(set, ready, 256, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = ready[i].data.ptr;
            if (c->listens)
                accept_all(c);
            else if (!serve(c, ready[i].events))
                end(c);
        }
    }
}
