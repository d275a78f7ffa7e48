/*
 * The ruleset, in nft's words (P4 and P6 are the ports of our own sockets, which live on 127.0.0.1 and ::1). Here TCP is led to
 * them by NAT, as it has to be where the namespace has links of its own:
 *
 *   table inet sallyport {
 *     set ports { type inet_service; flags interval, constant }
 *     chain forward { type filter hook forward priority 0; policy drop; counter drop }
 *     chain input   { type filter hook input priority 0; policy drop
 *       iif lo accept                                    everything of ours goes over lo
 *       ct state established,related accept
 *       drop }
 *     chain output  { type filter hook output priority 0; policy drop
 *       meta l4proto tcp ct state established,related accept
 *       ct direction reply ct state established,related accept
 *       meta l4proto tcp ct state invalid drop
 *       <local> accept                                   127.0.0.0/8, ::1, the namespace's own addresses
 *       ct state invalid drop
 *       ct state untracked drop                          the kernel's own neighbour discovery and MLD
 *       meta l4proto igmp drop                           likewise; neither is worth an event
 *       ct state new,established log group G             established: UDP of a rule that is gone snaplen 128
 *       meta l4proto tcp reject with tcp reset
 *       reject with icmpx admin-prohibited }
 *     chain nat     { type nat hook output priority -101
 *       meta nfproto ipv4 udp dport 53 redirect to :P4   (and tcp, and IPv6)
 *       <local> accept                                   a server of the command's own stays its own
 *       meta nfproto ipv4 tcp dport @ports redirect to :P4   (and IPv6) }
 *
 *   In a namespace that is ours nothing is translated or tracked: routing rules make whatever is TCP or DNS local (sealed.c), so it
 *   goes over lo as it is, to a transparent socket of ours (a tenth less for each new flow, and for each small packet). No rule asks
 *   for a state or is of type nat, hence the kernel has no hook for connection tracking there at all:
 *
 *     chain streams { type filter hook prerouting priority -150
 *       meta l4proto tcp iif lo tcp flags & (syn | ack) != syn accept       of a connection that is up
 *       iif != lo drop
 *       meta mark A accept                                                   answers of ours, one to port 53 among them
 *       meta nfproto ipv4 udp dport 53 tproxy ip to 127.0.0.1:P4 accept      (and tcp, and IPv6)
 *       udp dport 53 reject with icmpx port-unreachable                      our socket is gone
 *       <local> accept
 *       meta nfproto ipv4 tcp dport @ports tproxy ip to 127.0.0.1:P4 accept  (and IPv6)
 *       meta l4proto tcp reject with tcp reset                               our socket is gone }
 *     no chain input: each hook costs every packet
 *     in output, in front:            meta l4proto tcp oif lo tcp flags & (syn | ack) != syn accept
 *                                     meta l4proto tcp oif lo tcp dport @ports accept
 *                                     meta l4proto udp oif lo udp dport 53 accept
 *     and behind <local> accept:      meta l4proto tcp oif lo tcp dport 53 accept
 *                                     meta l4proto tcp log group G snaplen 128
 *                                     meta l4proto tcp reject with tcp reset
 *     instead of the rules that ask for a state, what the kernel says by itself, likewise not worth an event:
 *                                     icmpv6 type { 130-136, 143 } drop        neighbour discovery and MLD
 *                                     icmp type { 3-5, 11, 12 } drop           errors about answers of ours that nobody waits for
 *                                     icmpv6 type { 1-4 } drop                 (any more)
 *
 *   and when the policy has rules for UDP or for echo requests (packets.h; M is our mark, U4 and U6 transparent sockets)
 *
 *     set udp_ports { like ports }
 *     chain packets { type route hook output priority -150
 *       <local> accept
 *       ct direction reply accept                        answers that we send in the origin's name; not in a namespace that is ours,
 *                                                        where they go to a local address
 *       udp dport 53 accept
 *       udp dport @udp_ports meta mark set M             routed again, to lo
 *       icmp type echo-request meta mark set M           (and icmpv6) }
 *     chain caught  { type filter hook prerouting priority -150
 *       meta mark M meta l4proto udp tproxy ip to 127.0.0.1:U4 accept   (and IPv6)
 *       meta mark M log group E                          whole: for the worker to read
 *       meta mark M drop }
 *     chain leaving { type filter hook postrouting priority 0
 *       meta mark M oif != lo drop }                     a socket that is bound to a link does not follow the mark
 *     and in output, behind what is dropped without an event: meta mark M meta l4proto udp accept   (and icmp, icmpv6)
 *   }
 *
 * Every rule counts. Facts this rests on (kernel net/netfilter and net/ipv4/netfilter):
 *   - redirect in the output hook rewrites to 127.0.0.1 or ::1 (nf_nat_redirect.c); later hooks still see the
 * old output interface, so the filter goes by destination, never by `oif lo`.
 *   - A reject in output answers with a packet to the sender's own address, which passes the output hook
 * itself. The ICMP error quotes a connection that was never confirmed, so conntrack may call it invalid:
 * hence <local> stands in front of `ct state invalid`.
 *   - `reject` drops the packet as well, so sendto(2) on an unconnected socket fails at once with EPERM.
 *   - A packet keeps its route and its mark on its way over lo (loopback_xmit(), skb_scrub_packet() is not called).
 *   - Connection tracking has hooks in a namespace as long as a rule there refers to it (nf_ct_netns_get()).
 *   - Kernel-made neighbour discovery and MLD are untracked (nf_conntrack_proto_icmpv6.c); a process cannot
 * make its packets untracked without CAP_NET_ADMIN.
 */
