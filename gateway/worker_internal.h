/*
 * What the files of the worker share: one loop, its captures, its flows.
 *
 *   capture    one enrolled namespace, or a captured network, or one source address in it (tenants.c): its listeners, its identity, its policy (capture.c)
 *   flow       one captured TCP connection and its upstream twin (flow.c, dial.c, relay.c, http_flow.c)
 *   dns        the name service for the captures (dns_service.c)
 */
#pragma once

#include "base/list.h"
#include "base/slab.h"
#include "config/snapshot.h"
#include "gateway/association.h"
#include "gateway/admin.h"
#include "gateway/audit.h"
#include "gateway/dead_addresses.h"
#include "gateway/deadline.h"
#include "gateway/dns_watch.h"
#include "gateway/forwarder.h"
#include "gateway/learned.h"
#include "gateway/loop_lag.h"
#include "gateway/namebook.h"
#include "gateway/own_address.h"
#include "gateway/pipes.h"
#include "gateway/poller.h"
#include "gateway/report.h"
#include "gateway/resolver.h"
#include "gateway/verify.h"
#include "redirect/monitor/channel.h"
#include "redirect/monitor/supervisor.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define SCRATCH_SIZE 65536

struct worker {
    uv_loop_t loop;
    uv_poll_t channel_watch;
    int channel;
    int routes; /* asks whether an address is the machine's own */
    struct own_address_cache own_addresses;
    struct dead_addresses dead_addresses;
    struct poller poller;
    struct config_snapshot *snapshot;
    const struct config_limits *limits;
    bool audit_only;
    struct audit *audit;
    struct worker_seat seat;        /* which of several it is */
    struct metrics_worker *metrics; /* never NULL */
    const struct metrics *page;     /* of all workers; NULL: of `sallyport exec` */
    struct admin *admin;            /* NULL: of `sallyport exec` */
    struct deadline_queue admin_timeouts;
    int admin_listener; /* came while a configuration is loaded, which it belongs to; -1: none */
    struct authorities *authorities;
    struct resolver resolver;
    struct forwarder *forwarder;
    struct verifier *verifier;
    struct namebook *names;
    struct report *report;
    struct learned learned; /* what the kernel's sets were told */
    struct deadline_queue hello_timeouts, connect_timeouts, attempt_staggers, idle_timeouts,
        half_close_timeouts, linger_timeouts, dns_tcp_timeouts, accept_pauses, tenant_timeouts;
    struct pipe_pool pipes;
    struct slab flow_slab, dial_slab;
    struct list captures, flows, ended_flows;
    struct association_table associations;
    struct list dns_questions, dns_connections; /* of all captures */
    unsigned flow_count, flow_limit;
    uint64_t flow_serial;
    uint32_t id_prefix; /* of event ids: random, one a worker */
    uv_timer_t finish_timer;
    bool finishing, draining, summary;
    bool yielding; /* draining because another worker serves now */
    struct reload *reload; /* a configuration being loaded, or NULL */
    uv_idle_t judging;     /* rejudge.c: flows are to be judged by a new snapshot */
    uint32_t judgement;    /* number of the latest */
    struct list replaced;  /* snapshots that flows may still be of */
    struct config_resolver host_servers[RESOLVER_SERVERS_MAX]; /* of the host's resolv.conf, for configurations that name none */
    size_t host_server_count;
    unsigned descriptors, capture_count;
    int exit_status;
    uint8_t scratch[SCRATCH_SIZE];
};

/* Tokens: one per query, refilled at `per_second`, at most that many saved up. */
struct rate {
    double tokens;
    uint64_t last_ms;
};
bool rate_take(struct rate *rate, unsigned per_second, uint64_t now_ms);

struct capture_listener {
    struct poll_handle poll;
    struct capture *capture;
    struct addr local;     /* what it is bound to */
    bool transparent;      /* its connections' own address is where the client wanted to go; its datagrams are told it */
    int drained;           /* read from no more, for answers alone; -1: not */
    struct deadline pause; /* out of descriptors: accept again when it expires */
};

