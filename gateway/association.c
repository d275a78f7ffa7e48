/*
 * The table of associations, their life and end, and their events.
 */
#include "gateway/association_internal.h"

#include "base/fds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BUCKETS 4096
#define FRESH_MS 30000 /* as conntrack has it for UDP without an answer */
#define DENIED_MS 5000 /* a name may be looked up meanwhile */
#define DENIED_MAX 256 /* remembered of one container */
#define EVENTS_PER_SECOND 50

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
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

/* ---- events ---- */

#define ASSOCIATION_ID_SIZE 32

static const char *transport_of(const struct association *a)
{
    return a->protocol == ACL_UDP ? "udp" : a->destination.family == AF_INET ? "icmp" : "ipv6-icmp";
}

struct audit_event association_event(const struct association *a, enum audit_action action,
                                     char id[ASSOCIATION_ID_SIZE])
{
    struct worker *w = association_worker(a);
    struct audit_event event = worker_event(w, a->capture, a->policy);
    snprintf(id, ASSOCIATION_ID_SIZE, "%08x-%llu", w->id_prefix, (unsigned long long)a->serial);
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

void association_report(const struct association *a)
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
    report_denied(association_worker(a)->report, what, a->reason);
}

/* A container can make denials faster than any log takes them: what is left out is counted with refused packets. */
static void tell_denied(struct association *a)
{
    struct worker *w = association_worker(a);
    char id[ASSOCIATION_ID_SIZE];
    association_report(a);
    if (!rate_take(&a->capture->association_events, EVENTS_PER_SECOND, uv_now(&w->loop))) {
        a->capture->packets_left_out++;
        return;
    }
    struct audit_event event = association_event(a, AUDIT_FLOW_DECISION, id);
    event.would_deny = false;
    audit_submit(w->audit, &event);
}

/* ---- life and end ---- */

static void release(struct association *a)
{
    struct worker *w = association_worker(a);
    int fd = a->poll.fd;
    association_search_cancel(a);
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
    char id[ASSOCIATION_ID_SIZE];
    if (a->told) {
        struct audit_event event = association_event(a, AUDIT_FLOW_END, id);
        event.allowed = true;
        event.duration_ns = monotonic_ns() - a->started_ns;
        event.bytes_sent = a->bytes_up;
        event.bytes_received = a->bytes_down;
        event.close_by = by;
        event.close_reason = why;
        audit_submit(association_worker(a)->audit, &event);
    }
    release(a);
}

void association_keep(struct association *a)
{
    struct association_table *table = &association_worker(a)->associations;
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
        association_keep(a);
        return;
    }
    end(a, AUDIT_CLOSE_GATEWAY, "idle_timeout");
}

/* From a flow to something remembered. */
static void become_denied(struct association *a)
{
    struct worker *w = association_worker(a);
    a->denied = true;
    list_remove(&a->link); /* the oldest denial is the first to be forgotten */
    list_append(&w->associations.all, &a->link);
    a->capture->flows--;
    a->capture->denied_associations++;
    metric_set(&w->metrics->flows_active, --w->flow_count);
    association_keep(a);
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

void association_deny(struct association *a, enum acl_reason reason, const char *detail)
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
    poll_handle_init(&a->poll, association_origin_ready);
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
    struct worker *w = association_worker(a);
    const struct acl_limits *own = acl_policy_limits(a->policy);
    unsigned flows = own->flows ? own->flows : w->limits->flows_per_container;
    if (addr_equal(&a->destination, &a->capture->udp[a->destination.family == AF_INET6].local)) {
        association_deny(a, ACL_LOOP, "the gateway itself was addressed");
    } else if (a->capture->flows > flows) {
        metric_add(&w->metrics->limits[METRICS_LIMIT_CONTAINER_FLOWS], 1);
        association_deny(a, ACL_LIMIT_CONNECTIONS, "flows of this container");
    } else if (worker_is_full(w)) {
        metric_add(&w->metrics->limits[METRICS_LIMIT_TOTAL_FLOWS], 1);
        association_deny(a, ACL_LIMIT_CONNECTIONS, "flows in total");
    } else if (!audit_ready(w->audit)) {
        association_deny(a, ACL_AUDIT_UNAVAILABLE, NULL);
    } else {
        return true;
    }
    return false;
}

struct association *association_for(struct capture *capture, const struct datagram *d)
{
    struct association *a = find(capture, d);
    if (a)
        return a;
    a = create(capture, d);
    if (!a || !admit(a) || !association_open(a))
        return a;
    association_keep(a);
    return a;
}

/* ---- all of them ---- */

void associations_init(struct worker *worker)
{
    struct association_table *table = &worker->associations;
    list_init(&table->all);
    if (getrandom(&table->hash_seed, sizeof(table->hash_seed), 0) < 0)
        table->hash_seed = (uintptr_t)table;
    table->batch = association_batch_create();
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
    free(worker->associations.batch);
}

void associations_apply_config(struct worker *worker)
{
    struct association_table *table = &worker->associations;
    unsigned idle = worker->limits->udp_idle_timeout_ms;
    deadline_queue_set_duration(&table->fresh_timeouts, idle < FRESH_MS ? idle : FRESH_MS);
    deadline_queue_set_duration(&table->replied_timeouts, idle);
}

static void judge_again(struct association *a)
{
    a->policy = a->capture->policy;
    a->verdict.has_rule = false;
    if (a->search) /* judged when the names are known */
        return;
    if (a->denied) { /* the next packet is judged by the new policy */
        release(a);
        return;
    }
    bool allowed = association_still_allowed(a);
    if (!allowed && !worker_only_records(association_worker(a), a->policy)) {
        const struct datagram d = association_latest(a);
        a->reason = ACL_POLICY_CHANGED;
        a->would_deny = false;
        association_report(a);
        association_error(a->capture, &d, PACKET_PROHIBITED, 0);
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
