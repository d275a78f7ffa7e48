#include "gateway/packet.h"

#include "base/cursor.h"

#include <netinet/in.h>
#include <string.h>

#define IP4_SIZE 20
#define IP6_SIZE 40
#define UDP_SIZE 8
#define HOP_LIMIT 64

enum { ECHO_REPLY4 = 0, UNREACHABLE4 = 3, ECHO_REQUEST4 = 8 };
enum { UNREACHABLE6 = 1, TOO_BIG6 = 2, ECHO_REQUEST6 = 128, ECHO_REPLY6 = 129 };

/* ---- writing ---- */

static void put16(uint8_t *to, size_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

/* One's complement sum (RFC 1071), 64 bits at a time; byte order comes out right by itself. An odd number of bytes may only come
 * last. */
static uint64_t sum(uint64_t so_far, const uint8_t *bytes, size_t length)
{
    for (; length >= 4; length -= 4, bytes += 4) {
        uint32_t word;
        memcpy(&word, bytes, sizeof(word));
        so_far += word;
    }
    if (length) {
        uint32_t word = 0;
        memcpy(&word, bytes, length);
        so_far += word;
    }
    return so_far;
}

static void put_checksum(uint8_t *to, uint64_t total)
{
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    uint16_t folded = (uint16_t)~total;
    memcpy(to, &folded, sizeof(folded));
}

/* The pseudo-header of IPv6 (RFC 8200 section 8.1). */
static uint64_t sum_addresses(const struct addr *from, const struct addr *to, uint8_t protocol, size_t length)
{
    uint8_t rest[8] = {0, (uint8_t)(length >> 16)};
    put16(rest + 2, length);
    rest[7] = protocol;
    return sum(sum(sum(0, from->bytes, 16), to->bytes, 16), rest, sizeof(rest));
}

/* The IP header for `length` bytes behind it. The kernel writes IPv4's total length, identification and checksum. */
static size_t put_ip(uint8_t *ret, const struct addr *from, const struct addr *to, uint8_t protocol,
                     size_t length)
{
    if (from->family == AF_INET) {
        memset(ret, 0, IP4_SIZE);
        ret[0] = 0x45;
        put16(ret + 2, IP4_SIZE + length);
        ret[8] = HOP_LIMIT;
        ret[9] = protocol;
        memcpy(ret + 12, from->bytes, 4);
        memcpy(ret + 16, to->bytes, 4);
        return IP4_SIZE;
    }
    memset(ret, 0, 8);
    ret[0] = 0x60;
    put16(ret + 4, length);
    ret[6] = protocol;
    ret[7] = HOP_LIMIT;
    memcpy(ret + 8, from->bytes, 16);
    memcpy(ret + 24, to->bytes, 16);
    return IP6_SIZE;
}

size_t packet_udp_head(const struct addr *from, const struct addr *to, const uint8_t *payload, size_t length,
                       uint8_t ret[PACKET_HEAD_MAX])
{
    size_t ip = put_ip(ret, from, to, IPPROTO_UDP, UDP_SIZE + length);
    uint8_t *udp = ret + ip;
    put16(udp, from->port);
    put16(udp + 2, to->port);
    put16(udp + 4, UDP_SIZE + length);
    put16(udp + 6, 0);
    if (from->family != AF_INET) {
        uint64_t total = sum(sum_addresses(from, to, IPPROTO_UDP, UDP_SIZE + length), udp, UDP_SIZE);
        put_checksum(udp + 6, sum(total, payload, length));
        if (udp[6] == 0 && udp[7] == 0) /* zero would say that there is none */
            udp[6] = udp[7] = 0xff;
    }
    return ip + UDP_SIZE;
}

static size_t put_echo(uint8_t *icmp, uint8_t type, uint16_t id, uint16_t sequence)
{
    memset(icmp, 0, PACKET_ECHO_SIZE);
    icmp[0] = type;
    put16(icmp + 4, id);
    put16(icmp + 6, sequence);
    return PACKET_ECHO_SIZE;
}

size_t packet_echo_reply_head(const struct addr *from, const struct addr *to, uint16_t sequence,
                              const uint8_t *payload, size_t length, uint8_t ret[PACKET_HEAD_MAX])
{
    bool four = from->family == AF_INET;
    uint8_t protocol = four ? IPPROTO_ICMP : IPPROTO_ICMPV6;
    size_t ip = put_ip(ret, from, to, protocol, PACKET_ECHO_SIZE + length);
    put_echo(ret + ip, four ? ECHO_REPLY4 : ECHO_REPLY6, to->port, sequence);
    uint64_t total = four ? 0 : sum_addresses(from, to, protocol, PACKET_ECHO_SIZE + length);
    put_checksum(ret + ip + 2, sum(sum(total, ret + ip, PACKET_ECHO_SIZE), payload, length));
    return ip + PACKET_ECHO_SIZE;
}

void packet_echo_request(int family, uint16_t sequence, uint8_t ret[PACKET_ECHO_SIZE])
{
    put_echo(ret, family == AF_INET ? ECHO_REQUEST4 : ECHO_REQUEST6, 0, sequence);
}

/* The headers that the sender's kernel looks its socket up by. */
static size_t put_quote(uint8_t *ret, const struct packet_quote *quote)
{
    bool four = quote->source.family == AF_INET;
    uint8_t protocol = !quote->echo ? IPPROTO_UDP : four ? IPPROTO_ICMP : IPPROTO_ICMPV6;
    size_t ip = put_ip(ret, &quote->source, &quote->destination, protocol, 8 + quote->length);
    if (quote->echo) {
        put_echo(ret + ip, four ? ECHO_REQUEST4 : ECHO_REQUEST6, quote->source.port, quote->sequence);
    } else {
        put16(ret + ip, quote->source.port);
        put16(ret + ip + 2, quote->destination.port);
        put16(ret + ip + 4, UDP_SIZE + quote->length);
        put16(ret + ip + 6, 0);
    }
    return ip + 8;
}

/* Type, code and the word behind the checksum (RFC 792, RFC 1191, RFC 4443). */
static void put_error(uint8_t *icmp, enum packet_error what, bool four, uint16_t mtu)
{
    static const uint8_t codes4[] = {[PACKET_PROHIBITED] = 13,
                                     [PACKET_PORT_UNREACHABLE] = 3,
                                     [PACKET_HOST_UNREACHABLE] = 1,
                                     [PACKET_TOO_BIG] = 4};
    static const uint8_t codes6[] = {[PACKET_PROHIBITED] = 1,
                                     [PACKET_PORT_UNREACHABLE] = 4,
                                     [PACKET_HOST_UNREACHABLE] = 3,
                                     [PACKET_TOO_BIG] = 0};
    memset(icmp, 0, 8);
    icmp[0] = four ? UNREACHABLE4 : what == PACKET_TOO_BIG ? TOO_BIG6 : UNREACHABLE6;
    icmp[1] = four ? codes4[what] : codes6[what];
    if (what == PACKET_TOO_BIG)
        put16(icmp + 6, mtu);
}

size_t packet_error(enum packet_error what, const struct packet_quote *quote, uint8_t ret[PACKET_ERROR_MAX])
{
    bool four = quote->source.family == AF_INET;
    uint8_t protocol = four ? IPPROTO_ICMP : IPPROTO_ICMPV6;
    uint8_t body[8 + IP6_SIZE + 8];
    put_error(body, what, four, quote->mtu);
    size_t length = 8 + put_quote(body + 8, quote);
    uint64_t total = four ? 0 : sum_addresses(&quote->destination, &quote->source, protocol, length);
    put_checksum(body + 2, sum(total, body, length));
    size_t ip = put_ip(ret, &quote->destination, &quote->source, protocol, length);
    memcpy(ret + ip, body, length);
    return ip + length;
}
_Static_assert(IP6_SIZE + 8 + IP6_SIZE + 8 <= PACKET_ERROR_MAX, "an error about IPv6 fits");

/* ---- reading ---- */

static void take_address(struct cursor *c, uint8_t family, struct addr *ret)
{
    size_t size = family == AF_INET ? 4 : 16;
    const uint8_t *bytes = cursor_take(c, size);
    *ret = (struct addr){.family = family};
    if (bytes)
        memcpy(ret->bytes, bytes, size);
}

/* Leaves what the length field says is behind the header. */
static bool read_ip4(struct cursor *c, struct packet_echo *ret)
{
    size_t header = (size_t)(cursor_u8(c) & 0x0f) * 4;
    cursor_take(c, 1); /* type of service */
    size_t total = cursor_u16(c);
    cursor_take(c, 2); /* identification */
    bool fragment = (cursor_u16(c) & 0x3fff) != 0;
    cursor_take(c, 1); /* time to live */
    uint8_t protocol = cursor_u8(c);
    cursor_take(c, 2); /* checksum */
    take_address(c, AF_INET, &ret->source);
    take_address(c, AF_INET, &ret->destination);
    if (!cursor_ok(c) || header < IP4_SIZE || total < header || fragment || protocol != IPPROTO_ICMP)
        return false;
    cursor_take(c, header - IP4_SIZE);
    *c = cursor_sub(c, total - header);
    return cursor_ok(c);
}

static bool read_ip6(struct cursor *c, struct packet_echo *ret)
{
    cursor_take(c, 4); /* version, traffic class, flow label */
    size_t length = cursor_u16(c);
    uint8_t next = cursor_u8(c);
    cursor_take(c, 1); /* hop limit */
    take_address(c, AF_INET6, &ret->source);
    take_address(c, AF_INET6, &ret->destination);
    if (!cursor_ok(c) || next != IPPROTO_ICMPV6)
        return false;
    *c = cursor_sub(c, length);
    return cursor_ok(c);
}

bool packet_read_echo(const uint8_t *bytes, size_t length, struct packet_echo *ret)
{
    struct cursor c = cursor_over(bytes, length);
    struct packet_echo echo = {0};
    bool four = length > 0 && bytes[0] >> 4 == 4, six = length > 0 && bytes[0] >> 4 == 6;
    if (!(four && read_ip4(&c, &echo)) && !(six && read_ip6(&c, &echo)))
        return false;
    uint8_t type = cursor_u8(&c), code = cursor_u8(&c);
    cursor_take(&c, 2); /* checksum */
    echo.source.port = cursor_u16(&c);
    echo.sequence = cursor_u16(&c);
    if (!cursor_ok(&c) || type != (four ? ECHO_REQUEST4 : ECHO_REQUEST6) || code != 0)
        return false;
    echo.payload = c.at;
    echo.length = c.left;
    *ret = echo;
    return true;
}

bool packet_read_echo_reply(int family, const uint8_t *bytes, size_t length, uint16_t *ret_sequence)
{
    struct cursor c = cursor_over(bytes, length);
    uint8_t type = cursor_u8(&c);
    cursor_take(&c, 5); /* code, checksum, identifier */
    uint16_t sequence = cursor_u16(&c);
    if (!cursor_ok(&c) || type != (family == AF_INET ? ECHO_REPLY4 : ECHO_REPLY6))
        return false;
    *ret_sequence = sequence;
    return true;
}
