/*
 * The ruleset of network capture, in nft's words, for one network NET with the interface IF (there may be several, and a
 * beginning of names, as "br-*"). D and T are the ports of our listeners, which are bound to any address:
 *
 *   table inet sallyport-network {
 *     set ports-NET { type inet_service; flags interval }
 *     chain source     { type filter hook prerouting priority -290;  iifname IF jump source-NET }
 *     chain nat        { type nat hook prerouting priority -110;     iifname IF jump nat-NET }
 *     chain input      { type filter hook input priority -10;        iifname IF jump input-NET
 *                        tcp dport T drop, udp dport D drop, tcp dport D drop }     from anywhere else
 *     chain forward    { type filter hook forward priority -10;      iifname IF jump from-NET
 *                                                                    oifname IF jump to-NET }
 *     chain source-NET { is the source address one of this network? else log prefix "spoofed", drop }
 *     chain nat-NET    { udp dport 53 redirect to :D    tcp dport 53 redirect to :D    tcp dport @ports-NET redirect to :T }
 *     chain input-NET  { answers to what the host itself asked; what was redirected; DHCP, neighbour discovery; log; reject }
 *     chain from-NET   { UDP and echo requests jump policies-NET; ct state invalid drop; ct state new log; reject }
 *     chain to-NET     { ct direction reply jump policies-NET; ICMP errors of what is allowed accept; drop }
 *     chain policies-NET { ct original ip saddr SUBNET jump allow-POLICY, return; … }    as the assign rules say
 *     chain masquerade { type nat hook postrouting priority 90;      iifname IF jump masquerade-NET }
 *     chain masquerade-NET { oifname IF return; UDP and ICMP log prefix "allowed", masquerade }   new ones that were let through
 *   }
 *
 * The chains of the policies are in packet_rules.c. TCP never passes: it goes through the gateway, which knows names and tells
 * them.
 *
 * With capture: tproxy the TCP ports go another way, without connection tracking; P is the port of a transparent listener on the
 * loopback address:
 *
 *     chain source     { … iifname IF jump untrack-NET }
 *     chain tproxy     { type filter hook prerouting priority -150;  iifname IF jump tproxy-NET }
 *     chain output     { type filter hook output priority -290;      meta mark REPLY notrack }
 *     chain untrack-NET { tcp dport 53 return   fib daddr type local return   tcp dport @ports-NET notrack }
 *     chain tproxy-NET { the same returns;      tcp dport @ports-NET tproxy to LOOPBACK:P meta mark set MARK accept }
 *
 * A routing rule sends what has MARK to lo; without a listener nothing has, and is refused in the forward chain. The listener's sockets have the mark REPLY, so that nobody tracks their answers.
 * What is for the host's own addresses stays out of it: answers to the host are tracked.
 *
 * This is the host's own namespace, so every base chain accepts, and all that drops is behind a match for a captured
 * interface (or one of our own ports). A verdict of ours says nothing to the tables of others: what Docker or firewalld drop
 * stays dropped, and what we drop they cannot accept. Our priorities stand a little before the usual ones, so that a
 * connection is redirected before Docker publishes a port with it.
 *
 * Facts this rests on (kernel net/netfilter):
 *   - redirect in prerouting rewrites to the first address of the incoming interface (nf_nat_redirect.c), so the listeners are
 * bound to any address: an interface may come later, or change its address. The input chain guards them: only what was
 * redirected (`ct status dnat`) and came in by an interface of this network gets through.
 *   - Interfaces are matched by name for every packet, so there is nothing to follow when one comes or goes.
 *   - With br_netfilter the frames between two containers of one bridge pass these hooks as packets do: they are then
 * captured and refused like all others. Without it they are the bridge's own business, below IP.
 *   - Without `subnets` a source address belongs to the network if the routes lead back by the same interface (fib).
 */
#include "redirect/rules/network_rules.h"

#include "base/fds.h"
#include "redirect/rules/netlink.h"
#include "redirect/rules/nflog.h"
#include "redirect/rules/nft.h"
#include "redirect/rules/packet_rules.h"

#include "redirect/rules/rtnl.h"

#include <errno.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <stdio.h>
#include <string.h>

