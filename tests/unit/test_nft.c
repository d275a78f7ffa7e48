/* Unit tests of redirect/rules/nft.c: networks as the ranges of an interval set. The rest of it is tried on the kernel, in test_sealed.c and
 * tests/netns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "redirect/rules/nft.c" /* NOLINT: for its statics */

#define MOST 8

/* "FIRST-BEHIND …" of what the networks come to; "*" behind the last address of all. */
static const char *merged(int family, const char *const *networks, char text[512])
{
    struct range ranges[MOST];
    size_t count = 0;
    for (; networks[count]; count++) {
        struct cidr net;
        assert_true(cidr_parse(networks[count], strlen(networks[count]), false, &net));
        ranges[count] = range_of(&net);
    }
    count = merge_ranges(ranges, count);
    text[0] = 0;
    for (size_t i = 0; i < count; i++) {
        char first[ADDR_TEXT_MAX], behind[ADDR_TEXT_MAX];
        struct addr a = {.family = (uint8_t)family}, b = {.family = (uint8_t)family};
        memcpy(a.bytes, ranges[i].first, size_of(family));
        memcpy(b.bytes, ranges[i].behind, size_of(family));
        snprintf(text + strlen(text), 512 - strlen(text), "%s%s-%s", i ? " " : "", addr_format(&a, first),
                 is_zero(ranges[i].behind) ? "*" : addr_format(&b, behind));
    }
    return text;
}

static void networks_become_ranges_that_do_not_meet(void **state)
{
    char text[512];
    (void)state;
    assert_string_equal(merged(AF_INET, (const char *[]){NULL}, text), "");
    assert_string_equal(merged(AF_INET, (const char *[]){"10.0.0.0/8", NULL}, text), "10.0.0.0-11.0.0.0");
    assert_string_equal(merged(AF_INET, (const char *[]){"192.0.2.7", NULL}, text), "192.0.2.7-192.0.2.8");
    /* In any order; one inside another; one that begins where the other ends. */
    assert_string_equal(merged(AF_INET, (const char *[]){"192.168.0.0/16", "169.254.0.0/16", "169.254.169.254", NULL}, text),
                        "169.254.0.0-169.255.0.0 192.168.0.0-192.169.0.0");
    assert_string_equal(merged(AF_INET, (const char *[]){"10.1.0.0/16", "10.0.0.0/16", "10.3.0.0/16", NULL}, text),
                        "10.0.0.0-10.2.0.0 10.3.0.0-10.4.0.0");
    assert_string_equal(merged(AF_INET, (const char *[]){"10.0.0.255", "10.0.0.0/25", NULL}, text),
                        "10.0.0.0-10.0.0.128 10.0.0.255-10.0.1.0");
    /* Up to the last address there is. */
    assert_string_equal(merged(AF_INET, (const char *[]){"240.0.0.0/4", "255.255.255.255", "224.0.0.0/4", NULL}, text), "224.0.0.0-*");
    assert_string_equal(merged(AF_INET, (const char *[]){"0.0.0.0/0", "10.0.0.0/8", NULL}, text), "0.0.0.0-*");
}

static void the_same_for_ipv6(void **state)
{
    char text[512];
    (void)state;
    assert_string_equal(merged(AF_INET6, (const char *[]){"fe80::/10", "fc00::/7", "fec0::/10", NULL}, text),
                        "fc00::-fe00:: fe80::-ff00::");
    assert_string_equal(merged(AF_INET6, (const char *[]){"2001:db8::/32", "2001:db8:ffff::/48", "::1/128", NULL}, text),
                        "::1-::2 2001:db8::-2001:db9::");
    assert_string_equal(merged(AF_INET6, (const char *[]){"8000::/1", "4000::/2", NULL}, text), "4000::-*");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(networks_become_ranges_that_do_not_meet),
        cmocka_unit_test(the_same_for_ipv6),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
