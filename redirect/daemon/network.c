/*
 * The listeners of a network are bound to any address (network_rules.c says why, and what guards them), on ports below those the
 * kernel gives away by itself: after the daemon has died, the rules still lead there, and no program must come to sit there by chance.
 *
 * Each worker has listeners of its own, a share, for one part of the containers (spread.h): the monitor holds them all, so what
 * comes for a worker that has died waits for its successor. A gateway that takes another's place keeps its shares, and adds some when it
 * has more workers; with fewer, a worker has several. What the kernel's packet filter logs is the first share's.
 *
 * A network is told from others by its name and its way of capture: what else changes in the configuration changes the rules only.
 */
#include "redirect/daemon/network.h"

#include "base/fds.h"
#include "base/log.h"
#include "redirect/rules/netlink.h"
#include "redirect/rules/network_rules.h"
#include "redirect/rules/nflog.h"
#include "redirect/rules/packet_rules.h"
#include "redirect/rules/rtnl.h"
#include "redirect/rules/spread.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PORT_FIRST 19440
#define PORT_LAST 19999
#define BACKLOG 4096
#define MARKER "networks" /* in the state folder: there may be rules of ours */

struct share {
    struct daemon_worker *worker;
    bool unsent, told; /* the worker is to be told; it knows */
    uint32_t serial;   /* of the message that the worker has not answered; 0: none */
    struct capture_sockets sockets;
};

struct network {
    struct list link;
    char name[CONFIG_NETWORK_NAME_MAX + 1];
    bool transparent, wanted, leaving;
    struct share shares[WORKERS_MAX];
    unsigned count;
    int group;
};

static struct share *end_of(struct network *network)
{
    return network->shares + network->count;
}

static void close_sockets(struct network *network)
{
    for (struct share *s = network->shares; s < end_of(network); s++)
        capture_sockets_close(&s->sockets);
}

static void network_destroy(struct network *network)
{
    list_remove(&network->link);
    close_sockets(network);
    free(network);
}

static struct network *first(const struct daemon *d)
{
    return list_empty(&d->networks) ? NULL : list_entry(d->networks.next, struct network, link);
}

static struct network *next(const struct daemon *d, const struct network *network)
{
    return network->link.next == &d->networks ? NULL : list_entry(network->link.next, struct network, link);
}

/* ---- listeners ---- */

static void loopback_of(int family, struct addr *ret)
{
    const char *text = family == AF_INET ? "127.0.0.1" : "::1";
    uint16_t port = ret->port;
    addr_parse(text, strlen(text), ret);
    ret->port = port;
}

/* Takes connections to any address that TPROXY hands it, and is itself at the loopback address. */
static int make_transparent(int fd, int family)
{
    static const int on = 1;
    static const uint32_t mark = NETWORK_REPLY_MARK;
    int level = family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, option = family == AF_INET ? IP_TRANSPARENT : IPV6_TRANSPARENT;
    return setsockopt(fd, level, option, &on, sizeof(on)) < 0 || setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0
               ? -errno : 0;
}

/* Any address of the family. -EAFNOSUPPORT when there is no such family here, -EADDRINUSE when the port is taken. `joins`: it is ours. */
static int open_socket(int family, int type, uint16_t port, bool transparent, bool joins)
{
    static const int on = 1;
    struct addr any = {.family = (uint8_t)family, .port = port};
    int r;
    struct sockaddr_storage address;
    if (transparent)
        loopback_of(family, &any);
    socklen_t length = addr_to_sockaddr(&any, &address);
    _cleanup_fd_ int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if ((family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0) ||
        (type == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0) ||
        (type == SOCK_STREAM && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)) /* accepted ones inherit */
        return -errno;
    if (transparent && (r = make_transparent(fd, family)) < 0)
        return r;
    if (type == SOCK_DGRAM && setsockopt(fd, family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6,
                                         family == AF_INET ? IP_PKTINFO : IPV6_RECVPKTINFO, &on, sizeof(on)) < 0)
        return -errno;
    if (joins && (r = spread_join(fd)) < 0)
        return r;
    if (bind(fd, (struct sockaddr *)&address, length) < 0)
        return errno == EADDRNOTAVAIL ? -EAFNOSUPPORT : -errno;
    if (!joins && (r = spread_join(fd)) < 0)
        return r;
    if (type == SOCK_STREAM && listen(fd, BACKLOG) < 0)
        return -errno;
    return fd_steal(&fd);
}

