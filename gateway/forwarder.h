/*
 * The worker's one way to a name: static hosts, then what is kept, then the name servers.
 *
 * The DNS service and binding both ask here, so what a container looked up need not be looked up again to
 * bind its flow. A question, (name, type), that is on its way already is not sent twice: who asks meanwhile
 * waits for the same answer. Answers are kept for their TTL, "no such name" for its SOA's (RFC 2308), "nobody
 * answered" for a second (RFC 9520); a TTL of 0 is not kept. Memory is bounded: what was not used for longest
 * goes.
 *
 * What is kept is the same for all containers; whether one of them may have it is its caller's to say: the
 * guard and the policy look at every answer that is given out, not at every answer that came in.
 */
#pragma once

#include "config/snapshot.h"
#include "gateway/resolver.h"

#define FORWARDER_KEPT_BYTES (32u << 20)
#define FORWARDER_HOSTS_TTL_S 60
#define FORWARDER_FAILURE_MS 1000

struct forwarder;

/* Valid while it is being handed over. */
struct forwarder_answer {
    int status; /* 0, or why there is none: -EBADMSG, -ETIMEDOUT, … */
    bool lies;  /* -EBADMSG because of addresses for names that were not asked for */
    int rcode;
    const uint8_t *message; /* for dns_answer_serve() */
    size_t length;
    uint32_t age, ttl; /* seconds: since it came; that its addresses still have */
    const struct addr *addresses;
    size_t address_count;
    uint64_t *remembered_ms; /* of one that is kept: when its addresses were last remembered; the caller's. Else NULL */
};

/* Embedded by who asks; may be cancelled at any time. */
struct forwarder_waiter {
    struct list link;
    void (*answered)(struct forwarder_waiter *waiter, const struct forwarder_answer *answer);
};

/* NULL when out of memory. The resolver is borrowed; `snapshot` is where the current configuration is found.
 */
struct forwarder *forwarder_create(uv_loop_t *loop, struct poller *poller, struct resolver *resolver,
                                   struct config_snapshot *const *snapshot);
/* Nobody may be waiting any more; the loop must run once more. Accepts NULL. */
void forwarder_destroy(struct forwarder *forwarder);

void forwarder_waiter_init(struct forwarder_waiter *waiter,
                           void (*answered)(struct forwarder_waiter *waiter,
                                            const struct forwarder_answer *answer));
void forwarder_cancel(struct forwarder_waiter *waiter);

/* (name in normal form, type): is the answer known here? */
bool forwarder_find(struct forwarder *forwarder, const char *name, size_t length, uint16_t type,
                    struct forwarder_answer *ret);
/* It is not: `waiter` is called when it comes, later. 1: the question was sent out; 0: it was on its way;
 * -ENOBUFS: too many are, or no memory. */
int forwarder_wait(struct forwarder *forwarder, const char *name, size_t length, uint16_t type,
                   struct forwarder_waiter *waiter);

/* Bytes in use by what is kept, and how many answers. For tests and measurements. */
size_t forwarder_kept(const struct forwarder *forwarder, size_t *ret_count);

/* Look up all addresses of a name: A and AAAA at once. */
struct lookup;
struct lookup_addresses {
    size_t count;
    struct addr addresses[2 * DNS_ADDRESSES_MAX];
    uint32_t ttl;
};
/* `status` 0 with at least one address; -ENOENT: the name does not exist or has none; else a failure to find
 * out. */
typedef void (*lookup_fn)(void *arg, int status, const struct lookup_addresses *found);
/* NULL when it could not start. The callback runs exactly once, later, unless cancelled. When one family has
 * answered with addresses and the other does not within LOOKUP_PATIENCE_MS, that is the answer (RFC 8305
 * section 3). */
#define LOOKUP_PATIENCE_MS 1000
struct lookup *lookup_start(struct forwarder *forwarder, const char *name, lookup_fn done, void *arg);
void lookup_cancel(struct lookup *lookup); /* accepts NULL */
