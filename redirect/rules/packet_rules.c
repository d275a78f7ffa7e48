/*
 * The chain of a policy, in nft's words; `ct original` is the connection's first packet, so the same chain judges both ways:
 *
 *   chain allow-POLICY {
 *     ct original ip daddr @never-4 return                                  guarded, whatever a rule says
 *     meta l4proto udp ct original ip daddr NET ct original proto-dst PORTS return      deny
 *     meta l4proto udp ct original ip daddr NET ct original proto-dst PORTS accept      udp://NET:PORTS
 *     meta l4proto icmp ct original ip daddr NET accept                                 icmp://NET
 *     meta l4proto udp ct original proto-dst PORTS ct original ip daddr @HASH-4 update @HASH-4 {…} accept   udp://NAME:PORTS
 *     ct original ip daddr @private-4 return                                what names no network opens no private one
 *     meta l4proto udp ct original proto-dst PORTS accept                   udp://ANY:PORTS, by any address
 *   }                                                                       (IPv6 likewise)
 *
 * Every packet is judged, not the first of a connection alone: when the policy changes, what it denies ends with the next packet
 * in either direction, and what it still allows never notices. An address in a set lives for its TTL, an hour at least, and
 * for an hour after each packet: so a flow does not end because nobody asked DNS again.
 *
 * Sets are named by policy, rule and family, and taken over from the table before: a flow by name outlives reload and restart.
 */
#include "redirect/rules/packet_rules.h"

#include "acl/guard.h"
#include "redirect/rules/netlink.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEP_MS 3600000u     /* after the last packet, and at least after the answer */
#define KEEP_MAX_S 604800u   /* a week: longer TTLs are nobody's honest wish */
#define GUARD_MAX 256
#define SET_NAME_MAX 32

static const int families[2] = {AF_INET, AF_INET6};
static const char *const never_sets[2] = {"never-4", "never-6"};
static const char *const private_sets[2] = {"private-4", "private-6"};

/* ---- names ---- */

static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 0x100000001b3u;
    return (hash ^ 0xff) * 0x100000001b3u;
}

static const char *set_name(const struct acl_policy *policy, const char *rule, int family, char ret[SET_NAME_MAX])
{
    uint64_t hash = hash_text(hash_text(0xcbf29ce484222325u, acl_policy_name(policy)), rule);
    snprintf(ret, SET_NAME_MAX, "%016llx-%d", (unsigned long long)hash, family == AF_INET ? 4 : 6);
    return ret;
}

const char *packet_rules_chain(const struct acl_policy *policy, char ret[PACKET_CHAIN_MAX])
{
    snprintf(ret, PACKET_CHAIN_MAX, "allow-%s", acl_policy_name(policy));
    return ret;
}

bool packet_rules_any(const struct acl_policy *policy)
{
    size_t count;
    acl_policy_udp_ports(policy, &count);
    return count > 0 || acl_policy_allows_icmp(policy);
}

/* ---- the guard ---- */

struct guard {
    struct cidr never[GUARD_MAX], private[GUARD_MAX];
    size_t never_count, private_count;
    const struct config_snapshot *snapshot;
};

static void take_range(const struct cidr *net, enum acl_guard_class class, void *arg)
{
    struct guard *guard = arg;
    if (class == ACL_GUARD_NEVER && guard->never_count < GUARD_MAX)
        guard->never[guard->never_count++] = *net;
    else if (class == ACL_GUARD_PRIVATE && guard->private_count < GUARD_MAX)
        guard->private[guard->private_count++] = *net;
}

void packet_rules_put_guard(struct nft_batch *b, const struct config_snapshot *snapshot)
{
    static struct guard guard;
    size_t count;
    const struct cidr *opened = config_destinations(snapshot, &count);
    guard = (struct guard){.snapshot = snapshot};
    acl_guard_each(take_range, &guard);
    for (int i = 0; i < 2; i++) {
        nft_network_set(b, never_sets[i], families[i], guard.never, guard.never_count);
        nft_network_set(b, private_sets[i], families[i], guard.private, guard.private_count);
        nft_network_set(b, i == 0 ? "opened-4" : "opened-6", families[i], opened, count);
    }
}

