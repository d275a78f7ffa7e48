/*
 * Building a sealed namespace. The order is the argument:
 *
 *   lo up → sockets → ruleset → link, addresses, routes → check that nothing leads out → routing rules → self-test
 *   again (sealed_resume): check that nothing leads out → sockets on the ports of before → check that the ruleset is that of before
 *
 * Until the ruleset is in force there is no route to anywhere, and from then on its policies are drop. lo
 * comes first only because 127.0.0.1 and ::1 must exist to be bound.
 *
 * TCP and DNS of a sealed namespace are not translated: routing rules send them to lo as they are, where TPROXY hands them to
 * transparent sockets (ruleset.c); an answer to DNS leaves by a raw socket, as a whole packet from the address that was asked. So there is
 * no connection tracking at all. Where the kernel lacks something of that, or we a capability, it is done by NAT, as in an attached
 * namespace, whose routes are others' business.
 *
 * Limits: settings under /proc/sys/net are comfort (ping without privilege, ports below 1024), never part of
 * the seal, so where /proc/sys is read-only the build goes on without them.
 */
#include "redirect/rules/sealed.h"

#include "base/fds.h"
#include "base/log.h"
#include "redirect/rules/netlink.h"
#include "redirect/rules/nflog.h"
#include "redirect/rules/packets.h"
#include "redirect/rules/rtnl.h"
#include "redirect/rules/ruleset.h"
#include "redirect/rules/selftest.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/in6.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define LINK_NAME "eth0"
#define PEER_NAME "eth0-closed"
#define LOOPBACK_LINK 1
#define BACKLOG 4096
#define DNS_PORT 53
#define STREAMS_TABLE 9441 /* of routes; packets.h has the other */

void capture_sockets_close(struct capture_sockets *sockets)
{
    for (int i = 0; i < 2; i++) {
        fd_close(&sockets->tcp[i]);
        fd_close(&sockets->dns_udp[i]);
        fd_close(&sockets->dns_tcp[i]);
        fd_close(&sockets->udp[i]);
        fd_close(&sockets->raw[i]);
    }
    fd_close(&sockets->nflog);
}

void capture_sockets_join(struct capture_sockets *to, struct capture_sockets *from)
{
    int ours[CAPTURE_SOCKETS], theirs[CAPTURE_SOCKETS];
    memcpy(ours, to, sizeof(ours));
    memcpy(theirs, from, sizeof(theirs));
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++)
        if (ours[i] < 0)
            ours[i] = fd_steal(&theirs[i]);
    memcpy(to, ours, sizeof(ours));
    memcpy(from, theirs, sizeof(theirs));
}

void sealed_plan_policy(const struct acl_policy *policy, bool every_port, struct sealed_plan *plan)
{
    static const struct acl_port_range all = {1, 65535};
    plan->ports = acl_policy_ports(policy, &plan->port_count);
    plan->udp_ports = acl_policy_udp_ports(policy, &plan->udp_port_count);
    plan->echo = acl_policy_allows_icmp(policy) || every_port;
    plan->packets_optional = plan->udp_port_count == 0 && !acl_policy_allows_icmp(policy);
    if (every_port) {
        plan->ports = plan->udp_ports = &all;
        plan->port_count = plan->udp_port_count = 1;
    }
}

static bool translates(const struct sealed_plan *plan)
{
    return plan->attached || plan->translate;
}

static bool wants_packets(const struct sealed_plan *plan)
{
    return plan->udp_port_count > 0 || plan->echo;
}

/* ---- what was before ---- */

static uint16_t port_of(int fd);

static uint64_t cookie_of(int fd)
{
    uint64_t cookie = 0;
    socklen_t length = sizeof(cookie);
    return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0 ? cookie : 0;
}

void sealed_note_sockets(const struct capture_sockets *sockets, struct sealed_past *past)
{
    int all[CAPTURE_SOCKETS];
    memcpy(all, sockets, sizeof(all));
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++) {
        past->ports[i] = port_of(all[i]);
        past->cookies[i] = cookie_of(all[i]);
    }
    past->transparent = sockets->tcp[0] >= 0 && socket_is_transparent(sockets->tcp[0], AF_INET);
}

