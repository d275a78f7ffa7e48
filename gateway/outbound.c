#include "gateway/outbound.h"

#include "base/fds.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define REPLY_MAX 8192

int outbound_open(struct outbound *out, const struct config_upstream *upstream, const struct addr *address,
                  bool speaks_first)
{
    struct sockaddr_storage to;
    bool direct = upstream->kind == CONFIG_UPSTREAM_NONE;
    const struct addr *next = direct ? address : &upstream->address;
    socklen_t length = addr_to_sockaddr(next, &to);
    const int on = 1, off = 0;
    *out = (struct outbound){.upstream = *upstream, .address = *address};
    _cleanup_fd_ int fd = socket(next->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (speaks_first || !direct)
        setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof(off));
    if (connect(fd, (struct sockaddr *)&to, length) < 0 && errno != EINPROGRESS) {
        out->problem = direct ? NULL : "the site's proxy cannot be reached";
        return -errno;
    }
    return fd_steal(&fd);
}

static int fail(struct outbound *out, const char *problem, int error)
{
    out->problem = problem;
    return error;
}

/* A few bytes into an empty socket: they fit. */
static int say(struct outbound *out, int fd, const void *bytes, size_t length, enum outbound_state next)
{
    if (send(fd, bytes, length, MSG_NOSIGNAL) != (ssize_t)length)
        return fail(out, "the site's proxy closed", -EPIPE);
    out->state = next;
    return 0;
}

static int ask_http(struct outbound *out, int fd)
{
    char where[ADDR_TEXT_MAX], text[2 * ADDR_TEXT_MAX + 64];
    addr_format_with_port(&out->address, where);
    int length = snprintf(text, sizeof(text), "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", where, where);
    return say(out, fd, text, (size_t)length, OUTBOUND_ASKED);
}

/*  version 5, CONNECT, reserved, address type (1 IPv4, 4 IPv6), address, port  */
static int ask_socks(struct outbound *out, int fd)
{
    bool v4 = out->address.family == AF_INET;
    size_t size = v4 ? 4 : 16;
    uint8_t request[4 + 16 + 2] = {5, 1, 0, v4 ? 1 : 4};
    memcpy(request + 4, out->address.bytes, size);
    request[4 + size] = (uint8_t)(out->address.port >> 8);
    request[5 + size] = (uint8_t)out->address.port;
    return say(out, fd, request, 4 + size + 2, OUTBOUND_ASKED);
}

static int connected(struct outbound *out, int fd, uint32_t events)
{
    int error = 0;
    socklen_t size = sizeof(error);
    bool plain = (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) == EPOLLOUT; /* nothing to ask for */
    if (!plain && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    if (out->upstream.kind == CONFIG_UPSTREAM_NONE) {
        out->state = error ? out->state : OUTBOUND_OPEN;
        return -error;
    }
    if (error)
        return fail(out, "the site's proxy cannot be reached", -error);
    if (out->upstream.kind == CONFIG_UPSTREAM_HTTP)
        return ask_http(out, fd);
    return say(out, fd, "\5\1\0" /* version 5, one method: no authentication */, 3, OUTBOUND_GREETED);
}

/* The proxy's answer so far, not taken yet. 0 nothing there, or a negative errno. */
static ssize_t look(struct outbound *out, int fd, uint8_t *bytes, size_t size)
{
    ssize_t got = recv(fd, bytes, size, MSG_PEEK);
    if (got > 0)
        return got;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    return fail(out, "the site's proxy closed", got < 0 ? -errno : -ECONNRESET);
}

static int take(struct outbound *out, int fd, size_t length)
{
    uint8_t bytes[REPLY_MAX];
    return recv(fd, bytes, length, 0) == (ssize_t)length ? 0
                                                         : fail(out, "the site's proxy closed", -ECONNRESET);
}

/* Each of these: 1 the answer is whole and good (and taken), 0 not whole, or a negative errno. */
static int read_http(struct outbound *out, int fd)
{
    uint8_t bytes[REPLY_MAX];
    ssize_t got = look(out, fd, bytes, sizeof(bytes));
    if (got <= 0)
        return (int)got;
    const uint8_t *end = memmem(bytes, (size_t)got, "\r\n\r\n", 4);
    if (!end)
        return got == REPLY_MAX ? fail(out, "the site's proxy answers with too much", -EPROTO) : 0;
    if (end - bytes < 12 || memcmp(bytes, "HTTP/1.", 7) != 0 || bytes[8] != ' ' || bytes[9] != '2')
        return fail(out, "the site's proxy refuses", -ECONNREFUSED);
    int r = take(out, fd, (size_t)(end - bytes) + 4);
    return r < 0 ? r : 1;
}

static int read_method(struct outbound *out, int fd)
{
    uint8_t bytes[2];
    ssize_t got = look(out, fd, bytes, sizeof(bytes));
    if (got <= 1)
        return got < 0 ? (int)got : 0;
    if (bytes[0] != 5 || bytes[1] != 0)
        return fail(out, "the site's proxy wants another way to log in", -EPROTO);
    int r = take(out, fd, 2);
    return r < 0 ? r : 1;
}

static int read_socks(struct outbound *out, int fd)
{
    uint8_t bytes[4 + 1 + 255 + 2];
    ssize_t got = look(out, fd, bytes, sizeof(bytes));
    if (got < 5)
        return got < 0 ? (int)got : 0;
    size_t address = bytes[3] == 1 ? 4 : bytes[3] == 4 ? 16 : 1u + bytes[4];
    if (bytes[0] != 5 || bytes[1] != 0)
        return fail(out, "the site's proxy refuses", -ECONNREFUSED);
    if ((size_t)got < 4 + address + 2)
        return 0;
    int r = take(out, fd, 4 + address + 2);
    return r < 0 ? r : 1;
}

int outbound_step(struct outbound *out, int fd, uint32_t events)
{
    int r = 0;
    if (out->state == OUTBOUND_CONNECTING && (r = connected(out, fd, events)) < 0)
        return r;
    if (out->state == OUTBOUND_GREETED) {
        r = read_method(out, fd);
        if (r <= 0 || (r = ask_socks(out, fd)) < 0)
            return r;
    }
    if (out->state == OUTBOUND_ASKED) {
        r = out->upstream.kind == CONFIG_UPSTREAM_HTTP ? read_http(out, fd) : read_socks(out, fd);
        if (r <= 0)
            return r;
        out->state = OUTBOUND_OPEN;
    }
    return out->state == OUTBOUND_OPEN;
}