static int open_pair(int type, uint16_t port, bool transparent, bool joins, int ret[2])
{
    static const int families[2] = {AF_INET, AF_INET6};
    for (int i = 0; i < 2; i++) {
        int fd = open_socket(families[i], type, port, transparent, joins);
        if (fd < 0 && !(fd == -EAFNOSUPPORT && families[i] == AF_INET6))
            return fd;
        ret[i] = fd < 0 ? -1 : fd;
    }
    return 0;
}

static int open_at(struct capture_sockets *sockets, uint16_t port, bool transparent, bool joins)
{
    int r = open_pair(SOCK_STREAM, port, transparent, joins, sockets->tcp);
    if (r == 0)
        r = open_pair(SOCK_STREAM, (uint16_t)(port + 1), false, joins, sockets->dns_tcp);
    if (r == 0)
        r = open_pair(SOCK_DGRAM, (uint16_t)(port + 1), false, joins, sockets->dns_udp);
    if (r < 0)
        capture_sockets_close(sockets);
    return r;
}

static int open_listeners(struct capture_sockets *sockets, bool transparent, struct error *err)
{
    int r = -EADDRINUSE;
    for (unsigned port = PORT_FIRST; r == -EADDRINUSE && port < PORT_LAST; port += 2)
        r = open_at(sockets, (uint16_t)port, transparent, false);
    return r < 0 ? error_errno(err, -r, "cannot listen on two ports from %d to %d", PORT_FIRST, PORT_LAST) : 0;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof(own);
    struct addr a;
    if (fd < 0 || getsockname(fd, (struct sockaddr *)&own, &length) < 0 || !addr_from_sockaddr((struct sockaddr *)&own, &a))
        return 0;
    return a.port;
}

/* Those that the gateway before us had, so that nobody in their queues is refused. Which is which their kind says, and their ports. */
static void inherited_name(const struct network *network, unsigned share, char ret[CHANNEL_ID_MAX])
{
    const char *capture = network->transparent ? "tproxy" : "redirect";
    if (share)
        snprintf(ret, CHANNEL_ID_MAX, "_network.%s+%u.%s", capture, share, network->name);
    else
        snprintf(ret, CHANNEL_ID_MAX, "_network.%s.%s", capture, network->name);
}

static int kind_of(int fd, int option)
{
    int value = -1;
    socklen_t length = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, option, &value, &length) < 0 ? -1 : value;
}

static void place(struct capture_sockets *sockets, int fd)
{
    int domain = kind_of(fd, SO_DOMAIN), i = domain == AF_INET6;
    bool dns = (port_of(fd) - PORT_FIRST) % 2;
    int *slot = domain != AF_INET && domain != AF_INET6   ? NULL
                : kind_of(fd, SO_TYPE) == SOCK_DGRAM      ? &sockets->dns_udp[i]
                : dns                                     ? &sockets->dns_tcp[i]
                                                          : &sockets->tcp[i];
    if (slot && *slot < 0 && spread_join(fd) == 0) /* of a version that did not share it may be */
        *slot = fd;
    else
        close(fd); /* NFLOG is bound anew: which group it has the socket does not say */
}

static bool whole(const struct capture_sockets *s)
{
    bool four = s->tcp[0] >= 0 && s->dns_udp[0] >= 0 && s->dns_tcp[0] >= 0;
    bool six = s->tcp[1] >= 0 && s->dns_udp[1] >= 0 && s->dns_tcp[1] >= 0;
    bool no_six = s->tcp[1] < 0 && s->dns_udp[1] < 0 && s->dns_tcp[1] < 0;
    return four && (six || no_six);
}

static bool take_inherited_share(struct daemon *d, struct network *network, unsigned share)
{
    char name[CHANNEL_ID_MAX];
    struct capture_sockets *sockets = &network->shares[share].sockets;
    inherited_name(network, share, name);
    for (int fd; (fd = inherited_take(&d->inherited, name)) >= 0;)
        place(sockets, fd);
    if (whole(sockets))
        return true;
    capture_sockets_close(sockets);
    return false;
}

static void take_inherited(struct daemon *d, struct network *network)
{
    while (network->count < WORKERS_MAX && take_inherited_share(d, network, network->count))
        network->count++;
}

