/*
 * The self-test plays client and gateway in one process: dial an address that nobody has (RFC 5737, RFC
 * 3849), accept on our own listener, compare. Everything is loopback inside the kernel, so it takes
 * microseconds; the deadline only keeps a broken set-up from hanging.
 *
 * In a namespace that is in use already (a re-apply), flows of others may arrive in between. They are told
 * apart by their peer address or by a random token, and closed or dropped: their owners see what a restart
 * looks like.
 */
#include "redirect/selftest.h"

#include "base/fds.h"
#include "redirect/nflog.h"

#include <errno.h>
#include <linux/in6.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#define PATIENCE_MS 2000
#define DATAGRAM_PATIENCE_MS 300
#define DNS_PORT 53
#define TOKEN_SIZE 16

struct selftest {
    struct addr target; /* where to dial; the port varies */
    int64_t deadline;   /* milliseconds, monotonic */
    struct error *err;
};

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int failed(const struct selftest *t, int code, const char *what)
{
    char text[ADDR_TEXT_MAX];
    return error_errno(t->err, code, "self-test: dialling %s: %s", addr_format_with_port(&t->target, text),
                       what);
}

/* 0, -ETIMEDOUT, or a negative errno. */
static int await(const struct selftest *t, int fd, short events)
{
    struct pollfd waiting = {.fd = fd, .events = events};
    for (;;) {
        int64_t left = t->deadline - now_ms();
        int ready = left > 0 ? poll(&waiting, 1, (int)left) : 0;
        if (ready > 0)
            return 0;
        if (ready == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

/* A non-blocking socket on its way to the target. */
static int dial(const struct selftest *t, int type)
{
    struct sockaddr_storage to;
    socklen_t length = addr_to_sockaddr(&t->target, &to);
    _cleanup_fd_ int fd = socket(t->target.family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&to, length) < 0 && errno != EINPROGRESS)
        return -errno;
    return fd_steal(&fd);
}

/* Accepts until the peer is `client`; flows of others are closed. */
static int accept_from(const struct selftest *t, int listener, const struct addr *client)
{
    for (;;) {
        struct sockaddr_storage from;
        socklen_t length = sizeof(from);
        struct addr peer;
        int r = await(t, listener, POLLIN);
        if (r < 0)
            return r;
        int fd = accept4(listener, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
            return -errno;
        if (fd < 0)
            continue;
        if (addr_from_sockaddr((struct sockaddr *)&from, &peer) && addr_equal(&peer, client))
            return fd;
        fd_close(&fd);
    }
}

/* Closed by a reset: a connection in TIME_WAIT would keep a port from the servers of the namespace. */
static void abandon(int fd)
{
    static const struct linger now = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

static int own_address(int fd, struct addr *ret)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof(own);
    if (getsockname(fd, (struct sockaddr *)&own, &length) < 0)
        return -errno;
    return addr_from_sockaddr((struct sockaddr *)&own, ret) ? 0 : -EAFNOSUPPORT;
}

/* TCP to `port` arrives at `listener`, from the socket that dialled, with the destination that was dialled.
 */
static int check_captured(struct selftest *t, int listener, uint16_t port)
{
    struct addr client, dialled, ours;
    t->target.port = port;
    _cleanup_fd_ int fd = dial(t, SOCK_STREAM);
    if (fd < 0)
        return failed(t, -fd, "cannot connect");
    if (own_address(fd, &client) < 0 || own_address(listener, &ours) < 0)
        return failed(t, errno, "no local address");
    _cleanup_fd_ int accepted = accept_from(t, listener, &client);
    if (accepted < 0)
        return failed(t, -accepted, "the connection does not come back to the listener");
    abandon(fd);
    int r = socket_is_transparent(listener, t->target.family) ? transparent_destination(accepted, &ours, &dialled)
                                                               : original_destination(accepted, t->target.family, &dialled);
    if (r < 0)
        return failed(t, -r, "no original destination");
    return addr_equal(&dialled, &t->target) ? 0
                                            : failed(t, EPROTO, "the original destination is another one");
}

/* Reads datagrams until one is the token; others are dropped. */
static int receive_token(const struct selftest *t, int fd, const uint8_t *token,
                         struct sockaddr_storage *ret_from, socklen_t *ret_length)
{
    for (;;) {
        uint8_t bytes[TOKEN_SIZE];
        int r = await(t, fd, POLLIN);
        if (r < 0)
            return r;
        *ret_length = sizeof(*ret_from);
        ssize_t got = recvfrom(fd, bytes, sizeof(bytes), MSG_TRUNC, (struct sockaddr *)ret_from, ret_length);
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (got == TOKEN_SIZE && memcmp(bytes, token, TOKEN_SIZE) == 0)
            return 0;
    }
}

/* A datagram from a socket of its own to port 53 of the target, until it is at `server`; *ret_from is whose it is. */
static int ask_dns(struct selftest *t, int server, const uint8_t *token, int *ret, struct sockaddr_storage *ret_from,
                   socklen_t *ret_length)
{
    const int64_t deadline = t->deadline;
    int r = -ETIMEDOUT;
    while (r == -ETIMEDOUT && now_ms() < deadline) {
        _cleanup_fd_ int fd = dial(t, SOCK_DGRAM);
        if (fd < 0 || send(fd, token, TOKEN_SIZE, 0) < 0)
            return failed(t, fd < 0 ? -fd : errno, "cannot send a DNS datagram");
        t->deadline = now_ms() + DATAGRAM_PATIENCE_MS < deadline ? now_ms() + DATAGRAM_PATIENCE_MS : deadline;
        r = receive_token(t, server, token, ret_from, ret_length);
        t->deadline = deadline;
        if (r == 0)
            *ret = fd_steal(&fd);
    }
    return r < 0 ? failed(t, -r, "the DNS datagram does not arrive") : 0;
}

/* A datagram to port 53 arrives at `server`, and the answer comes back from the address that was asked. Where rules were in force a
 * moment ago the first may be lost: connection tracking still knows a flow of its very ports, and where that one went. */
static int check_dns(struct selftest *t, int server)
{
    uint8_t token[TOKEN_SIZE];
    struct sockaddr_storage from;
    socklen_t length;
    _cleanup_fd_ int fd = -1;
    t->target.port = DNS_PORT;
    if (getrandom(token, sizeof(token), 0) != sizeof(token))
        return failed(t, errno, "no random bytes");
    int r = ask_dns(t, server, token, &fd, &from, &length);
    if (r < 0)
        return r;
    if (sendto(server, token, sizeof(token), 0, (struct sockaddr *)&from, length) < 0)
        return failed(t, errno, "cannot answer the DNS datagram");
    r = receive_token(t, fd, token, &from, &length); /* fd is connected: only the asked address gets through */
    return r < 0 ? failed(t, -r, "the DNS answer does not come back") : 0;
}

/* What the transparent socket tells of the datagram's destination. */
static bool original_of(struct msghdr *message, struct addr *ret)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        struct sockaddr_storage to = {0};
        if ((c->cmsg_level != IPPROTO_IP || c->cmsg_type != IP_ORIGDSTADDR) &&
            (c->cmsg_level != IPPROTO_IPV6 || c->cmsg_type != IPV6_ORIGDSTADDR))
            continue;
        size_t size = c->cmsg_len - CMSG_LEN(0);
        memcpy(&to, CMSG_DATA(c), size < sizeof(to) ? size : sizeof(to));
        return addr_from_sockaddr((struct sockaddr *)&to, ret);
    }
    return false;
}

/* Reads datagrams until one is the token; others are dropped: their senders send again. */
static int receive_captured(const struct selftest *t, int fd, const uint8_t *token, struct addr *ret)
{
    for (;;) {
        uint8_t bytes[TOKEN_SIZE], control[CMSG_SPACE(sizeof(struct sockaddr_in6))];
        struct iovec part = {bytes, sizeof(bytes)};
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
        int r = await(t, fd, POLLIN);
        if (r < 0)
            return r;
        ssize_t got = recvmsg(fd, &message, 0);
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (got == TOKEN_SIZE && memcmp(bytes, token, TOKEN_SIZE) == 0)
            return original_of(&message, ret) ? 0 : -EPROTO;
    }
}

/* A datagram to a captured port arrives at `server`, with the destination that was dialled. */
static int check_udp_captured(struct selftest *t, int server, uint16_t port)
{
    uint8_t token[TOKEN_SIZE];
    struct addr dialled;
    t->target.port = port;
    if (getrandom(token, sizeof(token), 0) != sizeof(token))
        return failed(t, errno, "no random bytes");
    _cleanup_fd_ int fd = dial(t, SOCK_DGRAM);
    if (fd < 0 || send(fd, token, sizeof(token), 0) < 0)
        return failed(t, fd < 0 ? -fd : errno, "cannot send a datagram");
    int r = receive_captured(t, server, token, &dialled);
    if (r < 0)
        return failed(t, -r, "the datagram does not arrive");
    return addr_equal(&dialled, &t->target) ? 0
                                            : failed(t, EPROTO, "the original destination is another one");
}

static int check_tcp_refused(struct selftest *t, uint16_t port)
{
    int code = 0;
    socklen_t length = sizeof(code);
    t->target.port = port;
    _cleanup_fd_ int fd = dial(t, SOCK_STREAM);
    if (fd < 0)
        return fd == -ECONNREFUSED ? 0 : failed(t, -fd, "cannot connect");
    int r = await(t, fd, POLLOUT);
    if (r < 0)
        return failed(t, -r, "a port that no rule names is not refused at once");
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &length) < 0)
        return failed(t, errno, "cannot read the outcome");
    return code == ECONNREFUSED
               ? 0
               : failed(t, code ? code : EISCONN, "a port that no rule names is not refused");
}