#define PRIORITY_SOURCE (-290) /* behind raw, before conntrack */
#define PRIORITY_TPROXY (-150)
#define PRIORITY_NAT (-110)
#define PRIORITY_FILTER (-10)
#define PRIORITY_MASQUERADE 90
#define DNS_PORT 53
#define DHCP4_SERVER_PORT 67
#define DHCP6_SERVER_PORT 547

static const int families[2] = {AF_INET, AF_INET6};

/* A name of our own for each network: "nat-docker". */
struct label {
    char text[16 + CONFIG_NETWORK_NAME_MAX];
};

static struct label label_of(const char *what, const struct network_rules *rules)
{
    struct label label;
    snprintf(label.text, sizeof(label.text), "%s-%s", what, rules->network->name);
    return label;
}

/* ---- matches ---- */

/* A whole name with its NUL bytes, or the beginning of one. */
static void match_interface(struct nft_batch *b, uint32_t key, const char *pattern)
{
    char name[IFNAMSIZ] = {0};
    size_t stem = strcspn(pattern, "*");
    memcpy(name, pattern, stem);
    nft_load_meta(b, key);
    nft_compare(b, NFT_CMP_EQ, name, (uint32_t)(pattern[stem] ? stem : sizeof(name)));
}

static void match_listener(struct nft_batch *b, int family, uint8_t protocol, uint16_t port)
{
    nft_match_family(b, family);
    nft_match_protocol(b, protocol);
    nft_match_port(b, port);
}

static void match_icmpv6(struct nft_batch *b, uint8_t type)
{
    nft_match_family(b, AF_INET6);
    nft_match_protocol(b, IPPROTO_ICMPV6);
    nft_load_payload(b, NFT_PAYLOAD_TRANSPORT_HEADER, 0, sizeof(type));
    nft_compare(b, NFT_CMP_EQ, &type, sizeof(type));
}

static void jump(struct nft_batch *b, const char *chain, const struct network_rules *rules, uint32_t key, const char *what)
{
    struct label to = label_of(what, rules);
    for (size_t i = 0; i < rules->network->interface_count; i++) {
        nft_rule(b, chain);
        match_interface(b, key, rules->network->interfaces[i]);
        nft_jump(b, to.text);
        nft_rule_done(b, "going to the chains of a network");
    }
}

/* ---- the source address ---- */

static void accept_source(struct nft_batch *b, const char *chain, const char *network)
{
    struct cidr from;
    cidr_parse(network, strlen(network), false, &from);
    nft_rule(b, chain);
    nft_match_source(b, &from);
    nft_verdict(b, NFT_RETURN);
    nft_rule_done(b, "allowing addresses of the link itself");
}

/* Before a host has an address: DHCP from 0.0.0.0, duplicate address detection from ::. */
static void accept_unspecified(struct nft_batch *b, const char *chain)
{
    static const char *const unspecified[2] = {"0.0.0.0", "::"};
    for (int i = 0; i < 2; i++) {
        struct cidr from;
        cidr_parse(unspecified[i], strlen(unspecified[i]), false, &from);
        nft_rule(b, chain);
        nft_match_source(b, &from);
        nft_match_protocol(b, i == 0 ? IPPROTO_UDP : IPPROTO_ICMPV6);
        if (i == 0)
            nft_match_port(b, DHCP4_SERVER_PORT);
        nft_verdict(b, NFT_RETURN);
        nft_rule_done(b, "allowing a host without an address");
    }
}

static void put_source(struct nft_batch *b, const struct network_rules *rules)
{
    const struct config_network *network = rules->network;
    struct label chain = label_of("source", rules);
    accept_source(b, chain.text, "fe80::/10");
    accept_unspecified(b, chain.text);
    for (size_t i = 0; i < network->subnet_count; i++) {
        nft_rule(b, chain.text);
        nft_match_source(b, &network->subnets[i]);
        nft_verdict(b, NFT_RETURN);
        nft_rule_done(b, "allowing the network's addresses");
    }
    if (network->subnet_count == 0) {
        nft_rule(b, chain.text);
        nft_match_route_back(b);
        nft_verdict(b, NFT_RETURN);
        nft_rule_done(b, "allowing addresses that the routes lead back to");
    }
    nft_rule(b, chain.text);
    if (rules->nflog_group >= 0)
        nft_log_as(b, (uint16_t)rules->nflog_group, NFLOG_SPOOFED);
    nft_verdict(b, NF_DROP);
    nft_rule_done(b, "dropping foreign source addresses");
}

