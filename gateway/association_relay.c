/*
 * The packets of associations: from the container's sockets to the origin's, and back, by the batch. A read that fills less than was
 * asked for has emptied the socket, so none is needed that says so; what goes one way goes by one call.
 */
#include "gateway/association_internal.h"

#include "base/fds.h"
#include "redirect/rules/nflog.h"

#include <errno.h>
#include <linux/in6.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define BATCH 16  /* datagrams read and sent by one system call */
#define BATCHES 4 /* before others have their turn */
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

/* Room for one batch. */
struct relay_batch {
    struct mmsghdr in[BATCH], out[BATCH];
    struct iovec in_part[BATCH], out_parts[BATCH][2];
    struct sockaddr_storage from[BATCH];
    uint8_t control[BATCH][2 * CMSG_SPACE(sizeof(struct sockaddr_in6))];
    uint8_t heads[BATCH][PACKET_HEAD_MAX];
    struct datagram datagrams[BATCH];
    uint8_t bytes[BATCH][SCRATCH_SIZE];
};

struct relay_batch *association_batch_create(void)
{
    return malloc(sizeof(struct relay_batch)); /* pages that no datagram reaches never come to be */
}

/* How many were read, or a negative errno: -EAGAIN when there are none. */
static int read_batch(struct relay_batch *b, int fd)
{
    for (size_t i = 0; i < BATCH; i++) {
        b->in_part[i] = (struct iovec){b->bytes[i], SCRATCH_SIZE};
        b->in[i].msg_hdr = (struct msghdr){.msg_name = &b->from[i],
                                           .msg_namelen = sizeof(b->from[i]),
                                           .msg_iov = &b->in_part[i],
                                           .msg_iovlen = 1,
                                           .msg_control = b->control[i],
                                           .msg_controllen = sizeof(b->control[i])};
    }
    int got = recvmmsg(fd, b->in, BATCH, MSG_DONTWAIT, NULL);
    return got < 0 ? -errno : got;
}