static int check_udp_refused(struct selftest *t, uint16_t port)
{
    t->target.port = port;
    _cleanup_fd_ int fd = dial(t, SOCK_DGRAM);
    if (fd < 0)
        return failed(t, -fd, "cannot make a datagram socket");
    if (send(fd, "", 1, 0) >= 0)
        return failed(t, EISCONN, "a datagram was not refused");
    bool refused = errno == EPERM || errno == ECONNREFUSED || errno == EHOSTUNREACH || errno == EACCES;
    return refused ? 0 : failed(t, errno, "a datagram was refused for another reason than the ruleset");
}

static bool is_named(const struct acl_port_range *ports, size_t count, uint32_t port)
{
    for (size_t i = 0; i < count; i++)
        if (port >= ports[i].low && port <= ports[i].high)
            return true;
    return port == DNS_PORT;
}

/* A port that is redirected to the TCP listener; 0 when there is none. */
static uint16_t named_port(const struct acl_port_range *ports, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (ports[i].low != DNS_PORT)
            return ports[i].low;
        if (ports[i].high != DNS_PORT)
            return DNS_PORT + 1;
    }
    return 0;
}

static uint16_t unnamed_port(const struct acl_port_range *ports, size_t count)
{
    uint32_t port = 9; /* discard: never a useful destination */
    while (port <= UINT16_MAX && is_named(ports, count, port))
        port++;
    return port <= UINT16_MAX ? (uint16_t)port : 0;
}

