/*
 * A capture: the listeners of one enrolled namespace, and who that is. The socket that accepted is the
 * identity; nothing a container sends can change it.
 */
#include "gateway/flow.h"
#include "gateway/inbound.h"
#include "base/fds.h"
#include "base/log.h"
#include "config/overrides.h"
#include "gateway/tenants.h"
#include "redirect/rules/nflog.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define ACCEPT_BATCH 64
#define REFUSALS_BEFORE_PAUSE 16 /* a flood is refused at this pace: others, and the log, come first */
#define PACKET_EVENTS_PER_SECOND 50

bool rate_take(struct rate *rate, unsigned per_second, uint64_t now_ms)
{
    if (rate->last_ms == 0)
        rate->tokens = per_second;
    else
        rate->tokens += (double)(now_ms - rate->last_ms) * per_second / 1000.0;
    if (rate->tokens > per_second)
        rate->tokens = per_second;
    rate->last_ms = now_ms ? now_ms : 1;
    if (rate->tokens < 1)
        return false;
    rate->tokens -= 1;
    return true;
}

static void listener_remove(struct capture_listener *listener);

/* Who has CAP_NET_ADMIN in the container can destroy sockets there, ours too (sock_diag(7), as `ss -K` does). What is dead says
 * EINVAL for ever: it is given up, not asked again. Nothing opens by that: the rules lead to a port where nobody listens. */
static void listener_lost(struct capture_listener *listener)
{
    log_warning("worker: a process of \"%s\" destroyed a listening socket of ours; what it serves is closed until the container is "
                "enrolled anew", listener->capture->id);
    listener_remove(listener);
}

static void accept_ready(struct poll_handle *handle, uint32_t events)
{
    struct capture_listener *listener = list_entry(handle, struct capture_listener, poll);
    struct worker *w = listener->capture->worker;
    (void)events;
    if (!list_empty(&listener->pause.link)) /* more have come: they wait for its end, too */
        return;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        struct sockaddr_storage from;
        socklen_t length = sizeof(from);
        struct addr source = {0};
        int fd = accept4(handle->fd, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            addr_from_sockaddr((struct sockaddr *)&from, &source);
            struct capture *capture = capture_of(listener->capture, &source);
            if (!capture) {
                close(fd);
                continue;
            }
            flow_start(capture, listener, fd, &source);
            if (capture->flows_over_rate >= REFUSALS_BEFORE_PAUSE) {
                capture->flows_over_rate = 0;
                if (capture->network)
                    continue; /* the others in the network are not to wait for it */
                deadline_start(&w->accept_pauses, &listener->pause);
                return;
            }
        } else if (errno == EAGAIN) {
            return;
        } else if (errno == EINVAL) {
            listener_lost(listener);
            return;
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            /* The cap on flows lies below the limit on descriptors; should it be reached all the same, wait,
             * don't spin. */
            deadline_start(&w->accept_pauses, &listener->pause);
            return;
        }
    }
    poller_again(&w->poller, handle);
}

void capture_accept_expired(struct deadline *deadline)
{
    struct capture_listener *listener = list_entry(deadline, struct capture_listener, pause);
    listener->poll.ready(&listener->poll, 0);
}

/* ---- packets that the ruleset refused ----
 *
 * A container can make them faster than any log takes them, so events are limited; what is left out, here or
 * already by the kernel (a gap in its sequence), is counted, and the count goes out with the next event, at
 * the latest when the capture ends.
 */

static const char *transport_name(uint8_t protocol)
{
    switch (protocol) {
    case IPPROTO_TCP:
        return "tcp";
    case IPPROTO_UDP:
        return "udp";
    case IPPROTO_ICMP:
        return "icmp";
    case IPPROTO_ICMPV6:
        return "ipv6-icmp";
    default:
        return "other";
    }
}

struct capture *capture_of(struct capture *capture, const struct addr *source)
{
    return capture->tenants ? tenants_get(capture->tenants, source) : capture;
}

