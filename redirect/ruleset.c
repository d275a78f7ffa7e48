/*
 * The ruleset, in nft's words (P4 and P6 are the ports of our own sockets, which live on 127.0.0.1 and ::1):
 *
 *   table inet sallyport {
 *     set ports { type inet_service; flags interval, constant }
 *     chain forward { type filter hook forward priority 0; policy drop; counter drop }
 *     chain input   { type filter hook input priority 0; policy drop
 *       ct state established,related accept
 *       iif lo accept                                    everything of ours goes over lo
 *       drop }
 *     chain output  { type filter hook output priority 0; policy drop
 *       ct state established,related accept
 *       meta l4proto tcp ct state invalid drop
 *       <local> accept                                   127.0.0.0/8, ::1, the namespace's own addresses
 *       ct state invalid drop
 *       ct state untracked drop                          the kernel's own neighbour discovery and MLD
 *       meta l4proto igmp drop                           likewise; neither is worth an event
 *       ct state new log group G snaplen 128
 *       meta l4proto tcp reject with tcp reset
 *       reject with icmpx admin-prohibited }
 *     chain nat     { type nat hook output priority -100
 *       meta nfproto ipv4 udp dport 53 redirect to :P4   (and tcp, and IPv6)
 *       <local> accept                                   a server of the command's own stays its own
 *       meta nfproto ipv4 tcp dport @ports redirect to :P4   (and IPv6) }
 *   }
 *
 * Every rule counts. Facts this rests on (kernel net/netfilter and net/ipv4/netfilter):
 *   - redirect in the output hook rewrites to 127.0.0.1 or ::1 (nf_nat_redirect.c); later hooks still see the
 * old output interface, so the filter goes by destination, never by `oif lo`.
 *   - A reject in output answers with a packet to the sender's own address, which passes the output hook
 * itself. The ICMP error quotes a connection that was never confirmed, so conntrack may call it invalid:
 * hence <local> stands in front of `ct state invalid`.
 *   - `reject` drops the packet as well, so sendto(2) on an unconnected socket fails at once with EPERM.
 *   - Kernel-made neighbour discovery and MLD are untracked (nf_conntrack_proto_icmpv6.c); a process cannot
 * make its packets untracked without CAP_NET_ADMIN.
 */
#include "redirect/ruleset.h"

#include "base/fds.h"
#include "redirect/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <netinet/in.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define SET_PORTS_ID 1
#define TYPE_INET_SERVICE 13 /* nft's number for a port; only its listings read it */

#define LOOPBACK_LINK 1
#define PRIORITY_FILTER 0
#define PRIORITY_NAT (-100)
#define DNS_PORT 53
#define SNAPLEN 128

/* Room: tables, chains and rules together stay below the first figure (64 messages of less than 1 KiB); a
 * range takes two elements of 28 bytes, and messages of CHUNK ranges stay below the 64 KiB of a netlink
 * attribute. */
#define BATCH_BASE 65536
#define BATCH_PER_RANGE 64
#define CHUNK 512
#define STEPS_MAX 128

struct batch {
    char *bytes;
    size_t used;
    size_t last;                  /* where the latest message begins */
    uint32_t sequence;            /* of the next message */
    const char *steps[STEPS_MAX]; /* what each message does, by sequence, for errors */
    struct nftnl_rule *rule;      /* the rule being written */
    bool out_of_memory;           /* sticky: looked at once, before sending */
};

/* ---- messages ---- */

static struct nlmsghdr *batch_put(struct batch *b, uint16_t type, uint16_t flags, const char *step)
{
    struct nlmsghdr *m = nftnl_nlmsg_build_hdr(b->bytes + b->used, type, NFPROTO_INET, flags, b->sequence);
    if (b->sequence < STEPS_MAX)
        b->steps[b->sequence] = step;
    b->sequence++;
    return m;
}

static void batch_done(struct batch *b, const struct nlmsghdr *m)
{
    b->last = b->used;
    b->used += MNL_ALIGN(m->nlmsg_len);
}

