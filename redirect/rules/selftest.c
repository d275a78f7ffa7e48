/*
 * The self-test plays client and gateway in one process: dial an address that nobody has (RFC 5737, RFC
 * 3849), accept on our own listener, compare. Everything is loopback inside the kernel, so it takes
 * microseconds; the deadline only keeps a broken set-up from hanging.
 *
 * In a namespace that is in use already (a re-apply), flows of others may arrive in between. They are told
 * apart by their peer address or by a random token, and closed or dropped: their owners see what a restart
 * looks like.
 */
#include "redirect/rules/selftest.h"

#include "base/fds.h"
#include "redirect/rules/nflog.h"

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
#define IP4_SIZE 20
#define IP6_SIZE 40
#define UDP_SIZE 8

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

/* Where a datagram came from, and where it was to go as far as the socket is told (family 0: it is not). */
struct arrival {
    struct sockaddr_storage from;
    socklen_t length;
    struct addr original;
};

static void read_original(struct msghdr *message, struct addr *ret)
{
    *ret = (struct addr){0};
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        struct sockaddr_storage to = {0};
        if ((c->cmsg_level != IPPROTO_IP || c->cmsg_type != IP_ORIGDSTADDR) &&
            (c->cmsg_level != IPPROTO_IPV6 || c->cmsg_type != IPV6_ORIGDSTADDR))
            continue;
        size_t size = c->cmsg_len - CMSG_LEN(0);
        memcpy(&to, CMSG_DATA(c), size < sizeof(to) ? size : sizeof(to));
        addr_from_sockaddr((struct sockaddr *)&to, ret);
    }
}

/* Reads datagrams until one is the token; others are dropped: their senders send again. */
static int receive_token(const struct selftest *t, int fd, const uint8_t *token, struct arrival *ret)
{
    for (;;) {
        uint8_t bytes[TOKEN_SIZE], control[CMSG_SPACE(sizeof(struct sockaddr_in6))];
        struct iovec part = {bytes, sizeof(bytes)};
        struct msghdr message = {.msg_name = &ret->from,
                                 .msg_namelen = sizeof(ret->from),
                                 .msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof(control)};
        int r = await(t, fd, POLLIN);
        if (r < 0)
            return r;
        ssize_t got = recvmsg(fd, &message, MSG_TRUNC);
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (got != TOKEN_SIZE || memcmp(bytes, token, TOKEN_SIZE) != 0)
            continue;
        ret->length = message.msg_namelen;
        read_original(&message, &ret->original);
        return 0;
    }
}

/* A datagram from a socket of its own to port 53 of the target, until it is at `server`. */
static int ask_dns(struct selftest *t, int server, const uint8_t *token, int *ret, struct arrival *ret_arrival)
{
    const int64_t deadline = t->deadline;
    int r = -ETIMEDOUT;
    while (r == -ETIMEDOUT && now_ms() < deadline) {
        _cleanup_fd_ int fd = dial(t, SOCK_DGRAM);
        if (fd < 0 || send(fd, token, TOKEN_SIZE, 0) < 0)
            return failed(t, fd < 0 ? -fd : errno, "cannot send a DNS datagram");
        t->deadline = now_ms() + DATAGRAM_PATIENCE_MS < deadline ? now_ms() + DATAGRAM_PATIENCE_MS : deadline;
        r = receive_token(t, server, token, ret_arrival);
        t->deadline = deadline;
        if (r == 0)
            *ret = fd_steal(&fd);
    }
    return r < 0 ? failed(t, -r, "the DNS datagram does not arrive") : 0;
}