/* ---- capture ---- */

static void redirect_dns(struct nft_batch *b, const char *chain, int family, uint8_t protocol, uint16_t to)
{
    if (to == 0)
        return;
    nft_rule(b, chain);
    match_listener(b, family, protocol, DNS_PORT);
    nft_redirect(b, to);
    nft_rule_done(b, "redirecting DNS");
}

static void put_nat(struct nft_batch *b, const struct network_rules *rules)
{
    struct label chain = label_of("nat", rules), ports = label_of("ports", rules);
    for (int i = 0; i < 2; i++) {
        redirect_dns(b, chain.text, families[i], IPPROTO_UDP, rules->dns_udp[i]);
        redirect_dns(b, chain.text, families[i], IPPROTO_TCP, rules->dns_tcp[i]);
        if (rules->tcp[i] == 0 || rules->network->transparent)
            continue;
        nft_rule(b, chain.text);
        nft_match_family(b, families[i]);
        nft_match_protocol(b, IPPROTO_TCP);
        nft_match_port_set(b, ports.text);
        nft_redirect(b, rules->tcp[i]);
        nft_rule_done(b, "redirecting TCP ports");
    }
}

/* What TPROXY leaves alone. */
static void spare_dns_and_host(struct nft_batch *b, const char *chain)
{
    nft_rule(b, chain);
    nft_match_protocol(b, IPPROTO_TCP);
    nft_match_port(b, DNS_PORT);
    nft_verdict(b, NFT_RETURN);
    nft_rule_done(b, "leaving DNS to redirection");
    nft_rule(b, chain);
    nft_match_own_address(b);
    nft_verdict(b, NFT_RETURN);
    nft_rule_done(b, "leaving the host's addresses alone");
}

static void put_tproxy(struct nft_batch *b, const struct network_rules *rules)
{
    struct label untrack = label_of("untrack", rules), tproxy = label_of("tproxy", rules), ports = label_of("ports", rules);
    spare_dns_and_host(b, untrack.text);
    spare_dns_and_host(b, tproxy.text);
    nft_rule(b, untrack.text);
    nft_match_protocol(b, IPPROTO_TCP);
    nft_match_port_set(b, ports.text);
    nft_untrack(b);
    nft_rule_done(b, "tracking no captured connections");
    for (int i = 0; i < 2; i++) {
        if (rules->tcp[i] == 0)
            continue;
        nft_rule(b, tproxy.text);
        nft_match_family(b, families[i]);
        nft_match_protocol(b, IPPROTO_TCP);
        nft_match_port_set(b, ports.text);
        nft_tproxy(b, families[i], rules->tcp[i]);
        nft_set_mark(b, NETWORK_MARK);
        nft_verdict(b, NF_ACCEPT);
        nft_rule_done(b, "capturing TCP ports");
    }
}

/* ---- what reaches the host ---- */

static void accept_redirected(struct nft_batch *b, const char *chain, int family, uint8_t protocol, uint16_t port)
{
    if (port == 0)
        return;
    nft_rule(b, chain);
    match_listener(b, family, protocol, port);
    nft_match_status(b, IPS_DST_NAT);
    nft_verdict(b, NF_ACCEPT);
    nft_rule_done(b, "accepting what was redirected");
}

/* What a link needs to live: addresses by DHCP, where the host is the server, and neighbours. */
static void accept_link_upkeep(struct nft_batch *b, const char *chain)
{
    static const uint8_t types[] = {ND_ROUTER_SOLICIT, ND_NEIGHBOR_SOLICIT, ND_NEIGHBOR_ADVERT};
    static const uint16_t servers[2] = {DHCP4_SERVER_PORT, DHCP6_SERVER_PORT};
    for (size_t i = 0; i < sizeof(types); i++) {
        nft_rule(b, chain);
        match_icmpv6(b, types[i]);
        nft_verdict(b, NF_ACCEPT);
        nft_rule_done(b, "accepting neighbour discovery");
    }
    for (int i = 0; i < 2; i++) {
        nft_rule(b, chain);
        match_listener(b, families[i], IPPROTO_UDP, servers[i]);
        nft_verdict(b, NF_ACCEPT);
        nft_rule_done(b, "accepting DHCP");
    }
}