static void put_table(struct batch *b, uint16_t type, uint16_t flags, const char *step)
{
    struct nftnl_table *table = nftnl_table_alloc();
    if (!table) {
        b->out_of_memory = true;
        return;
    }
    nftnl_table_set_str(table, NFTNL_TABLE_NAME, RULESET_TABLE);
    struct nlmsghdr *m = batch_put(b, type, flags, step);
    nftnl_table_nlmsg_build_payload(m, table);
    batch_done(b, m);
    nftnl_table_free(table);
}

static void put_chain(struct batch *b, const char *name, const char *type, uint32_t hook, int32_t priority,
                      uint32_t policy)
{
    struct nftnl_chain *chain = nftnl_chain_alloc();
    if (!chain) {
        b->out_of_memory = true;
        return;
    }
    nftnl_chain_set_str(chain, NFTNL_CHAIN_TABLE, RULESET_TABLE);
    nftnl_chain_set_str(chain, NFTNL_CHAIN_NAME, name);
    nftnl_chain_set_str(chain, NFTNL_CHAIN_TYPE, type);
    nftnl_chain_set_u32(chain, NFTNL_CHAIN_HOOKNUM, hook);
    nftnl_chain_set_s32(chain, NFTNL_CHAIN_PRIO, priority);
    nftnl_chain_set_u32(chain, NFTNL_CHAIN_POLICY, policy);
    struct nlmsghdr *m = batch_put(b, NFT_MSG_NEWCHAIN, NLM_F_CREATE, name);
    nftnl_chain_nlmsg_build_payload(m, chain);
    batch_done(b, m);
    nftnl_chain_free(chain);
}

/* ---- the set of ports ---- */

static struct nftnl_set *ports_set(struct batch *b)
{
    struct nftnl_set *set = nftnl_set_alloc();
    if (!set) {
        b->out_of_memory = true;
        return NULL;
    }
    nftnl_set_set_str(set, NFTNL_SET_TABLE, RULESET_TABLE);
    nftnl_set_set_str(set, NFTNL_SET_NAME, RULESET_PORTS);
    nftnl_set_set_u32(set, NFTNL_SET_ID, SET_PORTS_ID);
    nftnl_set_set_u32(set, NFTNL_SET_FAMILY, NFPROTO_INET);
    nftnl_set_set_u32(set, NFTNL_SET_FLAGS, NFT_SET_INTERVAL);
    nftnl_set_set_u32(set, NFTNL_SET_KEY_TYPE, TYPE_INET_SERVICE);
    nftnl_set_set_u32(set, NFTNL_SET_KEY_LEN, sizeof(uint16_t));
    return set;
}

static void add_element(struct batch *b, struct nftnl_set *set, uint16_t port, uint32_t flags)
{
    uint16_t key = htons(port);
    struct nftnl_set_elem *element = nftnl_set_elem_alloc();
    if (!element) {
        b->out_of_memory = true;
        return;
    }
    nftnl_set_elem_set(element, NFTNL_SET_ELEM_KEY, &key, sizeof(key));
    if (flags)
        nftnl_set_elem_set_u32(element, NFTNL_SET_ELEM_FLAGS, flags);
    nftnl_set_elem_add(set, element);
}

/* An interval is two elements: where it begins, and where what follows it begins. One that reaches the top
 * has no end. */
static void put_elements(struct batch *b, const struct acl_port_range *ranges, size_t count)
{
    struct nftnl_set *set = ports_set(b);
    if (!set)
        return;
    for (size_t i = 0; i < count; i++) {
        add_element(b, set, ranges[i].low, 0);
        if (ranges[i].high < UINT16_MAX)
            add_element(b, set, (uint16_t)(ranges[i].high + 1), NFT_SET_ELEM_INTERVAL_END);
    }
    struct nlmsghdr *m = batch_put(b, NFT_MSG_NEWSETELEM, NLM_F_CREATE, "filling the set of ports");
    nftnl_set_elems_nlmsg_build_payload(m, set);
    batch_done(b, m);
    nftnl_set_free(set);
}

