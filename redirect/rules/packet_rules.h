/*
 * udp:// and icmp:// rules in the kernel: where packets pass by themselves (network capture), a policy is a chain that accepts what
 * it allows. Rules by name are sets of addresses, which the worker's DNS service fills through the monitor. Internal to redirect/.
 */
#pragma once

#include "config/snapshot.h"
#include "redirect/rules/nft.h"

#define PACKET_CHAIN_MAX 96

/* Does the policy have rules that allow UDP or ICMP? */
bool packet_rules_any(const struct acl_policy *policy);
/* The name of its chain. */
const char *packet_rules_chain(const struct acl_policy *policy, char ret[PACKET_CHAIN_MAX]);
/* What all chains share; before the first. */
void packet_rules_put_guard(struct nft_batch *b, const struct config_snapshot *snapshot);
/* The chain, with its sets. Addresses that the same rule's set has in the table that is in force now are taken over; `fd` is a
 * netfilter socket. */
int packet_rules_put(struct nft_batch *b, int fd, const struct acl_policy *policy, struct error *err);

/* DNS has answered `address` for a name of the rule with this number (of acl_policy_each_packet_rule): it may be reached for as long as
 * `ttl` says, and an hour. The worker says so, so nothing of it is believed: -EINVAL for a rule that is none by name, -EPERM for an
 * address that is guarded. */
int packet_rules_learn(int fd, const char *table, const struct config_snapshot *snapshot, const struct acl_policy *policy,
                       uint32_t rule, const struct addr *address, uint32_t ttl, struct error *err);
