/*
 * NFLOG (kernel net/netfilter/nfnetlink_log.c): one message a packet,
 *
 *   nlmsghdr | nfgenmsg (family) | attributes: NFULA_PAYLOAD (the packet from its IP header, cut), NFULA_SEQ,
 * …
 *
 * Attributes are walked with the bounds-checked cursor rather than with libmnl's macros: attribute lengths
 * come from the kernel, but what they enclose does not, and one kind of reader for both is easier to trust.
 *
 *   IPv4 (RFC 791)  version/IHL … protocol at 9, source at 12, destination at 16, header IHL * 4 bytes
 *   IPv6 (RFC 8200) next header at 6, source at 8, destination at 24, then extension headers
 */
#include "redirect/rules/nflog.h"

#include "base/cursor.h"
#include "base/fds.h"
#include "redirect/rules/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdalign.h>
#include <string.h>
#include <sys/socket.h>

#define GROUP_TRIES 16
#define COPY_RANGE 128
#define COPY_WHOLE 65531 /* what an attribute can hold */
#define EXTENSIONS_MAX 8
#define RECEIVE_MAX (2 * 65536) /* a whole packet, and the other attributes */

/* ---- set-up ---- */

static struct nlmsghdr *config_request(void *buffer, uint16_t group)
{
    struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
    struct nfgenmsg *header = mnl_nlmsg_put_extra_header(request, sizeof(*header));
    header->nfgen_family = AF_UNSPEC;
    header->version = NFNETLINK_V0;
    header->res_id = htons(group);
    return request;
}

static int bind_group(int fd, uint16_t group, struct error *err)
{
    alignas(struct nlmsghdr) char buffer[NETLINK_REQUEST_MAX];
    struct nlmsghdr *request = config_request(buffer, group);
    const struct nfulnl_msg_config_cmd bind = {.command = NFULNL_CFG_CMD_BIND};
    mnl_attr_put(request, NFULA_CFG_CMD, sizeof(bind), &bind);
    return netlink_request(fd, request, "binding a log group", err);
}

/* Whole packets are not wanted; each at once (the default waits for a hundred, or a second); numbered. */
static int configure_group(int fd, uint16_t group, uint32_t copy_range, struct error *err)
{
    alignas(struct nlmsghdr) char buffer[NETLINK_REQUEST_MAX];
    struct nlmsghdr *request = config_request(buffer, group);
    const struct nfulnl_msg_config_mode mode = {.copy_range = htonl(copy_range),
                                                .copy_mode = NFULNL_COPY_PACKET};
    mnl_attr_put(request, NFULA_CFG_MODE, sizeof(mode), &mode);
    mnl_attr_put_u32(request, NFULA_CFG_QTHRESH, htonl(1));
    mnl_attr_put_u16(request, NFULA_CFG_FLAGS, htons(NFULNL_CFG_F_SEQ));
    return netlink_request(fd, request, "setting up the log group", err);
}

/* A group has one reader in a namespace, and a socket that an earlier call handed out may still hold its own.
 * The kernel says EPERM of a group that another socket holds (EBUSY of our own). */
static int bind_free_group(int fd, uint16_t *ret_group, struct error *err)
{
    int r = -EPERM;
    for (uint16_t i = 0; i < GROUP_TRIES && r == -EPERM; i++) {
        *ret_group = (uint16_t)(NFLOG_GROUP_FIRST + i);
        r = bind_group(fd, *ret_group, err);
    }
    /* nfnetlink answers EINVAL for a subsystem it does not have. */
    return r == -EINVAL ? error_set(err, ENOPROTOOPT, "the kernel has no NFLOG") : r;
}

int nflog_open(uint16_t *ret_group, struct error *err)
{
    _cleanup_fd_ int fd = netlink_open(NETLINK_NETFILTER, err);
    if (fd < 0)
        return fd;
    uint16_t group = 0;
    int r = bind_free_group(fd, &group, err);
    if (r == 0)
        r = configure_group(fd, group, COPY_RANGE, err);
    if (r == 0)
        r = bind_group(fd, (uint16_t)(group + NFLOG_ECHO_OFFSET), err);
    if (r == 0)
        r = configure_group(fd, (uint16_t)(group + NFLOG_ECHO_OFFSET), COPY_WHOLE, err);
    if (r < 0)
        return r;
    *ret_group = group;
    return fd_steal(&fd);
}

/* ---- parsing ---- */

/* Netlink's own integers are in host byte order. */
static uint16_t host_u16(struct cursor *c)
{
    uint16_t value = 0;
    const uint8_t *p = cursor_take(c, sizeof(value));
    if (p)
        memcpy(&value, p, sizeof(value));
    return value;
}

static uint32_t host_u32(struct cursor *c)
{
    uint32_t value = 0;
    const uint8_t *p = cursor_take(c, sizeof(value));
    if (p)
        memcpy(&value, p, sizeof(value));
    return value;
}

/* What lies between two messages or attributes; the last may go without. */
static void skip_padding(struct cursor *c, size_t length)
{
    size_t padding = -length & 3;
    cursor_take(c, padding < c->left ? padding : c->left);
}

static void take_address(struct cursor *c, uint8_t family, struct addr *ret)
{
    size_t size = family == AF_INET ? 4 : 16;
    const uint8_t *bytes = cursor_take(c, size);
    *ret = (struct addr){.family = family};
    if (bytes)
        memcpy(ret->bytes, bytes, size);
}

/* Source and destination port are the first four bytes of all protocols that have them. Cut off or a later
 * fragment: no ports, but still an event. */