int capture_destination(const struct capture_listener *listener, int fd, struct addr *ret)
{
    return listener->transparent ? transparent_destination(fd, &listener->local, ret)
                                 : original_destination(fd, listener->local.family, ret);
}

static void report_packet(struct capture *capture, const struct nflog_event *packet)
{
    char what[ADDR_TEXT_MAX + 16], address[ADDR_TEXT_MAX];
    if (packet->destination.port)
        addr_format_with_port(&packet->destination, address);
    else
        addr_format(&packet->destination, address);
    snprintf(what, sizeof(what), "%s %s", transport_name(packet->protocol), address);
    report_denied(capture->worker->report, what, ACL_PORT_DENIED);
}

/* A source that has nothing here yet gets no tenant by what is refused: it could be anybody's. */
static const struct acl_policy *policy_of(const struct capture *capture, const struct nflog_event *packet)
{
    return capture->tenants && packet
               ? config_network_policy(capture->worker->snapshot, capture->name, &packet->source)
               : capture->policy;
}

/* `packet` is NULL when only the count is to be told. */
static void audit_packet(struct capture *capture, const struct nflog_event *packet)
{
    struct worker *w = capture->worker;
    struct audit_event event = worker_event(w, capture, policy_of(capture, packet));
    event.action = AUDIT_PACKET_DENIED;
    event.reason = ACL_PORT_DENIED;
    event.left_out = capture->packets_left_out;
    clock_gettime(CLOCK_REALTIME, &event.start);
    if (packet) {
        event.transport = transport_name(packet->protocol);
        event.source = packet->source;
        event.destination = packet->destination;
        event.detail = packet->spoofed ? "the source address is none of the network's" : NULL;
    }
    if (audit_submit(w->audit, &event) == 0)
        capture->packets_left_out = 0;
    else if (packet)
        capture->packets_left_out++;
}

/* By which name, if any, the packet was let through. */
struct packet_name {
    const struct acl_policy *policy;
    const struct nflog_event *packet;
    enum acl_protocol protocol;
    struct acl_verdict verdict;
    char name[ACL_NAME_MAX + 1];
    size_t length;
};

static bool judge_packet_name(const char *name, size_t length, void *arg)
{
    struct packet_name *found = arg;
    struct acl_verdict verdict =
        acl_policy_judge_name(found->policy, found->protocol, name, length, found->packet->destination.port);
    if (!verdict.allowed)
        return true;
    found->verdict = verdict;
    found->length = length;
    memcpy(found->name, name, length);
    return false;
}

/* The kernel lets it pass; which rule does so is found as the kernel found it. */
static void packet_allowed(struct capture *capture, const struct nflog_event *packet)
{
    struct worker *w = capture->worker;
    struct packet_name found = {.policy = policy_of(capture, packet), .packet = packet,
                                .protocol = packet->protocol == IPPROTO_UDP ? ACL_UDP : ACL_ICMP};
    found.verdict = acl_policy_judge_address_for(found.policy, found.protocol, &packet->destination);
    if (!found.verdict.allowed)
        namebook_names(w->names, &packet->destination, uv_now(&w->loop), judge_packet_name, &found);
    struct audit_event event = worker_event(w, capture, found.policy);
    event.action = AUDIT_PACKET_DENIED; /* as "packet-allowed" */
    event.allowed = true;
    event.reason = ACL_RULE_ALLOW;
    event.transport = transport_name(packet->protocol);
    event.source = packet->source;
    event.destination = packet->destination;
    event.domain = found.name;
    event.domain_length = found.length;
    event.verdict = &found.verdict;
    event.left_out = capture->packets_left_out;
    clock_gettime(CLOCK_REALTIME, &event.start);
    if (audit_submit(w->audit, &event) == 0)
        capture->packets_left_out = 0;
    else
        capture->packets_left_out++;
}

