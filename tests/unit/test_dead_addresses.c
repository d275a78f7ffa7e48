/*
 * Unit tests of gateway/dead_addresses.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "gateway/dead_addresses.h"

#include <stdlib.h>
#include <string.h>

static struct dead_addresses *dead;

static int start(void **state)
{
    (void)state;
    dead = calloc(1, sizeof(*dead));
    return dead ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    free(dead);
    return 0;
}

static struct addr address(char last)
{
    char text[] = "198.51.100.1:443";
    struct addr a;
    text[11] = last;
    assert_true(addr_parse_with_port(text, 0, &a));
    return a;
}

/* The last digits of "1234" in the order to be tried at `now`. */
static void expect(uint64_t now, const char *order)
{
    struct addr list[4];
    for (size_t i = 0; i < 4; i++)
        list[i] = address((char)('1' + i));
    dead_addresses_last(dead, list, 4, now);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(list[i].bytes[3], order[i] - '0');
}

static void note(char last, uint64_t now)
{
    struct addr a = address(last);
    dead_addresses_note(dead, &a, now);
}

static void the_dead_are_tried_last(void **state)
{
    (void)state;
    expect(1000, "1234");
    note('1', 1000);
    expect(1000, "2341");
    note('3', 2000);
    expect(2000, "2413");
    note('2', 2000);
    note('4', 2000);
    expect(2000, "1234"); /* all of them: as they were */
}

static void for_a_while(void **state)
{
    (void)state;
    note('1', 1000);
    note('2', 2000);
    expect(1000 + DEAD_ADDRESSES_MS - 1, "3412");
    expect(1000 + DEAD_ADDRESSES_MS, "1342");
    expect(2000 + DEAD_ADDRESSES_MS, "1234");
}

static void until_they_answer(void **state)
{
    (void)state;
    struct addr a = address('1'), other = address('1');
    note('1', 1000);
    other.port = 80;
    dead_addresses_forget(dead, &other); /* another port says nothing */
    expect(1000, "2341");
    dead_addresses_forget(dead, &a);
    expect(1000, "1234");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_dead_are_tried_last, start, stop),
        cmocka_unit_test_setup_teardown(for_a_while, start, stop),
        cmocka_unit_test_setup_teardown(until_they_answer, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
