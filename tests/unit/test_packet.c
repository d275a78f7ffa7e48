/* Unit tests of gateway/packet.c: packets by hand, held against the formats of the RFCs. What a kernel makes of them:
 * tests/unit/test_sealed.c and tests/netns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "gateway/packet.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

static struct addr address(const char *text, uint16_t port)
{
    struct addr a = {0};
    assert_true(addr_parse(text, strlen(text), &a));
    a.port = port;
    return a;
}

/* The sum of RFC 1071, slowly. */
static uint32_t add(uint32_t total, const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        total += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
    return total;
}

static uint16_t fold(uint32_t total)
{
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (uint16_t)total;
}

/* 0xffff when the checksum is right: over pseudo-header (IPv6) and all behind the IP header. */
static uint16_t checked(const uint8_t *packet, size_t length)
{
    bool four = packet[0] >> 4 == 4;
    size_t ip = four ? 20 : 40;
    uint32_t total = 0;
    if (!four)
        total = add((uint32_t)packet[6] + (uint32_t)(length - ip), packet + 8, 32);
    return fold(add(total, packet + ip, length - ip));
}

static void datagrams_have_heads(void **state)
{
    (void)state;
    static const uint8_t expected4[] = {
        0x45, 0,   0,    33,   0, 0,  0, 0, 64, 17, 0, 0, 198, 18, 0, 1, 10, 0, 2, 100, /* IPv4 */
        0,    123, 0x9c, 0x40, 0, 13, 0, 0, /* UDP, without checksum */
    };
    const struct addr from4 = address("198.18.0.1", 123), to4 = address("10.0.2.100", 40000),
                      from6 = address("2001:db8::1", 123), to6 = address("fd00::100", 40000);
    uint8_t packet[PACKET_HEAD_MAX + 5];
    assert_int_equal(packet_udp_head(&from4, &to4, (const uint8_t *)"hello", 5, packet), sizeof(expected4));
    assert_memory_equal(packet, expected4, sizeof(expected4));
    assert_int_equal(packet_udp_head(&from6, &to6, (const uint8_t *)"hello", 5, packet), 48);
    memcpy(packet + 48, "hello", 5);
    assert_int_equal(packet[0] >> 4, 6);
    assert_int_equal(packet[5], 13);
    assert_int_equal(packet[6], IPPROTO_UDP);
    assert_memory_equal(packet + 8, from6.bytes, 16);
    assert_memory_equal(packet + 24, to6.bytes, 16);
    assert_int_equal(checked(packet, 53), 0xffff);
}

/* Every length, also odd ones, and a sum that comes to zero is written as ffff (RFC 768). */
static void checksums_are_right_whatever_the_length(void **state)
{
    (void)state;
    const struct addr from = address("2001:db8::1", 123), to = address("fd00::100", 40000);
    static uint8_t packet[PACKET_HEAD_MAX + 2000];
    for (size_t length = 0; length < 1500; length += length < 70 ? 1 : 97) {
        for (size_t i = 0; i < length; i++)
            packet[48 + i] = (uint8_t)(i * 37 + length);
        assert_int_equal(packet_udp_head(&from, &to, packet + 48, length, packet), 48);
        assert_int_equal(checked(packet, 48 + length), 0xffff);
        assert_int_equal(packet_echo_reply_head(&from, &to, 7, packet + 48, length, packet), 48);
        assert_int_equal(checked(packet, 48 + length), 0xffff);
    }
    memset(packet, 0, sizeof(packet));
    packet_udp_head(&from, &to, packet + 48, 2, packet);
    uint16_t sum =
        (uint16_t)(packet[46] << 8 | packet[47]); /* ~sum of the rest; this payload makes it zero */
    packet[48] = (uint8_t)(sum >> 8);
    packet[49] = (uint8_t)sum;
    packet_udp_head(&from, &to, packet + 48, 2, packet);
    assert_true(packet[46] == 0xff && packet[47] == 0xff);
}

static void echo_replies_have_heads(void **state)
{
    (void)state;
    const struct addr from = address("198.18.0.1", 0), to = address("10.0.2.100", 0xbeef);
    uint8_t packet[PACKET_HEAD_MAX + 3];
    assert_int_equal(packet_echo_reply_head(&from, &to, 0x1234, (const uint8_t *)"abc", 3, packet), 28);
    memcpy(packet + 28, "abc", 3);
    static const uint8_t icmp[] = {0, 0};
    static const uint8_t rest[] = {0xbe, 0xef, 0x12, 0x34, 'a', 'b', 'c'};
    assert_int_equal(packet[9], IPPROTO_ICMP);
    assert_memory_equal(packet + 20, icmp, sizeof(icmp));
    assert_memory_equal(packet + 24, rest, sizeof(rest));
    assert_int_equal(checked(packet, 31), 0xffff);
}