static void put16(uint8_t *to, size_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

/* Of UDP over IPv6 (RFC 8200 section 8.1): addresses, protocol, length, datagram. `size` is even. */
static uint16_t checksum6(const uint8_t addresses[32], const uint8_t *datagram, size_t size)
{
    uint32_t sum = (uint32_t)(IPPROTO_UDP + size);
    for (size_t i = 0; i < 32; i += 2)
        sum += (uint32_t)addresses[i] << 8 | addresses[i + 1];
    for (size_t i = 0; i < size; i += 2)
        sum += (uint32_t)datagram[i] << 8 | datagram[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum == 0xffff ? 0xffff : (uint16_t)~sum;
}

/* The token as a whole packet, from the target to the client: what the worker's answers look like. Returns its length. */
static size_t put_answer(const struct selftest *t, const struct addr *client, const uint8_t *token,
                         uint8_t ret[IP6_SIZE + UDP_SIZE + TOKEN_SIZE])
{
    bool four = t->target.family == AF_INET;
    size_t ip = four ? IP4_SIZE : IP6_SIZE, body = UDP_SIZE + TOKEN_SIZE, address = four ? 4 : 16;
    uint8_t *addresses = ret + ip - 2 * address, *udp = ret + ip;
    memset(ret, 0, ip + UDP_SIZE);
    ret[0] = four ? 0x45 : 0x60;
    put16(ret + (four ? 2 : 4), four ? ip + body : body);
    ret[four ? 8 : 7] = 64; /* hops */
    ret[four ? 9 : 6] = IPPROTO_UDP;
    memcpy(addresses, t->target.bytes, address);
    memcpy(addresses + address, client->bytes, address);
    put16(udp, t->target.port);
    put16(udp + 2, client->port);
    put16(udp + 4, body);
    memcpy(udp + UDP_SIZE, token, TOKEN_SIZE);
    if (!four)
        put16(udp + 6, checksum6(addresses, udp, body));
    return ip + body;
}

static int answer_by_raw(const struct selftest *t, int raw, const struct arrival *arrival, const uint8_t *token)
{
    uint8_t packet[IP6_SIZE + UDP_SIZE + TOKEN_SIZE];
    struct sockaddr_storage to;
    struct addr client;
    if (!addr_equal(&arrival->original, &t->target))
        return failed(t, EPROTO, "the original destination of the DNS datagram is another one");
    if (!addr_from_sockaddr((const struct sockaddr *)&arrival->from, &client))
        return failed(t, EAFNOSUPPORT, "the DNS datagram has no sender");
    size_t size = put_answer(t, &client, token, packet);
    client.port = 0; /* a raw socket has none */
    socklen_t length = addr_to_sockaddr(&client, &to);
    return sendto(raw, packet, size, 0, (struct sockaddr *)&to, length) < 0 ? failed(t, errno, "cannot answer the DNS datagram") : 0;
}

/* A datagram to port 53 arrives at `server`, and the answer comes back from the address that was asked. Where rules were in force a
 * moment ago the first may be lost: connection tracking still knows a flow of its very ports, and where that one went. */
static int check_dns(struct selftest *t, int server, int raw)
{
    uint8_t token[TOKEN_SIZE];
    struct arrival arrival;
    _cleanup_fd_ int fd = -1;
    t->target.port = DNS_PORT;
    if (getrandom(token, sizeof(token), 0) != sizeof(token))
        return failed(t, errno, "no random bytes");
    int r = ask_dns(t, server, token, &fd, &arrival);
    if (r < 0)
        return r;
    if (socket_is_transparent(server, t->target.family))
        r = answer_by_raw(t, raw, &arrival, token);
    else if (sendto(server, token, sizeof(token), 0, (struct sockaddr *)&arrival.from, arrival.length) < 0)
        r = failed(t, errno, "cannot answer the DNS datagram");
    if (r < 0)
        return r;
    r = receive_token(t, fd, token, &arrival); /* fd is connected: only the asked address gets through */
    return r < 0 ? failed(t, -r, "the DNS answer does not come back") : 0;
}

/* A datagram to a captured port arrives at `server`, with the destination that was dialled. */
static int check_udp_captured(struct selftest *t, int server, uint16_t port)
{
    uint8_t token[TOKEN_SIZE];
    struct arrival arrival;
    t->target.port = port;
    if (getrandom(token, sizeof(token), 0) != sizeof(token))
        return failed(t, errno, "no random bytes");
    _cleanup_fd_ int fd = dial(t, SOCK_DGRAM);
    if (fd < 0 || send(fd, token, sizeof(token), 0) < 0)
        return failed(t, fd < 0 ? -fd : errno, "cannot send a datagram");
    int r = receive_token(t, server, token, &arrival);
    if (r < 0)
        return failed(t, -r, "the datagram does not arrive");
    return addr_equal(&arrival.original, &t->target) ? 0 : failed(t, EPROTO, "the original destination is another one");
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
        r = check_dns(t, sockets->dns_udp[i], sockets->raw[i]);
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
