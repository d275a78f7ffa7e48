/*
 * rtnetlink, as much of it as a sealed namespace needs. Formats: rtnetlink(7), kernel net/core/rtnetlink.c,
 * net/ipv4/fib_frontend.c, net/ipv6/addrconf.c and route.c.
 *
 * Why the loopback route differs by family: IPv4 takes a unicast route through lo; IPv6 turns any such route
 * into "unreachable" (fib6_is_reject in net/ipv6/route.c) unless it is of type local. A local route makes
 * every address look local to the fib, so the ruleset names local addresses and never asks the fib.
 */
#include "redirect/rules/rtnl.h"

#include "redirect/rules/netlink.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdalign.h>
#include <string.h>
#include <sys/socket.h>

/* As slirp and pasta choose: the largest multiple of eight that IPv4 allows. The packets go over lo in the end, and
 * one bulk upload gets a quarter more through than with 1500 bytes (measured, veth). */
#define MTU 65520

#define LOOPBACK_LINK 1 /* LOOPBACK_IFINDEX in every namespace */

#define REQUEST(buffer) alignas(struct nlmsghdr) char buffer[NETLINK_REQUEST_MAX]

static struct nlmsghdr *link_request(void *buffer, uint16_t flags, uint32_t link, unsigned up)
{
    struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = RTM_NEWLINK;
    request->nlmsg_flags = flags;
    struct ifinfomsg *info = mnl_nlmsg_put_extra_header(request, sizeof(*info));
    info->ifi_family = AF_UNSPEC;
    info->ifi_index = (int)link;
    info->ifi_flags = up;
    info->ifi_change = up;
    return request;
}

int rtnl_add_dummy(int fd, const char *name, struct error *err)
{
    REQUEST(buffer);
    struct nlmsghdr *request = link_request(buffer, NLM_F_CREATE | NLM_F_EXCL, 0, 0);
    mnl_attr_put_strz(request, IFLA_IFNAME, name);
    mnl_attr_put_u32(request, IFLA_MTU, MTU);
    struct nlattr *info = mnl_attr_nest_start(request, IFLA_LINKINFO);
    mnl_attr_put_strz(request, IFLA_INFO_KIND, "dummy");
    mnl_attr_nest_end(request, info);
    return netlink_request(fd, request, "adding a dummy link", err);
}

int rtnl_add_veth(int fd, const char *name, const char *peer, struct error *err)
{
    REQUEST(buffer);
    struct nlmsghdr *request = link_request(buffer, NLM_F_CREATE | NLM_F_EXCL, 0, 0);
    mnl_attr_put_strz(request, IFLA_IFNAME, name);
    mnl_attr_put_u32(request, IFLA_MTU, MTU);
    struct nlattr *info = mnl_attr_nest_start(request, IFLA_LINKINFO);
    mnl_attr_put_strz(request, IFLA_INFO_KIND, "veth");
    struct nlattr *data = mnl_attr_nest_start(request, IFLA_INFO_DATA);
    struct nlattr *other = mnl_attr_nest_start(request, VETH_INFO_PEER);
    mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
    mnl_attr_put_strz(request, IFLA_IFNAME, peer);
    mnl_attr_put_u32(request, IFLA_MTU, MTU);
    mnl_attr_nest_end(request, other);
    mnl_attr_nest_end(request, data);
    mnl_attr_nest_end(request, info);
    return netlink_request(fd, request, "adding a veth pair", err);
}

int rtnl_remove_link(int fd, const char *name, struct error *err)
{
    REQUEST(buffer);
    struct nlmsghdr *request = link_request(buffer, 0, 0, 0);
    request->nlmsg_type = RTM_DELLINK;
    mnl_attr_put_strz(request, IFLA_IFNAME, name);
    return netlink_request(fd, request, "removing a link", err);
}

int rtnl_set_up(int fd, uint32_t link, struct error *err)
{
    REQUEST(buffer);
    struct nlmsghdr *request = link_request(buffer, 0, link, IFF_UP);
    return netlink_request(fd, request, "setting a link up", err);
}

