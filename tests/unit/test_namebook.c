/* Unit tests of gateway/namebook.c: what was answered is known, for its time, and the book never outgrows its
 * bound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "gateway/namebook.h"

#include <stdio.h>
#include <string.h>

static struct addr ip(const char *text)
{
    struct addr a;
    assert_true(addr_parse(text, strlen(text), &a));
    return a;
}

static void learn(struct namebook *book, const char *name, const char *address, uint32_t ttl, uint64_t now)
{
    struct addr a = ip(address);
    namebook_learn(book, name, strlen(name), &a, ttl, now);
}

static bool knows(struct namebook *book, const char *name, const char *address, uint64_t now)
{
    struct addr a = ip(address);
    a.port = 443; /* not compared */
    return namebook_knows(book, name, strlen(name), &a, now);
}

static void pairs_are_known_for_ttl_and_grace(void **state)
{
    (void)state;
    struct namebook *book = namebook_create(10);
    learn(book, "a.example", "192.0.2.1", 60, 1000);
    assert_true(knows(book, "a.example", "192.0.2.1", 1000));
    assert_false(knows(book, "a.example", "192.0.2.2", 1000));
    assert_false(knows(book, "b.example", "192.0.2.1", 1000));
    assert_true(knows(book, "a.example", "192.0.2.1", 1000 + 60000 + NAMEBOOK_GRACE_MS - 1));
    assert_false(knows(book, "a.example", "192.0.2.1", 1000 + 60000 + NAMEBOOK_GRACE_MS));
    learn(book, "a.example", "192.0.2.1", 3600, 2000); /* again: longer, and still one pair */
    assert_int_equal(namebook_size(book), 1);
    assert_true(knows(book, "a.example", "192.0.2.1", 1000 + 60000 + NAMEBOOK_GRACE_MS));
    namebook_destroy(book);
}

static void both_families_side_by_side(void **state)
{
    (void)state;
    struct namebook *book = namebook_create(10);
    struct addr found[4];
    learn(book, "a.example", "192.0.2.1", 60, 0);
    learn(book, "a.example", "2001:db8::1", 60, 0);
    assert_int_equal(namebook_addresses(book, "a.example", 9, 1, found, 4), 2);
    assert_int_equal(found[0].family, AF_INET6); /* newest first */
    assert_int_equal(found[1].family, AF_INET);
    assert_int_equal(namebook_addresses(book, "a.example", 9, 1, found, 1), 1);
    assert_int_equal(namebook_addresses(book, "x.example", 9, 1, found, 4), 0);
    namebook_destroy(book);
}

static bool collect(const char *name, size_t length, void *arg)
{
    strncat(arg, name, length);
    strcat(arg, " ");
    return strlen(arg) < 20;
}

static void an_address_knows_its_names_newest_first(void **state)
{
    (void)state;
    struct namebook *book = namebook_create(10);
    char names[64] = "";
    struct addr a = ip("192.0.2.1");
    learn(book, "a.example", "192.0.2.1", 60, 0);
    learn(book, "b.example", "192.0.2.1", 60, 0);
    learn(book, "c.example", "192.0.2.1", 60, 0);
    learn(book, "a.example", "192.0.2.1", 60, 0); /* seen again: newest */
    namebook_names(book, &a, 1, collect, names);
    assert_string_equal(names, "a.example c.example "); /* the callback stopped it */
    namebook_destroy(book);
}

static void the_oldest_makes_room(void **state)
{
    (void)state;
    struct namebook *book = namebook_create(100);
    char name[32], address[32];
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "n%u.example", i);
        snprintf(address, sizeof(address), "198.51.%u.%u", i / 250, i % 250 + 1);
        learn(book, name, address, 60, i);
        assert_true(knows(book, name, address, i));
    }
    assert_int_equal(namebook_size(book), 100);
    assert_false(knows(book, "n899.example", "198.51.3.150", 1000));
    assert_true(knows(book, "n900.example", "198.51.3.151", 1000));
    namebook_destroy(book);
}

static void one_name_cannot_fill_the_book(void **state)
{
    (void)state;
    struct namebook *book = namebook_create(1000);
    char address[32];
    learn(book, "other.example", "192.0.2.9", 60, 0);
    for (unsigned i = 0; i < 900; i++) {
        snprintf(address, sizeof(address), "198.51.%u.%u", i / 250, i % 250 + 1);
        learn(book, "many.example", address, 60, 1);
    }
    assert_int_equal(namebook_size(book), 256 + 1);
    assert_true(knows(book, "many.example", "198.51.3.150", 2));
    assert_true(knows(book, "other.example", "192.0.2.9", 2));
    namebook_destroy(book);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_are_known_for_ttl_and_grace),
        cmocka_unit_test(both_families_side_by_side),
        cmocka_unit_test(an_address_knows_its_names_newest_first),
        cmocka_unit_test(the_oldest_makes_room),
        cmocka_unit_test(one_name_cannot_fill_the_book),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
