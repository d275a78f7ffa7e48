/* Unit tests of acl/guard.c: address by address, with the first and last of each range and their outer
 * neighbours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "acl/guard.h"

#include <string.h>

#define PUBLIC ACL_GUARD_PUBLIC
#define PRIVATE ACL_GUARD_PRIVATE
#define NEVER ACL_GUARD_NEVER

struct guard_case {
    const char *text;
    enum acl_guard_class class;
    const char *name; /* a part of the range's name; NULL: not looked at */
};

static void check(const struct guard_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct addr a;
        if (!addr_parse(cases[i].text, strlen(cases[i].text), &a))
            fail_msg("%s is no address", cases[i].text);
        a.port = 443; /* plays no part */
        const char *name = acl_guard_range_name(&a);
        if (acl_guard_classify(&a) != cases[i].class)
            fail_msg("%s is class %d (%s)", cases[i].text, acl_guard_classify(&a), name);
        if (cases[i].name && !strstr(name, cases[i].name))
            fail_msg("%s is called %s", cases[i].text, name);
        assert_int_equal(strcmp(name, "public") == 0, cases[i].class == PUBLIC);
    }
}

#define CHECK(cases) check(cases, sizeof(cases) / sizeof(*(cases)))

static void ipv4_ranges_have_their_edges(void **state)
{
    (void)state;
    static const struct guard_case cases[] = {
        {"0.0.0.0", NEVER, "unspecified"},
        {"0.255.255.255", NEVER, "RFC 791"},
        {"1.0.0.0", PUBLIC, NULL},
        {"9.255.255.255", PUBLIC, NULL},
        {"10.0.0.0", PRIVATE, "RFC 1918"},
        {"10.255.255.255", PRIVATE, "RFC 1918"},
        {"11.0.0.0", PUBLIC, NULL},
        {"100.63.255.255", PUBLIC, NULL},
        {"100.64.0.0", PRIVATE, "RFC 6598"},
        {"100.127.255.255", PRIVATE, "RFC 6598"},
        {"100.128.0.0", PUBLIC, NULL},
        {"126.255.255.255", PUBLIC, NULL},
        {"127.0.0.0", NEVER, "loopback"},
        {"127.0.0.1", NEVER, "loopback"},
        {"127.255.255.255", NEVER, "loopback"},
        {"128.0.0.0", PUBLIC, NULL},
        {"169.253.255.255", PUBLIC, NULL},
        {"169.254.0.0", NEVER, "link-local"},
        {"169.254.255.255", NEVER, "link-local"},
        {"169.255.0.0", PUBLIC, NULL},
        {"172.15.255.255", PUBLIC, NULL},
        {"172.16.0.0", PRIVATE, "RFC 1918"},
        {"172.31.255.255", PRIVATE, "RFC 1918"},
        {"172.32.0.0", PUBLIC, NULL},
        {"191.255.255.255", PUBLIC, NULL},
        {"192.0.0.0", PRIVATE, "RFC 6890"},
        {"192.0.0.9", PRIVATE, "RFC 6890"},
        {"192.0.0.255", PRIVATE, "RFC 6890"},
        {"192.0.1.0", PUBLIC, NULL},
        {"192.0.1.255", PUBLIC, NULL},
        {"192.0.2.0", PRIVATE, "documentation"},
        {"192.0.2.255", PRIVATE, "documentation"},
        {"192.0.3.0", PUBLIC, NULL},
        {"192.31.195.255", PUBLIC, NULL},
        {"192.31.196.0", PRIVATE, "AS112"},
        {"192.31.196.255", PRIVATE, "AS112"},
        {"192.31.197.0", PUBLIC, NULL},
        {"192.52.192.255", PUBLIC, NULL},
        {"192.52.193.0", PRIVATE, "AMT"},
        {"192.52.193.255", PRIVATE, "AMT"},
        {"192.52.194.0", PUBLIC, NULL},
        {"192.88.98.255", PUBLIC, NULL},
        {"192.88.99.0", PRIVATE, "6to4 relay"},
        {"192.88.99.255", PRIVATE, "6to4 relay"},
        {"192.88.100.0", PUBLIC, NULL},
        {"192.167.255.255", PUBLIC, NULL},
        {"192.168.0.0", PRIVATE, "RFC 1918"},
        {"192.168.255.255", PRIVATE, "RFC 1918"},
        {"192.169.0.0", PUBLIC, NULL},
        {"192.175.47.255", PUBLIC, NULL},
        {"192.175.48.0", PRIVATE, "AS112"},
        {"192.175.48.255", PRIVATE, "AS112"},
        {"192.175.49.0", PUBLIC, NULL},
        {"198.17.255.255", PUBLIC, NULL},
        {"198.18.0.0", PRIVATE, "RFC 2544"},
        {"198.19.255.255", PRIVATE, "RFC 2544"},
        {"198.20.0.0", PUBLIC, NULL},
        {"198.51.99.255", PUBLIC, NULL},
        {"198.51.100.0", PRIVATE, "RFC 5737"},
        {"198.51.100.255", PRIVATE, "RFC 5737"},
        {"198.51.101.0", PUBLIC, NULL},
        {"203.0.112.255", PUBLIC, NULL},
        {"203.0.113.0", PRIVATE, "RFC 5737"},
        {"203.0.113.255", PRIVATE, "RFC 5737"},
        {"203.0.114.0", PUBLIC, NULL},
        {"223.255.255.255", PUBLIC, NULL},
        {"224.0.0.0", NEVER, "multicast"},
        {"239.255.255.255", NEVER, "multicast"},
        {"240.0.0.0", PRIVATE, "reserved"},
        {"255.255.255.254", PRIVATE, "reserved"},
        {"255.255.255.255", NEVER, "broadcast"},
    };
    CHECK(cases);
}

