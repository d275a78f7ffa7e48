/*
 * The sealed namespace (DESIGN section 3): a network namespace with no link to the outside, whose packets can only end
 * in the gateway's own sockets.
 *
 * sealed_capture() runs *inside* the new namespace (a short-lived child; see enclosure.h), needs CAP_NET_ADMIN over it and
 * nothing else: no program is started, everything is netlink (libmnl, libnftnl).
 */
#pragma once

#include "acl/policy.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The sockets of one captured namespace, created in it. -1 where there is none (a family the kernel lacks). */
struct capture_sockets {
    int tcp[2];     /* [0] IPv4, [1] IPv6: listening; transparent, else accepted flows carry SO_ORIGINAL_DST */
    int dns_udp[2]; /* bound; transparent as they are, else answers are sent by them */
    int dns_tcp[2]; /* listening */
    int nflog;      /* netlink: packets that the ruleset refused, captured echo requests; -1 when the kernel has no NFLOG */
    int udp[2];     /* transparent; only where the policy has rules for UDP or ICMP: packets.h */
    int raw[2];     /* to send whole IP packets into the namespace; there likewise, or where dns_udp is transparent */
};
#define CAPTURE_SOCKETS 11
#define CAPTURE_SOCKETS_NONE {{-1, -1}, {-1, -1}, {-1, -1}, -1, {-1, -1}, {-1, -1}}
void capture_sockets_close(struct capture_sockets *sockets);

/* How a namespace was captured: what a successor needs to go on from there instead of doing it again. */
struct sealed_past {
    uint16_t ports[CAPTURE_SOCKETS];   /* a bit of each socket of capture_sockets, in order; 0: none */
    uint64_t cookies[CAPTURE_SOCKETS]; /* SO_COOKIE: given once until the machine restarts, so a socket is told from any other */
    int group;                         /* of NFLOG; -1: none */
    uint64_t fingerprint;              /* of the ruleset */
    uint64_t plan;                     /* a hash of the plan the ruleset was made by; 0: nothing is known */
    bool transparent;                  /* are the sockets for TCP and DNS? */
};
/* Notes ports and cookies. */
void sealed_note_sockets(const struct capture_sockets *sockets, struct sealed_past *past);
/* Gives the socket its place by its cookie; false: it is none of these, and stays the caller's. */
bool sealed_place_socket(const struct sealed_past *past, int fd, struct capture_sockets *sockets);

enum sealed_link { SEALED_LINK_AUTO, SEALED_LINK_DUMMY, SEALED_LINK_VETH, SEALED_LINK_LO };

/* Addresses inside, after the convention of slirp and QEMU user networking. The name server is what resolv.conf names;
 * any other is captured as well. */
#define SEALED_ADDRESS4 "10.0.2.100/24"
#define SEALED_GATEWAY4 "10.0.2.2"
#define SEALED_RESOLVER4 "10.0.2.3"
#define SEALED_ADDRESS6 "fd00::100/64"
#define SEALED_GATEWAY6 "fd00::2"
#define SEALED_RESOLVER6 "fd00::3"

/* How a namespace is to be captured. All that follows runs inside the namespace. */
struct sealed_plan {
    const struct acl_port_range *ports;
    size_t port_count;
    enum sealed_link link;
    bool attached; /* the namespace keeps its own links: no link is added, and none is refused */
    bool translate; /* TCP and DNS by NAT. An attached namespace has it so; in a sealed one it costs more, and is for where the other way is missing */
    const struct acl_port_range *udp_ports; /* UDP to capture, and whether echo requests */
    size_t udp_port_count;
    bool echo;
    bool packets_optional; /* only audit mode asks for them, no rule: where the kernel or a capability is missing, they are refused */
};
/* What a policy needs captured; with `every_port`, whatever there is. The ports are the policy's own. */
void sealed_plan_policy(const struct acl_policy *policy, bool every_port, struct sealed_plan *plan);
/* Opens those of `sockets` that the plan wants and that are not there yet (rules for UDP or ICMP came with a reload, or they are of an
 * older version), into *ret_more. */
int sealed_open_more(const struct sealed_plan *plan, const struct capture_sockets *sockets, struct capture_sockets *ret_more,
                     struct error *err);
/* Moves the descriptors of `from` into the places of `to`, which are empty. */
void capture_sockets_join(struct capture_sockets *to, struct capture_sockets *from);
/* Build links, addresses, routes, sysctls, sockets and the ruleset, and test it: a connection to an unroutable address must come
 * back to our own listener with the original destination intact, a port that no rule names must be refused at once, for both
 * families. All or an error; on error every socket is closed. Where it was done before, rules and addresses are replaced, sockets
 * new. *ret_group is what sealed_update() wants to know. A namespace with a link that leads out is refused before anything in it is touched: it may
 * be somebody's. When it fails later, what it did is taken back. */
int sealed_capture(const struct sealed_plan *plan, struct capture_sockets *ret, int *ret_group, struct error *err);
/* A namespace that was captured before, by the same plan, and whose sockets were lost: new ones on the same ports make the ruleset
 * that is still there right again, so nothing else is done, and nothing tested twice. Fails, and has changed nothing, when the
 * ruleset is not what it was, a port is taken, or a link leads out: then sealed_capture() does it anew or says why not. */
int sealed_resume(const struct sealed_plan *plan, const struct sealed_past *past, struct capture_sockets *ret, struct error *err);
/* The same when the sockets are still there; a ruleset that is not what it was is made anew. *ret_fingerprint is its own. */
int sealed_renew(const struct sealed_plan *plan, const struct sealed_past *past, bool same_plan, const struct capture_sockets *sockets,
                 uint64_t *ret_fingerprint, struct error *err);
/* The ruleset anew, with other ports, for the sockets that are there. */
int sealed_update(const struct sealed_plan *plan, const struct capture_sockets *sockets, int group, struct error *err);
/* Take back what sealed_capture() put there. No error when there is nothing. A link that leads out is never touched. */
int sealed_remove(bool attached, struct error *err);
/* 0 when all is in force as `past` says (its fingerprint that of sealed_fingerprint() after sealed_capture() or sealed_update()). */
int sealed_verify(bool attached, const struct sealed_past *past, struct error *err);
int sealed_fingerprint(uint64_t *ret, struct error *err);

/* The original destination of an accepted TCP socket, by its family (SO_ORIGINAL_DST at SOL_IP, or
 * IP6T_SO_ORIGINAL_DST at SOL_IPV6; netfilter's nf_conntrack_proto.c). 0 or a negative errno; never falls back to the
 * local address: -ELOOP when nothing was redirected, so that the client dialled the listener itself. Works from any
 * namespace. */
int original_destination(int fd, int family, struct addr *ret);
/* The same for a connection of a transparent listener, which is bound to `listener`. */
int transparent_destination(int fd, const struct addr *listener, struct addr *ret);
bool socket_is_transparent(int fd, int family);