/* Each listener in turn: all shares of a kind are one group, so one of each is told. */
static int spread(const struct network *network)
{
    const struct capture_sockets *s = &network->shares[0].sockets;
    const int *const kinds[] = {s->tcp, s->dns_tcp, s->dns_udp};
    int r = 0;
    for (int i = 0; i < 6 && r == 0 && network->count > 1; i++) {
        int fd = kinds[i / 2][i % 2];
        r = fd < 0 ? 0 : spread_by_source(fd, i % 2 ? AF_INET6 : AF_INET, network->count);
    }
    return r;
}

static uint16_t port_of(int fd);

/* Up to a share for each worker, at the ports that the first one has. With less it is served as well, by fewer workers. */
static void open_shares(struct daemon *d, struct network *network)
{
    int r = 0;
    while (network->count < d->worker_count && r == 0) {
        struct share *share = &network->shares[network->count];
        r = open_at(&share->sockets, port_of(network->shares[0].sockets.tcp[0]), network->transparent, true);
        network->count += r == 0;
    }
    if (r == 0)
        r = spread(network);
    if (r < 0)
        log_error("the network \"%s\" cannot be shared out evenly: %s", network->name, strerror(-r));
}

int networks_each_sockets(struct daemon *d, int (*each)(const char *name, const struct capture_sockets *sockets, void *arg), void *arg)
{
    int r = 0;
    for (struct network *n = first(d); n && r == 0; n = next(d, n)) {
        char name[CHANNEL_ID_MAX];
        for (unsigned i = 0; i < n->count && r == 0 && !n->leaving; i++) {
            inherited_name(n, i, name);
            r = each(name, &n->shares[i].sockets, arg);
        }
    }
    return r;
}

static int network_open(struct daemon *d, const struct config_network *wanted, struct network **ret, struct error *err)
{
    struct network *network = calloc(1, sizeof(*network));
    uint16_t group;
    if (!network)
        return error_errno(err, ENOMEM, "the network \"%s\"", wanted->name);
    memcpy(network->name, wanted->name, sizeof(network->name));
    network->transparent = wanted->transparent;
    network->group = -1;
    for (unsigned i = 0; i < WORKERS_MAX; i++)
        network->shares[i] = (struct share){.worker = &d->workers[i % d->worker_count], .unsent = true, .sockets = CAPTURE_SOCKETS_NONE};
    list_append(&d->networks, &network->link);
    take_inherited(d, network);
    int r = network->count ? 0 : open_listeners(&network->shares[0].sockets, wanted->transparent, err);
    if (r == 0) {
        network->count += network->count == 0;
        open_shares(d, network);
    }
    if (r == 0 && (r = nflog_open(&group, err)) >= 0) {
        network->shares[0].sockets.nflog = r;
        network->group = group;
    }
    if (r < 0 && r != -ENOPROTOOPT) {
        network_destroy(network);
        return r;
    }
    *ret = network;
    return 0;
}

/* ---- which ports ---- */

struct ports {
    struct acl_port_range *ranges;
    size_t count;
    bool failed;
};

static void add_ports(const struct acl_policy *policy, struct ports *ports)
{
    static const struct acl_port_range every_port = {1, 65535};
    size_t count = 1;
    const struct acl_port_range *more =
        acl_policy_mode(policy) == ACL_MODE_AUDIT ? &every_port : acl_policy_ports(policy, &count);
    struct acl_port_range *grown = realloc(ports->ranges, (ports->count + count) * sizeof(*grown));
    if (!grown) {
        ports->failed = true;
        return;
    }
    memcpy(grown + ports->count, more, count * sizeof(*more));
    ports->ranges = grown;
    ports->count += count;
}

static void add_assigned(const char *container, const struct cidr *subnet, const struct acl_policy *policy, void *arg)
{
    (void)subnet;
    if (!container) /* what is behind a network has no name that we know */
        add_ports(policy, arg);
}

static int compare_ranges(const void *left, const void *right)
{
    const struct acl_port_range *a = left, *b = right;
    return a->low < b->low ? -1 : a->low > b->low;
}

static void merge(struct ports *ports)
{
    size_t kept = 0;
    qsort(ports->ranges, ports->count, sizeof(*ports->ranges), compare_ranges);
    for (size_t i = 1; i < ports->count; i++) {
        struct acl_port_range *last = &ports->ranges[kept];
        const struct acl_port_range *range = &ports->ranges[i];
        if (range->low > (unsigned)last->high + 1)
            ports->ranges[++kept] = *range;
        else if (range->high > last->high)
            last->high = range->high;
    }
    ports->count = kept + 1;
}