static void errors_quote_what_was_sent(void **state)
{
    (void)state;
    static const struct {
        enum packet_error what;
        uint8_t type4, code4, type6, code6;
    } cases[] = {{PACKET_PROHIBITED, 3, 13, 1, 1},
                 {PACKET_PORT_UNREACHABLE, 3, 3, 1, 4},
                 {PACKET_HOST_UNREACHABLE, 3, 1, 1, 3},
                 {PACKET_TOO_BIG, 3, 4, 2, 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        for (int echo = 0; echo < 2; echo++) {
            struct packet_quote quote = {.echo = echo,
                                         .source = address("10.0.2.100", 40000),
                                         .destination = address("198.18.0.1", 123),
                                         .sequence = 9,
                                         .length = 100,
                                         .mtu = 1400};
            uint8_t packet[PACKET_ERROR_MAX];
            assert_int_equal(packet_error(cases[i].what, &quote, packet), 20 + 8 + 20 + 8);
            assert_int_equal(packet[20], cases[i].type4);
            assert_int_equal(packet[21], cases[i].code4);
            assert_int_equal(checked(packet, 56), 0xffff);
            assert_int_equal(packet[26] << 8 | packet[27], cases[i].what == PACKET_TOO_BIG ? 1400 : 0);
            assert_memory_equal(packet + 12, quote.destination.bytes, 4); /* told in the destination's name */
            assert_memory_equal(packet + 28 + 12, quote.source.bytes, 4);
            assert_memory_equal(packet + 28 + 16, quote.destination.bytes, 4);
            assert_int_equal(packet[28 + 9], echo ? IPPROTO_ICMP : IPPROTO_UDP);
            assert_int_equal(packet[48 + (echo ? 4 : 0)] << 8 | packet[48 + (echo ? 5 : 1)], 40000);
            quote.source = address("fd00::100", 40000);
            quote.destination = address("2001:db8::1", 123);
            assert_int_equal(packet_error(cases[i].what, &quote, packet), 40 + 8 + 40 + 8);
            assert_int_equal(packet[40], cases[i].type6);
            assert_int_equal(packet[41], cases[i].code6);
            assert_int_equal(checked(packet, 96), 0xffff);
            assert_int_equal(packet[48 + 6], echo ? IPPROTO_ICMPV6 : IPPROTO_UDP);
        }
    }
}

/* clang-format off */
#define HEAD4(length, fragment, protocol) \
    0x45, 0, 0, length, 0, 1, fragment, 0, 64, protocol, 0, 0, 10, 0, 2, 100, 198, 18, 0, 1
#define HEAD6(length, next) \
    0x60, 0, 0, 0, 0, length, next, 64, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x00, \
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01
#define ECHO(type) type, 0, 0xaa, 0xbb, 0xbe, 0xef, 0x12, 0x34
/* clang-format on */

struct reading {
    const char *what;
    size_t length;
    uint8_t bytes[80];
};

static void echo_requests_are_read(void **state)
{
    (void)state;
    static const struct reading good[] = {
        {"IPv4", 31, {HEAD4(31, 0, 1), ECHO(8), 'a', 'b', 'c'}},
        {"IPv4, don't fragment, bytes behind the packet",
         34,
         {HEAD4(31, 0x40, 1), ECHO(8), 'a', 'b', 'c', 1, 2, 3}},
        {"IPv6", 51, {HEAD6(11, 58), ECHO(128), 'a', 'b', 'c'}},
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        struct packet_echo echo;
        if (!packet_read_echo(good[i].bytes, good[i].length, &echo))
            fail_msg("%s", good[i].what);
        bool four = i < 2;
        const struct addr from = address(four ? "10.0.2.100" : "fd00::100", 0xbeef),
                          to = address(four ? "198.18.0.1" : "2001:db8::1", 0);
        assert_true(addr_equal(&echo.source, &from) && addr_equal(&echo.destination, &to));
        assert_int_equal(echo.sequence, 0x1234);
        assert_int_equal(echo.length, 3);
        assert_memory_equal(echo.payload, "abc", 3);
    }
    static const struct reading options = {"options", 32, {0x46, 0, 0, 32, 0, 1, 0,      0,   64,
                                                           1,    0, 0, 10, 0, 2, 100,    198, 18,
                                                           0,    1, 1, 1,  1, 0, ECHO(8)}};
    struct packet_echo echo;
    assert_true(packet_read_echo(options.bytes, options.length, &echo) && echo.length == 0);
}

static void what_is_no_echo_request_is_none(void **state)
{
    (void)state;
    static const struct reading bad[] = {
        {"nothing", 0, {0}},
        {"another version", 28, {0x55, 0,  0, 28, 0,   1,   0,  0, 64, 1,      0,
                                 0,    10, 0, 2,  100, 198, 18, 0, 1,  ECHO(8)}},
        {"a header of four words", 28, {0x44, 0,  0, 28, 0,   1,   0,  0, 64, 1,      0,
                                        0,    10, 0, 2,  100, 198, 18, 0, 1,  ECHO(8)}},
        {"a header longer than the packet", 28, {0x4f, 0,  0, 28, 0,   1,   0,  0, 64, 1,      0,
                                                 0,    10, 0, 2,  100, 198, 18, 0, 1,  ECHO(8)}},
        {"shorter than it says", 28, {HEAD4(29, 0, 1), ECHO(8)}},
        {"shorter than its header", 28, {HEAD4(19, 0, 1), ECHO(8)}},
        {"a first fragment", 28, {HEAD4(28, 0x20, 1), ECHO(8)}},
        {"a later fragment", 28, {HEAD4(28, 0x01, 1), ECHO(8)}},
        {"UDP", 28, {HEAD4(28, 0, 17), ECHO(8)}},
        {"a reply", 28, {HEAD4(28, 0, 1), ECHO(0)}},
        {"a code", 28, {HEAD4(28, 0, 1), 8, 1, 0, 0, 0, 0, 0, 0}},
        {"cut short", 27, {HEAD4(27, 0, 1), 8, 0, 0, 0, 0, 0, 0}},
        {"IPv6's type over IPv4", 28, {HEAD4(28, 0, 1), ECHO(128)}},
        {"IPv4's type over IPv6", 48, {HEAD6(8, 58), ECHO(8)}},
        {"ICMP over IPv6", 48, {HEAD6(8, 1), ECHO(128)}},
        {"behind an extension header", 56, {HEAD6(16, 60), 58, 0, 0, 0, 0, 0, 0, 0, ECHO(128)}},
        {"IPv6, shorter than it says", 48, {HEAD6(9, 58), ECHO(128)}},
        {"IPv6, half a header", 30, {HEAD6(8, 58)}},
    };
    struct packet_echo echo;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        uint8_t *copy = malloc(bad[i].length ? bad[i].length : 1); /* nothing to read behind it */
        memcpy(copy, bad[i].bytes, bad[i].length);
        if (packet_read_echo(copy, bad[i].length, &echo))
            fail_msg("%s", bad[i].what);
        free(copy);
    }
}