/* Refuse at once, so that nobody waits for a timeout; and tell the gateway. */
static void refuse(struct nft_batch *b, const char *chain, int nflog_group)
{
    nft_rule(b, chain);
    nft_match_state(b, NF_CT_STATE_INVALID_BIT);
    nft_verdict(b, NF_DROP);
    nft_rule_done(b, "dropping invalid packets");
    if (nflog_group >= 0) {
        nft_rule(b, chain);
        nft_match_state(b, NFT_STATE(NEW));
        nft_log(b, (uint16_t)nflog_group);
        nft_rule_done(b, "logging refused packets");
    }
    nft_rule(b, chain);
    nft_match_protocol(b, IPPROTO_TCP);
    nft_reject(b, NFT_REJECT_TCP_RST, 0);
    nft_rule_done(b, "rejecting TCP");
    nft_rule(b, chain);
    nft_reject(b, NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED);
    nft_rule_done(b, "rejecting the rest");
}

/* Group management of hosts on the link: neither wanted nor worth an event. */
static void drop_memberships(struct nft_batch *b, const char *chain)
{
    nft_rule(b, chain);
    nft_match_protocol(b, IPPROTO_IGMP);
    nft_verdict(b, NF_DROP);
    nft_rule_done(b, "dropping IGMP");
    nft_rule(b, chain);
    match_icmpv6(b, 143); /* MLDv2 report */
    nft_verdict(b, NF_DROP);
    nft_rule_done(b, "dropping MLD");
}

static void put_input(struct nft_batch *b, const struct network_rules *rules)
{
    struct label chain = label_of("input", rules);
    nft_rule(b, chain.text);
    nft_match_state(b, NFT_STATE(ESTABLISHED) | NFT_STATE(RELATED));
    nft_match_reply(b);
    nft_verdict(b, NF_ACCEPT);
    nft_rule_done(b, "accepting answers to the host");
    if (rules->network->transparent) {
        nft_rule(b, chain.text);
        nft_match_mark(b, NETWORK_MARK);
        nft_verdict(b, NF_ACCEPT);
        nft_rule_done(b, "accepting what was captured");
    }
    for (int i = 0; i < 2; i++) {
        if (!rules->network->transparent)
            accept_redirected(b, chain.text, families[i], IPPROTO_TCP, rules->tcp[i]);
        accept_redirected(b, chain.text, families[i], IPPROTO_UDP, rules->dns_udp[i]);
        accept_redirected(b, chain.text, families[i], IPPROTO_TCP, rules->dns_tcp[i]);
    }
    accept_link_upkeep(b, chain.text);
    drop_memberships(b, chain.text);
    refuse(b, chain.text, rules->nflog_group);
}

static void guard_listener(struct nft_batch *b, int family, uint8_t protocol, uint16_t port)
{
    if (port == 0)
        return;
    nft_rule(b, "input");
    match_listener(b, family, protocol, port);
    nft_verdict(b, NF_DROP);
    nft_rule_done(b, "guarding our listeners");
}

/* Nobody but captured interfaces has a business there, not even the host itself. */
static void guard_listeners(struct nft_batch *b, const struct network_rules *rules)
{
    for (int i = 0; i < 2; i++) {
        guard_listener(b, families[i], IPPROTO_TCP, rules->tcp[i]);
        guard_listener(b, families[i], IPPROTO_UDP, rules->dns_udp[i]);
        guard_listener(b, families[i], IPPROTO_TCP, rules->dns_tcp[i]);
    }
}

/* ---- what passes through ---- */

#define POLICIES_MAX 1024

/* All policies that some network can have, and that let packets pass, each once. */
struct policies {
    const struct acl_policy *all[POLICIES_MAX];
    size_t count;
    bool too_many;
};

