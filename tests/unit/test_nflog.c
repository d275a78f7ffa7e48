/* Unit tests of redirect/rules/nflog.c: packets that a container made, read without trusting a length in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "redirect/rules/nflog.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off */
static const uint8_t tcp4[] = {
    0x45, 0x00, 0x00, 0x3c, 0x12, 0x34, 0x40, 0x00, /* version 4, 5 words; length; id; don't fragment, offset 0 */
    0x40, 0x06, 0x00, 0x00,                         /* ttl, TCP, checksum */
    10, 0, 2, 100,  198, 18, 0, 1,                  /* source, destination */
    0x9c, 0x40, 0x00, 0x16, 0, 0, 0, 1,             /* 40000 -> 22 */
};
static const uint8_t udp4_options[] = {
    0x47, 0x00, 0x00, 0x24, 0x12, 0x34, 0x00, 0x00, /* 7 words: 8 bytes of options */
    0x40, 0x11, 0x00, 0x00,
    10, 0, 2, 100,  198, 18, 0, 2,
    0x94, 0x04, 0x00, 0x00, 0x01, 0x01, 0x01, 0x00, /* router alert, no-operations, end */
    0x13, 0x88, 0x01, 0xbb,                         /* 5000 -> 443 */
};
static const uint8_t later_fragment4[] = {
    0x45, 0x00, 0x00, 0x3c, 0x12, 0x34, 0x20, 0x01, /* more fragments, offset 8: what follows is not a header */
    0x40, 0x11, 0x00, 0x00,
    10, 0, 2, 100,  198, 18, 0, 2,
    0x13, 0x88, 0x01, 0xbb,
};
static const uint8_t icmp4[] = {
    0x45, 0x00, 0x00, 0x1c, 0x00, 0x00, 0x00, 0x00,
    0x40, 0x01, 0x00, 0x00,
    10, 0, 2, 100,  198, 18, 0, 3,
    0x08, 0x00, 0xf7, 0xff,                         /* echo request: no ports, though bytes are there */
};
static const uint8_t cut4[] = { /* the log kept the address but not the ports */
    0x45, 0x00, 0x00, 0x3c, 0x12, 0x34, 0x40, 0x00,
    0x40, 0x06, 0x00, 0x00,
    10, 0, 2, 100,  198, 18, 0, 1,
    0x9c, 0x40, 0x00,
};
static const uint8_t short_header4[] = { /* 4 words cannot hold the addresses */
    0x44, 0x00, 0x00, 0x3c, 0x12, 0x34, 0x40, 0x00,
    0x40, 0x06, 0x00, 0x00,
    10, 0, 2, 100,  198, 18, 0, 1,
    0x9c, 0x40, 0x00, 0x16,
};
#define V6(next) \
    0x60, 0x00, 0x00, 0x00, 0x00, 0x08, next, 0x40, /* version 6; payload length; next header; hop limit */ \
    0xfd, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0x01, 0x00, /* fd00::100 */ \
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0x01 /* 2001:db8::1 */
static const uint8_t udp6[] = { V6(17), 0x13, 0x88, 0x01, 0xbb };
static const uint8_t extensions6[] = {
    V6(0),
    43, 1, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0, /* hop-by-hop, 16 bytes, then routing */
    60, 0, 0, 0, 0, 0, 0, 0,                          /* routing, 8 bytes, then destination options */
    44, 0, 0, 0, 0, 0, 0, 0,                          /* destination options, then fragment */
    6, 0, 0x00, 0x01, 0, 0, 0, 9,                     /* first fragment, more to come, then TCP */
    0x9c, 0x40, 0x00, 0x16,
};
static const uint8_t later_fragment6[] = {
    V6(44),
    17, 0, 0x00, 0x08, 0, 0, 0, 9,                    /* offset 8: no UDP header here */
    0x13, 0x88, 0x01, 0xbb,
};
static const uint8_t endless6[] = { /* more extension headers than anyone needs: no ports, the last seen as protocol */
    V6(60),
    60, 0, 0, 0, 0, 0, 0, 0,  60, 0, 0, 0, 0, 0, 0, 0,  60, 0, 0, 0, 0, 0, 0, 0,  60, 0, 0, 0, 0, 0, 0, 0,
    60, 0, 0, 0, 0, 0, 0, 0,  60, 0, 0, 0, 0, 0, 0, 0,  60, 0, 0, 0, 0, 0, 0, 0,  60, 0, 0, 0, 0, 0, 0, 0,
    17, 0, 0, 0, 0, 0, 0, 0,  0x13, 0x88, 0x01, 0xbb,
};
static const uint8_t lying6[] = { V6(60), 17, 255, 0, 0, 0, 0, 0, 0, 0x13, 0x88, 0x01, 0xbb }; /* 2 KiB of options */
static const uint8_t version5[] = { 0x55, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 10, 0, 2, 100, 198, 18, 0, 1, 0, 1, 0, 2 };
/* clang-format on */

