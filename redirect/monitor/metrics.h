/*
 * What the gateway counts, and how it tells: OpenMetrics text.
 *
 * Counters live in a page that the monitor makes and every worker inherits by its fork. So they outlive a worker, and can be
 * read by either process. A gateway that takes another's place takes its page over (metrics_adopt), if it has the same form: so
 * they go on, and what the old worker's flows still do is counted. Each value has one writer, the loop of the worker whose
 * slot it is in (or the monitor); so counting is a load and a store, without a lock or a system call. Readers see each value
 * whole, and different values a little apart.
 *
 * No label has a value that a container chooses: what there is to tell apart is known here, and its number is fixed. A new
 * metric is a field of a slot and a line in metrics.c; its name is never changed afterwards.
 */
#pragma once

#include "acl/reason.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef _Atomic uint64_t metric;

static inline uint64_t metric_get(const metric *m)
{
    return atomic_load_explicit(m, memory_order_relaxed);
}

static inline void metric_set(metric *m, uint64_t value)
{
    atomic_store_explicit(m, value, memory_order_relaxed);
}

/* By its one writer. */
static inline void metric_add(metric *m, uint64_t n)
{
    metric_set(m, metric_get(m) + n);
}

#define METRICS_BUCKETS_MAX 14

struct metric_histogram {
    metric buckets[METRICS_BUCKETS_MAX + 1]; /* not cumulated; the last one: above every bound */
    metric sum_ns;
};

enum metrics_protocol {
    METRICS_TLS,
    METRICS_HTTP,
    METRICS_TCP,
    METRICS_UDP,
    METRICS_ICMP,
    METRICS_DNS,
    METRICS_PROTOCOLS
};
enum metrics_decision { METRICS_ALLOWED, METRICS_DENIED, METRICS_WOULD_DENY, METRICS_DECISIONS };
enum metrics_upstream_error {
    METRICS_REFUSED,
    METRICS_UNREACHABLE,
    METRICS_RESET,
    METRICS_TIMEOUT,
    METRICS_NO_NAME, /* DNS gave no address, or no answer */
    METRICS_OTHER_ERROR,
    METRICS_UPSTREAM_ERRORS
};
enum metrics_query {
    METRICS_QUERY_ALLOWED,
    METRICS_QUERY_DENIED,
    METRICS_QUERY_LIMITED, /* more than the rate */
    METRICS_QUERY_MALFORMED,
    METRICS_QUERIES
};
enum metrics_limit { METRICS_LIMIT_CONTAINER_FLOWS, METRICS_LIMIT_TOTAL_FLOWS, METRICS_LIMIT_NEW_FLOWS, METRICS_LIMIT_FLOW_RATE, METRICS_LIMIT_DNS_QUERIES, METRICS_LIMIT_MEMORY, METRICS_LIMITS };

enum metrics_verification { METRICS_PROVEN, METRICS_NOT_PROVEN, METRICS_NOT_SEEN, METRICS_VERIFICATIONS };

/* One worker's. */
struct metrics_worker {
    metric decisions[METRICS_PROTOCOLS][METRICS_DECISIONS][ACL_REASON_COUNT];
    metric flows, bytes_up, bytes_down, packets_denied;
    metric upstream_errors[METRICS_UPSTREAM_ERRORS];
    metric dns_queries[METRICS_QUERIES], dns_cache_hits, dns_upstream_failures;
    metric verifications[METRICS_VERIFICATIONS];
    metric limits[METRICS_LIMITS];
    metric audit_events, audit_dropped;
    struct metric_histogram sniff, setup, dns, lag;

    /* of the worker that is there now: set to nothing by the next one */
    metric flows_active, audit_queued_bytes, audit_failing, lag_max_ns;
};

#define METRICS_WORKERS 64

struct metrics {
    metric form; /* METRICS_FORM: another program may have other fields */
    metric first;        /* slot of the present gateway's first worker; the others' follow, in a ring */
    metric worker_count; /* its workers */
    metric used;         /* slots that ever had a worker, from the first one on: the others' memory is not touched */
    /* the monitor's */
    metric containers, worker_restarts, worker_ready, started_s;
    metric reloads, reloads_failed, reload_failed_last, reload_s; /* when a policy last came into force */
    struct metrics_worker workers[METRICS_WORKERS];
};

#define METRICS_LAYOUT 2u /* another number when a field changes its meaning or its place */
#define METRICS_FORM ((uint64_t)METRICS_LAYOUT << 32 | sizeof(struct metrics))

/* A page shared with every child; one a process. NULL when out of memory. */
struct metrics *metrics_create(void);
void metrics_destroy(struct metrics *metrics); /* accepts NULL */
int metrics_descriptor(void); /* of the memory file, for who takes our place; stays ours. -1: there is no page */
/* In the place of our page comes that of the gateway before us. False, and nothing changed, when it has another form. */
bool metrics_adopt(struct metrics *metrics, int fd);
void metrics_detach(struct metrics *metrics); /* it is another's now: what we still write is seen by nobody */
/* By the monitor: the slot of one of our workers. Another one after each change of hands, for the old workers count on in theirs. */
struct metrics_worker *metrics_worker_slot(struct metrics *metrics, unsigned index);
/* A worker takes its slot over from the one that was there before. */
void metrics_worker_start(struct metrics_worker *worker);
void metrics_elders_gone(struct metrics *metrics); /* no workers but ours are left, whatever their gauges say */

void metrics_observe_sniff(struct metrics_worker *worker, uint64_t ns);
void metrics_observe_setup(struct metrics_worker *worker, uint64_t ns);
void metrics_observe_dns(struct metrics_worker *worker, uint64_t ns);
void metrics_observe_lag(struct metrics_worker *worker, uint64_t ns);
/* A connection to an origin failed: a negative errno. */
void metrics_upstream_failed(struct metrics_worker *worker, int error);

bool metrics_audit_failing(const struct metrics *metrics); /* a worker cannot write its log */

uint64_t metrics_flows_active(const struct metrics *metrics);

/* The whole text, on the heap, with its length; NULL when out of memory. OpenMetrics, or, `plain`, Prometheus' older format. */
char *metrics_render(const struct metrics *metrics, bool plain, size_t *ret_length);
#define METRICS_PLAIN_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"
#define METRICS_CONTENT_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"