static int check_udp(struct selftest *t, int server, const struct acl_port_range *ports, size_t count)
{
    uint16_t named = named_port(ports, count), unnamed = 443; /* QUIC: a browser must know at once */
    if (is_named(ports, count, unnamed))
        unnamed = unnamed_port(ports, count);
    int r = named && server >= 0 ? check_udp_captured(t, server, named) : 0;
    return r == 0 && unnamed ? check_udp_refused(t, unnamed) : r;
}

static int check_family(struct selftest *t, int i, const struct capture_sockets *sockets,
                        const struct sealed_plan *plan)
{
    uint16_t named = named_port(plan->ports, plan->port_count),
             unnamed = unnamed_port(plan->ports, plan->port_count);
    int r = 0;
    if (named != 0)
        r = check_captured(t, sockets->tcp[i], named);
    if (r == 0)
        r = check_captured(t, sockets->dns_tcp[i], DNS_PORT);
    if (r == 0)
        r = check_dns(t, sockets->dns_udp[i]);
    if (r == 0 && unnamed != 0)
        r = check_tcp_refused(t, unnamed);
    if (r == 0)
        r = check_udp(t, sockets->udp[i], plan->udp_ports, plan->udp_port_count);
    return r;
}

static void ignore_event(const struct nflog_event *event, void *arg)
{
    (void)event;
    (void)arg;
}

static const char *const target[2] = {"192.0.2.1", "2001:db8::1"};

/* Without a route nothing can leave by this family either. */
static bool has_route(int i)
{
    struct selftest t = {0};
    addr_parse(target[i], strlen(target[i]), &t.target);
    t.target.port = DNS_PORT;
    _cleanup_fd_ int fd = dial(&t, SOCK_DGRAM); /* sends nothing */
    return fd != -ENETUNREACH && fd != -EADDRNOTAVAIL;
}

int selftest_run(const struct capture_sockets *sockets, const struct sealed_plan *plan, struct error *err)
{
    int r = 0;
    for (int i = 0; i < 2 && r == 0; i++) {
        struct selftest t = {.deadline = now_ms() + PATIENCE_MS, .err = err};
        if (sockets->tcp[i] < 0 || (plan->attached && !has_route(i)))
            continue;
        addr_parse(target[i], strlen(target[i]), &t.target);
        r = check_family(&t, i, sockets, plan);
    }
    while (sockets->nflog >= 0) {
        int got = nflog_read(sockets->nflog, ignore_event, NULL);
        if (got < 0 && got != -ENOBUFS)
            break;
    }
    return r;
}