static void packet_denied(const struct nflog_event *packet, void *arg)
{
    struct capture *capture = arg;
    struct worker *w = capture->worker;
    if (nflog_is_echo(packet)) {
        association_echo(capture, packet);
        return;
    }
    uint32_t missed = capture->packets_seen ? packet->sequence - capture->packets_next : 0;
    if (missed > INT32_MAX) /* echo requests were among what count_lost() took for these */
        missed = 0;
    capture->packets_lost += missed;
    if (capture->packets_seen) /* the first ones were the self-test's; modulo 2^32, as the kernel counts */
        capture->packets_left_out += missed;
    capture->packets_seen = true;
    capture->packets_next = packet->sequence + 1;
    metric_add(&w->metrics->packets_denied, (packet->allowed ? 0 : 1) + (uint64_t)missed);
    if (capture->tenants && tenants_find(capture->tenants, &packet->source))
        capture = tenants_find(capture->tenants, &packet->source); /* no tenant drowns what others are refused */
    if (!packet->allowed)
        report_packet(capture, packet);
    if (rate_take(&capture->packet_rate, PACKET_EVENTS_PER_SECOND, uv_now(&w->loop)))
        (packet->allowed ? packet_allowed : audit_packet)(capture, packet);
    else
        capture->packets_left_out++;
}

/* The log is empty: what was lost behind the last packet in it shows in no sequence, but the socket has counted it. */
static void count_lost(struct capture *capture, int fd)
{
    uint32_t behind = nflog_lost(fd) - capture->packets_lost;
    capture->packets_losing = false;
    if (behind == 0 || behind > INT32_MAX)
        return;
    capture->packets_lost += behind;
    capture->packets_next += behind;
    capture->packets_left_out += behind;
    metric_add(&capture->worker->metrics->packets_denied, behind);
}

static void nflog_ready(struct poll_handle *handle, uint32_t events)
{
    struct capture_listener *listener = list_entry(handle, struct capture_listener, poll);
    struct capture *capture = listener->capture;
    (void)events;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        int r = nflog_read(handle->fd, packet_denied, capture);
        capture->packets_losing |= r == -ENOBUFS;
        if (r == -EAGAIN && capture->packets_losing)
            count_lost(capture, handle->fd);
        if (r == -EAGAIN)
            return;
    }
    poller_again(&listener->capture->worker->poller, handle);
}

static int listener_add(struct capture *capture, struct capture_listener *listener, int *fd,
                        void (*ready)(struct poll_handle *handle, uint32_t events))
{
    struct sockaddr_storage local;
    socklen_t length = sizeof(local);
    listener->capture = capture;
    listener->drained = -1;
    poll_handle_init(&listener->poll, ready);
    deadline_init(&listener->pause);
    if (*fd < 0)
        return 0;
    if (getsockname(*fd, (struct sockaddr *)&local, &length) == 0)
        addr_from_sockaddr((struct sockaddr *)&local, &listener->local);
    listener->transparent = listener->local.family && socket_is_transparent(*fd, listener->local.family);
    int r = poller_add(&capture->worker->poller, &listener->poll, *fd);
    if (r == 0)
        *fd = -1; /* the handle's now */
    return r;
}

static int add_packet_sockets(struct capture *capture, struct capture_sockets *sockets)
{
    int r = 0;
    for (int family = 0; family < 2; family++) {
        if (capture->udp[family].poll.fd < 0)
            r |= listener_add(capture, &capture->udp[family], &sockets->udp[family], association_udp_ready);
        if (capture->raw[family] < 0)
            capture->raw[family] = fd_steal(&sockets->raw[family]);
    }
    return r;
}

int capture_extend(struct capture *capture, struct capture_sockets *sockets)
{
    int r = add_packet_sockets(capture, sockets);
    capture_sockets_close(sockets);
    return r < 0 ? -EIO : 0;
}