bool sealed_place_socket(const struct sealed_past *past, int fd, struct capture_sockets *sockets)
{
    int all[CAPTURE_SOCKETS];
    uint64_t cookie = cookie_of(fd);
    memcpy(all, sockets, sizeof(all));
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++) {
        if (cookie == 0 || past->cookies[i] != cookie || all[i] >= 0)
            continue;
        all[i] = fd;
        memcpy(sockets, all, sizeof(all));
        return true;
    }
    return false;
}

/* ---- the addresses inside ---- */

struct inside {
    struct addr address, gateway;
    uint8_t length; /* of the network */
};

static struct inside inside_of(int family)
{
    const char *address = family == AF_INET ? SEALED_ADDRESS4 : SEALED_ADDRESS6;
    const char *gateway = family == AF_INET ? SEALED_GATEWAY4 : SEALED_GATEWAY6;
    struct inside inside = {0};
    struct cidr network;
    addr_parse(address, (size_t)(strchr(address, '/') - address), &inside.address);
    addr_parse(gateway, strlen(gateway), &inside.gateway);
    cidr_parse(address, strlen(address), true, &network);
    inside.length = network.length;
    return inside;
}

/* ---- settings ---- */

static int write_setting(const char *path, const char *value)
{
    _cleanup_fd_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return write(fd, value, strlen(value)) < 0 ? -errno : 0;
}

/* Everyone may ping (and be told at once that it is refused). Groups that this user namespace does not map
 * cannot be named: then the groups of the first extent of the map must do, which are all that the command can
 * have. */
static void open_ping(void)
{
    static const char path[] = "/proc/sys/net/ipv4/ping_group_range";
    unsigned long first, outside, count;
    if (write_setting(path, "0 2147483647") != -EINVAL)
        return;
    FILE *map = fopen("/proc/self/gid_map", "re");
    if (map && fscanf(map, "%lu %lu %lu", &first, &outside, &count) == 3 && count > 0) {
        char range[64];
        snprintf(range, sizeof(range), "%lu %lu", first, first + count - 1);
        write_setting(path, range);
    }
    if (map)
        fclose(map);
}

static void apply_settings(void)
{
    write_setting("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    open_ping();
    write_setting("/proc/sys/net/ipv4/tcp_congestion_control", "reno"); /* on lo nothing is congested; others may pace */
    write_setting("/proc/sys/net/ipv4/tcp_early_retrans", "0");         /* nor lost */
    write_setting("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0");
    write_setting("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0");
    write_setting("/proc/sys/net/ipv6/conf/default/accept_ra", "0");
}

/* ---- sockets ---- */

/* A datagram has no socket of its own whose address would tell where it went: it is told beside it. */
static int tell_destinations(int fd, int family, struct error *err)
{
    static const int on = 1;
    int r = family == AF_INET ? setsockopt(fd, IPPROTO_IP, IP_RECVORIGDSTADDR, &on, sizeof(on))
                              : setsockopt(fd, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, &on, sizeof(on));
    return r < 0 ? error_errno(err, errno, "cannot ask for original destinations") : 0;
}

static int make_transparent(int fd, int family, struct error *err)
{
    static const int on = 1;
    int r = family == AF_INET ? setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof(on))
                              : setsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, &on, sizeof(on));
    return r < 0 ? error_errno(err, errno, "cannot make a socket transparent") : 0;
}

/* A socket on the loopback address of its family; port 0: any free one. -EAFNOSUPPORT when there is no such family
 * here. */