static void put_ports(struct batch *b, const struct acl_port_range *ranges, size_t count)
{
    struct nftnl_set *set = ports_set(b);
    if (!set)
        return;
    struct nlmsghdr *m = batch_put(b, NFT_MSG_NEWSET, NLM_F_CREATE, "adding the set of ports");
    nftnl_set_nlmsg_build_payload(m, set);
    batch_done(b, m);
    nftnl_set_free(set);
    for (size_t at = 0; at < count; at += CHUNK)
        put_elements(b, ranges + at, count - at < CHUNK ? count - at : CHUNK);
}

/* ---- rules: rule_begin(), any expressions in order, rule_end() ---- */

static void rule_begin(struct batch *b, const char *chain)
{
    b->rule = nftnl_rule_alloc();
    if (!b->rule) {
        b->out_of_memory = true;
        return;
    }
    nftnl_rule_set_str(b->rule, NFTNL_RULE_TABLE, RULESET_TABLE);
    nftnl_rule_set_str(b->rule, NFTNL_RULE_CHAIN, chain);
}

static void rule_end(struct batch *b, const char *step)
{
    if (!b->rule)
        return;
    struct nlmsghdr *m = batch_put(b, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, step);
    nftnl_rule_nlmsg_build_payload(m, b->rule);
    batch_done(b, m);
    nftnl_rule_free(b->rule);
    b->rule = NULL;
}

/* Appends an expression of this kind to the rule; NULL when out of memory. The rule owns it. */
static struct nftnl_expr *expression(struct batch *b, const char *kind)
{
    struct nftnl_expr *e = b->rule ? nftnl_expr_alloc(kind) : NULL;
    if (e)
        nftnl_rule_add_expr(b->rule, e);
    else
        b->out_of_memory = true;
    return e;
}

static void compare(struct batch *b, uint32_t operation, const void *data, uint32_t length)
{
    struct nftnl_expr *e = expression(b, "cmp");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, NFT_REG_1);
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, operation);
    nftnl_expr_set(e, NFTNL_EXPR_CMP_DATA, data, length);
}

static void load_meta(struct batch *b, uint32_t key)
{
    struct nftnl_expr *e = expression(b, "meta");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, key);
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_DREG, NFT_REG_1);
}

static void load_payload(struct batch *b, uint32_t base, uint32_t offset, uint32_t length)
{
    struct nftnl_expr *e = expression(b, "payload");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, base);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, offset);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, length);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, NFT_REG_1);
}

static void match_family(struct batch *b, int family)
{
    uint8_t protocol = family == AF_INET ? NFPROTO_IPV4 : NFPROTO_IPV6;
    load_meta(b, NFT_META_NFPROTO);
    compare(b, NFT_CMP_EQ, &protocol, sizeof(protocol));
}

static void match_protocol(struct batch *b, uint8_t protocol)
{
    load_meta(b, NFT_META_L4PROTO);
    compare(b, NFT_CMP_EQ, &protocol, sizeof(protocol));
}

static void match_input_link(struct batch *b, uint32_t link)
{
    load_meta(b, NFT_META_IIF);
    compare(b, NFT_CMP_EQ, &link, sizeof(link));
}

/* Prefix lengths are whole bytes, so the first bytes of the address say it all. */
static void match_destination(struct batch *b, const struct cidr *network)
{
    match_family(b, network->base.family);
    load_payload(b, NFT_PAYLOAD_NETWORK_HEADER, network->base.family == AF_INET ? 16 : 24,
                 network->length / 8);
    compare(b, NFT_CMP_EQ, network->base.bytes, network->length / 8);
}

static void load_destination_port(struct batch *b)
{
    load_payload(b, NFT_PAYLOAD_TRANSPORT_HEADER, 2, sizeof(uint16_t));
}

static void match_port(struct batch *b, uint16_t port)
{
    uint16_t wire = htons(port);
    load_destination_port(b);
    compare(b, NFT_CMP_EQ, &wire, sizeof(wire));
}