static void return_if_in(struct nft_batch *b, const char *chain, int i, const char *set)
{
    nft_rule(b, chain);
    nft_match_first_destination_set(b, families[i], set);
    nft_verdict(b, NFT_RETURN);
    nft_rule_done(b, "guarding addresses");
}

/* ---- rules ---- */

struct writing {
    struct nft_batch *b;
    int fd; /* of netfilter */
    const struct acl_policy *policy;
    const char *chain;
    struct error *err;
    int r;
};

static bool names_no_network(const struct acl_rule *rule)
{
    return rule->net.base.family == AF_UNSPEC || rule->net.length == 0;
}

/* UDP is matched with its ports, ICMP by the protocol of the family: what kind of message it is the caller has looked at. */
static void match_protocol(struct nft_batch *b, const struct acl_rule *rule, bool icmp, int family)
{
    nft_match_protocol(b, !icmp ? IPPROTO_UDP : family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
    if (!icmp)
        nft_match_first_port(b, rule->port_low, rule->port_high);
}

static void put_by_address(const struct writing *w, const struct acl_rule *rule, bool icmp, uint32_t verdict)
{
    for (int i = 0; i < 2; i++) {
        struct cidr net = rule->net;
        if (net.base.family == AF_UNSPEC)
            net = (struct cidr){.base.family = (uint8_t)families[i]};
        if (net.base.family != families[i])
            continue;
        nft_rule(w->b, w->chain);
        nft_match_first_destination(w->b, &net);
        match_protocol(w->b, rule, icmp, families[i]);
        nft_verdict(w->b, verdict);
        nft_rule_done(w->b, "a rule by address");
    }
}

static bool put_denial(const struct acl_rule *rule, const char *text, void *arg)
{
    (void)text;
    if (!rule->deny || !rule->by_address)
        return true;
    bool all_ports = rule->port_low <= 1 && rule->port_high == UINT16_MAX;
    if (rule->scheme != ACL_SCHEME_ICMP)
        put_by_address(arg, rule, false, NFT_RETURN);
    if (rule->scheme == ACL_SCHEME_ICMP || (rule->scheme == ACL_SCHEME_ADDRESS && all_ports))
        put_by_address(arg, rule, true, NFT_RETURN);
    return true;
}

static bool put_network_rule(const struct acl_rule *rule, const char *text, void *arg)
{
    (void)text;
    if (!rule->deny && rule->by_address && !names_no_network(rule))
        put_by_address(arg, rule, rule->scheme == ACL_SCHEME_ICMP, NF_ACCEPT);
    return true;
}

static bool put_any_rule(const struct acl_rule *rule, const char *text, void *arg)
{
    (void)text;
    if (!rule->deny && rule->by_address && names_no_network(rule))
        put_by_address(arg, rule, rule->scheme == ACL_SCHEME_ICMP, NF_ACCEPT);
    return true;
}

struct take_over {
    struct nft_batch *b;
    const char *set;
};

static void take_over(const struct addr *address, uint64_t left_ms, void *arg)
{
    const struct take_over *to = arg;
    if (left_ms > 0)
        nft_address_add(to->b, to->set, address, left_ms);
}

static bool put_name_rule(const struct acl_rule *rule, const char *text, void *arg)
{
    struct writing *w = arg;
    bool icmp = rule->scheme == ACL_SCHEME_ICMP;
    if (rule->deny || rule->by_address)
        return true;
    for (int i = 0; i < 2 && w->r == 0; i++) {
        char name[SET_NAME_MAX];
        struct take_over to = {w->b, set_name(w->policy, text, families[i], name)};
        nft_address_set(w->b, name, families[i], KEEP_MS);
        w->r = nft_address_each(w->fd, w->b->table, name, families[i], take_over, &to, w->err);
        nft_rule(w->b, w->chain);
        match_protocol(w->b, rule, icmp, families[i]);
        nft_match_first_destination_set(w->b, families[i], name);
        nft_refresh(w->b, name, KEEP_MS);
        nft_verdict(w->b, NF_ACCEPT);
        nft_rule_done(w->b, "a rule by name");
    }
    return w->r == 0;
}

int packet_rules_put(struct nft_batch *b, int fd, const struct acl_policy *policy, struct error *err)
{
    char chain[PACKET_CHAIN_MAX];
    struct writing w = {.b = b, .fd = fd, .policy = policy, .chain = packet_rules_chain(policy, chain), .err = err};
    nft_chain(b, chain, NULL, -1, 0, 0);
    for (int i = 0; i < 2; i++)
        return_if_in(b, chain, i, never_sets[i]);
    acl_policy_each_packet_rule(policy, put_denial, &w);
    acl_policy_each_packet_rule(policy, put_network_rule, &w);
    acl_policy_each_packet_rule(policy, put_name_rule, &w);
    /* What destinations.allow opens is as good as public. */
    for (int i = 0; i < 2; i++) {
        nft_rule(b, chain);
        nft_match_first_destination_set(b, families[i], private_sets[i]);
        nft_match_first_not_in(b, families[i], i == 0 ? "opened-4" : "opened-6");
        nft_verdict(b, NFT_RETURN);
        nft_rule_done(b, "guarding private addresses");
    }
    acl_policy_each_packet_rule(policy, put_any_rule, &w);
    return w.r;
}

/* ---- learning ---- */

struct search {
    uint32_t wanted, at;
    struct acl_rule rule;
    char name[SET_NAME_MAX];
    const struct acl_policy *policy;
    int family;
    bool found;
};

static bool find_rule(const struct acl_rule *rule, const char *text, void *arg)
{
    struct search *search = arg;
    if (search->at++ != search->wanted)
        return true;
    search->found = !rule->deny && !rule->by_address;
    search->rule = *rule;
    set_name(search->policy, text, search->family, search->name);
    return false;
}

static bool is_guarded(const struct config_snapshot *snapshot, const struct acl_policy *policy, const struct search *search,
                       const struct addr *address)
{
    enum acl_guard_class class = acl_guard_classify(address);
    struct addr destination = *address;
    destination.port = search->rule.port_low;
    return class == ACL_GUARD_NEVER ||
           (class == ACL_GUARD_PRIVATE && !config_destination_allowed(snapshot, address) &&
            !acl_policy_names_network_for(policy, search->rule.scheme == ACL_SCHEME_ICMP ? ACL_ICMP : ACL_UDP, &destination));
}

static int add_address(int fd, const char *table, const char *set, const struct addr *address, uint64_t left_ms, bool again,
                       struct error *err)
{
    struct nft_batch b;
    int r = nft_batch_open(&b, table, err);
    if (r < 0)
        return r;
    if (again)
        nft_address_remove(&b, set, address);
    nft_address_add(&b, set, address, left_ms);
    return nft_batch_commit(&b, fd, err);
}

int packet_rules_learn(int fd, const char *table, const struct config_snapshot *snapshot, const struct acl_policy *policy,
                       uint32_t rule, const struct addr *address, uint32_t ttl, struct error *err)
{
    struct search search = {.wanted = rule, .policy = policy, .family = address->family};
    struct error unused;
    if (address->family != AF_INET && address->family != AF_INET6)
        return error_set(err, EINVAL, "not an address");
    acl_policy_each_packet_rule(policy, find_rule, &search);
    if (!search.found)
        return error_set(err, EINVAL, "there is no such rule by name");
    if (is_guarded(snapshot, policy, &search, address))
        return error_set(err, EPERM, "the address is guarded");
    uint64_t left_ms = (uint64_t)(ttl < KEEP_MAX_S ? ttl : KEEP_MAX_S) * 1000 + KEEP_MS;
    /* Anew when it is there, because adding what is there leaves its time as it was. */
    int r = add_address(fd, table, search.name, address, left_ms, true, &unused);
    return r == -ENOENT ? add_address(fd, table, search.name, address, left_ms, false, err) : r;
}