static void metadata_is_never_reached(void **state)
{
    (void)state;
    static const struct guard_case cases[] = {
        {"169.254.169.254", NEVER, "cloud metadata"},
        {"169.254.170.2", NEVER, "cloud metadata"},
        {"169.254.170.23", NEVER, "cloud metadata"},
        {"168.63.129.16", NEVER, "Azure"},
        {"168.63.129.15", PUBLIC, NULL},
        {"168.63.129.17", PUBLIC, NULL},
        {"100.100.100.200", NEVER, "Alibaba"}, /* inside the NAT range that a configuration may open */
        {"100.100.100.199", PRIVATE, "RFC 6598"},
        {"192.0.0.192", NEVER, "Oracle"},
        {"192.0.0.193", PRIVATE, NULL},
        {"fd00:ec2::254", NEVER, "AWS"},
        {"fd00:ec2::23", NEVER, "AWS"},
        {"fd00:ec2::253", PRIVATE, "RFC 4193"},
        {"fd20:ce::254", NEVER, "GCP"},
        {"fd00:42::42", NEVER, "Scaleway"},
        {"::ffff:169.254.169.254", NEVER, "cloud metadata"},
        {"64:ff9b::169.254.169.254", NEVER, "cloud metadata"},
    };
    CHECK(cases);
}

