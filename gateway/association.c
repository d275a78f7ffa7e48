#include "gateway/association.h"

#include "base/fds.h"
#include "gateway/packet.h"
#include "gateway/worker_internal.h"
#include "redirect/nflog.h"

#include <errno.h>
#include <linux/in6.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define BUCKETS 4096
#define BATCH 64
#define FRESH_MS 30000 /* as conntrack has it for UDP without an answer */
#define DENIED_MS 5000 /* a name may be looked up meanwhile */
#define DENIED_MAX 256 /* remembered of one container */
#define EVENTS_PER_SECOND 50
#define ECHO_PER_SECOND 50
#define RELAY_BUFFER (1 << 20)

struct association {
    struct list link, bucket; /* in all; of its hash */
    struct capture *capture;
    const struct acl_policy *policy;
    enum acl_protocol protocol;
    struct addr source, destination; /* ACL_ICMP: source.port is the identifier, destination.port 0 */
    struct poll_handle poll;         /* to the origin */
    struct deadline timer;
    bool denied, replied, active, would_deny, told;
    char name[ACL_NAME_MAX + 1]; /* "": by address */
    uint8_t name_length;
    uint16_t sequence; /* of the latest echo request */
    struct acl_verdict verdict;
    enum acl_reason reason;
    const char *detail, *binding;
    uint64_t bytes_up, bytes_down, serial, started_ns;
    struct timespec started;
};

/* One packet of the container. */
struct datagram {
    enum acl_protocol protocol;
    struct addr source, destination;
    uint16_t sequence;
    const uint8_t *payload;
    size_t length;
};

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct worker *worker_of(const struct association *a)
{
    return a->capture->worker;
}

/* ---- the table ---- */

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

static uint64_t mix_address(uint64_t hash, const struct addr *a)
{
    uint64_t words[2];
    memcpy(words, a->bytes, sizeof(words));
    return mix(mix(mix(hash, words[0]), words[1]), (uint64_t)a->family << 16 | a->port);
}

/* Seeded: a container chooses addresses and ports. */
static struct list *bucket_of(struct association_table *table, const struct capture *capture,
                              const struct datagram *d)
{
    uint64_t hash = mix(mix(table->hash_seed, (uintptr_t)capture), d->protocol);
    return &table->buckets[mix_address(mix_address(hash, &d->source), &d->destination) % BUCKETS];
}

static struct association *find(struct capture *capture, const struct datagram *d)
{
    struct list *bucket = bucket_of(&capture->worker->associations, capture, d);
    for (struct list *link = bucket->next; link != bucket; link = link->next) {
        struct association *a = list_entry(link, struct association, bucket);
        if (a->capture == capture && a->protocol == d->protocol && addr_equal(&a->source, &d->source) &&
            addr_equal(&a->destination, &d->destination))
            return a;
    }
    return NULL;
}

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