static void match_port_set(struct batch *b)
{
    load_destination_port(b);
    struct nftnl_expr *e = expression(b, "lookup");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, NFT_REG_1);
    nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, RULESET_PORTS);
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SET_ID, SET_PORTS_ID);
}

/* Any of the states in `mask`. */
static void match_state(struct batch *b, uint32_t mask)
{
    const uint32_t zero = 0;
    struct nftnl_expr *ct = expression(b, "ct");
    struct nftnl_expr *bits = expression(b, "bitwise");
    if (!ct || !bits)
        return;
    nftnl_expr_set_u32(ct, NFTNL_EXPR_CT_KEY, NFT_CT_STATE);
    nftnl_expr_set_u32(ct, NFTNL_EXPR_CT_DREG, NFT_REG_1);
    nftnl_expr_set_u32(bits, NFTNL_EXPR_BITWISE_SREG, NFT_REG_1);
    nftnl_expr_set_u32(bits, NFTNL_EXPR_BITWISE_DREG, NFT_REG_1);
    nftnl_expr_set_u32(bits, NFTNL_EXPR_BITWISE_LEN, sizeof(mask));
    nftnl_expr_set(bits, NFTNL_EXPR_BITWISE_MASK, &mask, sizeof(mask));
    nftnl_expr_set(bits, NFTNL_EXPR_BITWISE_XOR, &zero, sizeof(zero));
    compare(b, NFT_CMP_NEQ, &zero, sizeof(zero));
}

static void count(struct batch *b)
{
    (void)expression(b, "counter");
}

static void verdict(struct batch *b, uint32_t what)
{
    count(b);
    struct nftnl_expr *e = expression(b, "immediate");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, what);
}

static void reject(struct batch *b, uint32_t type, uint8_t code)
{
    count(b);
    struct nftnl_expr *e = expression(b, "reject");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_REJECT_TYPE, type);
    nftnl_expr_set_u8(e, NFTNL_EXPR_REJECT_CODE, code);
}

static void log_to(struct batch *b, uint16_t group)
{
    count(b);
    struct nftnl_expr *e = expression(b, "log");
    if (!e)
        return;
    nftnl_expr_set_u16(e, NFTNL_EXPR_LOG_GROUP, group);
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOG_SNAPLEN, SNAPLEN);
}

static void redirect(struct batch *b, uint16_t port)
{
    uint16_t wire = htons(port);
    count(b);
    struct nftnl_expr *load = expression(b, "immediate");
    struct nftnl_expr *redir = expression(b, "redir");
    if (!load || !redir)
        return;
    nftnl_expr_set_u32(load, NFTNL_EXPR_IMM_DREG, NFT_REG_1);
    nftnl_expr_set(load, NFTNL_EXPR_IMM_DATA, &wire, sizeof(wire));
    nftnl_expr_set_u32(redir, NFTNL_EXPR_REDIR_REG_PROTO_MIN, NFT_REG_1);
}

/* ---- the chains ---- */

#define STATE(name) NF_CT_STATE_BIT(IP_CT_##name)

static void accept_local(struct batch *b, const char *chain, const struct ruleset *ruleset)
{
    for (size_t i = 0; i < ruleset->local_count; i++) {
        rule_begin(b, chain);
        match_destination(b, &ruleset->local[i]);
        verdict(b, NF_ACCEPT);
        rule_end(b, "accepting the namespace's own addresses");
    }
}

static void for_state(struct batch *b, const char *chain, uint32_t mask, uint32_t what, const char *step)
{
    rule_begin(b, chain);
    match_state(b, mask);
    verdict(b, what);
    rule_end(b, step);
}

static void drop_rest(struct batch *b, const char *chain)
{
    rule_begin(b, chain);
    verdict(b, NF_DROP);
    rule_end(b, "dropping the rest");
}

