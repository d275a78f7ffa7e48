/*
 * Origin verification (DESIGN section 6, rung 3): the gateway makes a TLS connection of its own to an
 * address, with the name as SNI, and looks whether its certificate proves the name (certs/proof.h).
 *
 * Many flows to one origin cost one connection: results are kept, good ones for an hour or until the
 * certificate expires, bad ones for a minute, and those that say nothing of the certificate (nobody answered)
 * for ten seconds. At most VERIFY_PARALLEL connections are under way, and VERIFY_PER_SECOND begin in a second,
 * for a client could name an address to knock at with each flow; the next wait their turn. Each ends within
 * VERIFY_TIMEOUT_MS, so a slow origin stalls nobody.
 *
 * Authorities are those of authorities.h.
 */
#pragma once

#include "base/list.h"
#include "certs/proof.h"
#include "config/snapshot.h"
#include "gateway/authorities.h"
#include "gateway/deadline.h"
#include "gateway/poller.h"
#include "redirect/monitor/metrics.h"

#define VERIFY_PARALLEL 32
#define VERIFY_PER_SECOND 100
#define VERIFY_PACE_MS 20 /* when to look again, once they are used up */
#define VERIFY_WAITING_MAX 1024
#define VERIFY_KEPT_MAX 4096
#define VERIFY_TIMEOUT_MS 5000
#define VERIFY_GOOD_MS (3600u * 1000)
#define VERIFY_BAD_MS (60u * 1000)
#define VERIFY_SILENT_MS (10u * 1000)

struct verifier;

/* Embedded by who asks; may be cancelled at any time. */
struct verify_waiter {
    struct list link;
    void (*done)(struct verify_waiter *waiter, const struct proof_result *result); /* valid during the call */
};

/* `snapshot` is where the current configuration is found; `authorities` is borrowed. NULL when out of memory. */
struct verifier *verifier_create(uv_loop_t *loop, struct poller *poller, struct authorities *authorities,
                                 struct config_snapshot *const *snapshot);
void verifier_count_in(struct verifier *verifier, struct metrics_worker *metrics); /* accepts NULL for the verifier */
/* Nobody may be waiting any more; the loop must run once more. Accepts NULL. */
void verifier_destroy(struct verifier *verifier);
/* Other authorities count: what the old ones proved is forgotten. */
void verifier_reset(struct verifier *verifier);

void verify_waiter_init(struct verify_waiter *waiter,
                        void (*done)(struct verify_waiter *waiter, const struct proof_result *result));
void verify_cancel(struct verify_waiter *waiter);

/* What is known of (name, address with its port); NULL: nothing. */
const struct proof_result *verify_find(struct verifier *verifier, const char *name,
                                       const struct addr *address);
/* Find out; `waiter` is called when it is known, later. The address has passed the guard. 0, or -ENOBUFS:
 * too many are waiting, or no memory. */
int verify_start(struct verifier *verifier, const char *name, const struct addr *address,
                 struct verify_waiter *waiter);
