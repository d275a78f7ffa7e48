#include "redirect/daemon/publish.h"

#include "base/fds.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define BACKLOG 4096
#define DOOR_BACKLOG 16 /* one connection at a time; what else comes is the container's and is closed */
#define HOW "write [ADDRESS:]PORT:PORT, as 8080:80 or [::1]:8080:80"

/* ---- text ---- */

/* The `length` bytes in front of the container's port: PORT or ADDRESS:PORT. */
static bool parse_host(const char *text, size_t length, struct addr *ret)
{
    char copy[ADDR_TEXT_MAX + 8];
    uint16_t port;
    if (addr_parse_port(text, length, &port)) {
        addr_parse("127.0.0.1", 9, ret);
        ret->port = port;
        return port != 0;
    }
    if (length >= sizeof(copy))
        return false;
    memcpy(copy, text, length);
    copy[length] = 0;
    return addr_parse_with_port(copy, 0, ret) && ret->port != 0;
}

static bool parse_one(const char *text, size_t length, struct publish_port *ret)
{
    if (length > 4 && !memcmp(text + length - 4, "/tcp", 4))
        length -= 4;
    const char *colon = memrchr(text, ':', length);
    if (!colon || !addr_parse_port(colon + 1, length - (size_t)(colon + 1 - text), &ret->inside) ||
        !ret->inside)
        return false;
    return parse_host(text, (size_t)(colon - text), &ret->host);
}

int publish_parse(const char *text, struct publish_port ret[PUBLISH_MAX], size_t *ret_count,
                  struct error *err)
{
    size_t count = 0;
    for (const char *at = text; *at; at += strspn(at, ",")) {
        size_t length = strcspn(at, ",");
        if (count == PUBLISH_MAX)
            return error_set(err, EINVAL, "a container can publish at most %d ports", PUBLISH_MAX);
        if (length > 4 && !memcmp(at + length - 4, "/udp", 4))
            return error_set(err, EINVAL, "\"%.*s\" cannot be published: only TCP can", (int)length, at);
        if (!parse_one(at, length, &ret[count]))
            return error_set(err, EINVAL, "\"%.*s\" cannot be published: " HOW,
                             (int)(length > 64 ? 64 : length), at);
        for (size_t i = 0; i < count; i++)
            if (addr_equal(&ret[i].host, &ret[count].host))
                return error_set(err, EINVAL, "\"%.*s\" is published twice: leave one out", (int)length, at);
        count++;
        at += length;
    }
    *ret_count = count;
    return 0;
}

void publish_format(const struct publish_port *port, char ret[ADDR_TEXT_MAX + 8])
{
    char host[ADDR_TEXT_MAX];
    snprintf(ret, ADDR_TEXT_MAX + 8, "%s:%u", addr_format_with_port(&port->host, host), port->inside);
}

/* ---- sockets ---- */

static int open_tcp(int family, struct error *err)
{
    static const int on = 1;
    _cleanup_fd_ int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_errno(err, errno, "cannot open a socket");
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 || /* accepted ones inherit */
        (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0))
        return error_errno(err, errno, "cannot set up a socket");
    return fd_steal(&fd);
}

static int bind_and_listen(int fd, const struct addr *address, int backlog)
{
    struct sockaddr_storage own;
    socklen_t length = addr_to_sockaddr(address, &own);
    return bind(fd, (struct sockaddr *)&own, length) < 0 || listen(fd, backlog) < 0 ? -errno : 0;
}

int publish_listen(const struct publish_port *port, struct error *err)
{
    static const int on = 1;
    char text[ADDR_TEXT_MAX];
    addr_format_with_port(&port->host, text);
    _cleanup_fd_ int fd = open_tcp(port->host.family, err);
    if (fd < 0)
        return fd;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0) /* connections of before may linger */
        return error_errno(err, errno, "cannot set up a socket");
    int r = bind_and_listen(fd, &port->host, BACKLOG);
    if (r == -EADDRINUSE)
        return error_set(err, EADDRINUSE, "%s is in use: publish another port, or stop what uses it", text);
    if (r == -EADDRNOTAVAIL)
        return error_set(err, EADDRNOTAVAIL, "%s cannot be published: that is no address of this machine",
                         text);
    return r < 0 ? error_errno(err, -r, "cannot publish %s", text) : fd_steal(&fd);
}

static int open_family(int i, struct capture_sockets *door, struct error *err)
{
    struct addr own = {0};
    const char *text = i == 0 ? SEALED_ADDRESS4 : SEALED_ADDRESS6;
    addr_parse(text, (size_t)(strchr(text, '/') - text), &own);
    DOOR_SEED(door, i) = open_tcp(own.family, err);
    DOOR_LISTENER(door, i) = open_tcp(own.family, err);
    if (DOOR_SEED(door, i) < 0 || DOOR_LISTENER(door, i) < 0)
        return -err->code;
    int r = bind_and_listen(DOOR_LISTENER(door, i), &own, DOOR_BACKLOG);
    return r < 0 ? error_errno(err, -r, "cannot listen in the container") : 0;
}

int publish_open_door(struct capture_sockets *ret, struct error *err)
{
    struct capture_sockets door = CAPTURE_SOCKETS_NONE;
    int r = open_family(0, &door, err);
    if (r == 0 && open_family(1, &door, err) < 0) { /* a kernel without IPv6 */
        fd_close(&DOOR_SEED(&door, 1));
        fd_close(&DOOR_LISTENER(&door, 1));
    }
    if (r < 0)
        capture_sockets_close(&door);
    else
        *ret = door;
    return r;
}