static void add_policy(struct policies *policies, const struct acl_policy *policy)
{
    if (!packet_rules_any(policy))
        return;
    for (size_t i = 0; i < policies->count; i++)
        if (policies->all[i] == policy)
            return;
    if (policies->count == POLICIES_MAX)
        policies->too_many = true;
    else
        policies->all[policies->count++] = policy;
}

static void add_assigned(const char *container, const struct cidr *subnet, const struct acl_policy *policy, void *arg)
{
    (void)subnet;
    if (!container)
        add_policy(arg, policy);
}

static void find_policies(const struct config_snapshot *snapshot, const struct network_rules *networks, size_t count,
                          struct policies *ret)
{
    ret->count = 0;
    ret->too_many = false;
    for (size_t i = 0; i < count; i++) {
        if (networks[i].network->policy) {
            add_policy(ret, config_network_policy(snapshot, networks[i].network->name, NULL));
            continue;
        }
        config_each_assignment(snapshot, add_assigned, ret);
        add_policy(ret, config_assign(snapshot, NULL, NULL));
    }
}

static void ask_policy(struct nft_batch *b, const char *chain, const struct acl_policy *policy, const struct cidr *subnet)
{
    char allow[PACKET_CHAIN_MAX];
    if (packet_rules_any(policy)) {
        nft_rule(b, chain);
        if (subnet)
            nft_match_first_source(b, subnet);
        nft_jump(b, packet_rules_chain(policy, allow));
        nft_rule_done(b, "asking a policy");
    }
    if (!subnet)
        return;
    nft_rule(b, chain);
    nft_match_first_source(b, subnet);
    nft_verdict(b, NFT_RETURN);
    nft_rule_done(b, "asking no other policy");
}

struct dispatch {
    struct nft_batch *b;
    const char *chain;
};

static void dispatch(const char *container, const struct cidr *subnet, const struct acl_policy *policy, void *arg)
{
    const struct dispatch *to = arg;
    if (!container)
        ask_policy(to->b, to->chain, policy, subnet);
}

/* Whose policy? As config_network_policy() says. */
static void put_dispatch(struct nft_batch *b, const struct config_snapshot *snapshot, const struct network_rules *rules)
{
    struct label chain = label_of("policies", rules);
    struct dispatch to = {b, chain.text};
    if (!rules->network->policy)
        config_each_assignment(snapshot, dispatch, &to);
    ask_policy(b, chain.text, rules->network->policy ? config_network_policy(snapshot, rules->network->name, NULL)
                                                     : config_assign(snapshot, NULL, NULL), NULL);
}

