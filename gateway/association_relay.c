/*
 * The packets of associations: from the container's sockets to the origin's, and back.
 */
#include "gateway/association_internal.h"

#include "base/fds.h"
#include "redirect/nflog.h"

#include <errno.h>
#include <linux/in6.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define BATCH 64
#define ECHO_PER_SECOND 50
#define RELAY_BUFFER (1 << 20)

/* ---- back into the namespace ---- */

static void send_inside(const struct capture *capture, const struct addr *to, const uint8_t *head,
                        size_t head_length, const uint8_t *payload, size_t length)
{
    struct sockaddr_storage address;
    struct addr plain = *to;
    plain.port = 0; /* a raw socket has none */
    struct iovec parts[2] = {{(void *)(uintptr_t)head, head_length}, {(void *)(uintptr_t)payload, length}};
    struct msghdr message = {.msg_name = &address, .msg_iov = parts, .msg_iovlen = length ? 2 : 1};
    message.msg_namelen = addr_to_sockaddr(&plain, &address);
    /* What does not get through is lost, as datagrams are. */
    (void)sendmsg(capture->raw[to->family == AF_INET6], &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void answer(struct association *a, const uint8_t *payload, size_t length, uint16_t sequence)
{
    uint8_t head[PACKET_HEAD_MAX];
    size_t head_length =
        a->protocol == ACL_UDP
            ? packet_udp_head(&a->destination, &a->source, payload, length, head)
            : packet_echo_reply_head(&a->destination, &a->source, sequence, payload, length, head);
    send_inside(a->capture, &a->source, head, head_length, payload, length);
}

void association_error(const struct capture *capture, const struct datagram *d, enum packet_error what,
                       uint16_t mtu)
{
    uint8_t packet[PACKET_ERROR_MAX];
    const struct packet_quote quote = {.echo = d->protocol == ACL_ICMP,
                                       .source = d->source,
                                       .destination = d->destination,
                                       .sequence = d->sequence,
                                       .length = d->length,
                                       .mtu = mtu};
    size_t length = packet_error(what, &quote, packet);
    send_inside(capture, &d->source, packet, length, NULL, 0);
}

struct datagram association_latest(const struct association *a)
{
    return (struct datagram){
        .protocol = a->protocol, .source = a->source, .destination = a->destination, .sequence = a->sequence};
}

/* ---- to the origin ---- */

void association_origin_ready(struct poll_handle *handle, uint32_t events);

/* Larger ones are fragmented on the way, as the sender's own kernel would have done. */
int association_connect(struct association *a)
{
    static const int size = RELAY_BUFFER;
    struct sockaddr_storage to;
    int family = a->destination.family;
    int protocol = a->protocol == ACL_UDP ? IPPROTO_UDP : family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6;
    socklen_t length = addr_to_sockaddr(&a->destination, &to);
    _cleanup_fd_ int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    if (connect(fd, (struct sockaddr *)&to, length) < 0)
        return -errno;
    int r = poller_add(&association_worker(a)->poller, &a->poll, fd);
    if (r == 0)
        (void)fd_steal(&fd);
    return r;
}

/* What the origin's network said. */
static void pass_error(struct association *a, const struct datagram *d, int error)
{
    enum packet_error what = error == ECONNREFUSED               ? PACKET_PORT_UNREACHABLE
                             : error == EMSGSIZE                 ? PACKET_TOO_BIG
                             : error == EACCES || error == EPERM ? PACKET_PROHIBITED
                                                                 : PACKET_HOST_UNREACHABLE;
    int mtu = 0;
    socklen_t size = sizeof(mtu);
    bool four = a->destination.family == AF_INET;
    if (what == PACKET_TOO_BIG &&
        getsockopt(a->poll.fd, four ? IPPROTO_IP : IPPROTO_IPV6, four ? IP_MTU : IPV6_MTU, &mtu, &size) < 0)
        mtu = 0;
    association_error(a->capture, d, what, (uint16_t)(mtu > UINT16_MAX ? UINT16_MAX : mtu));
}

static ssize_t send_once(struct association *a, const struct datagram *d)
{
    uint8_t head[PACKET_ECHO_SIZE];
    struct iovec parts[2] = {{head, 0}, {(void *)(uintptr_t)d->payload, d->length}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    if (d->protocol == ACL_ICMP) {
        packet_echo_request(d->destination.family, d->sequence, head);
        parts[0].iov_len = sizeof(head);
    }
    return sendmsg(a->poll.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void send_outside(struct association *a, const struct datagram *d)
{
    struct worker *w = association_worker(a);
    for (int tries = 0; tries < 2; tries++) { /* the first may be told the error of an earlier one */
        if (send_once(a, d) >= 0) {
            a->bytes_up += d->length;
            metric_add(&w->metrics->bytes_up, d->length);
            return;
        }
        if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM || errno == EINTR)
            return; /* lost, as datagrams are */
        pass_error(a, d, errno);
        if (errno == EMSGSIZE)
            return;
    }
}

void association_take(struct association *a, const struct datagram *d)
{
    a->sequence = d->sequence;
    if (a->denied) {
        association_error(a->capture, d, PACKET_PROHIBITED, 0);
        return;
    }
    a->active = true;
    send_outside(a, d);
}

static void take_datagram(struct capture *capture, const struct datagram *d)
{
    struct association *a = association_for(capture, d);
    if (a && a->search)
        association_hold(a, d);
    else if (a)
        association_take(a, d);
}

/* ---- UDP ---- */

static bool read_original(struct msghdr *message, struct addr *ret)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        struct sockaddr_storage to = {0};
        bool four = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_ORIGDSTADDR,
             six = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_ORIGDSTADDR;
        size_t size = four ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
        if ((!four && !six) || c->cmsg_len < CMSG_LEN(size))
            continue;
        memcpy(&to, CMSG_DATA(c), size);
        return addr_from_sockaddr((struct sockaddr *)&to, ret);
    }
    return false;
}

/* 1: one was taken; 0: there is none now. */
static int take_udp(struct capture_listener *listener)
{
    struct worker *w = listener->capture->worker;
    uint8_t control[CMSG_SPACE(sizeof(struct sockaddr_in6)) * 2];
    struct sockaddr_storage from;
    struct iovec part = {w->scratch, SCRATCH_SIZE};
    struct msghdr message = {.msg_name = &from,
                             .msg_namelen = sizeof(from),
                             .msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof(control)};
    ssize_t got = recvmsg(listener->poll.fd, &message, MSG_DONTWAIT);
    if (got < 0)
        return errno != EAGAIN;
    struct datagram d = {.protocol = ACL_UDP, .payload = w->scratch, .length = (size_t)got};
    if (addr_from_sockaddr((struct sockaddr *)&from, &d.source) && read_original(&message, &d.destination) &&
        d.source.family == d.destination.family)
        take_datagram(listener->capture, &d);
    return 1;
}

void association_udp_ready(struct poll_handle *handle, uint32_t events)
{
    struct capture_listener *listener = list_entry(handle, struct capture_listener, poll);
    (void)events;
    for (int i = 0; i < BATCH; i++)
        if (take_udp(listener) == 0)
            return;
    poller_again(&listener->capture->worker->poller, handle);
}

/* ---- ping ---- */

void association_echo(struct capture *capture, const struct nflog_event *packet)
{
    struct packet_echo echo;
    struct worker *w = capture->worker;
    if (!packet_read_echo(packet->packet, packet->packet_length, &echo) ||
        !rate_take(&capture->echo_rate, ECHO_PER_SECOND, uv_now(&w->loop))) {
        capture->packets_left_out++;
        return;
    }
    const struct datagram d = {.protocol = ACL_ICMP,
                               .source = echo.source,
                               .destination = echo.destination,
                               .sequence = echo.sequence,
                               .payload = echo.payload,
                               .length = echo.length};
    if (capture->raw[d.source.family == AF_INET6] >= 0)
        take_datagram(capture, &d);
}

/* ---- the origin's answers ---- */

static void take_answer(struct association *a, const uint8_t *bytes, size_t length)
{
    struct worker *w = association_worker(a);
    uint16_t sequence = 0;
    if (a->protocol == ACL_ICMP) {
        if (!packet_read_echo_reply(a->destination.family, bytes, length, &sequence))
            return;
        bytes += PACKET_ECHO_SIZE;
        length -= PACKET_ECHO_SIZE;
    }
    a->bytes_down += length;
    metric_add(&w->metrics->bytes_down, length);
    a->active = true;
    if (!a->replied) {
        a->replied = true;
        association_keep(a);
    }
    answer(a, bytes, length, sequence);
}

void association_origin_ready(struct poll_handle *handle, uint32_t events)
{
    struct association *a = list_entry(handle, struct association, poll);
    struct worker *w = association_worker(a);
    (void)events;
    for (int i = 0; i < BATCH; i++) {
        ssize_t got = recv(handle->fd, w->scratch, SCRATCH_SIZE, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN)
            return;
        if (got >= 0) {
            take_answer(a, w->scratch, (size_t)got);
        } else if (errno != EINTR) {
            const struct datagram d = association_latest(a);
            pass_error(a, &d, errno);
        }
    }
    poller_again(&w->poller, handle);
}