#include "redirect/rules/ruleset.h"

#include "base/fds.h"
#include "redirect/rules/netlink.h"
#include "redirect/rules/nflog.h"
#include "redirect/rules/nft.h"
#include "redirect/rules/packets.h"

#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

#define LOOPBACK_LINK 1
#define PRIORITY_FILTER 0
#define PRIORITY_NAT (-101) /* before what engines put there, as the redirect to Docker's own name server */
#define PRIORITY_MANGLE (-150)
#define DNS_PORT 53

/* ---- matches of its own ---- */

static void match_input_link(struct nft_batch *b, uint32_t operation, uint32_t link)
{
    nft_load_meta(b, NFT_META_IIF);
    nft_compare(b, operation, &link, sizeof(link));
}

/* ---- the chains ---- */

static void accept_local(struct nft_batch *b, const char *chain, const struct ruleset *ruleset)
{
    for (size_t i = 0; i < ruleset->local_count; i++) {
        nft_rule(b, chain);
        nft_match_destination(b, &ruleset->local[i]);
        nft_verdict(b, NF_ACCEPT);
        nft_rule_done(b, "accepting the namespace's own addresses");
    }
}

static void for_state(struct nft_batch *b, const char *chain, uint32_t mask, uint32_t what, const char *step)
{
    nft_rule(b, chain);
    nft_match_state(b, mask);
    nft_verdict(b, what);
    nft_rule_done(b, step);
}

static void drop_rest(struct nft_batch *b, const char *chain)
{
    nft_rule(b, chain);
    nft_verdict(b, NF_DROP);
    nft_rule_done(b, "dropping the rest");
}

static void put_input(struct nft_batch *b)
{
    nft_rule(b, "input");
    match_input_link(b, NFT_CMP_EQ, LOOPBACK_LINK);
    nft_verdict(b, NF_ACCEPT);
    nft_rule_done(b, "accepting what comes over lo");
    for_state(b, "input", NFT_STATE(ESTABLISHED) | NFT_STATE(RELATED), NF_ACCEPT, "accepting answers");
    drop_rest(b, "input");
}

static bool captures_packets(const struct ruleset *ruleset)
{
    return ruleset->udp_port_count > 0 || ruleset->echo;
}

static const uint8_t packet_protocols[] = {IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6};

static void accept_marked(struct nft_batch *b)
{
    for (size_t i = 0; i < sizeof(packet_protocols); i++) {
        nft_rule(b, "output");
        nft_match_mark(b, PACKETS_MARK);
        nft_match_protocol(b, packet_protocols[i]);
        nft_verdict(b, NF_ACCEPT);
        nft_rule_done(b, "accepting captured packets");
    }
}

