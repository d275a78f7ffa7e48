/*
 * Unit tests of gateway/own_address.c: the kernel is asked, and what it said is believed for a second.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "gateway/own_address.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct addr address(const char *text)
{
    struct addr a;
    assert_true(addr_parse(text, strlen(text), &a));
    return a;
}

static void the_kernel_is_believed_for_a_second(void **state)
{
    (void)state;
    struct error err;
    struct own_address_cache *cache = calloc(1, sizeof(*cache));
    struct addr own = address("127.0.0.1"), other = address("203.0.114.1");
    int kernel = own_address_open(&err), nobody = -1;
    assert_true(kernel >= 0);
    assert_true(own_address_is_lately(cache, kernel, &own, 5000));
    assert_false(own_address_is_lately(cache, kernel, &other, 5000));
    close(kernel);
    /* With nobody to ask, whatever is not known is taken for an own address. */
    assert_false(own_address_is_lately(cache, nobody, &other, 5000 + OWN_ADDRESS_KEPT_MS - 1));
    assert_true(own_address_is_lately(cache, nobody, &other, 5000 + OWN_ADDRESS_KEPT_MS));
    free(cache);
}

static void addresses_in_one_place_are_told_apart(void **state)
{
    (void)state;
    struct error err;
    struct own_address_cache *cache = calloc(1, sizeof(*cache));
    struct addr own = address("::1");
    int kernel = own_address_open(&err);
    assert_true(kernel >= 0);
    /* More addresses than there are places: whichever met ::1, each has its own answer. */
    for (unsigned i = 0; i < 4 * OWN_ADDRESS_KEPT; i++) {
        struct addr other = address("2001:db8:7777::");
        other.bytes[14] = (uint8_t)(i >> 8);
        other.bytes[15] = (uint8_t)i;
        assert_true(own_address_is_lately(cache, kernel, &own, 5000));
        assert_false(own_address_is_lately(cache, kernel, &other, 5000));
    }
    close(kernel);
    free(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_kernel_is_believed_for_a_second),
        cmocka_unit_test(addresses_in_one_place_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
