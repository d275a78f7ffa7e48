/*
 * What the files of associations share: association.c has the table, life and end; association_judge.c the verdict;
 * association_names.c finds names for it; association_relay.c has the packets.
 */
#pragma once

#include "gateway/association.h"

#include "gateway/packet.h"
#include "gateway/worker_internal.h"

struct association {
    struct list link, bucket; /* in all; of its hash */
    struct capture *capture;
    const struct acl_policy *policy;
    enum acl_protocol protocol;
    struct addr source, destination; /* ACL_ICMP: source.port is the identifier, destination.port 0 */
    struct poll_handle poll;         /* to the origin */
    struct deadline timer;
    bool denied, replied, active, would_deny, told, searched;
    struct name_search *search;  /* waits for names; NULL: not */
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

static inline struct worker *association_worker(const struct association *a)
{
    return a->capture->worker;
}

/* ---- association.c ---- */

/* That of the packet, opened when there is none yet; NULL when out of memory. It may be denied, or wait for names. */
struct association *association_for(struct capture *capture, const struct datagram *d);
/* Start its timer anew. */
void association_keep(struct association *a);
/* From a flow to something remembered, with an event. */
void association_deny(struct association *a, enum acl_reason reason, const char *detail);
/* For the summary. */
void association_report(const struct association *a);
#define ASSOCIATION_ID_SIZE 32
struct audit_event association_event(const struct association *a, enum audit_action action,
                                     char id[ASSOCIATION_ID_SIZE]);

/* ---- association_judge.c ---- */

/* Is it allowed, and can it be had? Denied otherwise, or waiting for names. */
bool association_open(struct association *a);
/* By the policy that it has now. */
bool association_still_allowed(struct association *a);

/* ---- association_names.c ---- */

/* Looks up names that may be the destination's; then the association is opened again. False when there are none. */
bool association_search(struct association *a);
void association_search_cancel(struct association *a); /* also when there is none */
/* A packet that came meanwhile. */
void association_hold(struct association *a, const struct datagram *d);

/* ---- association_relay.c ---- */

/* NULL when out of memory. */
struct relay_batch *association_batch_create(void);
/* A packet of an association that is open or denied. */
void association_take(struct association *a, const struct datagram *d);

/* 0 or a negative errno. */
int association_connect(struct association *a);
/* Tell the sender of the packet. */
void association_error(const struct capture *capture, const struct datagram *d, enum packet_error what,
                       uint16_t mtu);
/* The latest packet, without its payload. */
struct datagram association_latest(const struct association *a);
void association_origin_ready(struct poll_handle *handle, uint32_t events);
