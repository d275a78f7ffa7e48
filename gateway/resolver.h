/*
 * Asks the configured name servers: the gateway's own DNS client, used by the forwarder.
 *
 * Each attempt has a socket of its own, so source port and id are both random (RFC 5452), and the letters'
 * case is random too (0x20) on the first attempt at each server; an answer must come from the server asked
 * and repeat the question byte for byte. Truncated answers are asked again over TCP. Servers are tried in
 * turn; one that twice in a row did not answer is tried last for half a minute. The question is always
 * written by us: nothing of a client's query but name and type gets out.
 *
 * A server with a name is asked over TLS and in no other way (dot.h); there the connection vouches for the
 * answer, and the question is padded instead of spelt at random.
 *
 * (c-ares 1.18, which Debian 12 has, keeps one UDP source port per server and knows no 0x20.)
 */
#pragma once

#include "acl/name.h"
#include "base/addr.h"
#include "base/list.h"
#include "config/snapshot.h"
#include "gateway/deadline.h"
#include "gateway/dns_message.h"
#include "gateway/dot.h"
#include "gateway/poller.h"
#include "redirect/monitor/metrics.h"

#include <stddef.h>
#include <stdint.h>

#define RESOLVER_SERVERS_MAX 8
#define RESOLVER_ATTEMPT_MS 2000
#define RESOLVER_OUTSTANDING_MAX 1024
#define RESOLVER_FAILURES 2
#define RESOLVER_SICK_MS 30000

struct resolver_health {
    unsigned failures;      /* without an answer between them */
    uint64_t well_again_ms; /* until then it is tried last */
};

struct resolver {
    struct poller *poller;
    struct authorities *authorities;
    struct config_resolver servers[RESOLVER_SERVERS_MAX];
    struct dot *dots[RESOLVER_SERVERS_MAX]; /* of those that are asked over TLS */
    struct resolver_health health[RESOLVER_SERVERS_MAX];
    size_t server_count;
    struct deadline_queue timeouts, dot_idle;
    struct list exchanges;
    unsigned outstanding, outstanding_max;
    struct metrics_worker *metrics; /* set it after resolver_init(); NULL: nobody counts */
};

/* No servers: every question fails. `authorities` (for servers with TLS) is borrowed, and may be NULL without such. */
void resolver_init(struct resolver *resolver, uv_loop_t *loop, struct poller *poller,
                   struct authorities *authorities, const struct config_resolver *servers, size_t count);
/* For questions from now on; those under way that come to their next attempt ask the new ones too. When they are those
 * that it has, what is known of their health stays, and so do connections. */
void resolver_set_servers(struct resolver *resolver, const struct config_resolver *servers, size_t count);
/* Every outstanding question is dropped without its callback. */
void resolver_finish(struct resolver *resolver);
/* The `nameserver` lines of a resolv.conf(5), port 53. Returns how many. */
size_t resolver_read_host_servers(const char *path, struct config_resolver *ret, size_t size);
/* Why a question got no answer, from its status (below): a static sentence. */
const char *resolver_failure_text(int status);

/* `status` 0: `answer` (valid during the call, writable) has been through dns_answer_parse into `facts`; else
 * a negative errno (-ETIMEDOUT, -EBADMSG, -ECONNREFUSED, …) and no answer. */
typedef void (*resolver_answer_fn)(void *arg, int status, uint8_t *answer, size_t length,
                                   const struct dns_answer *facts);

struct resolver_exchange;
/* Ask for (name, type). `edns`: put an OPT record into the question. NULL when it could not even start (then
 * the callback never runs). The callback runs exactly once, later, unless cancelled. */
struct resolver_exchange *resolver_ask(struct resolver *resolver, const char *name, uint16_t type, bool edns,
                                       resolver_answer_fn answered, void *arg);
void resolver_cancel(struct resolver_exchange *exchange);
