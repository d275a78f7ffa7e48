/* Unit tests of base/: the cursor never leaves its bytes, literals are strict, JSON stays JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/addr.h"
#include "base/cursor.h"
#include "base/error.h"
#include "base/fds.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

static void cursor_fails_once_and_for_all(void **state)
{
    (void)state;
    const uint8_t bytes[] = {0x01, 0x02, 0x03, 0x04, 0x05};
    struct cursor c = cursor_over(bytes, sizeof(bytes));
    assert_int_equal(cursor_u16(&c), 0x0102);
    struct cursor child = cursor_sub(&c, 2);
    assert_int_equal(cursor_u8(&child), 3);
    assert_int_equal(cursor_u16(&child), 0); /* one byte is left, two are asked for */
    assert_false(cursor_ok(&child));
    assert_int_equal(cursor_u8(&child), 0); /* sticky, although a byte is there */
    assert_true(cursor_ok(&c));
    assert_int_equal(cursor_u8(&c), 5);
    assert_true(cursor_done(&c));
    assert_null(cursor_take(&c, SIZE_MAX));
    assert_false(cursor_ok(&c));
}

static void address_literals_are_strict(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool good;
    } cases[] = {
        {"192.0.2.1", true},   {"255.255.255.255", true}, {"0.0.0.0", true},        {"2001:db8::1", true},
        {"::", true},          {"::ffff:1.2.3.4", true},  {"192.0.2.01", false},    {"0300.0.2.1", false},
        {"192.0.2", false},    {"3221225985", false},     {"0xc0000201", false},    {"192.0.2.1.", false},
        {"192.0.2.256", false}, {"", false},              {"[2001:db8::1]", false}, {"fe80::1%eth0", false},
        {"1.2.3.4 ", false},   {"1..2.3", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct addr a;
        if (addr_parse(cases[i].text, strlen(cases[i].text), &a) != cases[i].good)
            fail_msg("%s", cases[i].text);
    }
}

static void address_text_goes_round(void **state)
{
    (void)state;
    static const char *const texts[] = {"192.0.2.1:443", "[2001:db8::1]:65535"};
    for (size_t i = 0; i < 2; i++) {
        struct addr a, b;
        char text[ADDR_TEXT_MAX];
        struct sockaddr_storage ss;
        assert_true(addr_parse_with_port(texts[i], 0, &a));
        assert_string_equal(addr_format_with_port(&a, text), texts[i]);
        assert_true(addr_to_sockaddr(&a, &ss) > 0);
        assert_true(addr_from_sockaddr((struct sockaddr *)&ss, &b));
        assert_true(addr_equal(&a, &b));
    }
    struct addr a;
    assert_false(addr_parse_with_port("192.0.2.1:0", 0, &a));
    assert_false(addr_parse_with_port("192.0.2.1:65536", 0, &a));
    assert_false(addr_parse_with_port("[192.0.2.1]:80", 0, &a));
    assert_true(addr_parse_with_port("2001:db8::1", 53, &a));
    assert_int_equal(a.port, 53);
}

static void networks_contain_their_addresses(void **state)
{
    (void)state;
    struct cidr c;
    struct addr a;
    assert_false(cidr_parse("10.0.0.1/8", 10, false, &c)); /* host bits */
    assert_true(cidr_parse("10.0.0.1/8", 10, true, &c));
    assert_false(cidr_parse("10.0.0.0/33", 11, false, &c));
    assert_false(cidr_parse("10.0.0.0/", 9, false, &c));
    assert_true(addr_parse("10.255.0.1", 10, &a));
    assert_true(cidr_contains(&c, &a));
    assert_true(addr_parse("11.0.0.0", 8, &a));
    assert_false(cidr_contains(&c, &a));
    assert_true(cidr_parse("2001:db8::/33", 13, false, &c));
    assert_true(addr_parse("2001:db8:7fff::", 15, &a));
    assert_true(cidr_contains(&c, &a));
    assert_true(addr_parse("2001:db8:8000::", 15, &a));
    assert_false(cidr_contains(&c, &a));
    assert_true(cidr_parse("0.0.0.0/0", 9, false, &c));
    assert_true(addr_parse("203.0.113.9", 11, &a));
    assert_true(cidr_contains(&c, &a));
}

static void json_escapes_hostile_bytes(void **state)
{
    (void)state;
    char text[256];
    struct json j;
    json_begin(&j, text, sizeof(text));
    json_object(&j, NULL);
    json_bytes(&j, "n", "a\"\\\n\0\xff\xc3\xa9\xed\xa0\x80", 11);
    json_array(&j, "l");
    json_unsigned(&j, NULL, 1);
    json_bool(&j, NULL, true);
    json_array_end(&j);
    json_object_end(&j);
    assert_true(json_end(&j) > 0);
    assert_string_equal(text, "{\"n\":\"a\\\"\\\\\\u000a\\u0000\\ufffd\xc3\xa9\\ufffd\\ufffd\\ufffd\",\"l\":[1,true]}");
}

static void json_never_overruns(void **state)
{
    (void)state;
    for (size_t size = 0; size < 16; size++) {
        char text[16];
        struct json j;
        memset(text, 'x', sizeof(text));
        json_begin(&j, text, size);
        json_object(&j, NULL);
        json_string(&j, "key", "value");
        json_object_end(&j);
        assert_int_equal(json_end(&j), -ENOSPC);
        for (size_t i = size; i < sizeof(text); i++)
            assert_int_equal(text[i], 'x');
    }
}

static void descriptors_travel(void **state)
{
    (void)state;
    int pair[2], fds[FDS_MAX];
    size_t count;
    char text[8];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_int_equal(fds_send(pair[0], "hello", 5, &null, 1), 0);
    assert_int_equal(fds_receive(pair[1], text, sizeof(text), fds, &count), 5);
    assert_int_equal(count, 1);
    assert_true(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
    close(fds[0]);
    assert_int_equal(fds_send(pair[0], "too long for it", 15, &null, 1), 0);
    assert_int_equal(fds_receive(pair[1], text, sizeof(text), fds, &count), -EMSGSIZE);
    fd_close(&null);
    assert_int_equal(null, -1);
    close(pair[0]);
    assert_int_equal(fds_receive(pair[1], text, sizeof(text), fds, &count), 0);
    close(pair[1]);
}

static void errors_are_one_printable_line(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(error_set(&err, EINVAL, "%s is \"%s\"", "it", "a\nb\x1b[2J\x7f\tc\xc3\xa4"), -EINVAL);
    assert_string_equal(err.text, "it is \"a?b?[2J??c\xc3\xa4\"");
    error_prefix(&err, "%s", "\r");
    assert_string_equal(err.text, "?: it is \"a?b?[2J??c\xc3\xa4\"");
    error_errno(&err, ENOENT, "\v");
    assert_string_equal(err.text, "?: No such file or directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cursor_fails_once_and_for_all), cmocka_unit_test(address_literals_are_strict),
        cmocka_unit_test(address_text_goes_round),       cmocka_unit_test(networks_contain_their_addresses),
        cmocka_unit_test(json_escapes_hostile_bytes),    cmocka_unit_test(json_never_overruns),
        cmocka_unit_test(descriptors_travel),            cmocka_unit_test(errors_are_one_printable_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