static void ipv6_ranges_have_their_edges(void **state)
{
    (void)state;
    static const struct guard_case cases[] = {
        {"::", NEVER, "unspecified"},
        {"::1", NEVER, "loopback"},
        {"64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "not global unicast"},
        {"64:ff9b:0:0:0:1::", PRIVATE, "not global unicast"},
        {"64:ff9b:2::", PRIVATE, "not global unicast"},
        {"100::", PRIVATE, "discard"},
        {"100::ffff:ffff:ffff:ffff", PRIVATE, "discard"},
        {"100:0:0:1::", PRIVATE, "RFC 9780"},
        {"100:0:0:2::", PRIVATE, "not global unicast"},
        {"1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "not global unicast"},
        {"2000::", PUBLIC, NULL},
        {"2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", PUBLIC, NULL},
        {"2001:1::1", PRIVATE, "RFC 2928"},
        {"2001:2::", PRIVATE, "RFC 5180"},
        {"2001:2:0:ffff:ffff:ffff:ffff:ffff", PRIVATE, "RFC 5180"},
        {"2001:2:1::", PRIVATE, "RFC 2928"},
        {"2001:3::", PRIVATE, "AMT"},
        {"2001:4:112::", PRIVATE, "AS112"},
        {"2001:10::", PRIVATE, "ORCHID,"},
        {"2001:1f:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "ORCHID,"},
        {"2001:20::", PRIVATE, "ORCHIDv2"},
        {"2001:2f:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "ORCHIDv2"},
        {"2001:30::", PRIVATE, "RFC 9374"},
        {"2001:40::", PRIVATE, "RFC 2928"},
        {"2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "RFC 2928"},
        {"2001:200::", PUBLIC, NULL},
        {"2001:4860:4860::8888", PUBLIC, NULL},
        {"2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", PUBLIC, NULL},
        {"2001:db8::", PRIVATE, "RFC 3849"},
        {"2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "RFC 3849"},
        {"2001:db9::", PUBLIC, NULL},
        {"2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", PUBLIC, NULL},
        {"2003::", PUBLIC, NULL},
        {"2620:4f:7fff:ffff:ffff:ffff:ffff:ffff", PUBLIC, NULL},
        {"2620:4f:8000::", PRIVATE, "AS112"},
        {"2620:4f:8000:ffff:ffff:ffff:ffff:ffff", PRIVATE, "AS112"},
        {"2620:4f:8001::", PUBLIC, NULL},
        {"3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", PUBLIC, NULL},
        {"3fff::", PRIVATE, "RFC 9637"},
        {"3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "RFC 9637"},
        {"3fff:1000::", PUBLIC, NULL},
        {"3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", PUBLIC, NULL},
        {"4000::", PRIVATE, "not global unicast"},
        {"5f00::", PRIVATE, "RFC 9602"},
        {"5f01::", PRIVATE, "not global unicast"},
        {"fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "not global unicast"},
        {"fc00::", PRIVATE, "RFC 4193"},
        {"fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "RFC 4193"},
        {"fe00::", PRIVATE, "not global unicast"},
        {"fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "not global unicast"},
        {"fe80::", NEVER, "link-local"},
        {"fe80::a9fe:a9fe", NEVER, "link-local"}, /* OpenStack's metadata */
        {"febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NEVER, "link-local"},
        {"fec0::", PRIVATE, "RFC 3879"},
        {"feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "RFC 3879"},
        {"ff00::", NEVER, "multicast"},
        {"ff02::1", NEVER, "multicast"},
        {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NEVER, "multicast"},
    };
    CHECK(cases);
}

/* Whatever wraps it, an IPv4 address is judged as itself, and the wrapping is never better than private. */
static void embedded_ipv4_is_judged(void **state)
{
    (void)state;
    static const struct guard_case cases[] = {
        /* mapped, compatible, translated */
        {"::ffff:8.8.8.8", PRIVATE, "IPv4-mapped"},
        {"::ffff:10.0.0.1", PRIVATE, NULL},
        {"::ffff:127.0.0.1", NEVER, "loopback"},
        {"::ffff:0.0.0.0", NEVER, "unspecified"},
        {"::ffff:255.255.255.255", NEVER, "broadcast"},
        {"::8.8.8.8", PRIVATE, "IPv4-compatible"},
        {"::127.0.0.1", NEVER, "loopback"},
        {"::2", NEVER, "RFC 791"},
        {"::ffff:0:8.8.8.8", PRIVATE, "IPv4-translated"},
        {"::ffff:0:127.0.0.1", NEVER, "loopback"},
        /* NAT64, well-known */
        {"64:ff9b::8.8.8.8", PRIVATE, "NAT64"},
        {"64:ff9b::127.0.0.1", NEVER, "loopback"},
        {"64:ff9b::10.0.0.1", PRIVATE, NULL},
        {"64:ff9b::224.0.0.1", NEVER, "multicast"},
        /* NAT64, local use: /96, /48, /56 and /64 layouts of RFC 6052 section 2.2 */
        {"64:ff9b:1::8.8.8.8", PRIVATE, "local-use NAT64"},
        {"64:ff9b:1:ffff::127.0.0.1", NEVER, "loopback"},
        {"64:ff9b:1:808:8:800::", PRIVATE, "local-use NAT64"},   /* 8.8.8.8 at bits 48-63, 72-87 */
        {"64:ff9b:1:7f00:0:100::", NEVER, "loopback"},           /* 127.0.0.1 */
        {"64:ff9b:1:aaa9:fe:a9fe::", NEVER, "cloud metadata"},   /* 169.254.169.254 at bits 56-63, 72-95 */
        {"64:ff9b:1:0:a9:fea9:fe00:0", NEVER, "cloud metadata"}, /* 169.254.169.254 at bits 72-103 */
        /* 6to4: 2002:V4ADDR::/48 */
        {"2002:808:808::1", PRIVATE, "6to4"},
        {"2002:7f00:1::1", NEVER, "loopback"},
        {"2002:a9fe:a9fe::", NEVER, "cloud metadata"},
        {"2002:a00:1::", PRIVATE, NULL},
        {"2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NEVER, "broadcast"},
        /* Teredo: server, flags, port, client with its bits inverted */
        {"2001:0:4136:e378:8000:63bf:3fff:fdd2", PRIVATE,
         "Teredo"}, /* client 192.0.2.45, server 65.54.227.120 */
        {"2001:0:4136:e378:8000:63bf:80ff:fffe", NEVER, "loopback"},       /* client 127.0.0.1 */
        {"2001:0:4136:e378:8000:63bf:5601:5601", NEVER, "cloud metadata"}, /* client 169.254.169.254 */
        {"2001:0:7f00:1:8000:63bf:f7f7:f7f7", NEVER, "loopback"}, /* server 127.0.0.1, client 8.8.8.8 */
        {"2001:0:808:808:0:0:f7f7:f7f7", PRIVATE, "Teredo"},      /* 8.8.8.8 both */
        {"2001:0:808:808:0:0:7f00:1", PRIVATE, "Teredo"}, /* reads 127.0.0.1 only if one forgets to invert */
        /* ISATAP in any prefix */
        {"2001:4860::5efe:8.8.8.8", PRIVATE, "ISATAP"},
        {"2001:4860::200:5efe:8.8.8.8", PRIVATE, "ISATAP"},
        {"2001:4860::5efe:127.0.0.1", NEVER, "loopback"},
        {"2001:4860::200:5efe:169.254.169.254", NEVER, "cloud metadata"},
        {"2001:4860::100:5efe:127.0.0.1", PUBLIC, NULL}, /* the group bit is no ISATAP */
        {"2001:4860::5eff:127.0.0.1", PUBLIC, NULL},
        {"fe80::5efe:8.8.8.8", NEVER, "link-local"},
    };
    CHECK(cases);
}

static void what_is_no_address_is_never_reached(void **state)
{
    (void)state;
    const struct addr empty = {0};
    assert_int_equal(acl_guard_classify(&empty), ACL_GUARD_NEVER);
    assert_string_equal(acl_guard_range_name(&empty), "not an address");
}

/* The RFC stands beside the range for whoever reads an audit log. */
static void ranges_name_their_source(void **state)
{
    (void)state;
    static const char *const texts[] = {"10.1.1.1", "192.0.2.7", "224.1.1.1",
                                        "fe80::2",  "fc00::2",   "2002:808:808::"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        struct addr a;
        assert_true(addr_parse(texts[i], strlen(texts[i]), &a));
        assert_non_null(strstr(acl_guard_range_name(&a), "(RFC "));
    }
}

struct seen {
    unsigned count, wrong;
};

/* Every address of what is told is at least as guarded as it is told to be. */
static void look_at_range(const struct cidr *net, enum acl_guard_class class, void *arg)
{
    struct seen *seen = arg;
    struct addr last = net->base;
    size_t size = net->base.family == AF_INET ? 4 : 16;
    for (size_t bit = net->length; bit < size * 8; bit++)
        last.bytes[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
    seen->count++;
    seen->wrong += acl_guard_classify(&net->base) < class || acl_guard_classify(&last) < class;
}

static void ranges_are_told_as_they_are_judged(void **state)
{
    (void)state;
    struct seen seen = {0};
    acl_guard_each(look_at_range, &seen);
    assert_true(seen.count > 50);
    assert_int_equal(seen.wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_are_told_as_they_are_judged),
        cmocka_unit_test(ipv4_ranges_have_their_edges),        cmocka_unit_test(metadata_is_never_reached),
        cmocka_unit_test(ipv6_ranges_have_their_edges),        cmocka_unit_test(embedded_ipv4_is_judged),
        cmocka_unit_test(what_is_no_address_is_never_reached), cmocka_unit_test(ranges_name_their_source),
    };
    return cmocka_run_group_tests_name("acl_guard", tests, NULL, NULL);
}