static int open_socket(int family, int type, bool transparent, uint16_t port, struct error *err)
{
    static const int on = 1;
    struct addr loopback = {0};
    const char *text = family == AF_INET ? "127.0.0.1" : "::1";
    struct sockaddr_storage address;
    addr_parse(text, strlen(text), &loopback);
    loopback.port = port;
    socklen_t length = addr_to_sockaddr(&loopback, &address);
    _cleanup_fd_ int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_errno(err, errno, "cannot open a socket");
    if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0)
        return error_errno(err, errno, "cannot make a socket IPv6 only");
    int r = transparent && type == SOCK_DGRAM ? tell_destinations(fd, family, err) : 0;
    if (r == 0 && transparent)
        r = make_transparent(fd, family, err);
    if (r < 0)
        return r;
    /* Connections of the one before, in TIME_WAIT or still open on the container's side, keep no port from its successor. */
    if (type == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
        return error_errno(err, errno, "cannot set SO_REUSEADDR");
    if (bind(fd, (struct sockaddr *)&address, length) < 0)
        return error_errno(err, errno == EADDRNOTAVAIL ? EAFNOSUPPORT : errno, "cannot bind to %s", text);
    if (type == SOCK_STREAM &&
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0) /* accepted ones inherit */
        return error_errno(err, errno, "cannot set TCP_NODELAY");
    if (type == SOCK_STREAM) /* as in apply_settings(), also where that is not ours to set */
        (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
    if (type == SOCK_STREAM && listen(fd, BACKLOG) < 0)
        return error_errno(err, errno, "cannot listen");
    return fd_steal(&fd);
}

/* `slot` is one of the sockets; it gets the port it had before, when there is a before. */
static int open_into(int family, int type, bool transparent, const struct sealed_past *past, struct capture_sockets *sockets, int *slot,
                     struct error *err)
{
    int fd = open_socket(family, type, transparent, past ? past->ports[slot - (int *)sockets] : 0, err);
    if (fd < 0)
        return fd;
    *slot = fd;
    return 0;
}

/* A kernel without IPv6 (or with it switched off for good) leaves -1. */
static int open_family(int i, bool transparent, const struct sealed_past *past, struct capture_sockets *sockets, struct error *err)
{
    int family = i == 0 ? AF_INET : AF_INET6;
    int r = open_into(family, SOCK_STREAM, transparent, past, sockets, &sockets->tcp[i], err);
    if (r == -EAFNOSUPPORT && family == AF_INET6)
        return 0;
    if (r == 0)
        r = open_into(family, SOCK_STREAM, transparent, past, sockets, &sockets->dns_tcp[i], err);
    if (r == 0)
        r = open_into(family, SOCK_DGRAM, transparent, past, sockets, &sockets->dns_udp[i], err);
    return r;
}

/* 0 for no socket, which no bound socket has. */
static uint16_t port_of(int fd)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof(own);
    struct addr a;
    if (fd < 0 || getsockname(fd, (struct sockaddr *)&own, &length) < 0 ||
        !addr_from_sockaddr((struct sockaddr *)&own, &a))
        return 0;
    return a.port;
}

/* ---- ruleset ---- */

static void whole_address(const struct addr *address, struct cidr *ret)
{
    *ret = (struct cidr){.base = *address, .length = address->family == AF_INET ? 32 : 128};
}

#define LOCAL_MAX 64

/* The namespace's own addresses besides those of `lo`, which the caller has. */
static int add_own_addresses(struct cidr *local, size_t *count, struct error *err)
{
    struct ifaddrs *all;
    if (getifaddrs(&all) < 0)
        return error_errno(err, errno, "cannot list the addresses");
    for (const struct ifaddrs *one = all; one && *count < LOCAL_MAX; one = one->ifa_next) {
        struct addr address;
        if (!one->ifa_addr || !addr_from_sockaddr(one->ifa_addr, &address))
            continue;
        address.port = 0;
        whole_address(&address, &local[(*count)++]);
    }
    freeifaddrs(all);
    return 0;
}