static void replies_of_ping_sockets_are_read(void **state)
{
    (void)state;
    static const uint8_t reply4[] = {ECHO(0), 'x'}, reply6[] = {ECHO(129)}, other[] = {ECHO(3)};
    uint8_t request[PACKET_ECHO_SIZE];
    uint16_t sequence = 0;
    assert_true(packet_read_echo_reply(AF_INET, reply4, sizeof(reply4), &sequence) && sequence == 0x1234);
    assert_true(packet_read_echo_reply(AF_INET6, reply6, sizeof(reply6), &sequence));
    assert_false(packet_read_echo_reply(AF_INET, reply6, sizeof(reply6), &sequence));
    assert_false(packet_read_echo_reply(AF_INET, other, sizeof(other), &sequence));
    assert_false(packet_read_echo_reply(AF_INET, reply4, 7, &sequence));
    assert_false(packet_read_echo_reply(AF_INET, reply4, 0, &sequence));
    packet_echo_request(AF_INET, 0x1234, request);
    assert_true(request[0] == 8 && request[6] == 0x12 && request[7] == 0x34);
    packet_echo_request(AF_INET6, 1, request);
    assert_int_equal(request[0], 128);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(datagrams_have_heads),
        cmocka_unit_test(checksums_are_right_whatever_the_length),
        cmocka_unit_test(echo_replies_have_heads),
        cmocka_unit_test(errors_quote_what_was_sent),
        cmocka_unit_test(echo_requests_are_read),
        cmocka_unit_test(what_is_no_echo_request_is_none),
        cmocka_unit_test(replies_of_ping_sockets_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