/* All that some source in the network may use; whose they are not, the gateway refuses with a reason. */
static int find_ports(const struct config_snapshot *snapshot, const struct config_network *network, struct ports *ret)
{
    *ret = (struct ports){0};
    if (network->policy) {
        add_ports(network->policy, ret);
    } else {
        config_each_assignment(snapshot, add_assigned, ret);
        add_ports(config_assign(snapshot, NULL, NULL), ret);
    }
    if (ret->failed) {
        free(ret->ranges);
        return -ENOMEM;
    }
    merge(ret);
    return 0;
}

/* ---- the ruleset ---- */

static int put_in_force(struct daemon *d, const struct config_snapshot *snapshot, struct error *err)
{
    struct network_rules rules[CONFIG_NETWORKS_MAX] = {0};
    struct ports ports[CONFIG_NETWORKS_MAX];
    size_t count = 0;
    int r = 0;
    for (const struct network *n = first(d); n && r == 0; n = next(d, n)) {
        const struct config_network *network = config_network(snapshot, n->name);
        if (!n->wanted)
            continue;
        if ((r = find_ports(snapshot, network, &ports[count])) < 0) {
            error_errno(err, -r, "the network \"%s\"", n->name);
            break;
        }
        rules[count] = (struct network_rules){.network = network,
                                              .ports = ports[count].ranges,
                                              .port_count = ports[count].count,
                                              .nflog_group = n->group};
        for (int i = 0; i < 2; i++) {
            const struct capture_sockets *sockets = &n->shares[0].sockets;
            rules[count].tcp[i] = port_of(sockets->tcp[i]);
            rules[count].dns_udp[i] = port_of(sockets->dns_udp[i]);
            rules[count].dns_tcp[i] = port_of(sockets->dns_tcp[i]);
        }
        count++;
    }
    if (r == 0)
        r = network_rules_apply(snapshot, rules, count, err);
    while (count > 0)
        free(ports[--count].ranges);
    return r;
}

/* Said before there are rules, unsaid when there are none: so a daemon without networks leaves a table alone that is not
 * its own. */