static void match_icmp_type(struct nft_batch *b, int i, uint8_t type)
{
    nft_match_family(b, families[i]);
    nft_match_protocol(b, i == 0 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
    nft_load_payload(b, NFT_PAYLOAD_TRANSPORT_HEADER, 0, sizeof(type));
    nft_compare(b, NFT_CMP_EQ, &type, sizeof(type));
}

/* Only what the forward chain lets pass comes here, and, with br_netfilter, what stays on the bridge. */
static void put_masquerade(struct nft_batch *b, const struct network_rules *rules)
{
    static const uint8_t protocols[] = {IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6};
    struct label chain = label_of("masquerade", rules);
    for (size_t i = 0; i < rules->network->interface_count; i++) {
        nft_rule(b, chain.text);
        match_interface(b, NFT_META_OIFNAME, rules->network->interfaces[i]);
        nft_verdict(b, NFT_RETURN);
        nft_rule_done(b, "leaving what stays in the network alone");
    }
    for (size_t i = 0; i < sizeof(protocols); i++) {
        nft_rule(b, chain.text);
        nft_match_protocol(b, protocols[i]);
        if (rules->nflog_group >= 0)
            nft_log_as(b, (uint16_t)rules->nflog_group, NFLOG_ALLOWED);
        nft_masquerade(b);
        nft_rule_done(b, "masquerading what is allowed");
    }
}

static void put_allowed(struct nft_batch *b, const struct config_snapshot *snapshot, const struct network_rules *rules)
{
    static const uint8_t echo_request[2] = {ICMP_ECHO, ICMP6_ECHO_REQUEST};
    struct label from = label_of("from", rules), to = label_of("to", rules), policies = label_of("policies", rules);
    put_dispatch(b, snapshot, rules);
    nft_rule(b, from.text);
    nft_match_protocol(b, IPPROTO_UDP);
    nft_jump(b, policies.text);
    nft_rule_done(b, "asking for UDP");
    for (int i = 0; i < 2; i++) {
        nft_rule(b, from.text);
        match_icmp_type(b, i, echo_request[i]);
        nft_jump(b, policies.text);
        nft_rule_done(b, "asking for echo requests");
        nft_rule(b, to.text);
        nft_match_protocol(b, i == 0 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
        nft_match_state(b, NFT_STATE(RELATED));
        nft_verdict(b, NF_ACCEPT);
        nft_rule_done(b, "accepting errors of what is allowed");
    }
    nft_rule(b, to.text);
    nft_match_state(b, NFT_STATE(ESTABLISHED));
    nft_match_reply(b);
    nft_jump(b, policies.text);
    nft_rule_done(b, "asking for answers");
    put_masquerade(b, rules);
}

static void put_forward(struct nft_batch *b, const struct config_snapshot *snapshot, const struct network_rules *rules, bool packets)
{
    struct label from = label_of("from", rules), to = label_of("to", rules);
    if (packets)
        put_allowed(b, snapshot, rules);
    refuse(b, from.text, rules->nflog_group);
    nft_rule(b, to.text);
    nft_verdict(b, NF_DROP);
    nft_rule_done(b, "dropping what would come in");
}

/* ---- the batch ---- */

static bool any_transparent(const struct network_rules *networks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (networks[i].network->transparent)
            return true;
    return false;
}

static void put_network(struct nft_batch *b, const struct config_snapshot *snapshot, const struct network_rules *rules, bool packets)
{
    static const char *const chains[] = {"source", "nat", "untrack", "tproxy", "input", "from", "to", "policies", "masquerade"};
    for (size_t i = 0; i < sizeof(chains) / sizeof(*chains); i++)
        nft_chain(b, label_of(chains[i], rules).text, NULL, -1, 0, 0);
    nft_port_set(b, label_of("ports", rules).text, rules->ports, rules->port_count);
    put_source(b, rules);
    put_nat(b, rules);
    put_tproxy(b, rules);
    put_input(b, rules);
    put_forward(b, snapshot, rules, packets);
    jump(b, "source", rules, NFT_META_IIFNAME, "source");
    if (rules->network->transparent) {
        jump(b, "source", rules, NFT_META_IIFNAME, "untrack");
        jump(b, "tproxy", rules, NFT_META_IIFNAME, "tproxy");
    }
    jump(b, "nat", rules, NFT_META_IIFNAME, "nat");
    jump(b, "input", rules, NFT_META_IIFNAME, "input");
    jump(b, "forward", rules, NFT_META_IIFNAME, "from");
    jump(b, "forward", rules, NFT_META_OIFNAME, "to");
    if (packets)
        jump(b, "masquerade", rules, NFT_META_IIFNAME, "masquerade");
}

static int put_policies(struct nft_batch *b, int fd, const struct config_snapshot *snapshot, const struct policies *policies,
                        struct error *err)
{
    int r = 0;
    if (policies->count == 0)
        return 0;
    nft_chain(b, "masquerade", "nat", NF_INET_POST_ROUTING, PRIORITY_MASQUERADE, NF_ACCEPT);
    packet_rules_put_guard(b, snapshot);
    for (size_t i = 0; i < policies->count && r == 0; i++)
        r = packet_rules_put(b, fd, policies->all[i], err);
    return r;
}

static int write_batch(struct nft_batch *b, int fd, const struct config_snapshot *snapshot, const struct network_rules *networks,
                       size_t count, bool replace, struct error *err)
{
    static struct policies policies;
    if (replace)
        nft_table(b, NFT_MSG_DELTABLE, 0, "removing the old table");
    if (count == 0)
        return 0;
    nft_table(b, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, "adding the table");
    nft_chain(b, "source", "filter", NF_INET_PRE_ROUTING, PRIORITY_SOURCE, NF_ACCEPT);
    nft_chain(b, "nat", "nat", NF_INET_PRE_ROUTING, PRIORITY_NAT, NF_ACCEPT);
    if (any_transparent(networks, count)) {
        nft_chain(b, "tproxy", "filter", NF_INET_PRE_ROUTING, PRIORITY_TPROXY, NF_ACCEPT);
        nft_chain(b, "output", "filter", NF_INET_LOCAL_OUT, PRIORITY_SOURCE, NF_ACCEPT);
        nft_rule(b, "output");
        nft_match_mark(b, NETWORK_REPLY_MARK);
        nft_untrack(b);
        nft_rule_done(b, "tracking no answers of captured connections");
    }
    nft_chain(b, "input", "filter", NF_INET_LOCAL_IN, PRIORITY_FILTER, NF_ACCEPT);
    nft_chain(b, "forward", "filter", NF_INET_FORWARD, PRIORITY_FILTER, NF_ACCEPT);
    find_policies(snapshot, networks, count, &policies);
    int r = policies.too_many ? error_set(err, E2BIG, "more than %d policies have rules for UDP or ICMP", POLICIES_MAX)
                              : put_policies(b, fd, snapshot, &policies, err);
    for (size_t i = 0; i < count; i++)
        put_network(b, snapshot, &networks[i], policies.count > 0);
    for (size_t i = 0; i < count; i++)
        guard_listeners(b, &networks[i]);
    return r;
}

/* Before there are rules that mark, and until there are none. */
static int route_mark(struct error *err)
{
    _cleanup_fd_ int route = netlink_open(NETLINK_ROUTE, err);
    int r = route < 0 ? route : rtnl_route_mark(route, AF_INET, NETWORK_MARK, NETWORK_ROUTES, err);
    if (r == 0 && access("/proc/net/if_inet6", F_OK) == 0)
        r = rtnl_route_mark(route, AF_INET6, NETWORK_MARK, NETWORK_ROUTES, err);
    return r;
}

static void unroute_mark(void)
{
    _cleanup_fd_ int route = netlink_open(NETLINK_ROUTE, NULL);
    for (int i = 0; i < 2 && route >= 0; i++)
        rtnl_unroute_mark(route, families[i], NETWORK_MARK, NETWORK_ROUTES);
}

static int apply_once(const struct config_snapshot *snapshot, const struct network_rules *networks, size_t count, struct error *err)
{
    struct nft_batch b;
    bool replace = false;
    for (size_t i = 0; i < count; i++)
        if (networks[i].port_count > NETWORK_RANGES_MAX)
            return error_set(err, E2BIG, "the policies of the network \"%s\" name %zu separate ranges of TCP ports; at most %d fit",
                             networks[i].network->name, networks[i].port_count, NETWORK_RANGES_MAX);
    _cleanup_fd_ int fd = netlink_open(NETLINK_NETFILTER, err);
    int r = fd < 0 ? fd : nft_find_table(fd, NETWORK_TABLE, &replace, err);
    if (r == 0 && any_transparent(networks, count))
        r = route_mark(err);
    if (r < 0 || (count == 0 && !replace) || (r = nft_batch_open(&b, NETWORK_TABLE, err)) < 0)
        return r;
    r = write_batch(&b, fd, snapshot, networks, count, replace, err);
    if (r < 0)
        nft_batch_abandon(&b);
    else
        r = nft_batch_commit(&b, fd, err);
    if (r == 0 && !any_transparent(networks, count))
        unroute_mark();
    return r;
}

/* A batch whose answer got lost is in force or not, and a network must not be open that is said to be captured: so it is put there once
 * more, which comes to the same either way. What the kernel refuses it refuses again. */
int network_rules_apply(const struct config_snapshot *snapshot, const struct network_rules *networks, size_t count, struct error *err)
{
    int r = apply_once(snapshot, networks, count, err);
    return r < 0 ? apply_once(snapshot, networks, count, err) : r;
}

int network_rules_remove(struct error *err)
{
    return network_rules_apply(NULL, NULL, 0, err);
}
