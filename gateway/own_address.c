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

static int ask(int socket, const struct addr *address, uint32_t sequence)
{
    alignas(struct nlmsghdr) char buffer[256];
    size_t size = address->family == AF_INET ? 4 : 16;
    struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = RTM_GETROUTE;
    request->nlmsg_flags = NLM_F_REQUEST;
    request->nlmsg_seq = sequence;
    struct rtmsg *route = mnl_nlmsg_put_extra_header(request, sizeof(*route));
    route->rtm_family = address->family;
    route->rtm_dst_len = (unsigned char)(size * 8);
    mnl_attr_put(request, RTA_DST, size, address->bytes);
    return send(socket, request, request->nlmsg_len, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The kernel could not look, which is not the same as: there is no route, so it will not be reached either. */
static bool is_trouble(const struct nlmsghdr *answer)
{
    const struct nlmsgerr *e = mnl_nlmsg_get_payload(answer);
    return mnl_nlmsg_get_payload_len(answer) < sizeof(*e) || e->error == 0 || e->error == -ENOMEM || e->error == -ENOBUFS ||
           e->error == -EINTR || e->error == -EPERM;
}

/* An answer that could not be read when it was due would else be taken for that to the next question, and so on for ever. */
static ssize_t read_answer(int socket, void *buffer, size_t size, uint32_t sequence)
{
    const struct nlmsghdr *answer = buffer;
    ssize_t got;
    do
        got = recv(socket, buffer, size, MSG_DONTWAIT);
    while ((got < 0 && errno == EINTR) || (got >= 0 && mnl_nlmsg_ok(answer, (int)got) && answer->nlmsg_seq != sequence));
    return got;
}

bool own_address_is(int socket, const struct addr *address)
{
    static uint32_t sequence;
    alignas(struct nlmsghdr) char buffer[4096];
    if (ask(socket, address, ++sequence) < 0)
        return true;
    ssize_t got = read_answer(socket, buffer, sizeof(buffer), sequence);
    const struct nlmsghdr *answer = (const struct nlmsghdr *)buffer;
    if (got < 0 || !mnl_nlmsg_ok(answer, (int)got))
        return true;
    if (answer->nlmsg_type == NLMSG_ERROR)
        return is_trouble(answer);
    if (answer->nlmsg_type != RTM_NEWROUTE || answer->nlmsg_len < MNL_NLMSG_HDRLEN + sizeof(struct rtmsg))
        return true;
    return ((const struct rtmsg *)mnl_nlmsg_get_payload(answer))->rtm_type == RTN_LOCAL;
}

/* Whoever makes two addresses meet in one place wins a question to the kernel: the hash need not be seeded. */
static size_t place_of(const struct addr *address)
{
    uint64_t high, low;
    memcpy(&high, address->bytes, sizeof(high));
    memcpy(&low, address->bytes + 8, sizeof(low));
    return (size_t)(((high ^ low * 31) * 0x9e3779b97f4a7c15u) >> 32) & (OWN_ADDRESS_KEPT - 1);
}

bool own_address_is_lately(struct own_address_cache *cache, int socket, const struct addr *address, uint64_t now_ms)
{
    size_t place = place_of(address);
    if (cache->kept[place].until_ms <= now_ms || !addr_equal_ip(&cache->kept[place].address, address)) {
        cache->kept[place].own = own_address_is(socket, address);
        cache->kept[place].address = *address;
        cache->kept[place].until_ms = now_ms + OWN_ADDRESS_KEPT_MS;
    }
    return cache->kept[place].own;
}