static void put_input(struct batch *b)
{
    for_state(b, "input", STATE(ESTABLISHED) | STATE(RELATED), NF_ACCEPT, "accepting answers");
    rule_begin(b, "input");
    match_input_link(b, LOOPBACK_LINK);
    verdict(b, NF_ACCEPT);
    rule_end(b, "accepting what comes over lo");
    drop_rest(b, "input");
}

static void put_output(struct batch *b, const struct ruleset *ruleset)
{
    for_state(b, "output", STATE(ESTABLISHED) | STATE(RELATED), NF_ACCEPT, "accepting answers");
    rule_begin(b, "output");
    match_protocol(b, IPPROTO_TCP);
    match_state(b, NF_CT_STATE_INVALID_BIT);
    verdict(b, NF_DROP);
    rule_end(b, "dropping invalid segments");
    accept_local(b, "output", ruleset);
    for_state(b, "output", NF_CT_STATE_INVALID_BIT, NF_DROP, "dropping invalid packets");
    for_state(b, "output", NF_CT_STATE_UNTRACKED_BIT, NF_DROP, "dropping neighbour discovery");
    rule_begin(b, "output");
    match_protocol(b, IPPROTO_IGMP);
    verdict(b, NF_DROP);
    rule_end(b, "dropping IGMP");
    if (ruleset->nflog_group >= 0) {
        rule_begin(b, "output");
        match_state(b, STATE(NEW));
        log_to(b, (uint16_t)ruleset->nflog_group);
        rule_end(b, "logging refused packets");
    }
    rule_begin(b, "output");
    match_protocol(b, IPPROTO_TCP);
    reject(b, NFT_REJECT_TCP_RST, 0);
    rule_end(b, "rejecting TCP");
    rule_begin(b, "output");
    reject(b, NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED);
    rule_end(b, "rejecting the rest");
}

static void redirect_port(struct batch *b, int family, uint8_t protocol, uint16_t from, uint16_t to)
{
    if (to == 0)
        return;
    rule_begin(b, "nat");
    match_family(b, family);
    match_protocol(b, protocol);
    match_port(b, from);
    redirect(b, to);
    rule_end(b, "redirecting DNS");
}

static void put_nat(struct batch *b, const struct ruleset *ruleset)
{
    static const int family[2] = {AF_INET, AF_INET6};
    for (int i = 0; i < 2; i++) {
        redirect_port(b, family[i], IPPROTO_UDP, DNS_PORT, ruleset->dns_udp[i]);
        redirect_port(b, family[i], IPPROTO_TCP, DNS_PORT, ruleset->dns_tcp[i]);
    }
    accept_local(b, "nat", ruleset);
    for (int i = 0; i < 2; i++) {
        if (ruleset->tcp[i] == 0)
            continue;
        rule_begin(b, "nat");
        match_family(b, family[i]);
        match_protocol(b, IPPROTO_TCP);
        match_port_set(b);
        redirect(b, ruleset->tcp[i]);
        rule_end(b, "redirecting TCP ports");
    }
}

/* ---- the batch ---- */

static void batch_mark(struct batch *b, uint16_t type)
{
    struct nlmsghdr *m = type == NFNL_MSG_BATCH_BEGIN ? nftnl_batch_begin(b->bytes + b->used, b->sequence)
                                                      : nftnl_batch_end(b->bytes + b->used, b->sequence);
    b->steps[b->sequence < STEPS_MAX ? b->sequence : 0] = "opening the batch";
    b->sequence++;
    batch_done(b, m);
}

