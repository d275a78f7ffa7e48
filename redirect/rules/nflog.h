/*
 * Packets that the ruleset refused, as netfilter's log (NFLOG) tells them.
 *
 * The socket is opened inside the captured namespace and read by the worker: the packet headers in it are
 * bytes that the container made. Parsing is a pure function over the received buffer.
 */
#pragma once

#include "base/addr.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The groups of one socket: one for refused packets, of which a part is copied, and this much above it one for captured echo
 * requests, which are copied whole. */
#define NFLOG_ECHO_OFFSET 100

#define NFLOG_GROUP_FIRST 9440 /* any number would do; not one that a ulogd setup is likely to have */

#define NFLOG_SPOOFED "spoofed" /* the prefix of a rule that drops for the source address */

#define NFLOG_ALLOWED "allowed" /* of one that lets a new connection pass */

struct nflog_event {
    uint16_t group;
    uint8_t protocol; /* IPPROTO_…; for IPv6 the one behind the extension headers */
    struct addr source,
        destination;   /* ports where the protocol has them (TCP, UDP, DCCP, SCTP, UDP-Lite), else 0 */
    const uint8_t *packet; /* from its IP header on, as far as it was copied; valid during the call */
    size_t packet_length;
    bool spoofed, allowed; /* logged with that prefix */
    uint32_t sequence; /* counts logged packets of the group; a gap is what was lost when nobody read in time */
};

static inline bool nflog_is_echo(const struct nflog_event *event)
{
    return event->group >= NFLOG_GROUP_FIRST + NFLOG_ECHO_OFFSET && event->group < NFLOG_GROUP_FIRST + 2 * NFLOG_ECHO_OFFSET;
}

typedef void (*nflog_each_fn)(const struct nflog_event *event, void *arg);

/* A non-blocking socket that receives what `log group *ret_group` (and that of echo requests) logs in the caller's network
 * namespace; the group is chosen among free ones. -ENOPROTOOPT when the kernel has no NFLOG, another negative errno on
 * failure. */
int nflog_open(uint16_t *ret_group, struct error *err);

/* One buffer as received: calls back for each packet in it that can be told, and leaves out what is
 * malformed. Returns how many. */
int nflog_parse(const void *bytes, size_t length, nflog_each_fn each, void *arg);

/* Receives once and parses. Returns the number of events (0 is possible), -EAGAIN when nothing is there,
 * -ENOBUFS when packets were lost (read on; `sequence` tells how many), or another negative errno. */
int nflog_read(int fd, nflog_each_fn each, void *arg);

/* How many packets the socket has lost since it was made, modulo 2^32; 0 where the kernel does not say. */
uint32_t nflog_lost(int fd);