static int apply_ruleset(const struct sealed_plan *plan, const struct capture_sockets *sockets,
                         int nflog_group, struct error *err)
{
    struct inside inside4 = inside_of(AF_INET), inside6 = inside_of(AF_INET6);
    struct cidr local[LOCAL_MAX];
    size_t count = 4;
    cidr_parse("127.0.0.0/8", 11, false, &local[0]);
    cidr_parse("::1/128", 7, false, &local[1]);
    whole_address(&inside4.address, &local[2]);
    whole_address(&inside6.address, &local[3]);
    if (plan->attached) {
        count = 2;
        int r = add_own_addresses(local, &count, err);
        if (r < 0)
            return r;
    }
    struct ruleset ruleset = {.transparent = socket_is_transparent(sockets->tcp[0], AF_INET),
                              .ports = plan->ports,
                              .port_count = plan->port_count,
                              .local = local,
                              .local_count = count,
                              .nflog_group = nflog_group};
    if (wants_packets(plan)) {
        ruleset.udp_ports = plan->udp_ports;
        ruleset.udp_port_count = plan->udp_port_count;
        ruleset.echo = plan->echo;
        ruleset.udp[0] = port_of(sockets->udp[0]);
        ruleset.udp[1] = port_of(sockets->udp[1]);
    }
    for (int i = 0; i < 2; i++) {
        ruleset.tcp[i] = port_of(sockets->tcp[i]);
        ruleset.dns_udp[i] = port_of(sockets->dns_udp[i]);
        ruleset.dns_tcp[i] = port_of(sockets->dns_tcp[i]);
    }
    return ruleset_apply(&ruleset, err);
}

/* ---- links ---- */

/* Adds eth0 of the kind asked for, or the best the kernel has. What is there already stays (a re-apply):
 * whether it leads out is checked at the end. Returns the kind. */
static int add_link(int route, enum sealed_link kind, struct error *err)
{
    int r = -EOPNOTSUPP;
    if (kind == SEALED_LINK_LO)
        return SEALED_LINK_LO;
    if (kind != SEALED_LINK_VETH) {
        r = rtnl_add_dummy(route, LINK_NAME, err);
        if (r == 0 || r == -EEXIST)
            return SEALED_LINK_DUMMY;
    }
    if (r == -EOPNOTSUPP && kind != SEALED_LINK_DUMMY) {
        r = rtnl_add_veth(route, LINK_NAME, PEER_NAME, err);
        if (r == 0 || r == -EEXIST)
            return SEALED_LINK_VETH;
    }
    return r == -EOPNOTSUPP && kind == SEALED_LINK_AUTO ? SEALED_LINK_LO : r;
}

static int raise_link(int route, const char *name, bool ipv6, uint32_t *ret, struct error *err)
{
    uint32_t link = if_nametoindex(name);
    if (link == 0)
        return error_errno(err, errno, "no link %s", name);
    int r = ipv6 ? rtnl_set_no_link_local(route, link, err) : 0;
    if (r == 0)
        r = rtnl_set_up(route, link, err);
    if (r < 0)
        return r;
    *ret = link;
    return 0;
}

static int address_family(int route, int family, uint32_t link, struct error *err)
{
    struct inside inside = inside_of(family);
    if (link == LOOPBACK_LINK) { /* a wider prefix on lo would make every address in it local */
        uint8_t whole = family == AF_INET ? 32 : 128;
        int r = rtnl_add_address(route, link, &inside.address, whole, err);
        return r < 0 ? r : rtnl_add_default_loopback(route, &inside.address, err);
    }
    int r = rtnl_add_address(route, link, &inside.address, inside.length, err);
    return r < 0 ? r : rtnl_add_default_route(route, link, &inside.gateway, &inside.address, err);
}

static const int family_of[2] = {AF_INET, AF_INET6};

/* Whatever is TCP or DNS goes to lo, but seems to have come by the link: sockets bound to the link get their answers. */
static int route_streams(int route, uint32_t link, bool ipv6, struct error *err)
{
    int r = 0;
    for (int i = 0; i < (ipv6 ? 2 : 1) && r == 0; i++) {
        struct inside inside = inside_of(family_of[i]);
        r = rtnl_route_protocol(route, IPPROTO_TCP, 0, link, &inside.address, STREAMS_TABLE, err);
        if (r == 0)
            r = rtnl_route_protocol(route, IPPROTO_UDP, DNS_PORT, link, &inside.address, STREAMS_TABLE, err);
    }
    return r;
}

static void unroute_streams(int route)
{
    for (int i = 0; i < 2; i++) {
        rtnl_unroute_protocol(route, family_of[i], IPPROTO_UDP, DNS_PORT, STREAMS_TABLE);
        rtnl_unroute_protocol(route, family_of[i], IPPROTO_TCP, 0, STREAMS_TABLE);
    }
}