/* Returns the sequence of the message that asks for the acknowledgement: the last before the end mark. */
static uint32_t write_batch(struct batch *b, const struct ruleset *ruleset, bool replace)
{
    batch_mark(b, NFNL_MSG_BATCH_BEGIN);
    if (replace)
        put_table(b, NFT_MSG_DELTABLE, 0, "removing the old table");
    put_table(b, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, "adding the table");
    put_chain(b, "forward", "filter", NF_INET_FORWARD, PRIORITY_FILTER, NF_DROP);
    put_chain(b, "input", "filter", NF_INET_LOCAL_IN, PRIORITY_FILTER, NF_DROP);
    put_chain(b, "output", "filter", NF_INET_LOCAL_OUT, PRIORITY_FILTER, NF_DROP);
    put_chain(b, "nat", "nat", NF_INET_LOCAL_OUT, PRIORITY_NAT, NF_ACCEPT);
    put_ports(b, ruleset->ports, ruleset->port_count);
    drop_rest(b, "forward");
    put_input(b);
    put_nat(b, ruleset);
    put_output(b, ruleset);
    struct nlmsghdr *last = (struct nlmsghdr *)(void *)(b->bytes + b->last);
    last->nlmsg_flags |= NLM_F_ACK;
    batch_mark(b, NFNL_MSG_BATCH_END);
    return last->nlmsg_seq;
}

static int send_batch(int fd, const struct batch *b, uint32_t last, struct error *err)
{
    int room = (int)b->used * 2;
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)); /* as much of it as the system allows */
    uint32_t failed = 0;
    int r = netlink_transact(fd, b->bytes, b->used, last, &failed, err);
    if (r < 0 && err)
        error_prefix(err, "nftables: %s",
                     failed < STEPS_MAX && b->steps[failed] ? b->steps[failed] : "the batch");
    return r;
}

/* Whether there is a table of ours to replace. Adding, deleting and adding again in one batch would need no
 * question, but whatever a batch deletes is waited for (synchronize_rcu) when the socket closes: 20 ms, in
 * every new namespace. */
static int find_table(int fd, bool *ret, struct error *err)
{
    alignas(struct nlmsghdr) char buffer[NETLINK_REQUEST_MAX];
    struct nlmsghdr *request = nftnl_nlmsg_build_hdr(buffer, NFT_MSG_GETTABLE, NFPROTO_INET, 0, 0);
    mnl_attr_put_strz(request, NFTA_TABLE_NAME, RULESET_TABLE);
    int r = netlink_request(fd, request, "nftables: looking for the table", err);
    if (r < 0 && r != -ENOENT)
        return r;
    *ret = r == 0;
    return 0;
}

int ruleset_apply(const struct ruleset *ruleset, struct error *err)
{
    bool replace = false;
    if (ruleset->port_count > RULESET_RANGES_MAX)
        return error_set(err, E2BIG,
                         "the policy names %zu separate ranges of TCP ports; at most %d fit a ruleset",
                         ruleset->port_count, RULESET_RANGES_MAX);
    _cleanup_fd_ int fd = netlink_open(NETLINK_NETFILTER, err);
    int r = fd < 0 ? fd : find_table(fd, &replace, err);
    if (r < 0)
        return r;
    struct batch b = {.sequence = 1};
    b.bytes = malloc(BATCH_BASE + ruleset->port_count * BATCH_PER_RANGE);
    if (!b.bytes)
        return error_errno(err, ENOMEM, "nftables");
    uint32_t last = write_batch(&b, ruleset, replace);
    r = b.out_of_memory ? error_errno(err, ENOMEM, "nftables") : send_batch(fd, &b, last, err);
    free(b.bytes);
    return r;
}

int ruleset_remove(struct error *err)
{
    bool there = false;
    _cleanup_fd_ int fd = netlink_open(NETLINK_NETFILTER, err);
    int r = fd < 0 ? fd : find_table(fd, &there, err);
    if (r < 0 || !there)
        return r;
    struct batch b = {.sequence = 1};
    b.bytes = malloc(BATCH_BASE);
    if (!b.bytes)
        return error_errno(err, ENOMEM, "nftables");
    batch_mark(&b, NFNL_MSG_BATCH_BEGIN);
    put_table(&b, NFT_MSG_DELTABLE, NLM_F_ACK, "removing the table");
    batch_mark(&b, NFNL_MSG_BATCH_END);
    r = b.out_of_memory ? error_errno(err, ENOMEM, "nftables") : send_batch(fd, &b, 2, err);
    free(b.bytes);
    return r;
}