#define PACKET(name) name, sizeof(name)
static const struct {
    const char *what;
    const uint8_t *packet;
    size_t length;
    const char *told; /* "PROTOCOL SOURCE DESTINATION"; NULL: left out */
} packets[] = {
    {"TCP over IPv4", PACKET(tcp4), "6 10.0.2.100:40000 198.18.0.1:22"},
    {"UDP behind IPv4 options", PACKET(udp4_options), "17 10.0.2.100:5000 198.18.0.2:443"},
    {"later IPv4 fragment", PACKET(later_fragment4), "17 10.0.2.100:0 198.18.0.2:0"},
    {"ICMP", PACKET(icmp4), "1 10.0.2.100:0 198.18.0.3:0"},
    {"ports cut off", PACKET(cut4), "6 10.0.2.100:0 198.18.0.1:0"},
    {"IPv4 header too short", PACKET(short_header4), NULL},
    {"UDP over IPv6", PACKET(udp6), "17 [fd00::100]:5000 [2001:db8::1]:443"},
    {"TCP behind IPv6 extensions", PACKET(extensions6), "6 [fd00::100]:40000 [2001:db8::1]:22"},
    {"later IPv6 fragment", PACKET(later_fragment6), "17 [fd00::100]:0 [2001:db8::1]:0"},
    {"endless IPv6 extensions", PACKET(endless6), "60 [fd00::100]:0 [2001:db8::1]:0"},
    {"IPv6 extension that lies", PACKET(lying6), "60 [fd00::100]:0 [2001:db8::1]:0"},
    {"version 5", PACKET(version5), NULL},
    {"empty packet", tcp4, 0, NULL},
    {"half an address", tcp4, 18, NULL},
    {"half an IPv6 address", udp6, 39, NULL},
};

/* What the kernel would send for it: nlmsghdr, nfgenmsg, sequence, payload. Returns the length. */
static size_t message_of(const uint8_t *packet, size_t length, uint32_t sequence, uint8_t *ret)
{
    size_t at = sizeof(struct nlmsghdr);
    const struct nfgenmsg general = {.nfgen_family = AF_INET};
    const struct nlattr number = {.nla_len = NLA_HDRLEN + 4, .nla_type = NFULA_SEQ};
    const struct nlattr payload = {.nla_len = (uint16_t)(NLA_HDRLEN + length), .nla_type = NFULA_PAYLOAD};
    uint32_t wire = htonl(sequence);
    memcpy(ret + at, &general, sizeof(general));
    at += sizeof(general);
    memcpy(ret + at, &number, sizeof(number));
    memcpy(ret + at + sizeof(number), &wire, sizeof(wire));
    at += sizeof(number) + sizeof(wire);
    memcpy(ret + at, &payload, sizeof(payload));
    memcpy(ret + at + sizeof(payload), packet, length);
    at += sizeof(payload) + length;
    struct nlmsghdr header = {.nlmsg_len = (uint32_t)at,
                              .nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET};
    memcpy(ret, &header, sizeof(header));
    while (at % 4 != 0)
        ret[at++] = 0;
    return at;
}

