#include "base/addr.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static bool parse_quad(const char *text, size_t length, struct addr *ret)
{
    struct addr a = {.family = AF_INET};
    size_t at = 0;
    for (int octet = 0; octet < 4; octet++) {
        unsigned value = 0;
        size_t start = at;
        while (at < length && text[at] >= '0' && text[at] <= '9' && at - start < 3)
            value = value * 10 + (unsigned)(text[at++] - '0');
        if (at == start || value > 255 || (at - start > 1 && text[start] == '0'))
            return false;
        a.bytes[octet] = (uint8_t)value;
        if (octet < 3 && (at >= length || text[at++] != '.'))
            return false;
    }
    if (at != length)
        return false;
    *ret = a;
    return true;
}

bool addr_parse(const char *text, size_t length, struct addr *ret)
{
    char copy[INET6_ADDRSTRLEN + 1];
    if (length == 0 || length >= sizeof(copy) || memchr(text, 0, length))
        return false;
    if (!memchr(text, ':', length))
        return parse_quad(text, length, ret);
    memcpy(copy, text, length);
    copy[length] = 0;
    struct addr a = {.family = AF_INET6};
    if (inet_pton(AF_INET6, copy, a.bytes) != 1)
        return false;
    *ret = a;
    return true;
}

bool addr_parse_port(const char *text, size_t length, uint16_t *ret)
{
    unsigned value = 0;
    if (length == 0 || length > 5 || text[0] == '0')
        return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (unsigned)(text[i] - '0');
    }
    if (value > 65535)
        return false;
    *ret = (uint16_t)value;
    return true;
}

bool addr_parse_with_port(const char *text, uint16_t default_port, struct addr *ret)
{
    struct addr a;
    size_t length = strlen(text);
    if (addr_parse(text, length, &a)) {
        a.port = default_port;
        *ret = a;
        return true;
    }
    const char *colon = strrchr(text, ':');
    uint16_t port;
    if (!colon || !addr_parse_port(colon + 1, strlen(colon + 1), &port))
        return false;
    const char *host = text;
    size_t host_length = (size_t)(colon - text);
    bool bracketed = host_length >= 2 && host[0] == '[' && host[host_length - 1] == ']';
    if (bracketed) {
        host++;
        host_length -= 2;
    }
    if (!addr_parse(host, host_length, &a) || bracketed != (a.family == AF_INET6))
        return false;
    a.port = port;
    *ret = a;
    return true;
}

/* Clears the bits of `bytes` behind `length`; says whether any of them was set. */
static bool clear_host_bits(uint8_t *bytes, size_t size, unsigned length)
{
    bool any = false;
    for (size_t i = 0; i < size; i++) {
        unsigned keep = length >= (i + 1) * 8 ? 8 : length > i * 8 ? length - (unsigned)i * 8 : 0;
        uint8_t mask = (uint8_t)(0xff00u >> keep);
        any |= (bytes[i] & (uint8_t)~mask) != 0;
        bytes[i] &= mask;
    }
    return any;
}

bool cidr_parse(const char *text, size_t length, bool loose, struct cidr *ret)
{
    const char *slash = memchr(text, '/', length);
    size_t host_length = slash ? (size_t)(slash - text) : length;
    struct cidr c = {0};
    if (!addr_parse(text, host_length, &c.base))
        return false;
    unsigned bits = c.base.family == AF_INET ? 32 : 128;
    unsigned prefix = bits;
    if (slash) {
        size_t digits = length - host_length - 1;
        if (digits == 0 || digits > 3 || (digits > 1 && slash[1] == '0'))
            return false;
        prefix = 0;
        for (size_t i = 0; i < digits; i++) {
            if (slash[1 + i] < '0' || slash[1 + i] > '9')
                return false;
            prefix = prefix * 10 + (unsigned)(slash[1 + i] - '0');
        }
        if (prefix > bits)
            return false;
    }
    c.length = (uint8_t)prefix;
    if (clear_host_bits(c.base.bytes, bits / 8, prefix) && !loose)
        return false;
    *ret = c;
    return true;
}

static char *put_decimal(char *at, unsigned value)
{
    char digits[10], *first = digits + sizeof(digits);
    do
        *--first = (char)('0' + value % 10);
    while (value /= 10);
    size_t length = (size_t)(digits + sizeof(digits) - first);
    return (char *)memcpy(at, first, length) + length;
}

/* By hand, where glibc's inet_ntop() goes through sprintf(): every audit event has two of them. */
static char *put_ipv4(char *at, const uint8_t bytes[4])
{
    for (int i = 0; i < 4; i++) {
        at = put_decimal(at, bytes[i]);
        *at++ = '.';
    }
    *--at = 0;
    return at;
}

const char *addr_format(const struct addr *a, char text[ADDR_TEXT_MAX])
{
    text[0] = 0;
    if (a->family == AF_INET)
        put_ipv4(text, a->bytes);
    else if (a->family == AF_INET6)
        inet_ntop(AF_INET6, a->bytes, text, ADDR_TEXT_MAX);
    return text;
}

const char *addr_format_with_port(const struct addr *a, char text[ADDR_TEXT_MAX])
{
    char ip[ADDR_TEXT_MAX], *at = text;
    size_t length = strlen(addr_format(a, ip)); /* 45 at most: INET6_ADDRSTRLEN */
    if (a->family == AF_INET6)
        *at++ = '[';
    at = (char *)memcpy(at, ip, length) + length;
    if (a->family == AF_INET6)
        *at++ = ']';
    *at++ = ':';
    *put_decimal(at, a->port) = 0;
    return text;
}

const char *cidr_format(const struct cidr *c, char text[ADDR_TEXT_MAX])
{
    char ip[ADDR_TEXT_MAX];
    snprintf(text, ADDR_TEXT_MAX, "%.46s/%u", addr_format(&c->base, ip), c->length);
    return text;
}

bool addr_from_sockaddr(const struct sockaddr *sa, struct addr *ret)
{
    struct addr a = {0};
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof(in));
        a.family = AF_INET;
        a.port = ntohs(in.sin_port);
        memcpy(a.bytes, &in.sin_addr, 4);
    } else if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof(in6));
        a.port = ntohs(in6.sin6_port);
        if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
            a.family = AF_INET;
            memcpy(a.bytes, in6.sin6_addr.s6_addr + 12, 4);
        } else {
            a.family = AF_INET6;
            memcpy(a.bytes, &in6.sin6_addr, 16);
        }
    } else {
        return false;
    }
    *ret = a;
    return true;
}

socklen_t addr_to_sockaddr(const struct addr *a, struct sockaddr_storage *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (a->family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)ret;
        in->sin_family = AF_INET;
        in->sin_port = htons(a->port);
        memcpy(&in->sin_addr, a->bytes, 4);
        return sizeof(*in);
    }
    if (a->family == AF_INET6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(a->port);
        memcpy(&in6->sin6_addr, a->bytes, 16);
        return sizeof(*in6);
    }
    return 0;
}

bool addr_equal_ip(const struct addr *a, const struct addr *b)
{
    return a->family == b->family && memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

bool addr_equal(const struct addr *a, const struct addr *b)
{
    return addr_equal_ip(a, b) && a->port == b->port;
}

bool cidr_contains(const struct cidr *c, const struct addr *a)
{
    if (c->base.family != a->family)
        return false;
    struct addr masked = *a;
    clear_host_bits(masked.bytes, a->family == AF_INET ? 4 : 16, c->length);
    return addr_equal_ip(&masked, &c->base);
}