int capture_add(struct worker *worker, const struct channel_message *who, struct capture_sockets *sockets)
{
    struct capture *capture = calloc(1, sizeof(*capture));
    int r = 0;
    if (!capture) {
        capture_sockets_close(sockets);
        return -ENOMEM;
    }
    capture->worker = worker;
    if (who->type == CHANNEL_NETWORK) {
        capture->tenants = tenants_create(capture);
        r = capture->tenants ? 0 : -ENOMEM;
    }
    capture->policy = capture->tenants ? config_network_policy(worker->snapshot, who->container_name, NULL)
                                       : config_container_policy(worker->snapshot, who->container_id, who->container_name, who->policy);
    snprintf(capture->id, sizeof(capture->id), "%s", who->container_id);
    snprintf(capture->name, sizeof(capture->name), "%s", who->container_name);
    snprintf(capture->image, sizeof(capture->image), "%s", who->container_image);
    snprintf(capture->pod, sizeof(capture->pod), "%s", who->pod);
    snprintf(capture->pod_namespace, sizeof(capture->pod_namespace), "%s", who->pod_namespace);
    snprintf(capture->policy_asked, sizeof(capture->policy_asked), "%s", who->policy);
    list_append(&worker->captures, &capture->link);
    worker->capture_count++;
    for (int family = 0; family < 2; family++) {
        r |= listener_add(capture, &capture->tcp[family], &sockets->tcp[family], accept_ready);
        r |= listener_add(capture, &capture->dns_udp[family], &sockets->dns_udp[family], dns_udp_ready);
        r |=
            listener_add(capture, &capture->dns_tcp[family], &sockets->dns_tcp[family], dns_tcp_accept_ready);
    }
    r |= listener_add(capture, &capture->nflog, &sockets->nflog, nflog_ready);
    capture->packets_lost = capture->nflog.poll.fd >= 0 ? nflog_lost(capture->nflog.poll.fd) : 0;
    capture->udp[0].poll.fd = capture->udp[1].poll.fd = capture->raw[0] = capture->raw[1] = -1;
    capture->udp[0].drained = capture->udp[1].drained = -1;
    r |= add_packet_sockets(capture, sockets);
    capture_sockets_close(sockets);
    if (r < 0)
        capture_remove(capture);
    return r < 0 ? -EIO : 0;
}

static void listener_remove(struct capture_listener *listener)
{
    int fd = listener->poll.fd;
    poller_remove(&listener->capture->worker->poller, &listener->poll);
    deadline_stop(&listener->pause);
    fd_close(&fd);
    fd_close(&listener->drained);
}

struct capture *capture_find(const struct worker *worker, const char *id)
{
    for (struct list *link = worker->captures.next; link != &worker->captures; link = link->next) {
        struct capture *capture = list_entry(link, struct capture, link);
        if (!strcmp(capture->id, id))
            return capture;
    }
    return NULL;
}

/* Others may serve the same sockets from now on. */
void capture_drain(struct capture *capture)
{
    for (int family = 0; family < 2; family++) {
        struct capture_listener *udp = &capture->dns_udp[family];
        listener_remove(&capture->tcp[family]);
        listener_remove(&capture->dns_tcp[family]);
        listener_remove(&capture->udp[family]);
        if (udp->poll.fd < 0)
            continue;
        udp->drained = udp->poll.fd;
        poller_remove(&capture->worker->poller, &udp->poll);
    }
    listener_remove(&capture->nflog);
    inbound_close(capture);
}

void capture_close(struct capture *capture)
{
    dns_service_forget(capture);
    if (capture->tenants)
        tenants_each(capture->tenants, dns_service_forget);
    for (int family = 0; family < 2; family++) {
        listener_remove(&capture->tcp[family]);
        listener_remove(&capture->dns_udp[family]);
        listener_remove(&capture->dns_tcp[family]);
        listener_remove(&capture->udp[family]);
    }
    listener_remove(&capture->nflog);
    inbound_close(capture);
}

void capture_tell_left_out(struct capture *capture)
{
    if (capture->packets_left_out)
        audit_packet(capture, NULL);
}

/* The flows must have ended before. */
void capture_remove(struct capture *capture)
{
    if (capture->nflog.poll.fd >= 0)
        count_lost(capture, capture->nflog.poll.fd);
    capture_tell_left_out(capture);
    capture_close(capture);
    fd_close(&capture->raw[0]);
    fd_close(&capture->raw[1]);
    tenants_destroy(capture->tenants);
    inbound_destroy(capture);
    capture->worker->capture_count--;
    list_remove(&capture->link);
    free(capture);
}