struct told {
    char text[2 * ADDR_TEXT_MAX + 8];
    uint32_t sequence;
    int count;
};

static void tell(const struct nflog_event *event, void *arg)
{
    struct told *told = arg;
    char source[ADDR_TEXT_MAX], destination[ADDR_TEXT_MAX];
    snprintf(told->text, sizeof(told->text), "%u %s %s", event->protocol,
             addr_format_with_port(&event->source, source),
             addr_format_with_port(&event->destination, destination));
    told->sequence = event->sequence;
    told->count++;
}

static void packets_are_told(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(packets) / sizeof(packets[0]); i++) {
        uint8_t buffer[512];
        struct told told = {0};
        size_t length = message_of(packets[i].packet, packets[i].length, 7 + (uint32_t)i, buffer);
        int expected = packets[i].told ? 1 : 0;
        int count = nflog_parse(buffer, length, tell, &told);
        if (count != expected || told.count != expected ||
            strcmp(told.text, expected ? packets[i].told : "") != 0)
            fail_msg("%s: %d told, last \"%s\"", packets[i].what, count, told.text);
        if (expected)
            assert_int_equal(told.sequence, 7 + i);
    }
}

/* Several messages in a buffer; those that are none of ours or malformed are stepped over. */
static void messages_of_a_buffer(void **state)
{
    (void)state;
    uint8_t buffer[2048];
    struct told told = {0};
    const struct nlmsghdr done = {.nlmsg_len = sizeof(done), .nlmsg_type = NLMSG_DONE};
    size_t length = message_of(PACKET(tcp4), 1, buffer);
    length += message_of(PACKET(version5), 2, buffer + length);
    memcpy(buffer + length, &done, sizeof(done));
    length += sizeof(done);
    length += message_of(PACKET(udp6), 3, buffer + length);
    assert_int_equal(nflog_parse(buffer, length, tell, &told), 2);
    assert_int_equal(told.sequence, 3);
}

/* Cut at any byte, or with any byte changed: never a read outside (the buffer has exactly that size, for the
 * sanitizers), never more events than messages. */
static void damaged_buffers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(packets) / sizeof(packets[0]); i++) {
        uint8_t whole[512];
        size_t length = message_of(packets[i].packet, packets[i].length, 1, whole);
        for (size_t cut = 0; cut < length; cut++) {
            struct told told = {0};
            uint8_t *part = malloc(cut ? cut : 1);
            assert_non_null(part);
            memcpy(part, whole, cut);
            assert_in_range(nflog_parse(part, cut, tell, &told), 0, 1);
            for (unsigned value = 0; cut > 0 && value < 256; value += 15) {
                part[cut / 2] = (uint8_t)value;
                assert_in_range(nflog_parse(part, cut, tell, &told), 0, 1);
            }
            free(part);
        }
    }
}

static void sizes_that_lie(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        size_t at;
        uint32_t value;
        size_t width;
    } cases[] = {
        {"message shorter than its header", 0, 15, 4},
        {"message of no length", 0, 0, 4},
        {"message longer than the buffer", 0, 4096, 4},
        {"message of 4 GiB", 0, UINT32_MAX, 4},
        {"attribute of no length", 20, 0, 2},
        {"attribute shorter than its header", 20, 3, 2},
        {"attribute longer than the message", 28, UINT16_MAX, 2},
        {"another message type", 4, 0, 2},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t buffer[512];
        struct told told = {0};
        size_t length = message_of(PACKET(tcp4), 1, buffer);
        memcpy(buffer + cases[i].at, &cases[i].value,
               cases[i].width); /* little end first, as the tests' machines */
        if (nflog_parse(buffer, length, tell, &told) != 0)
            fail_msg("%s: told \"%s\"", cases[i].what, told.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packets_are_told),
        cmocka_unit_test(messages_of_a_buffer),
        cmocka_unit_test(damaged_buffers),
        cmocka_unit_test(sizes_that_lie),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
