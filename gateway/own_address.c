#include "gateway/own_address.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <stdalign.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int own_address_open(struct error *err)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    if (fd < 0)
        return error_errno(err, errno, "cannot open a routing socket");
    if (connect(fd, (struct sockaddr *)&kernel, sizeof(kernel)) < 0) {
        int code = errno;
        close(fd);
        return error_errno(err, code, "cannot reach the routing table");
    }
    return fd;
}

static int ask(int socket, const struct addr *address)
{
    alignas(struct nlmsghdr) char buffer[256];
    size_t size = address->family == AF_INET ? 4 : 16;
    struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = RTM_GETROUTE;
    request->nlmsg_flags = NLM_F_REQUEST;
    struct rtmsg *route = mnl_nlmsg_put_extra_header(request, sizeof(*route));
    route->rtm_family = address->family;
    route->rtm_dst_len = (unsigned char)(size * 8);
    mnl_attr_put(request, RTA_DST, size, address->bytes);
    return send(socket, request, request->nlmsg_len, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

bool own_address_is(int socket, const struct addr *address)
{
    alignas(struct nlmsghdr) char buffer[4096];
    if (ask(socket, address) < 0)
        return true;
    ssize_t got = recv(socket, buffer, sizeof(buffer), MSG_DONTWAIT);
    const struct nlmsghdr *answer = (const struct nlmsghdr *)buffer;
    if (got < 0 || !mnl_nlmsg_ok(answer, (int)got))
        return true;
    if (answer->nlmsg_type == NLMSG_ERROR)
        return false; /* no route: it will not be reached either */
    if (answer->nlmsg_type != RTM_NEWROUTE || answer->nlmsg_len < MNL_NLMSG_HDRLEN + sizeof(struct rtmsg))
        return true;
    return ((const struct rtmsg *)mnl_nlmsg_get_payload(answer))->rtm_type == RTN_LOCAL;
}
