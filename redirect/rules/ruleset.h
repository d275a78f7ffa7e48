/*
 * The nftables ruleset of a captured namespace, as one netlink batch: all of it or nothing, with no instant
 * between an old ruleset and its successor. Internal to redirect/.
 */
#pragma once

#include "acl/policy.h"
#include "base/addr.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RULESET_TABLE "sallyport"
#define RULESET_PORTS "ports" /* the sets */
#define RULESET_UDP_PORTS "udp_ports"
#define RULESET_RANGES_MAX \
    4096 /* separate port ranges; a batch is one message, bounded by the socket's buffer */

struct ruleset {
    bool transparent;                   /* sockets for TCP and DNS are, and both are routed to lo (sealed.c): nothing is translated or tracked */
    const struct acl_port_range *ports; /* TCP ports to capture: sorted, disjoint */
    size_t port_count;
    const struct cidr *local; /* networks that are this namespace itself; prefix lengths in whole bytes */
    size_t local_count;
    const struct acl_port_range *udp_ports; /* UDP ports to capture, but for 53, and whether to capture echo requests */
    size_t udp_port_count;
    bool echo;
    uint16_t udp[2];                         /* transparent sockets; 0: none */
    uint16_t tcp[2], dns_udp[2], dns_tcp[2]; /* where to: ports of our sockets, IPv4 and IPv6; 0: none */
    int nflog_group;                         /* -1: do not log */
};

/* Put it in force in the caller's network namespace, in place of what an earlier call put there. */
int ruleset_apply(const struct ruleset *ruleset, struct error *err);
/* Remove the table. It is no error when there is none. */
int ruleset_remove(struct error *err);
/* A number for what is in force there now: equal numbers, equal rulesets (counters aside). 0: there is none of ours. */
int ruleset_fingerprint(uint64_t *ret, struct error *err);