static void put_out(struct relay_batch *b, size_t i, uint8_t *head, size_t head_length,
                    const uint8_t *payload, size_t length)
{
    b->out_parts[i][0] = (struct iovec){head, head_length};
    b->out_parts[i][1] = (struct iovec){(void *)(uintptr_t)payload, length};
    b->out[i].msg_hdr = (struct msghdr){.msg_iov = b->out_parts[i], .msg_iovlen = 2};
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

static void count_up(struct association *a, size_t bytes)
{
    a->bytes_up += bytes;
    metric_add(&association_worker(a)->metrics->bytes_up, bytes);
}

static void send_outside(struct association *a, const struct datagram *d)
{
    for (int tries = 0; tries < 2; tries++) { /* the first may be told the error of an earlier one */
        if (send_once(a, d) >= 0) {
            count_up(a, d->length);
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

static bool read_datagram(struct relay_batch *b, size_t i, struct datagram *ret)
{
    *ret = (struct datagram){.protocol = ACL_UDP, .payload = b->bytes[i], .length = b->in[i].msg_len};
    return addr_from_sockaddr((struct sockaddr *)&b->from[i], &ret->source) &&
           read_original(&b->in[i].msg_hdr, &ret->destination) &&
           ret->source.family == ret->destination.family;
}

/* Datagrams of one association, one behind the other. */
struct run {
    struct association *a;
    size_t count;
};

static void send_run(struct relay_batch *b, struct run *run)
{
    struct association *a = run->a;
    size_t count = run->count, done = 0;
    run->count = 0;
    int sent = count > 1 ? sendmmsg(a->poll.fd, b->out, (unsigned)count, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    for (; sent > 0 && done < (size_t)sent; done++)
        count_up(a, b->datagrams[done].length);
    for (; done < count; done++) /* with a look at the error */
        send_outside(a, &b->datagrams[done]);
}

/* An association of the run stays: what makes room for others are denied ones. */
static void take_udp(struct capture *capture, struct relay_batch *b, struct run *run,
                     const struct datagram *d)
{
    struct association *a = association_for(capture, d);
    if (!a)
        return;
    if (a->search) {
        association_hold(a, d);
    } else if (a->denied) {
        association_take(a, d);
    } else {
        if (run->a != a)
            send_run(b, run);
        run->a = a;
        a->active = true;
        put_out(b, run->count, NULL, 0, d->payload, d->length);
        b->datagrams[run->count++] = *d;
    }
}

void association_udp_ready(struct poll_handle *handle, uint32_t events)
{
    struct capture *capture = list_entry(handle, struct capture_listener, poll)->capture;
    struct relay_batch *b = capture->worker->associations.batch;
    (void)events;
    for (int turn = 0; turn < BATCHES; turn++) {
        struct run run = {0};
        int got = read_batch(b, handle->fd);
        for (int i = 0; i < got; i++) {
            struct datagram d;
            if (read_datagram(b, (size_t)i, &d))
                take_udp(capture, b, &run, &d);
        }
        if (run.count)
            send_run(b, &run);
        if (got < BATCH && got != -EINTR)
            return;
    }
    poller_again(&capture->worker->poller, handle);
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
    struct association *a =
        capture->raw[d.source.family == AF_INET6] >= 0 ? association_for(capture, &d) : NULL;
    if (a && a->search)
        association_hold(a, &d);
    else if (a)
        association_take(a, &d);
}

/* ---- the origin's answers ---- */

/* Makes place `out` of the batch an answer of what was read into place `in`. False when it is none. */
static bool put_answer(struct association *a, struct relay_batch *b, size_t in, size_t out)
{
    const uint8_t *bytes = b->bytes[in];
    size_t length = b->in[in].msg_len, head_length;
    uint16_t sequence = 0;
    if (a->protocol == ACL_ICMP) {
        if (!packet_read_echo_reply(a->destination.family, bytes, length, &sequence))
            return false;
        bytes += PACKET_ECHO_SIZE;
        length -= PACKET_ECHO_SIZE;
        head_length =
            packet_echo_reply_head(&a->destination, &a->source, sequence, bytes, length, b->heads[out]);
    } else {
        head_length = packet_udp_head(&a->destination, &a->source, bytes, length, b->heads[out]);
    }
    put_out(b, out, b->heads[out], head_length, bytes, length);
    a->bytes_down += length;
    metric_add(&association_worker(a)->metrics->bytes_down, length);
    return true;
}

/* What does not get through is lost, as datagrams are. */
static void send_answers(struct association *a, struct relay_batch *b, size_t count)
{
    struct sockaddr_storage to;
    struct addr plain = a->source;
    plain.port = 0; /* a raw socket has none */
    socklen_t length = addr_to_sockaddr(&plain, &to);
    for (size_t i = 0; i < count; i++) {
        b->out[i].msg_hdr.msg_name = &to;
        b->out[i].msg_hdr.msg_namelen = length;
    }
    for (size_t at = 0; at < count;) {
        int sent = sendmmsg(a->capture->raw[a->source.family == AF_INET6], b->out + at,
                            (unsigned)(count - at), MSG_DONTWAIT | MSG_NOSIGNAL);
        at += sent > 0 ? (size_t)sent : 1;
    }
}

static void take_answers(struct association *a, struct relay_batch *b, size_t count)
{
    size_t answers = 0;
    for (size_t i = 0; i < count; i++)
        answers += put_answer(a, b, i, answers);
    if (answers == 0)
        return;
    send_answers(a, b, answers);
    a->active = true;
    if (!a->replied) {
        a->replied = true;
        association_keep(a);
    }
}

void association_origin_ready(struct poll_handle *handle, uint32_t events)
{
    struct association *a = list_entry(handle, struct association, poll);
    struct worker *w = association_worker(a);
    (void)events;
    for (int turn = 0; turn < BATCHES; turn++) {
        int got = read_batch(w->associations.batch, handle->fd);
        if (got == -EAGAIN)
            return;
        if (got > 0) {
            take_answers(a, w->associations.batch, (size_t)got);
            if (got < BATCH)
                return;
        } else if (got < 0 && got != -EINTR) {
            const struct datagram d = association_latest(a);
            pass_error(a, &d, -got);
        }
    }
    poller_again(&w->poller, handle);
}