static void mark_echo(struct nft_batch *b, int family)
{
    const uint8_t request = family == AF_INET ? 8 : 128;
    nft_rule(b, "packets");
    nft_match_family(b, family);
    nft_match_protocol(b, family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
    nft_load_payload(b, NFT_PAYLOAD_TRANSPORT_HEADER, 0, sizeof(request));
    nft_compare(b, NFT_CMP_EQ, &request, sizeof(request));
    nft_set_mark(b, PACKETS_MARK);
    nft_rule_done(b, "marking echo requests");
}

static void put_packets(struct nft_batch *b, const struct ruleset *ruleset)
{
    nft_port_set(b, RULESET_UDP_PORTS, ruleset->udp_ports, ruleset->udp_port_count);
    accept_local(b, "packets", ruleset);
    if (!ruleset->transparent) {
        nft_rule(b, "packets");
        nft_match_reply(b);
        nft_verdict(b, NF_ACCEPT);
        nft_rule_done(b, "leaving answers alone");
    }
    nft_rule(b, "packets");
    nft_match_protocol(b, IPPROTO_UDP);
    nft_match_port(b, DNS_PORT);
    nft_verdict(b, NF_ACCEPT);
    nft_rule_done(b, "leaving DNS to its own capture");
    nft_rule(b, "packets");
    nft_match_protocol(b, IPPROTO_UDP);
    nft_match_port_set(b, RULESET_UDP_PORTS);
    nft_set_mark(b, PACKETS_MARK);
    nft_rule_done(b, "marking UDP");
    if (ruleset->echo && ruleset->nflog_group >= 0) {
        mark_echo(b, AF_INET);
        mark_echo(b, AF_INET6);
    }
}

static void put_caught(struct nft_batch *b, const struct ruleset *ruleset)
{
    static const int family[2] = {AF_INET, AF_INET6};
    for (int i = 0; i < 2; i++) {
        if (ruleset->udp[i] == 0)
            continue;
        nft_rule(b, "caught");
        nft_match_mark(b, PACKETS_MARK);
        nft_match_family(b, family[i]);
        nft_match_protocol(b, IPPROTO_UDP);
        nft_tproxy(b, family[i], ruleset->udp[i]);
        nft_verdict(b, NF_ACCEPT);
        nft_rule_done(b, "capturing UDP");
    }
    if (ruleset->nflog_group >= 0) {
        nft_rule(b, "caught");
        nft_match_mark(b, PACKETS_MARK);
        nft_log_whole(b, (uint16_t)(ruleset->nflog_group + NFLOG_ECHO_OFFSET));
        nft_rule_done(b, "capturing echo requests");
    }
    nft_rule(b, "caught");
    nft_match_mark(b, PACKETS_MARK);
    nft_verdict(b, NF_DROP);
    nft_rule_done(b, "ending captured packets");
}

/* The routing rule does not hold for a socket that is bound to another link (SO_BINDTODEVICE): an attached container has one. */
static void put_leaving(struct nft_batch *b)
{
    const uint32_t loopback = LOOPBACK_LINK;
    nft_rule(b, "leaving");
    nft_match_mark(b, PACKETS_MARK);
    nft_load_meta(b, NFT_META_OIF);
    nft_compare(b, NFT_CMP_NEQ, &loopback, sizeof(loopback));
    nft_verdict(b, NF_DROP);
    nft_rule_done(b, "keeping captured packets inside");
}

/* ---- TCP and DNS, not translated and not tracked ---- */

static void match_over_lo(struct nft_batch *b, uint8_t protocol, uint32_t link)
{
    const uint32_t loopback = LOOPBACK_LINK;
    nft_match_protocol(b, protocol);
    nft_load_meta(b, link);
    nft_compare(b, NFT_CMP_EQ, &loopback, sizeof(loopback));
}

/* Most packets belong to a connection that is up: nothing more is asked of them, and each has the very socket's addresses. */
static void accept_connected(struct nft_batch *b, const char *chain)
{
    nft_rule(b, chain);
    match_over_lo(b, IPPROTO_TCP, strcmp(chain, "output") ? NFT_META_IIF : NFT_META_OIF);
    nft_match_no_syn(b);
    nft_verdict(b, NF_ACCEPT);
    nft_rule_done(b, "accepting connections that are up");
}

/* `port` 0: the policy's. */
static void catch_stream(struct nft_batch *b, int family, uint8_t protocol, uint16_t port, uint16_t to)
{
    if (to == 0)
        return;
    nft_rule(b, "streams");
    nft_match_family(b, family);
    nft_match_protocol(b, protocol);
    if (port)
        nft_match_port(b, port);
    else
        nft_match_port_set(b, RULESET_PORTS);
    nft_tproxy(b, family, to);
    nft_verdict(b, NF_ACCEPT);
    nft_rule_done(b, protocol == IPPROTO_TCP ? "capturing TCP" : "capturing DNS");
}

/* Over IPv4 nobody is told, where the address asked is not the namespace's own: the kernel sends no ICMP in another's name. */
static void catch_questions(struct nft_batch *b, const struct ruleset *ruleset)
{
    nft_rule(b, "streams");
    nft_match_mark(b, ANSWERS_MARK);
    nft_verdict(b, NF_ACCEPT);
    nft_rule_done(b, "accepting answers of ours");
    catch_stream(b, AF_INET, IPPROTO_UDP, DNS_PORT, ruleset->dns_udp[0]);
    catch_stream(b, AF_INET6, IPPROTO_UDP, DNS_PORT, ruleset->dns_udp[1]);
    nft_rule(b, "streams");
    nft_match_protocol(b, IPPROTO_UDP);
    nft_match_port(b, DNS_PORT);
    nft_reject(b, NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_PORT_UNREACH);
    nft_rule_done(b, "rejecting DNS that nobody takes");
}

static void put_streams(struct nft_batch *b, const struct ruleset *ruleset)
{
    accept_connected(b, "streams");
    nft_rule(b, "streams");
    match_input_link(b, NFT_CMP_NEQ, LOOPBACK_LINK);
    nft_verdict(b, NF_DROP);
    nft_rule_done(b, "dropping what comes by a link");
    catch_questions(b, ruleset);
    catch_stream(b, AF_INET, IPPROTO_TCP, DNS_PORT, ruleset->dns_tcp[0]);
    catch_stream(b, AF_INET6, IPPROTO_TCP, DNS_PORT, ruleset->dns_tcp[1]);
    accept_local(b, "streams", ruleset);
    catch_stream(b, AF_INET, IPPROTO_TCP, 0, ruleset->tcp[0]);
    catch_stream(b, AF_INET6, IPPROTO_TCP, 0, ruleset->tcp[1]);
    nft_rule(b, "streams");
    nft_match_protocol(b, IPPROTO_TCP);
    nft_reject(b, NFT_REJECT_TCP_RST, 0);
    nft_rule_done(b, "rejecting TCP that nobody takes");
}

/* ---- output ---- */

/* What goes out by UDP is asked about each time: its rule may be gone, and nobody would answer. */
static void accept_answers(struct nft_batch *b)
{
    nft_rule(b, "output");
    nft_match_reply(b);
    nft_match_state(b, NFT_STATE(ESTABLISHED) | NFT_STATE(RELATED));
    nft_verdict(b, NF_ACCEPT);
    nft_rule_done(b, "accepting answers");
}

static void judge_tracked_tcp(struct nft_batch *b)
{
    nft_rule(b, "output");
    nft_match_protocol(b, IPPROTO_TCP);
    nft_match_state(b, NFT_STATE(ESTABLISHED) | NFT_STATE(RELATED));
    nft_verdict(b, NF_ACCEPT);
    nft_rule_done(b, "accepting established connections");
    accept_answers(b);
    nft_rule(b, "output");
    nft_match_protocol(b, IPPROTO_TCP);
    nft_match_state(b, NF_CT_STATE_INVALID_BIT);
    nft_verdict(b, NF_DROP);
    nft_rule_done(b, "dropping invalid segments");
}

static void accept_dns(struct nft_batch *b, uint8_t protocol)
{
    nft_rule(b, "output");
    match_over_lo(b, protocol, NFT_META_OIF);
    nft_match_port(b, DNS_PORT);
    nft_verdict(b, NF_ACCEPT);
    nft_rule_done(b, "accepting captured DNS");
}

static void accept_streams(struct nft_batch *b)
{
    accept_connected(b, "output");
    nft_rule(b, "output");
    match_over_lo(b, IPPROTO_TCP, NFT_META_OIF);
    nft_match_port_set(b, RULESET_PORTS);
    nft_verdict(b, NF_ACCEPT);
    nft_rule_done(b, "accepting captured TCP");
    accept_dns(b, IPPROTO_UDP);
}

static void reject_tcp(struct nft_batch *b)
{
    nft_rule(b, "output");
    nft_match_protocol(b, IPPROTO_TCP);
    nft_reject(b, NFT_REJECT_TCP_RST, 0);
    nft_rule_done(b, "rejecting TCP");
}

static void refuse_other_streams(struct nft_batch *b, const struct ruleset *ruleset)
{
    accept_dns(b, IPPROTO_TCP);
    if (ruleset->nflog_group >= 0) {
        nft_rule(b, "output");
        nft_match_protocol(b, IPPROTO_TCP);
        nft_log(b, (uint16_t)ruleset->nflog_group);
        nft_rule_done(b, "logging refused TCP");
    }
    reject_tcp(b);
}

/* What the kernel says by itself, where no state tells it from what processes say. */
static void drop_talk(struct nft_batch *b)
{
    static const struct {
        uint8_t protocol, first, last;
    } talk[] = {
        {IPPROTO_ICMPV6, 130, 136}, {IPPROTO_ICMPV6, 143, 143}, {IPPROTO_ICMPV6, 1, 4}, {IPPROTO_ICMP, 3, 5}, {IPPROTO_ICMP, 11, 12},
    };
    for (size_t i = 0; i < sizeof(talk) / sizeof(talk[0]); i++) {
        nft_rule(b, "output");
        nft_match_protocol(b, talk[i].protocol);
        nft_load_payload(b, NFT_PAYLOAD_TRANSPORT_HEADER, 0, sizeof(talk[i].first));
        nft_compare(b, NFT_CMP_GTE, &talk[i].first, sizeof(talk[i].first));
        nft_compare(b, NFT_CMP_LTE, &talk[i].last, sizeof(talk[i].last));
        nft_verdict(b, NF_DROP);
        nft_rule_done(b, "dropping what the kernel says by itself");
    }
}

static void drop_by_state(struct nft_batch *b)
{
    for_state(b, "output", NF_CT_STATE_INVALID_BIT, NF_DROP, "dropping invalid packets");
    for_state(b, "output", NF_CT_STATE_UNTRACKED_BIT, NF_DROP, "dropping neighbour discovery");
}

static void put_output(struct nft_batch *b, const struct ruleset *ruleset)
{
    (ruleset->transparent ? accept_streams : judge_tracked_tcp)(b);
    accept_local(b, "output", ruleset);
    if (ruleset->transparent)
        refuse_other_streams(b, ruleset);
    (ruleset->transparent ? drop_talk : drop_by_state)(b);
    if (captures_packets(ruleset))
        accept_marked(b);
    nft_rule(b, "output");
    nft_match_protocol(b, IPPROTO_IGMP);
    nft_verdict(b, NF_DROP);
    nft_rule_done(b, "dropping IGMP");
    if (ruleset->nflog_group >= 0) {
        nft_rule(b, "output");
        if (!ruleset->transparent)
            nft_match_state(b, NFT_STATE(NEW) | NFT_STATE(ESTABLISHED));
        nft_log(b, (uint16_t)ruleset->nflog_group);
        nft_rule_done(b, "logging refused packets");
    }
    if (!ruleset->transparent)
        reject_tcp(b);
    nft_rule(b, "output");
    nft_reject(b, NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED);
    nft_rule_done(b, "rejecting the rest");
}

static void redirect_port(struct nft_batch *b, int family, uint8_t protocol, uint16_t from, uint16_t to)
{
    if (to == 0)
        return;
    nft_rule(b, "nat");
    nft_match_family(b, family);
    nft_match_protocol(b, protocol);
    nft_match_port(b, from);
    nft_redirect(b, to);
    nft_rule_done(b, "redirecting DNS");
}

static void put_nat(struct nft_batch *b, const struct ruleset *ruleset)
{
    static const int family[2] = {AF_INET, AF_INET6};
    for (int i = 0; i < 2; i++)
        redirect_port(b, family[i], IPPROTO_UDP, DNS_PORT, ruleset->dns_udp[i]);
    for (int i = 0; i < 2; i++)
        redirect_port(b, family[i], IPPROTO_TCP, DNS_PORT, ruleset->dns_tcp[i]);
    accept_local(b, "nat", ruleset);
    for (int i = 0; i < 2; i++) {
        if (ruleset->tcp[i] == 0)
            continue;
        nft_rule(b, "nat");
        nft_match_family(b, family[i]);
        nft_match_protocol(b, IPPROTO_TCP);
        nft_match_port_set(b, RULESET_PORTS);
        nft_redirect(b, ruleset->tcp[i]);
        nft_rule_done(b, "redirecting TCP ports");
    }
}

/* ---- the batch ---- */

static void write_batch(struct nft_batch *b, const struct ruleset *ruleset, bool replace)
{
    if (replace)
        nft_table(b, NFT_MSG_DELTABLE, 0, "removing the old table");
    nft_table(b, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, "adding the table");
    nft_chain(b, "forward", "filter", NF_INET_FORWARD, PRIORITY_FILTER, NF_DROP);
    nft_chain(b, "output", "filter", NF_INET_LOCAL_OUT, PRIORITY_FILTER, NF_DROP);
    if (ruleset->transparent) {
        nft_chain(b, "streams", "filter", NF_INET_PRE_ROUTING, PRIORITY_MANGLE, NF_ACCEPT);
    } else {
        nft_chain(b, "input", "filter", NF_INET_LOCAL_IN, PRIORITY_FILTER, NF_DROP);
        nft_chain(b, "nat", "nat", NF_INET_LOCAL_OUT, PRIORITY_NAT, NF_ACCEPT);
    }
    if (captures_packets(ruleset)) {
        nft_chain(b, "packets", "route", NF_INET_LOCAL_OUT, PRIORITY_MANGLE, NF_ACCEPT);
        nft_chain(b, "caught", "filter", NF_INET_PRE_ROUTING, PRIORITY_MANGLE, NF_ACCEPT);
        nft_chain(b, "leaving", "filter", NF_INET_POST_ROUTING, PRIORITY_FILTER, NF_ACCEPT);
    }
    nft_port_set(b, RULESET_PORTS, ruleset->ports, ruleset->port_count);
    drop_rest(b, "forward");
    if (ruleset->transparent) {
        put_streams(b, ruleset);
    } else {
        put_input(b);
        put_nat(b, ruleset);
    }
    if (captures_packets(ruleset)) {
        put_packets(b, ruleset);
        put_caught(b, ruleset);
        put_leaving(b);
    }
    put_output(b, ruleset);
}

int ruleset_apply(const struct ruleset *ruleset, struct error *err)
{
    struct nft_batch b;
    bool replace = false;
    if (ruleset->port_count > RULESET_RANGES_MAX)
        return error_set(err, E2BIG,
                         "the policy names %zu separate ranges of TCP ports; at most %d fit a ruleset",
                         ruleset->port_count, RULESET_RANGES_MAX);
    if (ruleset->udp_port_count > RULESET_RANGES_MAX)
        return error_set(err, E2BIG,
                         "the policy names %zu separate ranges of UDP ports; at most %d fit a ruleset",
                         ruleset->udp_port_count, RULESET_RANGES_MAX);
    _cleanup_fd_ int fd = netlink_open(NETLINK_NETFILTER, err);
    /* Whatever a batch deletes is waited for (synchronize_rcu) when the socket closes, 20 ms: so in a new namespace nothing is. */
    int r = fd < 0 ? fd : nft_find_table(fd, RULESET_TABLE, &replace, err);
    if (r == 0)
        r = nft_batch_open(&b, RULESET_TABLE, err);
    if (r < 0)
        return r;
    write_batch(&b, ruleset, replace);
    return nft_batch_commit(&b, fd, err);
}

int ruleset_remove(struct error *err)
{
    struct nft_batch b;
    bool there = false;
    _cleanup_fd_ int fd = netlink_open(NETLINK_NETFILTER, err);
    int r = fd < 0 ? fd : nft_find_table(fd, RULESET_TABLE, &there, err);
    if (r < 0 || !there || (r = nft_batch_open(&b, RULESET_TABLE, err)) < 0)
        return r;
    nft_table(&b, NFT_MSG_DELTABLE, 0, "removing the table");
    return nft_batch_commit(&b, fd, err);
}
