/*
 * Where the client wanted to go: conntrack still knows (getorigdst and ipv6_getorigdst in the kernel's
 * net/netfilter/nf_conntrack_proto.c). Asked for the socket's own connection, so it works from any namespace.
 *
 * conntrack knows a connection that nobody redirected as well, and answers with the address that was dialled:
 * our own. That is a client that dialled the listener itself, and never a destination to go to.
 */
#include "redirect/sealed.h"

#include <errno.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <sys/socket.h>

static int socket_address(int fd, struct addr *ret)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof(own);
    if (getsockname(fd, (struct sockaddr *)&own, &length) < 0)
        return -errno;
    return addr_from_sockaddr((struct sockaddr *)&own, ret) ? 0 : -EAFNOSUPPORT;
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
