/*
 * UDP and echo requests (ping) of sealed containers: an association for each source, destination and protocol, as long as
 * packets come (DESIGN sections 3 and 4).
 *
 *   container ─ transparent socket, or log of echo requests ─► verdict ─► connected UDP or ping socket ─► origin
 *             ◄──────── raw socket, from the address that was asked ───────────────────────────────────
 *
 * The name is what our DNS answered the address for, as with tcp:// rules; otherwise the address decides. When neither says
 * anything, the policy's own names for that port are looked up: clients keep addresses longer than DNS says. What is refused is
 * refused by an ICMP error at once, and remembered for a while, so that it is judged and told once.
 *
 *   state     what happens in it                                      left by
 *   denied    each packet is answered by an error                     DENIED_MS, a new policy
 *   fresh     nothing has come back yet                               FRESH_MS after the last packet
 *   replied   the origin has answered                                 udp_idle_timeout after the last packet
 *
 * Limits: one container's associations count among its flows. Of a packet only the payload is relayed, and of an echo request its
 * sequence number: no TTL, no "don't fragment", no options. Answers over IPv6 of more than 65 488 bytes do not fit lo. A proxy
 * (gateway.upstream) carries TCP alone: with one, nothing of this goes out.
 */
#pragma once

#include "base/list.h"
#include "gateway/deadline.h"
#include "gateway/poller.h"

#include <stdint.h>

struct capture;
struct worker;
struct nflog_event;

struct relay_batch;

struct association_table {
    struct relay_batch *batch;
    struct list all, *buckets;
    uint64_t hash_seed;
    struct deadline_queue denied_timeouts, fresh_timeouts, replied_timeouts;
};

void associations_init(struct worker *worker);
void associations_finish(struct worker *worker); /* all must have ended */
void associations_apply_config(struct worker *worker);

/* The transparent socket of a capture is ready. */
void association_udp_ready(struct poll_handle *handle, uint32_t events);
/* An echo request was logged. */
void association_echo(struct capture *capture, const struct nflog_event *packet);
/* After a change of policy: what is not allowed any more ends. Captures have their new policies. */
void associations_judge(struct worker *worker);
/* End those of a capture, or all (NULL). */
void associations_end(struct worker *worker, const struct capture *capture, const char *why);
