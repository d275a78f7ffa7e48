/* Unit tests of redirect/daemon/publish.c: what may be published, in words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "redirect/daemon/publish.h"

#include <errno.h>
#include <string.h>

static void what_is_understood(void **state)
{
    static const struct {
        const char *text, *first; /* as it is written again */
        size_t count;
    } cases[] = {
        {"", "", 0},
        {"8080:80", "127.0.0.1:8080:80", 1},
        {"8080:80/tcp", "127.0.0.1:8080:80", 1},
        {"0.0.0.0:80:65535", "0.0.0.0:80:65535", 1},
        {"[::1]:8080:80", "[::1]:8080:80", 1},
        {"[::]:1:1,1:1,", "[::]:1:1", 2},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct publish_port ports[PUBLISH_MAX];
        struct error err;
        char again[ADDR_TEXT_MAX + 8] = "";
        size_t count = 99;
        assert_int_equal(publish_parse(cases[i].text, ports, &count, &err), 0);
        assert_int_equal(count, cases[i].count);
        if (count)
            publish_format(&ports[0], again);
        assert_string_equal(again, cases[i].first);
    }
}

static void what_is_refused(void **state)
{
    static const char *const cases[] = {"80",
                                        "80:",
                                        ":80",
                                        "80:80:",
                                        "a:80",
                                        "80:a",
                                        "0:80",
                                        "80:0",
                                        "65536:80",
                                        "80:65536",
                                        "-1:80",
                                        " 80:80",
                                        "80:80 ",
                                        "080:80:80",
                                        "::1:80",
                                        "[::1]:80",
                                        "[::1:80:80",
                                        "1.2.3:80:80",
                                        "80:80/x",
                                        "80:80/udp",
                                        "80:80,,:",
                                        "80:1,80:2",
                                        "1:1,2:2,3:3,4:4,5:5,6:6,7:7,8:8,9:9",
                                        "example.com:80:80",
                                        "/tcp"};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct publish_port ports[PUBLISH_MAX];
        struct error err = {0};
        size_t count;
        if (publish_parse(cases[i], ports, &count, &err) != -EINVAL || !*err.text)
            fail_msg("taken: %s", cases[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_understood),
                                       cmocka_unit_test(what_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