struct capture {
    struct list link;
    struct worker *worker;
    struct tenants *tenants; /* of a network; else NULL */
    struct capture *network; /* of a tenant; else NULL */
    struct addr source;      /* of a tenant: its address */
    char id[CHANNEL_ID_MAX], name[CHANNEL_ID_MAX], image[CHANNEL_IMAGE_MAX];
    char pod[CHANNEL_IMAGE_MAX], pod_namespace[CHANNEL_ID_MAX];
    char policy_asked[CHANNEL_ID_MAX]; /* "": by the assign rules */
    const struct acl_policy *policy;
    struct capture_listener tcp[2], dns_udp[2], dns_tcp[2], nflog, udp[2];
    int raw[2]; /* whole IP packets into the namespace; -1: none */
    unsigned flows, denied_associations, dns_connections, dns_waiting;
    struct rate flow_rate, dns_rate, limit_events, packet_rate, association_events, echo_rate;
    unsigned flows_over_rate; /* refused one after the other */
    bool packets_seen;
    uint32_t packets_next;     /* sequence of the next logged packet */
    uint32_t packets_lost;     /* of what the log's socket has lost, so many are counted, or were before our time */
    bool packets_losing;       /* it has lost some since it was last empty */
    uint64_t packets_left_out; /* refused packets that no event has told of */
    struct dns_watch dns_watch;
    struct published *published; /* ports of the host that lead into it (inbound.h); NULL: none */
};

/* Takes ownership of the sockets, also on failure. 0 or a negative errno. */
int capture_add(struct worker *worker, const struct channel_message *who, struct capture_sockets *sockets);
/* More sockets of a capture that is there; likewise. */
int capture_extend(struct capture *capture, struct capture_sockets *sockets);
void capture_remove(struct capture *capture);
/* NULL when there is none. */
struct capture *capture_find(const struct worker *worker, const char *id);
/* Its listeners alone: nothing new comes, flows go on. */
void capture_close(struct capture *capture);
/* The same, but answers to what was asked still go out. */
void capture_drain(struct capture *capture);
void capture_accept_expired(struct deadline *deadline);

/* Whose is what comes from this address: the capture itself, or in a network the tenant. NULL: there are too many. */
struct capture *capture_of(struct capture *capture, const struct addr *source);
/* Where the client of an accepted connection wanted to go; as original_destination(). */
int capture_destination(const struct capture_listener *listener, int fd, struct addr *ret);
/* Refused packets that were counted, and that no event has told of, get one. */
void capture_tell_left_out(struct capture *capture);

/* What of the snapshot is kept elsewhere: time limits, name servers, the cap on flows. */
void worker_apply_config(struct worker *worker);
void worker_apply_admin(struct worker *worker); /* and of the admin endpoint */
/* Answer a message of the monitor: `code` 0, or a positive errno. */
void worker_answer(struct worker *worker, uint32_t serial, int code);

/* Are there more flows than there may be: own ones, for want of descriptors, or of all workers together? */
bool worker_is_full(const struct worker *worker);
/* Does this policy only record? */
bool worker_only_records(const struct worker *worker, const struct acl_policy *policy);
/* May an upstream socket go to this address? The guard (DESIGN section 6) with what config and policy open, and the
 * addresses of our own machine. NULL: it may; else what it is, a static string. */
const char *worker_guard(struct worker *worker, const struct acl_policy *policy, const struct addr *address);
/* The same of an address that is only told to a container: what the kernel said of it may be a second old. */
bool worker_may_answer(struct worker *worker, const struct acl_policy *policy, const struct addr *address);
/* The same for UDP or ICMP, which the rules of that protocol open networks for. */
const char *worker_guard_for(struct worker *worker, const struct acl_policy *policy, enum acl_protocol protocol,
                             const struct addr *address);
bool worker_may_dial(struct worker *worker, const struct acl_policy *policy, const struct addr *address);
/* An event with what all events of a capture share. */
struct audit_event worker_event(const struct worker *worker, const struct capture *capture,
                                const struct acl_policy *policy);

/* dns_service.c */
void dns_udp_ready(struct poll_handle *handle, uint32_t events);
void dns_tcp_accept_ready(struct poll_handle *handle, uint32_t events);
void dns_tcp_expired(struct deadline *deadline);
void dns_service_learned(struct worker *worker); /* the monitor has done something more (learned.h): answers may wait for it */
void dns_service_forget(
    struct capture *capture); /* the capture goes: drop its connections and pending questions */
