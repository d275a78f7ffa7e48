#include "redirect/rules/packets.h"

#include "base/fds.h"
#include "redirect/rules/rtnl.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/in6.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define RECEIVE_BUFFER (4u << 20) /* datagrams of 64 KiB come in bursts, and nobody repeats them */

static int set_option(int fd, int level, int name, const char *what, struct error *err)
{
    static const int on = 1;
    return setsockopt(fd, level, name, &on, sizeof(on)) < 0 ? error_errno(err, errno, "cannot %s", what) : 0;
}

/* As much as may be had: more than the system's limit only where we are its root. */
static void widen(int fd)
{
    static const int size = RECEIVE_BUFFER;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

void packets_widen(const struct capture_sockets *sockets)
{
    for (int i = 0; i < 2; i++)
        if (sockets->udp[i] >= 0)
            widen(sockets->udp[i]);
}

static int bind_loopback(int fd, int family, uint16_t port, struct error *err)
{
    const char *text = family == AF_INET ? "127.0.0.1" : "::1";
    struct sockaddr_storage address;
    struct addr loopback = {0};
    addr_parse(text, strlen(text), &loopback);
    loopback.port = port;
    socklen_t length = addr_to_sockaddr(&loopback, &address);
    if (bind(fd, (struct sockaddr *)&address, length) == 0)
        return 0;
    return error_errno(err, errno == EADDRNOTAVAIL ? EAFNOSUPPORT : errno, "cannot bind to %s", text);
}

static int open_udp(int family, uint16_t port, struct error *err)
{
    int level = family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
    _cleanup_fd_ int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_errno(err, errno, "cannot open a datagram socket");
    int r = family == AF_INET6 ? set_option(fd, level, IPV6_V6ONLY, "make a socket IPv6 only", err) : 0;
    if (r == 0)
        r = set_option(fd, level, family == AF_INET ? IP_TRANSPARENT : IPV6_TRANSPARENT,
                       "make a socket transparent", err);
    if (r == 0)
        r = set_option(fd, level, family == AF_INET ? IP_RECVORIGDSTADDR : IPV6_RECVORIGDSTADDR,
                       "ask for original destinations", err);
    if (r == 0)
        r = bind_loopback(fd, family, port, err);
    if (r < 0)
        return r;
    widen(fd);
    return fd_steal(&fd);
}

static int mark_answers(int fd, struct error *err)
{
    static const uint32_t mark = ANSWERS_MARK;
    return setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0 ? error_errno(err, errno, "cannot mark a raw socket") : 0;
}

static int open_raw(int family, struct error *err)
{
    static struct sock_filter nothing[] = {{BPF_RET | BPF_K, 0, 0, 0}};
    static const struct sock_fprog filter = {1, nothing};
    _cleanup_fd_ int fd = socket(family, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_RAW);
    if (fd < 0)
        return error_errno(err, errno, "cannot open a raw socket, which answers to DNS, UDP and ping leave by%s",
                           errno == EPERM ? " (it takes CAP_NET_RAW)" : "");
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) < 0)
        return error_errno(err, errno, "cannot make a raw socket deaf");
    return fd_steal(&fd);
}

int packets_open_raw(struct capture_sockets *sockets, struct error *err)
{
    static const int family[2] = {AF_INET, AF_INET6};
    int r = 0;
    for (int i = 0; i < 2 && r == 0; i++) {
        if (sockets->dns_udp[i] < 0)
            continue;
        if (sockets->raw[i] < 0)
            r = sockets->raw[i] = open_raw(family[i], err);
        if (r >= 0)
            r = mark_answers(sockets->raw[i], err);
    }
    return r;
}

/* A kernel without IPv6 leaves -1. */
static int open_family(int i, const struct sealed_past *past, struct capture_sockets *sockets,
                       struct error *err)
{
    int family = i == 0 ? AF_INET : AF_INET6;
    if (sockets->udp[i] < 0) {
        int fd = open_udp(family, past ? past->ports[&sockets->udp[i] - (int *)sockets] : 0, err);
        if (fd == -EAFNOSUPPORT && family == AF_INET6)
            return 0;
        if (fd < 0)
            return fd;
        sockets->udp[i] = fd;
    }
    if (sockets->raw[i] < 0) {
        int fd = open_raw(family, err);
        if (fd < 0)
            return fd;
        sockets->raw[i] = fd;
    }
    return 0;
}

int packets_open(const struct sealed_past *past, struct capture_sockets *sockets, struct error *err)
{
    int r = open_family(0, past, sockets, err);
    return r < 0 ? r : open_family(1, past, sockets, err);
}

int packets_route(int route, bool ipv6, struct error *err)
{
    int r = rtnl_route_mark(route, AF_INET, PACKETS_MARK, PACKETS_TABLE, err);
    return r < 0 || !ipv6 ? r : rtnl_route_mark(route, AF_INET6, PACKETS_MARK, PACKETS_TABLE, err);
}

void packets_unroute(int route)
{
    rtnl_unroute_mark(route, AF_INET, PACKETS_MARK, PACKETS_TABLE);
    rtnl_unroute_mark(route, AF_INET6, PACKETS_MARK, PACKETS_TABLE);
}