static void take_ports(struct cursor *c, struct nflog_event *event)
{
    switch (event->protocol) {
    case IPPROTO_TCP:
    case IPPROTO_UDP:
    case IPPROTO_DCCP:
    case IPPROTO_SCTP:
    case IPPROTO_UDPLITE:
        break;
    default:
        return;
    }
    uint16_t source = cursor_u16(c), destination = cursor_u16(c);
    if (!cursor_ok(c))
        return;
    event->source.port = source;
    event->destination.port = destination;
}

static bool parse_ipv4(struct cursor *c, struct nflog_event *event)
{
    size_t header = (size_t)(cursor_u8(c) & 0x0f) * 4;
    cursor_take(c, 5); /* type of service, total length, identification */
    bool later_fragment = (cursor_u16(c) & 0x1fff) != 0;
    cursor_take(c, 1); /* time to live */
    event->protocol = cursor_u8(c);
    cursor_take(c, 2); /* checksum */
    take_address(c, AF_INET, &event->source);
    take_address(c, AF_INET, &event->destination);
    if (!cursor_ok(c) || header < 20)
        return false;
    cursor_take(c, header - 20);
    if (!later_fragment)
        take_ports(c, event);
    return true;
}

/* Steps over the extension headers; false when the packet has no transport header behind them. */
static bool skip_extensions(struct cursor *c, uint8_t *protocol)
{
    for (int i = 0; i < EXTENSIONS_MAX; i++) {
        bool fragment = *protocol == IPPROTO_FRAGMENT;
        if (*protocol != IPPROTO_HOPOPTS && *protocol != IPPROTO_ROUTING && *protocol != IPPROTO_DSTOPTS &&
            !fragment)
            return true;
        uint8_t next = cursor_u8(c), length = cursor_u8(c);
        uint16_t offset = cursor_u16(c);
        cursor_take(c, fragment ? 4 : 4 + (size_t)length * 8);
        if (!cursor_ok(c))
            return false;
        *protocol = next;
        if (fragment && (offset & 0xfff8) != 0)
            return false;
    }
    return false;
}

static bool parse_ipv6(struct cursor *c, struct nflog_event *event)
{
    cursor_take(c, 6); /* version, traffic class, flow label, payload length */
    event->protocol = cursor_u8(c);
    cursor_take(c, 1); /* hop limit */
    take_address(c, AF_INET6, &event->source);
    take_address(c, AF_INET6, &event->destination);
    if (!cursor_ok(c))
        return false;
    if (skip_extensions(c, &event->protocol))
        take_ports(c, event);
    return true;
}

static bool parse_packet(struct cursor packet, struct nflog_event *event)
{
    if (packet.left == 0)
        return false;
    switch (packet.at[0] >> 4) {
    case 4:
        return parse_ipv4(&packet, event);
    case 6:
        return parse_ipv6(&packet, event);
    default:
        return false;
    }
}

static bool is_prefix(const struct cursor *value, const char *prefix)
{
    size_t size = strlen(prefix) + 1;
    return value->left >= size && !memcmp(value->at, prefix, size);
}

static void take_prefix(const struct cursor *value, struct nflog_event *event)
{
    event->spoofed = is_prefix(value, NFLOG_SPOOFED);
    event->allowed = is_prefix(value, NFLOG_ALLOWED);
}

/* The attributes of one message. */
static bool parse_message(struct cursor message, struct nflog_event *event)
{
    struct cursor payload = {0};
    cursor_take(&message, sizeof(struct nfgenmsg) - sizeof(uint16_t));
    event->group = cursor_u16(&message);
    while (cursor_ok(&message) && message.left > 0) {
        uint16_t length = host_u16(&message);
        uint16_t type = host_u16(&message) & NLA_TYPE_MASK;
        if (length < NLA_HDRLEN)
            return false;
        struct cursor value = cursor_sub(&message, length - (size_t)NLA_HDRLEN);
        skip_padding(&message, length);
        if (type == NFULA_PAYLOAD)
            payload = value;
        else if (type == NFULA_PREFIX)
            take_prefix(&value, event);
        else if (type == NFULA_SEQ)
            event->sequence = cursor_u32(&value);
    }
    event->packet = payload.at;
    event->packet_length = payload.left;
    return cursor_ok(&message) && parse_packet(payload, event);
}

int nflog_parse(const void *bytes, size_t length, nflog_each_fn each, void *arg)
{
    struct cursor c = cursor_over(bytes, length);
    int told = 0;
    while (c.left > 0) {
        uint32_t size = host_u32(&c);
        uint16_t type = host_u16(&c);
        cursor_take(&c, sizeof(struct nlmsghdr) - 6); /* flags, sequence, port */
        if (!cursor_ok(&c) || size < sizeof(struct nlmsghdr))
            break;
        struct cursor message = cursor_sub(&c, size - sizeof(struct nlmsghdr));
        skip_padding(&c, size);
        struct nflog_event event = {0};
        if (type != (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET) || !cursor_ok(&message) ||
            !parse_message(message, &event))
            continue;
        each(&event, arg);
        told++;
    }
    return told;
}

int nflog_read(int fd, nflog_each_fn each, void *arg)
{
    alignas(struct nlmsghdr) char buffer[RECEIVE_MAX];
    struct sockaddr_nl from = {0};
    socklen_t from_length = sizeof(from);
    ssize_t got;
    do
        got = recvfrom(fd, buffer, sizeof(buffer), MSG_DONTWAIT, (struct sockaddr *)&from, &from_length);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;
    if (from.nl_pid != 0) /* not the kernel: a process in the namespace may write to our port as well */
        return 0;
    return nflog_parse(buffer, (size_t)got, each, arg);
}

uint32_t nflog_lost(int fd)
{
    uint32_t memory[SK_MEMINFO_VARS] = {0};
    socklen_t length = sizeof(memory);
    return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length) == 0 ? memory[SK_MEMINFO_DROPS] : 0;
}
