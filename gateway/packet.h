/*
 * IP packets by hand: echo requests of a container read, and what is sent back into its namespace written. Pure.
 *
 *   written   UDP with any source (the origin's, as the client knows it), echo replies, and "unreachable" errors that quote what
 *             the client sent, as far as its kernel needs it to find the socket
 *   read      echo requests, from the IP header on (RFC 791, 792, 8200, 4443): whole, unfragmented, without extension headers
 *
 * Checksums: the kernel fills in IPv4's own. UDP over IPv4 goes without (RFC 768): it never leaves the machine's memory.
 */
#pragma once

#include "base/addr.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An echo request as the container made it; `source.port` is its identifier. */
struct packet_echo {
    struct addr source, destination;
    uint16_t sequence;
    const uint8_t *payload; /* in the packet */
    size_t length;
};

/* False when it is none that can be relayed. */
bool packet_read_echo(const uint8_t *bytes, size_t length, struct packet_echo *ret);

/* What stands in front of the payload. */
#define PACKET_HEAD_MAX 48

/* A UDP datagram with this payload, from an address and port to another of the same family. Returns the length of the head. */
size_t packet_udp_head(const struct addr *from, const struct addr *to, const uint8_t *payload, size_t length,
                       uint8_t ret[PACKET_HEAD_MAX]);
/* An echo reply; the identifier is to->port. */
size_t packet_echo_reply_head(const struct addr *from, const struct addr *to, uint16_t sequence,
                              const uint8_t *payload, size_t length, uint8_t ret[PACKET_HEAD_MAX]);
/* What precedes the payload of an echo request on a ping socket, which sets identifier and checksum itself. */
#define PACKET_ECHO_SIZE 8
void packet_echo_request(int family, uint16_t sequence, uint8_t ret[PACKET_ECHO_SIZE]);
/* Whether that came in on one: the reply's sequence number. */
bool packet_read_echo_reply(int family, const uint8_t *bytes, size_t length, uint16_t *ret_sequence);

enum packet_error { PACKET_PROHIBITED, PACKET_PORT_UNREACHABLE, PACKET_HOST_UNREACHABLE, PACKET_TOO_BIG };
/* The datagram or echo request whose sender is to be told; for an echo request source.port is its identifier. */
struct packet_quote {
    bool echo;
    struct addr source, destination;
    uint16_t sequence; /* of an echo request */
    size_t length;     /* of the payload */
    uint16_t mtu;      /* PACKET_TOO_BIG */
};
#define PACKET_ERROR_MAX 96
/* The whole packet, from `quote->destination` to `quote->source`. Returns its length. */
size_t packet_error(enum packet_error what, const struct packet_quote *quote, uint8_t ret[PACKET_ERROR_MAX]);
