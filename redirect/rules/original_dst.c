/*
 * Where the client wanted to go. A connection to a transparent listener has that for its own address; behind a redirection conntrack
 * still knows (getorigdst and ipv6_getorigdst in the kernel's net/netfilter/nf_conntrack_proto.c). Either is asked for the socket's
 * own connection, so it works from any namespace.
 *
 * Both know a connection that nobody captured as well, and answer with the address that was dialled: our own. That is a client that
 * dialled the listener itself, and never a destination to go to.
 */
#include "redirect/rules/sealed.h"

#include <errno.h>
#include <linux/in6.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <netinet/in.h>
#include <sys/socket.h>

static int socket_address(int fd, struct addr *ret)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof(own);
    if (getsockname(fd, (struct sockaddr *)&own, &length) < 0)
        return -errno;
    return addr_from_sockaddr((struct sockaddr *)&own, ret) ? 0 : -EAFNOSUPPORT;
}

bool socket_is_transparent(int fd, int family)
{
    int on = 0;
    socklen_t length = sizeof(on);
    int level = family == AF_INET ? SOL_IP : SOL_IPV6, option = family == AF_INET ? IP_TRANSPARENT : IPV6_TRANSPARENT;
    return getsockopt(fd, level, option, &on, &length) == 0 && on;
}

int transparent_destination(int fd, const struct addr *listener, struct addr *ret)
{
    struct addr dialled;
    int r = socket_address(fd, &dialled);
    if (r < 0)
        return r;
    if (addr_equal(&dialled, listener))
        return -ELOOP;
    *ret = dialled;
    return 0;
}

int original_destination(int fd, int family, struct addr *ret)
{
    struct sockaddr_storage original = {0};
    socklen_t length = sizeof(original);
    struct addr dialled, own;
    int level = family == AF_INET ? SOL_IP : SOL_IPV6;
    int option = family == AF_INET ? SO_ORIGINAL_DST : IP6T_SO_ORIGINAL_DST;
    if (family != AF_INET && family != AF_INET6)
        return -EAFNOSUPPORT;
    if (getsockopt(fd, level, option, &original, &length) < 0)
        return -errno;
    if (!addr_from_sockaddr((struct sockaddr *)&original, &dialled))
        return -EAFNOSUPPORT;
    int r = socket_address(fd, &own);
    if (r < 0)
        return r;
    if (addr_equal(&dialled, &own))
        return -ELOOP;
    *ret = dialled;
    return 0;
}