/* *ret_link is the link that leads to addresses that are not the namespace's own. */
static int build_link(int route, enum sealed_link kind, bool ipv6, uint32_t *ret_link, struct error *err)
{
    uint32_t link = LOOPBACK_LINK, peer;
    int r = add_link(route, kind, err);
    if (r < 0)
        return r;
    if (r != SEALED_LINK_LO) {
        if (if_nametoindex(PEER_NAME) != 0 && (r = raise_link(route, PEER_NAME, ipv6, &peer, err)) < 0)
            return r;
        r = raise_link(route, LINK_NAME, ipv6, &link, err);
        if (r < 0)
            return r;
    }
    r = address_family(route, AF_INET, link, err);
    if (r == 0 && ipv6)
        r = address_family(route, AF_INET6, link, err);
    *ret_link = link;
    return r < 0 ? r : rtnl_check_closed(route, err);
}

/* ---- all of it ---- */

static int open_sockets(const struct sealed_plan *plan, const struct sealed_past *past, struct capture_sockets *sockets,
                        int *ret_nflog_group, struct error *err)
{
    uint16_t group = 0;
    bool transparent = past ? past->transparent : !translates(plan);
    int r = open_family(0, transparent, past, sockets, err);
    if (r == 0)
        r = open_family(1, transparent, past, sockets, err);
    if (r == 0 && wants_packets(plan))
        r = packets_open(past, sockets, err);
    if (r == 0 && transparent)
        r = packets_open_raw(sockets, err);
    if (r < 0)
        return r;
    r = nflog_open(&group, err);
    if (r < 0 && r != -ENOPROTOOPT)
        return r;
    sockets->nflog = r < 0 ? -1 : r;
    *ret_nflog_group = r < 0 ? -1 : group;
    return 0;
}

static int build(const struct sealed_plan *plan, struct capture_sockets *sockets, int *ret_group,
                 bool *ret_touched, struct error *err)
{
    uint32_t link = LOOPBACK_LINK;
    _cleanup_fd_ int route = netlink_open(NETLINK_ROUTE, err);
    int r = route < 0 ? route : 0;
    if (r == 0 && !plan->attached)
        r = rtnl_check_closed(route, err);
    if (r < 0)
        return r;
    *ret_touched = true;
    r = rtnl_set_up(route, LOOPBACK_LINK, err);
    if (r < 0)
        return r;
    if (!plan->attached)
        apply_settings();
    r = open_sockets(plan, NULL, sockets, ret_group, err);
    if (r == 0)
        r = apply_ruleset(plan, sockets, *ret_group, err);
    /* Segments outside the window it expects are TCP's own business. There is no such setting before the
     * ruleset. */
    if (translates(plan))
        write_setting("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", "1");
    if (r == 0 && !plan->attached)
        r = build_link(route, plan->link, sockets->tcp[1] >= 0, &link, err);
    if (r == 0 && !translates(plan))
        r = route_streams(route, link, sockets->tcp[1] >= 0, err);
    if (r == 0 && wants_packets(plan))
        r = packets_route(route, sockets->udp[1] >= 0, err);
    return r == 0 ? selftest_run(sockets, plan, err) : r;
}

/* By NAT where the kernel cannot do otherwise. */
static int build_either_way(const struct sealed_plan *plan, struct capture_sockets *sockets, int *ret_group, bool *ret_touched,
                            struct error *err)
{
    struct sealed_plan less = *plan;
    int r = build(plan, sockets, ret_group, ret_touched, err);
    if (r == 0 || !*ret_touched || translates(plan))
        return r;
    less.translate = true;
    capture_sockets_close(sockets);
    sealed_remove(plan->attached, NULL);
    struct error why = *err;
    r = build(&less, sockets, ret_group, ret_touched, err);
    if (r == 0)
        log_warning("TCP and DNS are captured by NAT here: %s", why.text);
    return r;
}

