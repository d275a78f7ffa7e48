/*
 * Links, addresses and routes through rtnetlink. Internal to redirect/. `fd` is a NETLINK_ROUTE socket
 * (netlink_open).
 */
#pragma once

#include "base/addr.h"
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* -EOPNOTSUPP where the kernel has no such device, -EEXIST where the name is taken. */
int rtnl_add_dummy(int fd, const char *name, struct error *err);
int rtnl_add_veth(int fd, const char *name, const char *peer, struct error *err);

/* -ENODEV when there is none. */
int rtnl_remove_link(int fd, const char *name, struct error *err);

int rtnl_set_up(int fd, uint32_t link, struct error *err);

/* No link-local address of its own: so no duplicate detection, no router solicitation. */
int rtnl_set_no_link_local(int fd, uint32_t link, struct error *err);

/* IPv6 addresses are usable at once (no duplicate address detection). Adding one twice is no error. */
int rtnl_add_address(int fd, uint32_t link, const struct addr *address, uint8_t length, struct error *err);

/* Default route of the gateway's family: by `gateway` (taken for on-link), with `source` preferred. */
int rtnl_add_default_route(int fd, uint32_t link, const struct addr *gateway, const struct addr *source,
                           struct error *err);

/* Default route into the loopback link itself, for namespaces that have no other. */
int rtnl_add_default_loopback(int fd, const struct addr *source, struct error *err);

/* What has this mark is local, wherever it was going: a routing rule, and a default route into lo in a table of its own. No error
 * when they are there. */
int rtnl_route_mark(int fd, int family, uint32_t mark, uint32_t table, struct error *err);
/* Take them back; no matter when they are gone. */
void rtnl_unroute_mark(int fd, int family, uint32_t mark, uint32_t table);

/* All that is of this protocol, or of it what goes to `port` (0: to any), is local, but comes as by `link`, as if a socket bound to that
 * link had a neighbour there; `source` is preferred, and its family the rule's. No error when they are there. */
int rtnl_route_protocol(int fd, uint8_t protocol, uint16_t port, uint32_t link, const struct addr *source, uint32_t table,
                        struct error *err);
/* Take them back; no matter when they are gone. */
void rtnl_unroute_protocol(int fd, int family, uint8_t protocol, uint16_t port, uint32_t table);
/* Is the rule there? -ENOENT when it is not. */
int rtnl_check_protocol(int fd, int family, uint8_t protocol, uint16_t port, uint32_t table, struct error *err);

/* Calls back for each link, its kind "" for lo and physical devices, until the callback gives something negative, which is
 * returned. When links come or go meanwhile it begins anew. */
int rtnl_each_link(int fd, int (*each)(const char *name, const char *kind, void *arg), void *arg, struct error *err);

/* -ENOTUNIQ with a sentence when a link is there, up or down, that could lead out: anything but lo, a dummy, a tunnel
 * over this namespace's own routes, or a veth whose other end is in this namespace as well. */
int rtnl_check_closed(int fd, struct error *err);