static void send_error(const struct capture *capture, const struct datagram *d, enum packet_error what,
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

static struct datagram latest_of(const struct association *a)
{
    return (struct datagram){
        .protocol = a->protocol, .source = a->source, .destination = a->destination, .sequence = a->sequence};
}

/* ---- events ---- */

#define ID_SIZE 32

static const char *transport_of(const struct association *a)
{
    return a->protocol == ACL_UDP ? "udp" : a->destination.family == AF_INET ? "icmp" : "ipv6-icmp";
}

static struct audit_event event_of(const struct association *a, enum audit_action action, char id[ID_SIZE])
{
    struct worker *w = worker_of(a);
    struct audit_event event = worker_event(w, a->capture, a->policy);
    snprintf(id, ID_SIZE, "%08x-%llu", w->id_prefix, (unsigned long long)a->serial);
    event.action = action;
    event.flow_id = id;
    event.start = a->started;
    event.source = a->source;
    if (a->protocol == ACL_ICMP)
        event.source.port = 0;
    event.destination = a->destination;
    event.domain = a->name;
    event.domain_length = a->name_length;
    event.transport = transport_of(a);
    event.reason = a->reason;
    event.verdict = &a->verdict;
    event.binding = a->binding;
    event.detail = a->detail;
    event.would_deny = a->would_deny;
    return event;
}

static void report(const struct association *a)
{
    char what[ACL_NAME_MAX + ADDR_TEXT_MAX], where[ADDR_TEXT_MAX];
    bool udp = a->protocol == ACL_UDP;
    if (*a->name && udp)
        snprintf(what, sizeof(what), "udp %s:%u", a->name, a->destination.port);
    else if (*a->name)
        snprintf(what, sizeof(what), "icmp %s", a->name);
    else
        snprintf(what, sizeof(what), "%s %s", transport_of(a),
                 udp ? addr_format_with_port(&a->destination, where) : addr_format(&a->destination, where));
    report_denied(worker_of(a)->report, what, a->reason);
}

/* A container can make denials faster than any log takes them: what is left out is counted with refused packets. */
static void tell_denied(struct association *a)
{
    struct worker *w = worker_of(a);
    char id[ID_SIZE];
    report(a);
    if (!rate_take(&a->capture->association_events, EVENTS_PER_SECOND, uv_now(&w->loop))) {
        a->capture->packets_left_out++;
        return;
    }
    struct audit_event event = event_of(a, AUDIT_FLOW_DECISION, id);
    event.would_deny = false;
    audit_submit(w->audit, &event);
}

/* ---- life and end ---- */

static void release(struct association *a)
{
    struct worker *w = worker_of(a);
    int fd = a->poll.fd;
    poller_remove(&w->poller, &a->poll);
    fd_close(&fd);
    deadline_stop(&a->timer);
    list_remove(&a->link);
    list_remove(&a->bucket);
    if (a->denied) {
        a->capture->denied_associations--;
    } else {
        a->capture->flows--;
        metric_set(&w->metrics->flows_active, --w->flow_count);
    }
    free(a);
}

static void end(struct association *a, enum audit_close_by by, const char *why)
{
    char id[ID_SIZE];
    if (a->told) {
        struct audit_event event = event_of(a, AUDIT_FLOW_END, id);
        event.allowed = true;
        event.duration_ns = monotonic_ns() - a->started_ns;
        event.bytes_sent = a->bytes_up;
        event.bytes_received = a->bytes_down;
        event.close_by = by;
        event.close_reason = why;
        audit_submit(worker_of(a)->audit, &event);
    }
    release(a);
}

static void keep_alive(struct association *a)
{
    struct association_table *table = &worker_of(a)->associations;
    deadline_start(a->denied    ? &table->denied_timeouts
                   : a->replied ? &table->replied_timeouts
                                : &table->fresh_timeouts,
                   &a->timer);
}

static void expired(struct deadline *deadline)
{
    struct association *a = list_entry(deadline, struct association, timer);
    if (a->active) { /* a packet came since: a flag costs less than a list operation for each */
        a->active = false;
        keep_alive(a);
        return;
    }
    end(a, AUDIT_CLOSE_GATEWAY, "idle_timeout");
}

/* From a flow to something remembered. */
static void become_denied(struct association *a)
{
    struct worker *w = worker_of(a);
    a->denied = true;
    a->capture->flows--;
    a->capture->denied_associations++;
    metric_set(&w->metrics->flows_active, --w->flow_count);
    keep_alive(a);
}

static void forget_oldest_denied(struct capture *capture)
{
    struct list *all = &capture->worker->associations.all;
    for (struct list *link = all->next; link != all; link = link->next) {
        struct association *a = list_entry(link, struct association, link);
        if (a->capture != capture || !a->denied)
            continue;
        release(a);
        return;
    }
}

static void deny(struct association *a, enum acl_reason reason, const char *detail)
{
    struct capture *capture = a->capture;
    if (detail)
        a->detail = detail;
    a->reason = reason;
    tell_denied(a);
    become_denied(a);
    if (capture->denied_associations > DENIED_MAX)
        forget_oldest_denied(capture);
}

/* ---- the verdict ---- */

struct bound {
    struct association *a;
    struct acl_verdict verdict;
    bool any;
};

/* Keeps the verdict that counts: a denial before an allowance before nothing. */
static bool judge_bound_name(const char *name, size_t length, void *arg)
{
    struct bound *found = arg;
    struct association *a = found->a;
    struct acl_verdict verdict =
        acl_policy_judge_name(a->policy, a->protocol, name, length, a->destination.port);
    bool denied = verdict.reason == ACL_RULE_DENY;
    if (!found->any || denied || (verdict.allowed && !found->verdict.allowed)) {
        memcpy(a->name, name, length);
        a->name[length] = 0;
        a->name_length = (uint8_t)length;
        found->verdict = verdict;
    }
    found->any = true;
    return !denied;
}

/* By the names of the address, else by the address. */
static struct acl_verdict judge(struct association *a)
{
    struct worker *w = worker_of(a);
    struct bound found = {.a = a};
    a->name[a->name_length = 0] = 0;
    namebook_names(w->names, &a->destination, uv_now(&w->loop), judge_bound_name, &found);
    struct acl_verdict by_address = acl_policy_judge_address_for(a->policy, a->protocol, &a->destination);
    if (by_address.reason == ACL_RULE_DENY || !found.any ||
        (found.verdict.reason == ACL_NO_RULE && by_address.allowed)) {
        a->binding = "address";
        return by_address;
    }
    a->binding = "dns";
    return found.verdict;
}

/* The policy's answer: 0, or why not. In audit mode only a note. */
static bool allowed_by_policy(struct association *a, enum acl_reason *ret_reason, const char **ret_detail)
{
    *ret_detail = NULL;
    a->verdict = judge(a);
    *ret_reason = a->verdict.reason;
    if (a->verdict.allowed)
        return true;
    if (!a->name_length && a->verdict.reason == ACL_NO_RULE)
        *ret_detail = "no rule names the address, and no name that was looked up here has it";
    if (!worker_only_records(worker_of(a), a->policy))
        return false;
    a->would_deny = true;
    a->binding = NULL;
    return true;
}

/* ---- to the origin ---- */

static void origin_ready(struct poll_handle *handle, uint32_t events);

/* Larger ones are fragmented on the way, as the sender's own kernel would have done. */
static int connect_origin(struct association *a)
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
    int r = poller_add(&worker_of(a)->poller, &a->poll, fd);
    if (r == 0)
        (void)fd_steal(&fd);
    return r;
}

