/*
 * nftables in small pieces: a batch is opened, gets tables, chains, sets and rules in order, and is sent as one transaction:
 * all of it or nothing. Internal to redirect/.
 *
 *   struct nft_batch b;
 *   nft_batch_open(&b, "sallyport", err);
 *   nft_table(&b, NFT_MSG_NEWTABLE, NLM_F_CREATE, "adding the table");
 *   nft_chain(&b, "input", "filter", NF_INET_LOCAL_IN, 0, NF_DROP);
 *   nft_rule(&b, "input");  nft_match_protocol(&b, IPPROTO_TCP);  nft_verdict(&b, NF_ACCEPT);  nft_rule_done(&b, "accepting TCP");
 *   r = nft_batch_commit(&b, fd, err);
 *
 * Running out of memory is noted and looked at once, by nft_batch_commit(), so that a ruleset reads as a ruleset. Every
 * verdict counts. Expressions load into and compare register 1.
 */
#pragma once

#include "acl/policy.h"
#include "base/addr.h"
#include "base/error.h"

#include <stdio.h> /* libnftnl needs FILE */

#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NFT_STEPS_MAX 512

struct nft_batch {
    const char *table;
    char *bytes;
    size_t used, size;
    size_t last;                      /* where the latest message begins */
    uint32_t sequence;                /* of the next message */
    uint32_t sets;                    /* how many there are: their ids */
    const char *steps[NFT_STEPS_MAX]; /* what each message does, by sequence, for errors */
    struct nftnl_rule *rule;          /* the rule being written */
    bool out_of_memory;               /* sticky */
};

/* `table` must outlive the batch. 0 or -ENOMEM. */
int nft_batch_open(struct nft_batch *b, const char *table, struct error *err);
/* Sends it over a netfilter socket and frees it, whatever comes of it. 0 or a negative errno. */
int nft_batch_commit(struct nft_batch *b, int fd, struct error *err);
/* Frees it unsent. */
void nft_batch_abandon(struct nft_batch *b);
/* Whether the kernel has this table (family inet). */
int nft_find_table(int fd, const char *table, bool *ret, struct error *err);

/* A message of another kind; nft_message_done() after its payload was built. */
struct nlmsghdr *nft_message(struct nft_batch *b, uint16_t type, uint16_t flags, const char *step);
void nft_message_done(struct nft_batch *b, const struct nlmsghdr *m);

void nft_table(struct nft_batch *b, uint16_t type, uint16_t flags, const char *step);
/* A base chain; `hook` below 0: one that is only jumped to. */
void nft_chain(struct nft_batch *b, const char *name, const char *type, int hook, int32_t priority, uint32_t policy);
/* A set of port ranges (sorted, disjoint) with this name, filled. */
void nft_port_set(struct nft_batch *b, const char *name, const struct acl_port_range *ranges, size_t count);

/* A set of networks of one family with this name, filled; `networks` may lie in each other, and others in between are passed over. */
void nft_network_set(struct nft_batch *b, const char *name, int family, const struct cidr *networks, size_t count);
/* A set of addresses of one family, each with a time to live of its own; empty. */
void nft_address_set(struct nft_batch *b, const char *name, int family, uint64_t timeout_ms);
/* `left_ms`: until it expires. */
void nft_address_add(struct nft_batch *b, const char *set, const struct addr *address, uint64_t left_ms);
void nft_address_remove(struct nft_batch *b, const char *set, const struct addr *address);
/* What is in a set of addresses in the kernel. No error, and nothing, when there is no such set. */
int nft_address_each(int fd, const char *table, const char *set, int family,
                     void (*each)(const struct addr *address, uint64_t left_ms, void *arg), void *arg, struct error *err);

/* ---- rules: nft_rule(), any expressions in order, nft_rule_done() ---- */

void nft_rule(struct nft_batch *b, const char *chain);
void nft_rule_done(struct nft_batch *b, const char *step);
/* Appends an expression of this kind to the rule; NULL when out of memory. The rule owns it. */
struct nftnl_expr *nft_expression(struct nft_batch *b, const char *kind);

void nft_compare(struct nft_batch *b, uint32_t operation, const void *data, uint32_t length);
void nft_load_meta(struct nft_batch *b, uint32_t key);
void nft_load_payload(struct nft_batch *b, uint32_t base, uint32_t offset, uint32_t length);
void nft_load_destination_port(struct nft_batch *b);

void nft_match_family(struct nft_batch *b, int family);
void nft_match_protocol(struct nft_batch *b, uint8_t protocol);
void nft_match_port(struct nft_batch *b, uint16_t port);
void nft_match_port_set(struct nft_batch *b, const char *set);
/* TCP that is not the first segment of a connection. */
void nft_match_no_syn(struct nft_batch *b);
/* Any of the conntrack states (NF_CT_STATE_BIT) in `mask`. */
void nft_match_state(struct nft_batch *b, uint32_t mask);
/* Any of the bits (IPS_…) of the connection's status. */
void nft_match_status(struct nft_batch *b, uint32_t mask);
/* The packet's addresses, of the network's family. */
void nft_match_source(struct nft_batch *b, const struct cidr *network);
void nft_match_destination(struct nft_batch *b, const struct cidr *network);
/* The destination is an address of this machine. */
void nft_match_own_address(struct nft_batch *b);
/* Of the connection's first packet, whichever way this one goes: addresses of the network's family, and the destination port. */
void nft_match_first_source(struct nft_batch *b, const struct cidr *network);
void nft_match_first_destination(struct nft_batch *b, const struct cidr *network);
void nft_match_first_port(struct nft_batch *b, uint16_t low, uint16_t high);
/* Its destination is in this set. */
void nft_match_first_destination_set(struct nft_batch *b, int family, const char *set);
/* It is not. */
void nft_match_first_not_in(struct nft_batch *b, int family, const char *set);
/* What was looked up in the set before, in this rule, stays in it for so long from now. */
void nft_refresh(struct nft_batch *b, const char *set, uint64_t timeout_ms);
/* The route to the source address leads out by the interface that the packet came in by. */
void nft_match_route_back(struct nft_batch *b);
#define NFT_STATE(name) NF_CT_STATE_BIT(IP_CT_##name)

void nft_count(struct nft_batch *b);
void nft_verdict(struct nft_batch *b, uint32_t what);
void nft_reject(struct nft_batch *b, uint32_t type, uint8_t code);
void nft_log(struct nft_batch *b, uint16_t group);
/* The whole packet. */
void nft_log_whole(struct nft_batch *b, uint16_t group);
void nft_set_mark(struct nft_batch *b, uint32_t mark);
void nft_match_mark(struct nft_batch *b, uint32_t mark);
/* The packet goes against the direction of its connection's first. */
void nft_match_reply(struct nft_batch *b);
/* To the socket of this family at this port of the loopback address, as it is. Where there is none, the rule ends here and does not
 * match; else a verdict is to follow. */
void nft_tproxy(struct nft_batch *b, int family, uint16_t port);
void nft_log_as(struct nft_batch *b, uint16_t group, const char *prefix);
void nft_untrack(struct nft_batch *b);
void nft_jump(struct nft_batch *b, const char *chain);
void nft_masquerade(struct nft_batch *b);
void nft_redirect(struct nft_batch *b, uint16_t port);
