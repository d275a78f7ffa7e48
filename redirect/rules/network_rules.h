/*
 * The nftables ruleset of network capture, in the gateway's own namespace: one table for all captured networks, put in force as
 * one netlink batch. Internal to redirect/.
 */
#pragma once

#include "acl/policy.h"
#include "base/error.h"
#include "config/snapshot.h"

#include <stddef.h>
#include <stdint.h>

#define NETWORK_TABLE "sallyport-network"
#define NETWORK_MARK 0x53414e01u       /* of packets that TPROXY captured */
#define NETWORK_REPLY_MARK 0x53414e02u /* of the listeners' sockets */
#define NETWORK_ROUTES 9441            /* the table of routes that NETWORK_MARK leads to */
#define NETWORK_RANGES_MAX 4096 /* separate port ranges of one network */

struct network_rules {
    const struct config_network *network;
    const struct acl_port_range *ports; /* TCP ports to capture: sorted, disjoint */
    size_t port_count;
    uint16_t tcp[2], dns_udp[2], dns_tcp[2]; /* where to: ports of our sockets, IPv4 and IPv6; 0: none */
    int nflog_group;                         /* -1: do not log */
};

/* In place of what an earlier call put there. With a count of 0: as network_rules_remove(). */
int network_rules_apply(const struct config_snapshot *snapshot, const struct network_rules *networks, size_t count, struct error *err);
/* Remove the table. It is no error when there is none. */
int network_rules_remove(struct error *err);