/* Without UDP and ping, when these are what cannot be had and nobody asked for them by a rule. */
static int build_what_can_be(const struct sealed_plan *plan, struct capture_sockets *sockets, int *ret_group, bool *ret_touched,
                             struct error *err)
{
    struct sealed_plan less = *plan;
    int r = build_either_way(plan, sockets, ret_group, ret_touched, err);
    if (r == 0 || !*ret_touched || !plan->packets_optional || !wants_packets(plan))
        return r;
    less.udp_port_count = 0;
    less.echo = false;
    capture_sockets_close(sockets);
    sealed_remove(plan->attached, NULL);
    struct error why = *err;
    r = build_either_way(&less, sockets, ret_group, ret_touched, err);
    if (r == 0)
        log_warning("UDP and ping stay refused: %s", why.text);
    return r;
}

int sealed_capture(const struct sealed_plan *plan, struct capture_sockets *ret, int *ret_group,
                   struct error *err)
{
    struct capture_sockets sockets = CAPTURE_SOCKETS_NONE;
    struct error own = {0};
    int group = -1;
    bool touched = false;
    int r = build_what_can_be(plan, &sockets, &group, &touched, &own);
    if (r < 0) {
        if (touched)
            sealed_remove(plan->attached, NULL);
        capture_sockets_close(&sockets);
        return error_set(err, own.code, "%s the network namespace: %s", plan->attached ? "capturing" : "sealing", own.text);
    }
    *ret = sockets;
    *ret_group = group;
    return 0;
}

static int check_closed(const struct sealed_plan *plan, struct error *err)
{
    _cleanup_fd_ int route = plan->attached ? -1 : netlink_open(NETLINK_ROUTE, err);
    if (plan->attached)
        return 0;
    return route < 0 ? route : rtnl_check_closed(route, err);
}

static int check_same(const struct sealed_past *past, const struct capture_sockets *sockets, int group, struct error *err)
{
    struct sealed_past now = {0};
    int r = ruleset_fingerprint(&now.fingerprint, err);
    if (r < 0)
        return r;
    sealed_note_sockets(sockets, &now);
    bool same = now.fingerprint == past->fingerprint && now.fingerprint != 0 && group == past->group &&
                !memcmp(now.ports, past->ports, sizeof(now.ports));
    return same ? 0 : error_set(err, ESTALE, "the ruleset was changed meanwhile");
}

int sealed_resume(const struct sealed_plan *plan, const struct sealed_past *past, struct capture_sockets *ret, struct error *err)
{
    struct capture_sockets sockets = CAPTURE_SOCKETS_NONE;
    int group = -1;
    int r = check_closed(plan, err);
    if (r == 0)
        r = open_sockets(plan, past, &sockets, &group, err);
    if (r == 0)
        r = check_same(past, &sockets, group, err);
    if (r < 0) {
        capture_sockets_close(&sockets);
        return r;
    }
    *ret = sockets;
    return 0;
}

/* Of a version that captured TCP as it is, and DNS by NAT: its sockets become what such sockets are now. */
static bool translates_dns_alone(const struct capture_sockets *sockets)
{
    return sockets->tcp[0] >= 0 && sockets->dns_udp[0] >= 0 && socket_is_transparent(sockets->tcp[0], AF_INET) &&
           !socket_is_transparent(sockets->dns_udp[0], AF_INET);
}

/* The ruleset is to follow. Until it does, questions come as they came before, and the worker sees by each how it came. */
static int stop_translating_dns(int route, const struct capture_sockets *sockets, struct error *err)
{
    uint32_t link = if_nametoindex(LINK_NAME);
    int r = 0;
    for (int i = 0; i < 2 && r == 0; i++) {
        if (sockets->dns_udp[i] < 0)
            continue;
        r = tell_destinations(sockets->dns_udp[i], family_of[i], err);
        if (r == 0)
            r = make_transparent(sockets->dns_udp[i], family_of[i], err);
    }
    return r == 0 ? route_streams(route, link ? link : LOOPBACK_LINK, sockets->dns_udp[1] >= 0, err) : r;
}