static int set_marker(const struct daemon *d, struct error *err)
{
    _cleanup_fd_ int fd = openat(d->state, MARKER, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? error_errno(err, errno, "cannot write the state file %s", MARKER) : 0;
}

static bool has_marker(const struct daemon *d)
{
    return faccessat(d->state, MARKER, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* ---- what cannot work ---- */

static bool bridges_call_netfilter(void)
{
    static const char *const paths[] = {"/proc/sys/net/bridge/bridge-nf-call-iptables",
                                        "/proc/sys/net/bridge/bridge-nf-call-ip6tables"};
    bool calls = false;
    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
        char value = '0';
        _cleanup_fd_ int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
        calls |= fd >= 0 && read(fd, &value, 1) == 1 && value != '0';
    }
    return calls;
}

static bool is_behind(const struct config_network *network, const char *interface)
{
    for (size_t i = 0; i < network->interface_count; i++) {
        const char *pattern = network->interfaces[i];
        size_t stem = strcspn(pattern, "*");
        if (pattern[stem] ? !strncmp(pattern, interface, stem) : !strcmp(pattern, interface))
            return true;
    }
    return false;
}

struct bridge_search {
    const struct config_network *network;
    char found[CONFIG_INTERFACE_SIZE];
};

static int take_bridge(const char *name, const char *kind, void *arg)
{
    struct bridge_search *search = arg;
    if (!strcmp(kind, "bridge") && is_behind(search->network, name))
        snprintf(search->found, sizeof(search->found), "%s", name);
    return *search->found ? -EEXIST : 0;
}

/* On its way through a bridge that hands packets to netfilter, a packet loses the socket that TPROXY found for it. */
static int check_transparent(const struct config_network *network, struct error *err)
{
    struct bridge_search search = {.network = network};
    if (!network->transparent || !bridges_call_netfilter())
        return 0;
    _cleanup_fd_ int route = netlink_open(NETLINK_ROUTE, err);
    int r = route < 0 ? route : rtnl_each_link(route, take_bridge, &search, err);
    if (!*search.found)
        return r;
    return error_set(err, EOPNOTSUPP,
                     "the network \"%s\": TPROXY does not work behind the bridge %s while br_netfilter is in use; write capture: "
                     "redirect, or set net.bridge.bridge-nf-call-iptables and bridge-nf-call-ip6tables to 0",
                     network->name, search.found);
}

/* The way out of the host itself: what is captured there is refused coming in, so the host would be cut off. */
static bool is_default_route(int family, const char *line, char interface[64])
{
    char to[64], length[64];
    if (family == AF_INET)
        return sscanf(line, "%63s %63s %*s %*s %*s %*s %*s %63s", interface, to, length) == 3 && !strcmp(to, "00000000") &&
               !strcmp(length, "00000000");
    return sscanf(line, "%63s %63s %*s %*s %*s %*s %*s %*s %*s %63s", to, length, interface) == 3 &&
           strspn(to, "0") == strlen(to) && !strcmp(length, "00");
}

static int check_default_routes(const struct config_network *network, int family, struct error *err)
{
    char line[512], interface[64];
    FILE *routes = fopen(family == AF_INET ? "/proc/net/route" : "/proc/net/ipv6_route", "re");
    bool bad = false;
    while (routes && !bad && fgets(line, sizeof(line), routes))
        bad = is_default_route(family, line, interface) && is_behind(network, interface);
    if (routes)
        fclose(routes);
    return bad ? error_set(err, EINVAL,
                           "the network \"%s\": %s carries a default route of this host, which would be cut off; name the interface "
                           "that the containers are behind", network->name, interface)
               : 0;
}

static int check_network(const struct config_network *network, struct error *err)
{
    int r = check_default_routes(network, AF_INET, err);
    if (r == 0)
        r = check_default_routes(network, AF_INET6, err);
    return r == 0 ? check_transparent(network, err) : r;
}

/* ---- following the configuration ---- */

static struct network *find(const struct daemon *d, const struct config_network *wanted)
{
    for (struct network *n = first(d); n; n = next(d, n))
        if (!n->leaving && n->transparent == wanted->transparent && !strcmp(n->name, wanted->name))
            return n;
    return NULL;
}

/* Marks those that are wanted, and opens those that are new. */
static int open_wanted(struct daemon *d, const struct config_snapshot *snapshot, struct error *err)
{
    size_t count;
    const struct config_network *wanted = config_networks(snapshot, &count);
    for (struct network *n = first(d); n; n = next(d, n))
        n->wanted = false;
    for (size_t i = 0; i < count; i++) {
        struct network *n = find(d, &wanted[i]);
        int r = check_network(&wanted[i], err);
        if (r == 0 && !n)
            r = network_open(d, &wanted[i], &n, err);
        if (r < 0)
            return r;
        n->wanted = true;
    }
    return 0;
}

/* New ones that nobody was told of. */
static void forget_new(struct daemon *d, const struct network *last_before)
{
    struct network *n = last_before ? next(d, last_before) : first(d);
    while (n) {
        struct network *after = next(d, n);
        network_destroy(n);
        n = after;
    }
}

/* Leaving, and no worker has to be told or to answer any more. */
static bool has_left(const struct network *n)
{
    bool left = n->leaving;
    for (unsigned i = 0; i < n->count; i++)
        left &= !n->shares[i].unsent && !n->shares[i].serial;
    return left;
}

static void leave_unwanted(struct daemon *d)
{
    for (struct network *n = first(d), *after; n; n = after) {
        after = next(d, n);
        if (n->wanted || n->leaving)
            continue;
        log_info("the network \"%s\" is not captured any more", n->name);
        close_sockets(n);
        n->leaving = true;
        for (struct share *s = n->shares; s < end_of(n); s++)
            s->unsent = s->told || s->serial;
        if (has_left(n))
            network_destroy(n);
    }
}

int networks_apply(struct daemon *d, const struct config_snapshot *snapshot, struct error *err)
{
    size_t count;
    (void)config_networks(snapshot, &count);
    const struct network *last = list_empty(&d->networks) ? NULL : list_entry(d->networks.prev, struct network, link);
    if (count == 0 && !last && !has_marker(d))
        return 0;
    int r = count ? set_marker(d, err) : 0;
    if (r == 0)
        r = open_wanted(d, snapshot, err);
    if (r == 0)
        r = put_in_force(d, snapshot, err);
    if (r < 0) {
        forget_new(d, last);
        return r;
    }
    leave_unwanted(d);
    for (struct network *n = first(d); n; n = next(d, n))
        if (!n->leaving)
            (void)spread(n); /* as it was, should a gateway that was to take our place have changed it */
    if (count == 0)
        unlinkat(d->state, MARKER, 0);
    return 0;
}

/* ---- the worker ---- */

/* What it says is checked (packet_rules_learn): it may have been taken over. */
void networks_learn(struct daemon_worker *w, const struct channel_message *message)
{
    struct daemon *d = w->daemon;
    struct error err;
    const struct acl_policy *policy = config_policy(d->snapshot, message->policy);
    w->learned = message->serial;
    if (!policy || strcmp(message->version, config_version(d->snapshot)) != 0) /* of another configuration: it will say so again */
        return;
    _cleanup_fd_ int fd = netlink_open(NETLINK_NETFILTER, &err);
    int r = fd < 0 ? fd
                   : packet_rules_learn(fd, NETWORK_TABLE, d->snapshot, policy, message->rule, &message->address, message->ttl, &err);
    bool say = monotonic_ms() >= d->learned_warn_ms;
    if (r < 0 && say)
        d->learned_warn_ms = monotonic_ms() + 60000; /* containers choose what is looked up: not a line for each */
    if (r < 0 && say)
        log_warning("an address for a rule of the policy \"%s\" is not put into force: %s", message->policy, err.text);
}

static int tell_shares(struct network *n, struct daemon_worker *w)
{
    int r = 0;
    for (unsigned i = 0; i < n->count && r == 0; i++) {
        struct share *s = &n->shares[i];
        uint32_t serial = daemon_next_serial(w->daemon);
        if (s->worker != w || !s->unsent || s->serial)
            continue;
        r = n->leaving ? channel_send_network_end(w->process.channel, serial, n->name, i)
                       : channel_send_network(w->process.channel, serial, n->name, i, n->transparent, &s->sockets);
        s->unsent = r < 0;
        s->serial = r < 0 ? 0 : serial;
    }
    return r;
}

int networks_feed(struct daemon_worker *w)
{
    struct daemon *d = w->daemon;
    if (w->learned != w->learned_told) {
        int r = channel_send_learned_done(w->process.channel, w->learned);
        if (r < 0)
            return r;
        w->learned_told = w->learned;
    }
    if (w->config_unsent || w->config_serial)
        return 0; /* first the configuration, in which the worker looks them up */
    int r = 0;
    for (struct network *n = first(d); n && r == 0; n = next(d, n))
        r = tell_shares(n, w);
    return r;
}

static struct share *share_asked(struct network *n, const struct daemon_worker *w, uint32_t serial)
{
    for (struct share *s = n->shares; s < end_of(n); s++)
        if (s->worker == w && s->serial == serial)
            return s;
    return NULL;
}

bool networks_answered(struct daemon_worker *w, uint32_t serial, int code)
{
    struct daemon *d = w->daemon;
    for (struct network *n = first(d); n; n = next(d, n)) {
        struct share *s = share_asked(n, w, serial);
        if (!s)
            continue;
        s->serial = 0;
        s->told = !n->leaving && code == 0;
        if (!n->leaving && code)
            log_error("the worker cannot serve the network \"%s\": %s; it stays closed", n->name, strerror(code));
        if (has_left(n))
            network_destroy(n);
        return true;
    }
    return false;
}

void networks_worker_died(struct daemon_worker *w)
{
    struct daemon *d = w->daemon;
    w->learned = w->learned_told = 0;
    for (struct network *n = first(d), *after; n; n = after) {
        after = next(d, n);
        for (struct share *s = n->shares; s < end_of(n); s++) {
            if (s->worker != w)
                continue;
            s->told = false;
            s->serial = 0;
            s->unsent = !n->leaving;
        }
        if (has_left(n))
            network_destroy(n);
    }
}

bool networks_settled(const struct daemon *d)
{
    for (const struct network *n = first(d); n; n = next(d, n))
        for (unsigned i = 0; i < n->count; i++)
            if (n->shares[i].unsent || n->shares[i].serial)
                return false;
    return true;
}

void networks_close(struct daemon *d)
{
    for (struct network *n = first(d); n; n = next(d, n))
        close_sockets(n);
}

void networks_destroy(struct daemon *d)
{
    for (struct network *n; (n = first(d));)
        network_destroy(n);
}

static bool is_served(const struct network *n)
{
    bool served = true;
    for (unsigned i = 0; i < n->count; i++)
        served &= n->shares[i].told;
    return served;
}

json_t *networks_describe(const struct daemon *d)
{
    json_t *all = json_array();
    for (const struct network *n = first(d); n; n = next(d, n))
        if (!n->leaving)
            json_array_append_new(all, json_pack("{s:s, s:s, s:b}", "name", n->name, "capture",
                                                 n->transparent ? "tproxy" : "redirect", "served", is_served(n)));
    return all;
}