int rtnl_set_no_link_local(int fd, uint32_t link, struct error *err)
{
    REQUEST(buffer);
    struct nlmsghdr *request = link_request(buffer, 0, link, 0);
    struct nlattr *families = mnl_attr_nest_start(request, IFLA_AF_SPEC);
    struct nlattr *inet6 = mnl_attr_nest_start(request, AF_INET6);
    mnl_attr_put_u8(request, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
    mnl_attr_nest_end(request, inet6);
    mnl_attr_nest_end(request, families);
    return netlink_request(fd, request, "switching link-local addresses off", err);
}

static void put_addr(struct nlmsghdr *request, uint16_t type, const struct addr *a)
{
    mnl_attr_put(request, type, a->family == AF_INET ? 4 : 16, a->bytes);
}

static int add_route(int fd, struct rtmsg route, uint32_t link, const struct addr *gateway,
                     const struct addr *source, const char *step, struct error *err)
{
    REQUEST(buffer);
    struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = RTM_NEWROUTE;
    request->nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE;
    struct rtmsg *r = mnl_nlmsg_put_extra_header(request, sizeof(*r));
    *r = route;
    r->rtm_family = source->family;
    r->rtm_protocol = RTPROT_STATIC;
    mnl_attr_put_u32(request, RTA_OIF, link);
    put_addr(request, RTA_PREFSRC, source);
    if (route.rtm_dst_len > 0)
        put_addr(request, RTA_DST, source);
    if (gateway)
        put_addr(request, RTA_GATEWAY, gateway);
    return netlink_request(fd, request, step, err);
}

/* The kernel adds the local route of a new IPv6 address from a work queue (addrconf_dad_work), even without
 * duplicate detection; until then answers to the address get lost. So add one that holds at once; the
 * kernel's has another metric and comes beside it. */
static int add_local_route(int fd, uint32_t link, const struct addr *address, struct error *err)
{
    struct rtmsg route = {.rtm_type = RTN_LOCAL, .rtm_table = RT_TABLE_LOCAL, .rtm_dst_len = 128};
    return add_route(fd, route, link, NULL, address, "adding the IPv6 local route", err);
}

int rtnl_add_address(int fd, uint32_t link, const struct addr *address, uint8_t length, struct error *err)
{
    REQUEST(buffer);
    struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = RTM_NEWADDR;
    request->nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE;
    struct ifaddrmsg *a = mnl_nlmsg_put_extra_header(request, sizeof(*a));
    a->ifa_family = address->family;
    a->ifa_prefixlen = length;
    a->ifa_flags = address->family == AF_INET6 ? IFA_F_NODAD : 0;
    a->ifa_index = link;
    put_addr(request, IFA_LOCAL, address);
    put_addr(request, IFA_ADDRESS, address);
    const char *step = address->family == AF_INET ? "adding the IPv4 address" : "adding the IPv6 address";
    int r = netlink_request(fd, request, step, err);
    return r == 0 && address->family == AF_INET6 ? add_local_route(fd, link, address, err) : r;
}

int rtnl_add_default_route(int fd, uint32_t link, const struct addr *gateway, const struct addr *source,
                           struct error *err)
{
    struct rtmsg route = {.rtm_type = RTN_UNICAST, .rtm_table = RT_TABLE_MAIN, .rtm_flags = RTNH_F_ONLINK};
    const char *step =
        source->family == AF_INET ? "adding the IPv4 default route" : "adding the IPv6 default route";
    return add_route(fd, route, link, gateway, source, step, err);
}

int rtnl_add_default_loopback(int fd, const struct addr *source, struct error *err)
{
    struct rtmsg route = {.rtm_type = RTN_UNICAST, .rtm_table = RT_TABLE_MAIN, .rtm_scope = RT_SCOPE_LINK};
    if (source->family == AF_INET6)
        route = (struct rtmsg){.rtm_type = RTN_LOCAL, .rtm_table = RT_TABLE_MAIN};
    return add_route(fd, route, LOOPBACK_LINK, NULL, source, "adding a default route through lo", err);
}

/* What a routing rule of ours is for: packets with a mark (not 0), else a protocol, and of it one port (0: all). */
struct capture_rule {
    int family;
    uint32_t mark;
    uint8_t protocol;
    uint16_t port;
    uint32_t table;
};

static int change_rule(int fd, uint16_t type, uint16_t flags, const struct capture_rule *what, struct error *err)
{
    REQUEST(buffer);
    struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = type;
    request->nlmsg_flags = flags;
    struct fib_rule_hdr *rule = mnl_nlmsg_put_extra_header(request, sizeof(*rule));
    rule->family = (uint8_t)what->family;
    rule->action = FR_ACT_TO_TBL;
    mnl_attr_put_u32(request, FRA_PRIORITY, what->table); /* one of its own: the kernel takes those that it chooses for different rules */
    if (what->mark) {
        mnl_attr_put_u32(request, FRA_FWMARK, what->mark);
        mnl_attr_put_u32(request, FRA_FWMASK, UINT32_MAX);
    } else {
        mnl_attr_put_u8(request, FRA_IP_PROTO, what->protocol);
    }
    if (what->port) {
        const struct fib_rule_port_range range = {what->port, what->port};
        mnl_attr_put(request, FRA_DPORT_RANGE, sizeof(range), &range);
    }
    mnl_attr_put_u32(request, FRA_TABLE, what->table);
    return netlink_request(fd, request, "the routing rule for captured packets", err);
}

/* A default route that makes everything local; `source` may be NULL. */
static int change_route(int fd, uint16_t type, uint16_t flags, int family, uint32_t link, const struct addr *source,
                        uint32_t table, struct error *err)
{
    REQUEST(buffer);
    struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = type;
    request->nlmsg_flags = flags;
    struct rtmsg *route = mnl_nlmsg_put_extra_header(request, sizeof(*route));
    route->rtm_family = (uint8_t)family;
    route->rtm_protocol = RTPROT_STATIC;
    route->rtm_type = RTN_LOCAL;
    route->rtm_scope = family == AF_INET ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
    mnl_attr_put_u32(request, RTA_TABLE, table);
    if (source)
        put_addr(request, RTA_PREFSRC, source);
    if (link)
        mnl_attr_put_u32(request, RTA_OIF, link);
    return netlink_request(fd, request, "the route for captured packets", err);
}

static int capture(int fd, const struct capture_rule *what, uint32_t link, const struct addr *source, struct error *err)
{
    int r = change_route(fd, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, what->family, link, source, what->table, err);
    if (r == 0)
        r = change_rule(fd, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, what, err);
    return r == -EEXIST ? 0 : r;
}

/* Twice: an answer that got lost is about something that may be done or not, and who is told that it is not there has what it wants. */
static void release(int fd, const struct capture_rule *what)
{
    if (change_rule(fd, RTM_DELRULE, 0, what, NULL) < 0)
        (void)change_rule(fd, RTM_DELRULE, 0, what, NULL);
    if (change_route(fd, RTM_DELROUTE, 0, what->family, 0, NULL, what->table, NULL) < 0)
        (void)change_route(fd, RTM_DELROUTE, 0, what->family, 0, NULL, what->table, NULL);
}

int rtnl_route_mark(int fd, int family, uint32_t mark, uint32_t table, struct error *err)
{
    return capture(fd, &(struct capture_rule){.family = family, .mark = mark, .table = table}, LOOPBACK_LINK, NULL, err);
}

void rtnl_unroute_mark(int fd, int family, uint32_t mark, uint32_t table)
{
    release(fd, &(struct capture_rule){.family = family, .mark = mark, .table = table});
}

int rtnl_route_protocol(int fd, uint8_t protocol, uint16_t port, uint32_t link, const struct addr *source, uint32_t table,
                        struct error *err)
{
    const struct capture_rule what = {.family = source->family, .protocol = protocol, .port = port, .table = table};
    return capture(fd, &what, link, source, err);
}

void rtnl_unroute_protocol(int fd, int family, uint8_t protocol, uint16_t port, uint32_t table)
{
    release(fd, &(struct capture_rule){.family = family, .protocol = protocol, .port = port, .table = table});
}

/* What rtnl_check_closed() has to know about one link. */
struct link_facts {
    const char *name;
    const char *kind; /* "" for lo and physical devices */
    bool elsewhere;   /* its other end, or what carries it, is in another namespace */
};

static int take_kind(const struct nlattr *attribute, void *data)
{
    struct link_facts *facts = data;
    if (mnl_attr_get_type(attribute) == IFLA_INFO_KIND)
        facts->kind = mnl_attr_get_str(attribute);
    return MNL_CB_OK;
}

static int take_fact(const struct nlattr *attribute, void *data)
{
    struct link_facts *facts = data;
    switch (mnl_attr_get_type(attribute)) {
    case IFLA_IFNAME:
        facts->name = mnl_attr_get_str(attribute);
        break;
    case IFLA_LINKINFO:
        mnl_attr_parse_nested(attribute, take_kind, facts);
        break;
    case IFLA_LINK_NETNSID:
        facts->elsewhere = true;
        break;
    }
    return MNL_CB_OK;
}

/* Kinds that end in this namespace as long as no other one is linked to them. A kernel may put its fallback
 * tunnels (tunl0, sit0, …) into every new namespace; what they carry takes this namespace's own routes. */
static bool is_closed_kind(const char *kind)
{
    static const char *const kinds[] = {"dummy",     "veth",   "ipip",   "sit",    "ip6tnl",
                                        "gre",       "gretap", "erspan", "ip6gre", "ip6gretap",
                                        "ip6erspan", "vti",    "vti6"};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (strcmp(kind, kinds[i]) == 0)
            return true;
    return false;
}

static int check_link(const struct nlmsghdr *message, void *arg)
{
    struct error *err = arg;
    const struct ifinfomsg *info = mnl_nlmsg_get_payload(message);
    struct link_facts facts = {.name = "?", .kind = ""};
    if (message->nlmsg_type != RTM_NEWLINK || info->ifi_flags & IFF_LOOPBACK)
        return 0;
    mnl_attr_parse(message, sizeof(*info), take_fact, &facts);
    if (is_closed_kind(facts.kind) && !facts.elsewhere)
        return 0;
    return error_set(err, ENOTUNIQ, "the namespace is not sealed: it has a link \"%s\"%s%s that may lead out",
                     facts.name, *facts.kind ? " of kind " : "", facts.kind);
}

/* A list of `what`. */
static int list_all(int fd, uint16_t type, size_t header_size, uint8_t family, const char *what, netlink_each_fn look, void *arg,
                    struct error *err)
{
    REQUEST(buffer);
    struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = type;
    *(uint8_t *)mnl_nlmsg_put_extra_header(request, header_size) = family; /* the first byte of all of them */
    return netlink_list(fd, request, what, look, arg, err);
}

static int list_links(int fd, netlink_each_fn look, void *arg, struct error *err)
{
    return list_all(fd, RTM_GETLINK, sizeof(struct ifinfomsg), AF_UNSPEC, "listing the links", look, arg, err);
}

/* A list that changed meanwhile may lack the one link that matters. */
int rtnl_check_closed(int fd, struct error *err)
{
    int r = -ESTALE;
    for (int i = 0; i < NETLINK_LIST_TRIES && r == -ESTALE; i++)
        r = list_links(fd, check_link, err, err);
    return r;
}

/* Of a routing rule: what it is for. */
static int take_selector(const struct nlattr *attribute, void *data)
{
    struct capture_rule *rule = data;
    struct fib_rule_port_range range = {0, UINT16_MAX};
    switch (mnl_attr_get_type(attribute)) {
    case FRA_FWMARK:
        rule->mark = mnl_attr_get_u32(attribute);
        break;
    case FRA_IP_PROTO:
        rule->protocol = mnl_attr_get_u8(attribute);
        break;
    case FRA_DPORT_RANGE:
        if (mnl_attr_get_payload_len(attribute) >= sizeof(range))
            memcpy(&range, mnl_attr_get_payload(attribute), sizeof(range));
        rule->port = range.start == range.end ? range.start : UINT16_MAX;
        break;
    case FRA_TABLE:
        rule->table = mnl_attr_get_u32(attribute);
        break;
    }
    return MNL_CB_OK;
}

struct search {
    const struct capture_rule *wanted;
    bool found;
};

static int compare_rule(const struct nlmsghdr *message, void *arg)
{
    struct search *search = arg;
    struct capture_rule rule = {0};
    if (message->nlmsg_type != RTM_NEWRULE)
        return 0;
    mnl_attr_parse(message, sizeof(struct fib_rule_hdr), take_selector, &rule);
    search->found |= rule.table == search->wanted->table && rule.protocol == search->wanted->protocol &&
                     rule.port == search->wanted->port && rule.mark == 0;
    return 0;
}

int rtnl_check_protocol(int fd, int family, uint8_t protocol, uint16_t port, uint32_t table, struct error *err)
{
    const struct capture_rule wanted = {.family = family, .protocol = protocol, .port = port, .table = table};
    struct search search = {.wanted = &wanted};
    int r = -ESTALE;
    for (int i = 0; i < NETLINK_LIST_TRIES && r == -ESTALE; i++)
        r = list_all(fd, RTM_GETRULE, sizeof(struct fib_rule_hdr), (uint8_t)family, "listing the routing rules", compare_rule, &search, err);
    if (r < 0 || search.found)
        return r;
    return error_set(err, ENOENT, "the routing rule that captures %s over %s is gone", protocol == IPPROTO_TCP ? "TCP" : "DNS",
                     family == AF_INET ? "IPv4" : "IPv6");
}

struct each_link {
    int (*each)(const char *name, const char *kind, void *arg);
    void *arg;
};

static int tell_link(const struct nlmsghdr *message, void *arg)
{
    const struct each_link *call = arg;
    struct link_facts facts = {.name = "?", .kind = ""};
    if (message->nlmsg_type != RTM_NEWLINK)
        return 0;
    mnl_attr_parse(message, sizeof(struct ifinfomsg), take_fact, &facts);
    return call->each(facts.name, facts.kind, call->arg);
}

int rtnl_each_link(int fd, int (*each)(const char *name, const char *kind, void *arg), void *arg, struct error *err)
{
    struct each_link call = {each, arg};
    int r = -ESTALE;
    for (int i = 0; i < NETLINK_LIST_TRIES && r == -ESTALE; i++)
        r = list_links(fd, tell_link, &call, err);
    return r;
}