int sealed_open_more(const struct sealed_plan *plan, const struct capture_sockets *sockets, struct capture_sockets *ret_more,
                     struct error *err)
{
    struct capture_sockets more = CAPTURE_SOCKETS_NONE, all = *sockets;
    bool late = translates_dns_alone(sockets);
    _cleanup_fd_ int route = -1;
    if (!wants_packets(plan) && !late)
        return 0;
    int r = wants_packets(plan) ? packets_open(NULL, &all, err) : 0;
    if (r == 0 && late)
        r = packets_open_raw(&all, err);
    for (int i = 0; i < 2; i++) {
        more.udp[i] = sockets->udp[i] < 0 ? all.udp[i] : -1;
        more.raw[i] = sockets->raw[i] < 0 ? all.raw[i] : -1;
    }
    if (r == 0)
        r = route = netlink_open(NETLINK_ROUTE, err);
    if (r >= 0 && late)
        r = stop_translating_dns(route, sockets, err);
    if (r >= 0 && wants_packets(plan))
        r = packets_route(route, all.udp[1] >= 0, err);
    if (r < 0) {
        capture_sockets_close(&more);
        return r;
    }
    *ret_more = more;
    return 0;
}

int sealed_renew(const struct sealed_plan *plan, const struct sealed_past *past, bool same_plan, const struct capture_sockets *sockets,
                 uint64_t *ret_fingerprint, struct error *err)
{
    int r = check_closed(plan, err);
    if (r == 0 && (!same_plan || check_same(past, sockets, past->group, err) < 0))
        r = apply_ruleset(plan, sockets, past->group, err);
    return r < 0 ? r : ruleset_fingerprint(ret_fingerprint, err);
}

int sealed_update(const struct sealed_plan *plan, const struct capture_sockets *sockets, int group,
                  struct error *err)
{
    return apply_ruleset(plan, sockets, group, err);
}

/* Links first: a sealed namespace never has one without rules. One that has been given another link keeps ours, too. */
static int remove_link(int route, struct error *err)
{
    int r = rtnl_check_closed(route, err);
    if (r == 0)
        r = rtnl_remove_link(route, LINK_NAME, err);
    return r == -ENODEV || r == -ENOTUNIQ ? 0 : r;
}

static int remove_all(bool attached, struct error *err)
{
    _cleanup_fd_ int route = netlink_open(NETLINK_ROUTE, err);
    int r = route < 0 || attached ? 0 : remove_link(route, err);
    if (route < 0 || r < 0)
        return route < 0 ? route : r;
    packets_unroute(route);
    if (!attached)
        unroute_streams(route);
    return ruleset_remove(err);
}

/* What an answer of the kernel that got lost was about may be done or not: nobody would come back for what is left. */
int sealed_remove(bool attached, struct error *err)
{
    int r = remove_all(attached, err);
    return r < 0 ? remove_all(attached, err) : r;
}

int sealed_fingerprint(uint64_t *ret, struct error *err)
{
    return ruleset_fingerprint(ret, err);
}

static int check_streams(int route, const struct sealed_past *past, struct error *err)
{
    int r = 0;
    for (int i = 0; past->transparent && i < (past->ports[1] ? 2 : 1) && r == 0; i++) {
        r = rtnl_check_protocol(route, family_of[i], IPPROTO_TCP, 0, STREAMS_TABLE, err);
        if (r == 0)
            r = rtnl_check_protocol(route, family_of[i], IPPROTO_UDP, DNS_PORT, STREAMS_TABLE, err);
    }
    return r;
}

int sealed_verify(bool attached, const struct sealed_past *past, struct error *err)
{
    uint64_t now = 0;
    _cleanup_fd_ int route = netlink_open(NETLINK_ROUTE, err);
    int r = route < 0 ? route : ruleset_fingerprint(&now, err);
    if (r < 0)
        return r;
    if (now == 0)
        return error_set(err, ENOENT, "the ruleset is gone");
    if (now != past->fingerprint)
        return error_set(err, ESTALE, "the ruleset was changed by somebody else");
    r = check_streams(route, past, err);
    return r < 0 || attached ? r : rtnl_check_closed(route, err);
}