static const char *connect_problem(const struct association *a, int error)
{
    if (a->protocol == ACL_ICMP && error == -EACCES)
        return "net.ipv4.ping_group_range of the gateway's host does not let the gateway's group ping: set "
               "it to "
               "\"0 2147483647\"";
    return strerror(-error);
}

/* Is it allowed, and can it be had? Denied otherwise. */
static bool open_association(struct association *a)
{
    struct worker *w = worker_of(a);
    char id[ID_SIZE];
    enum acl_reason reason;
    const char *detail, *guarded = worker_guard_for(w, a->policy, a->protocol, &a->destination);
    if (!allowed_by_policy(a, &reason, &detail)) {
        deny(a, reason, detail);
        return false;
    }
    if (guarded) {
        a->would_deny = false;
        deny(a, ACL_DESTINATION_GUARDED, guarded);
        return false;
    }
    if (config_upstream(w->snapshot)->kind != CONFIG_UPSTREAM_NONE) {
        deny(a, ACL_CONNECT_FAILED, "the proxy of gateway.upstream carries TCP alone");
        return false;
    }
    int r = connect_origin(a);
    if (r < 0) {
        metrics_upstream_failed(w->metrics, r);
        deny(a, ACL_CONNECT_FAILED, connect_problem(a, r));
        return false;
    }
    a->reason = reason;
    a->detail = detail;
    struct audit_event event = event_of(a, AUDIT_FLOW_DECISION, id);
    event.allowed = true;
    if (audit_submit(w->audit, &event) < 0) {
        deny(a, ACL_AUDIT_UNAVAILABLE, NULL);
        return false;
    }
    a->told = true;
    if (a->would_deny)
        report(a);
    return true;
}

/* ---- a packet of the container ---- */

static struct association *create(struct capture *capture, const struct datagram *d)
{
    struct worker *w = capture->worker;
    struct association *a = calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    a->capture = capture;
    a->policy = capture->policy;
    a->protocol = d->protocol;
    a->source = d->source;
    a->destination = d->destination;
    a->sequence = d->sequence;
    a->serial = ++w->flow_serial;
    a->started_ns = monotonic_ns();
    clock_gettime(CLOCK_REALTIME, &a->started);
    poll_handle_init(&a->poll, origin_ready);
    deadline_init(&a->timer);
    list_append(&w->associations.all, &a->link);
    list_append(bucket_of(&w->associations, capture, d), &a->bucket);
    capture->flows++;
    metric_set(&w->metrics->flows_active, ++w->flow_count);
    metric_add(&w->metrics->flows, 1);
    return a;
}

/* What is checked before the policy is asked. */
static bool admit(struct association *a)
{
    struct worker *w = worker_of(a);
    const struct acl_limits *own = acl_policy_limits(a->policy);
    unsigned flows = own->flows ? own->flows : w->limits->flows_per_container;
    if (addr_equal(&a->destination, &a->capture->udp[a->destination.family == AF_INET6].local)) {
        deny(a, ACL_LOOP, "the gateway itself was addressed");
    } else if (a->capture->flows > flows) {
        metric_add(&w->metrics->limits[METRICS_LIMIT_CONTAINER_FLOWS], 1);
        deny(a, ACL_LIMIT_CONNECTIONS, "flows of this container");
    } else if (w->flow_count > w->flow_limit) {
        metric_add(&w->metrics->limits[METRICS_LIMIT_TOTAL_FLOWS], 1);
        deny(a, ACL_LIMIT_CONNECTIONS, "flows in total");
    } else if (!audit_ready(w->audit)) {
        deny(a, ACL_AUDIT_UNAVAILABLE, NULL);
    } else {
        return true;
    }
    return false;
}

