/*
 * The audit log: JSON Lines in ECS (DESIGN section 9), one writer thread, a bounded queue, no gap in the sequence.
 *
 * The loop thread formats an event into a line and submits it; the writer thread appends it to the file. event.sequence
 * is given when a line enters the queue, so the file has no gap and no swap. When the queue is full, or the file cannot
 * be written, audit_ready() turns false: with on_full `deny` the caller denies new flows (ACL_AUDIT_UNAVAILABLE) until it
 * turns true again; with `drop` the line is counted and left out, and the next line written says how many.
 * Lines once accepted are kept until written: a full disk holds them back, it never loses them.
 */
#pragma once

#include "acl/policy.h"
#include "base/addr.h"
#include "base/error.h"
#include "redirect/monitor/channel.h"
#include "redirect/monitor/metrics.h"

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum audit_action {
    AUDIT_FLOW_DECISION, /* event.action "flow-allowed" / "flow-denied"; type ["connection","allowed"|"denied"] */
    AUDIT_FLOW_END,      /* "flow-ended"; type ["connection","end"] */
    AUDIT_HTTP_REQUEST,  /* a later request of a kept-alive connection: "request-allowed" / "request-denied" */
    AUDIT_DNS_DENIED,    /* "dns-denied"; type ["protocol","denied"] */
    AUDIT_DNS_SUSPECTED, /* "dns-suspected": questions that look like a tunnel; type ["protocol","info"] */
    AUDIT_CHANGE,        /* what was done to the gateway by order (redirect/daemon/notes.h): category ["configuration"] */
    AUDIT_PACKET_DENIED, /* "packet-denied": nftables refused it (reason port_denied) */
};

enum audit_close_by { AUDIT_CLOSE_NONE, AUDIT_CLOSE_CLIENT, AUDIT_CLOSE_ORIGIN, AUDIT_CLOSE_GATEWAY };

/* All pointers are borrowed for the call. Empty / NULL / 0 fields are left out of the JSON. */
struct audit_event {
    enum audit_action action;
    bool allowed;     /* event.outcome success / failure */
    bool would_deny;  /* sallyport.would_deny: mode audit let it through; reason says why it would be denied */
    enum acl_reason reason;
    struct timespec start;    /* CLOCK_REALTIME, event.start */
    uint64_t duration_ns;     /* event.duration; END events */
    const char *flow_id;      /* event.id */
    struct addr source;
    struct addr destination;  /* original destination */
    struct addr nat;          /* address really dialled, destination.nat.ip; empty when the same or none */
    const void *domain;       /* destination.domain, a client's bytes */
    size_t domain_length;
    const char *transport;    /* "tcp", "udp" */
    const char *protocol;     /* "tls", "http", "dns", or NULL */
    bool tls;                 /* domain is also tls.client.server_name */
    bool ech_offered;
    const char *alpn;         /* tls.next_protocol as offered (comma separated) */
    const char *http_method;
    const void *dns_name;
    size_t dns_name_length;
    const char *dns_type;
    const char *policy;       /* rule.ruleset */
    const struct acl_verdict *verdict; /* rule.name (its text), sallyport.rule_origin "file:line" */
    const char *policy_version;        /* rule.version */
    const char *container_id, *container_name, *container_image;
    const char *pod, *pod_namespace; /* of Kubernetes: orchestrator.resource.name, orchestrator.namespace */
    const char *network_name; /* network.name: the captured network that it came from */
    bool inbound;             /* network.direction: ingress */
    const char *binding;      /* sallyport.binding: "dns", "resolved", "redialled", "address" */
    const char *certificate;  /* sallyport.certificate: "valid", or why the origin's proves nothing */
    const char *certificate_issuer; /* tls.server.issuer */
    time_t certificate_end;         /* tls.server.not_after; 0: not known */
    const char *detail;       /* sallyport.detail: a static sentence */
    uint64_t bytes_sent;      /* source.bytes: client to origin */
    uint64_t bytes_received;  /* destination.bytes */
    enum audit_close_by close_by; /* sallyport.close_by */
    enum channel_note_kind change; /* of a CHANGE: names its action */
    uint32_t user;            /* of a CHANGE: user.id, or NOTE_NOBODY */
    const char *rule;         /* of a CHANGE: rule.name */
    uint64_t left_out;        /* sallyport.left_out: refused packets before this one that have no event */
    unsigned worker;          /* sallyport.worker: which of several wrote it, from 1 */
    const char *close_reason; /* sallyport.close_reason: "fin", "rst", "idle_timeout", … */
};

struct audit;

/* Takes ownership of `fd` (append-only file, pipe or /dev/null); -1: events are formatted, counted and thrown away. Starts
 * the writer thread. `drop_when_full` is on_full: drop. Opened O_RDWR, a file that ends in a torn line gets a newline. */
struct audit *audit_create(int fd, bool drop_when_full, struct error *err);
/* Replaces the file (after rotation); takes ownership. Lines already queued go to the new one. Any thread. */
void audit_reopen(struct audit *audit, int fd);
/* The number of the first event, before there is one; without it 1. */
void audit_begin_at(struct audit *audit, uint64_t sequence);
/* Count from now on what is accepted and what is left out there. */
void audit_count_in(struct audit *audit, struct metrics_worker *metrics);
/* May a flow be started? Cheap; any thread. Always true with on_full `drop`. */
bool audit_ready(const struct audit *audit);
/* 0, or -ENOBUFS when the queue is full or the file cannot be written; the caller must then not let the flow pass. Any
 * thread. Events of what is denied find room in a reserve of their own; an AUDIT_FLOW_END with `allowed` always does, one
 * for each allowed AUDIT_FLOW_DECISION that was accepted. Others may be left out with -ENOBUFS when even the reserve is
 * full; with on_full `drop` any may be, with 0. What was left out is counted in the next line. */
int audit_submit(struct audit *audit, const struct audit_event *event);
/* errno of the last write, 0 when it worked: for an operator's message. */
int audit_error(struct audit *audit);
/* Events left out since the start. */
uint64_t audit_dropped(struct audit *audit);
/* Flushes (waits at most `wait_ms`, even when a pipe's reader is stuck), stops the thread, closes. Returns the number of
 * events that are in no file: lines not written, and events left out that no line has told of. Accepts NULL. */
uint64_t audit_destroy(struct audit *audit, unsigned wait_ms);

/* Formats one event with `sequence` into `ret` (one line without newline). Pure; for the tests. Length or -ENOSPC, which
 * AUDIT_LINE_MAX bytes never give: overlong texts are cut and sallyport.truncated is set. */
ssize_t audit_format(const struct audit_event *event, uint64_t sequence, struct timespec now, char *ret, size_t size);
#define AUDIT_LINE_MAX 8192
