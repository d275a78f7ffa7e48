/*
 * Unit tests of gateway/own_address.c: the kernel is asked, and what it said is believed for a second.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "gateway/own_address.h"

#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
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

/* A question whose answer nobody reads: as when there was no memory to read it. */
static void leave_unanswered(int kernel, const struct addr *asked)
{
    alignas(struct nlmsghdr) char buffer[256];
    struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = RTM_GETROUTE;
    request->nlmsg_flags = NLM_F_REQUEST;
    request->nlmsg_seq = UINT32_MAX;
    struct rtmsg *route = mnl_nlmsg_put_extra_header(request, sizeof(*route));
    route->rtm_family = asked->family;
    route->rtm_dst_len = 32;
    mnl_attr_put(request, RTA_DST, 4, asked->bytes);
    assert_true(send(kernel, request, request->nlmsg_len, 0) > 0);
}

static void an_answer_is_not_taken_for_that_to_another_question(void **state)
{
    (void)state;
    struct error err;
    struct addr own = address("127.0.0.1"), other = address("203.0.114.1");
    int kernel = own_address_open(&err);
    assert_true(kernel >= 0);
    leave_unanswered(kernel, &own);
    assert_false(own_address_is(kernel, &other));
    leave_unanswered(kernel, &other);
    leave_unanswered(kernel, &other);
    assert_true(own_address_is(kernel, &own));
    assert_false(own_address_is(kernel, &other));
    close(kernel);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_kernel_is_believed_for_a_second),
        cmocka_unit_test(addresses_in_one_place_are_told_apart),
        cmocka_unit_test(an_answer_is_not_taken_for_that_to_another_question),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
