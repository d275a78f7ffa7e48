/*
 * UDP and echo requests of a sealed namespace: what there is to them besides rules. Internal to redirect/.
 *
 *   out   the ruleset marks a packet; a routing rule sends what is marked to lo; there TPROXY hands UDP to a transparent
 *         socket of ours, which is told the original destination (IP_RECVORIGDSTADDR), and an echo request is copied whole
 *         into a log group (nflog.h) and ends
 *   back  a raw socket sends whole IP packets, made by the worker: answers that come from where the client sent to, and
 *         errors. It receives nothing.
 *
 * All of it stays inside the namespace: who takes the rules away takes away his own connectivity.
 */
#pragma once

#include "redirect/rules/sealed.h"

#define PACKETS_MARK 0x53414c4cu
#define PACKETS_TABLE 9440 /* of routes */
#define ANSWERS_MARK 0x53414c41u /* of what the raw sockets send: so an answer to a client at port 53 is no question */

/* Opens those of udp and raw that are -1, on the ports they had before when there is a before. A family that the kernel lacks stays
 * -1. */
int packets_open(const struct sealed_past *past, struct capture_sockets *sockets, struct error *err);
/* The same for raw alone, of the families that `sockets` has; what they send has ANSWERS_MARK from now on. */
int packets_open_raw(struct capture_sockets *sockets, struct error *err);
/* As much room for datagrams as the caller may give: in a user namespace of his own he has less to give than outside. */
void packets_widen(const struct capture_sockets *sockets);
/* The routing rule and the route; no error when they are there. `route` is a NETLINK_ROUTE socket. */
int packets_route(int route, bool ipv6, struct error *err);
/* Take them back. No error when they are gone. */
void packets_unroute(int route);
