/*
 * Addresses: one value type for IPv4 and IPv6, with an optional port, and networks (CIDR).
 * Pure: no sockets are opened here; sockaddr conversions are only conversions.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct addr {
    uint8_t family;    /* AF_INET, AF_INET6; 0 (AF_UNSPEC) when empty */
    uint16_t port;     /* host byte order; 0 when there is none */
    uint8_t bytes[16]; /* network byte order; the first 4 for IPv4, the rest zero */
};

struct cidr {
    struct addr base; /* host bits zero, port 0 */
    uint8_t length;   /* prefix length in bits */
};

#define ADDR_TEXT_MAX 64 /* "[v6 address]:65535" and a NUL fit */

/* Strict literals only: dotted quad of four decimal octets without leading zeros, RFC 4291 IPv6 without zone or
 * brackets. Returns false and leaves *ret alone on anything else (octal, hex, short forms). Port becomes 0. */
bool addr_parse(const char *text, size_t length, struct addr *ret);

/* ADDR, ADDR:PORT, [V6]:PORT or a bare V6; `default_port` where none is written. */
bool addr_parse_with_port(const char *text, uint16_t default_port, struct addr *ret);

/* Decimal 1-65535 without sign, space or leading zero. */
bool addr_parse_port(const char *text, size_t length, uint16_t *ret);

/* ADDR/LEN or a bare address (a network of one). Host bits that are not zero are refused unless `loose`. */
bool cidr_parse(const char *text, size_t length, bool loose, struct cidr *ret);

/* "192.0.2.1" / "2001:db8::1" into `text`; returns `text`. Empty address: "". */
const char *addr_format(const struct addr *a, char text[ADDR_TEXT_MAX]);
/* "192.0.2.1:443" / "[2001:db8::1]:443". */
const char *addr_format_with_port(const struct addr *a, char text[ADDR_TEXT_MAX]);
const char *cidr_format(const struct cidr *c, char text[ADDR_TEXT_MAX]);

/* IPv4-mapped IPv6 (::ffff:a.b.c.d) comes out as IPv4. False for other families. */
bool addr_from_sockaddr(const struct sockaddr *sa, struct addr *ret);
/* Returns the length to pass with it, 0 for an empty address. */
socklen_t addr_to_sockaddr(const struct addr *a, struct sockaddr_storage *ret);

bool addr_equal_ip(const struct addr *a, const struct addr *b); /* the port is not compared */
bool addr_equal(const struct addr *a, const struct addr *b);
bool cidr_contains(const struct cidr *c, const struct addr *a); /* families must agree */