static struct association *find_or_open(struct capture *capture, const struct datagram *d)
{
    struct association *a = find(capture, d);
    if (a)
        return a;
    a = create(capture, d);
    if (!a || !admit(a) || !open_association(a))
        return a;
    keep_alive(a);
    return a;
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
    send_error(a->capture, d, what, (uint16_t)(mtu > UINT16_MAX ? UINT16_MAX : mtu));
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
    struct worker *w = worker_of(a);
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

static void take_datagram(struct capture *capture, const struct datagram *d)
{
    struct association *a = find_or_open(capture, d);
    if (!a)
        return;
    a->sequence = d->sequence;
    if (a->denied) {
        send_error(capture, d, PACKET_PROHIBITED, 0);
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
    struct worker *w = worker_of(a);
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
        keep_alive(a);
    }
    answer(a, bytes, length, sequence);
}

static void origin_ready(struct poll_handle *handle, uint32_t events)
{
    struct association *a = list_entry(handle, struct association, poll);
    struct worker *w = worker_of(a);
    (void)events;
    for (int i = 0; i < BATCH; i++) {
        ssize_t got = recv(handle->fd, w->scratch, SCRATCH_SIZE, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN)
            return;
        if (got >= 0) {
            take_answer(a, w->scratch, (size_t)got);
        } else if (errno != EINTR) {
            const struct datagram d = latest_of(a);
            pass_error(a, &d, errno);
        }
    }
    poller_again(&w->poller, handle);
}

/* ---- all of them ---- */

void associations_init(struct worker *worker)
{
    struct association_table *table = &worker->associations;
    list_init(&table->all);
    if (getrandom(&table->hash_seed, sizeof(table->hash_seed), 0) < 0)
        table->hash_seed = (uintptr_t)table;
    table->buckets = calloc(BUCKETS, sizeof(*table->buckets));
    for (size_t i = 0; table->buckets && i < BUCKETS; i++)
        list_init(&table->buckets[i]);
    deadline_queue_init(&table->denied_timeouts, &worker->loop, DENIED_MS, expired);
    deadline_queue_init(&table->fresh_timeouts, &worker->loop, FRESH_MS, expired);
    deadline_queue_init(&table->replied_timeouts, &worker->loop, worker->limits->udp_idle_timeout_ms,
                        expired);
    associations_apply_config(worker);
}

void associations_finish(struct worker *worker)
{
    deadline_queue_finish(&worker->associations.denied_timeouts);
    deadline_queue_finish(&worker->associations.fresh_timeouts);
    deadline_queue_finish(&worker->associations.replied_timeouts);
    free(worker->associations.buckets);
}

void associations_apply_config(struct worker *worker)
{
    struct association_table *table = &worker->associations;
    unsigned idle = worker->limits->udp_idle_timeout_ms;
    deadline_queue_set_duration(&table->fresh_timeouts, idle < FRESH_MS ? idle : FRESH_MS);
    deadline_queue_set_duration(&table->replied_timeouts, idle);
}

static bool still_allowed(struct association *a)
{
    struct worker *w = worker_of(a);
    struct acl_verdict by_address = acl_policy_judge_address_for(a->policy, a->protocol, &a->destination);
    a->verdict = by_address;
    if (a->name_length && by_address.reason != ACL_RULE_DENY) {
        struct acl_verdict by_name =
            acl_policy_judge_name(a->policy, a->protocol, a->name, a->name_length, a->destination.port);
        if (by_name.allowed || by_name.reason == ACL_RULE_DENY)
            a->verdict = by_name;
    }
    return a->verdict.allowed && !worker_guard_for(w, a->policy, a->protocol, &a->destination);
}

static void judge_again(struct association *a)
{
    a->policy = a->capture->policy;
    if (a->denied) { /* the next packet is judged by the new policy */
        release(a);
        return;
    }
    bool allowed = still_allowed(a);
    if (!allowed && !worker_only_records(worker_of(a), a->policy)) {
        const struct datagram d = latest_of(a);
        a->reason = ACL_POLICY_CHANGED;
        a->would_deny = false;
        report(a);
        send_error(a->capture, &d, PACKET_PROHIBITED, 0);
        end(a, AUDIT_CLOSE_GATEWAY, "policy_changed");
    } else {
        a->would_deny |= !allowed;
    }
}

void associations_judge(struct worker *worker)
{
    struct list *all = &worker->associations.all;
    for (struct list *link = all->next, *next; link != all; link = next) {
        next = link->next;
        judge_again(list_entry(link, struct association, link));
    }
}

void associations_end(struct worker *worker, const struct capture *capture, const char *why)
{
    struct list *all = &worker->associations.all;
    for (struct list *link = all->next, *next; link != all; link = next) {
        struct association *a = list_entry(link, struct association, link);
        next = link->next;
        if (!capture || a->capture == capture)
            end(a, AUDIT_CLOSE_GATEWAY, why);
    }
}
