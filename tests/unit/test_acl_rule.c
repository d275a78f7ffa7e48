/* Unit tests of acl/rule.c: what each rule means, and that each mistake is told what to write instead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "acl/rule.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The text is handed over in an allocation of its exact size, so that a sanitizer sees every byte read too
 * far. */
static int parse(const char *text, size_t length, bool deny, struct acl_rule *ret, struct error *err)
{
    char *exact = malloc(length ? length : 1);
    assert_non_null(exact);
    memcpy(exact, text, length);
    int r = acl_rule_parse(exact, length, deny, ret, err);
    free(exact);
    return r;
}

static void names_are_rules(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum acl_scheme scheme;
        bool wildcard;
        const char *name;
        unsigned low, high;
    } cases[] = {
        {"example.com", ACL_SCHEME_WEB, false, "example.com", 0, 0},
        {"Example.COM.", ACL_SCHEME_WEB, false, "example.com", 0, 0},
        {"*.example.com", ACL_SCHEME_WEB, true, "example.com", 0, 0},
        {"**.example.com", ACL_SCHEME_WEB, true, "example.com", 0, 0},
        {"*", ACL_SCHEME_WEB, true, "", 0, 0},
        {"localhost", ACL_SCHEME_WEB, false, "localhost", 0, 0},
        {"http", ACL_SCHEME_WEB, false, "http", 0, 0}, /* a host may be called so */
        {"https.example", ACL_SCHEME_WEB, false, "https.example", 0, 0},
        {"https://example.com", ACL_SCHEME_HTTPS, false, "example.com", 443, 443},
        {"HTTPS://Example.com", ACL_SCHEME_HTTPS, false, "example.com", 443, 443},
        {"https://*.example.com:8443", ACL_SCHEME_HTTPS, true, "example.com", 8443, 8443},
        {"https://*", ACL_SCHEME_HTTPS, true, "", 443, 443},
        {"http://example.com", ACL_SCHEME_HTTP, false, "example.com", 80, 80},
        {"http://example.com:8000-8010", ACL_SCHEME_HTTP, false, "example.com", 8000, 8010},
        {"tcp://git.example.com:22", ACL_SCHEME_TCP, false, "git.example.com", 22, 22},
        {"tcp://*.example.com:22", ACL_SCHEME_TCP, true, "example.com", 22, 22},
        {"tcp://*:22", ACL_SCHEME_TCP, true, "", 22, 22},
        {"tcp://example.com:1-65535", ACL_SCHEME_TCP, false, "example.com", 1, 65535},
        {"tcp://example.com:*", ACL_SCHEME_TCP, false, "example.com", 1, 65535},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct acl_rule rule;
        struct error err = {0};
        if (parse(cases[i].text, strlen(cases[i].text), i % 2, &rule, &err) != 0)
            fail_msg("%s", err.text);
        assert_int_equal(rule.scheme, cases[i].scheme);
        assert_int_equal(rule.wildcard, cases[i].wildcard);
        assert_string_equal(rule.name, cases[i].name);
        assert_int_equal(rule.port_low, cases[i].low);
        assert_int_equal(rule.port_high, cases[i].high);
        assert_int_equal(rule.deny, i % 2);
        assert_int_equal(err.code, 0);
    }
}

static void networks_are_rules(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *net; /* NULL: any address */
        unsigned low, high;
    } cases[] = {
        {"10.0.0.0/8:5432", "10.0.0.0/8", 5432, 5432},
        {"10.0.0.0/8", "10.0.0.0/8", 1, 65535},
        {"192.0.2.1", "192.0.2.1/32", 1, 65535},
        {"192.0.2.1:*", "192.0.2.1/32", 1, 65535},
        {"192.0.2.1:8000-8010", "192.0.2.1/32", 8000, 8010},
        {"0.0.0.0/0:443", "0.0.0.0/0", 443, 443},
        {"2001:db8::1", "2001:db8::1/128", 1, 65535},
        {"2001:db8::/32", "2001:db8::/32", 1, 65535},
        {"::/0", "::/0", 1, 65535},
        {"::1", "::1/128", 1, 65535},
        {"[2001:db8::1]", "2001:db8::1/128", 1, 65535},
        {"[2001:db8::1]:22", "2001:db8::1/128", 22, 22},
        {"[2001:db8::]/32:443", "2001:db8::/32", 443, 443},
        {"[2001:db8::]/32:*", "2001:db8::/32", 1, 65535},
        {"tcp://192.0.2.1:22", "192.0.2.1/32", 22, 22},
        {"tcp://10.0.0.0/8:22-23", "10.0.0.0/8", 22, 23},
        {"tcp://[2001:db8::]/32:22", "2001:db8::/32", 22, 22},
        {":443", NULL, 443, 443},
        {"*:443", NULL, 443, 443},
        {":*", NULL, 1, 65535},
        {"*:*", NULL, 1, 65535},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct acl_rule rule;
        struct error err = {0};
        char text[ADDR_TEXT_MAX];
        if (parse(cases[i].text, strlen(cases[i].text), false, &rule, &err) != 0)
            fail_msg("%s", err.text);
        assert_int_equal(rule.scheme,
                         strstr(cases[i].text, "tcp://") ? ACL_SCHEME_TCP : ACL_SCHEME_ADDRESS);
        assert_true(rule.by_address);
        if (cases[i].net)
            assert_string_equal(cidr_format(&rule.net, text), cases[i].net);
        else
            assert_int_equal(rule.net.base.family, AF_UNSPEC);
        assert_int_equal(rule.port_low, cases[i].low);
        assert_int_equal(rule.port_high, cases[i].high);
        assert_string_equal(rule.name, "");
    }
}

static void requests_are_limited_by_method_and_path(void **state)
{
    (void)state;
    static const struct {
        const char *text, *name, *methods, *path;
        unsigned low, high;
    } cases[] = {
        {"GET http://example.com/api/*", "example.com", "GET", "/api/*", 80, 80},
        {"GET,HEAD http://example.com", "example.com", "GET HEAD", "", 80, 80},
        {"http://example.com/", "example.com", "", "/", 80, 80},
        {"http://*.example.com:8080/a/*/c", "example.com", "", "/a/*/c", 8080, 8080},
        {"POST http://example.com:8000-8010/v1:sign@x", "example.com", "POST", "/v1:sign@x", 8000, 8010},
        {"http://example.com/caf%C3%A9/%25", "example.com", "", "/caf%C3%A9/%25", 80, 80},
        {"http://example.com/*", "example.com", "", "/*", 80, 80},
        {"http://example.com/v*", "example.com", "", "/v*", 80, 80},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct acl_rule rule;
        struct error err = {0};
        uint16_t methods = 0;
        char words[64], *rest = words;
        if (parse(cases[i].text, strlen(cases[i].text), false, &rule, &err) != 0)
            fail_msg("%s", err.text);
        strcpy(words, cases[i].methods);
        for (char *word; (word = strsep(&rest, " "));)
            methods |= acl_method_bit(word, strlen(word));
        assert_int_equal(rule.scheme, ACL_SCHEME_HTTP);
        assert_string_equal(rule.name, cases[i].name);
        assert_int_equal(rule.methods, methods);
        assert_int_equal(rule.path_length, strlen(cases[i].path));
        assert_memory_equal(cases[i].text + rule.path_at, cases[i].path, rule.path_length);
        assert_int_equal(rule.port_low, cases[i].low);
        assert_int_equal(rule.port_high, cases[i].high);
    }
}

static void packets_have_rules_by_name_and_by_address(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum acl_scheme scheme;
        const char *name, *net; /* net NULL: by name */
        unsigned low, high;
    } cases[] = {
        {"udp://ntp.example.com:123", ACL_SCHEME_UDP, "ntp.example.com", NULL, 123, 123},
        {"UDP://*.Example.com:1-65535", ACL_SCHEME_UDP, "example.com", NULL, 1, 65535},
        {"udp://*:443", ACL_SCHEME_UDP, "", NULL, 443, 443},
        {"udp://10.0.0.0/8:53", ACL_SCHEME_UDP, "", "10.0.0.0/8", 53, 53},
        {"udp://[2001:db8::]/32:*", ACL_SCHEME_UDP, "", "2001:db8::/32", 1, 65535},
        {"udp://0.0.0.0/0:123", ACL_SCHEME_UDP, "", "0.0.0.0/0", 123, 123},
        {"icmp://192.0.2.1", ACL_SCHEME_ICMP, "", "192.0.2.1/32", 0, 0},
        {"icmp://2001:db8::/32", ACL_SCHEME_ICMP, "", "2001:db8::/32", 0, 0},
        {"icmp://[2001:db8::1]", ACL_SCHEME_ICMP, "", "2001:db8::1/128", 0, 0},
        {"icmp://host.example.com", ACL_SCHEME_ICMP, "host.example.com", NULL, 0, 0},
        {"icmp://*.example.com", ACL_SCHEME_ICMP, "example.com", NULL, 0, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct acl_rule rule;
        struct error err = {0};
        char text[ADDR_TEXT_MAX];
        if (parse(cases[i].text, strlen(cases[i].text), i % 2, &rule, &err) != 0)
            fail_msg("%s", err.text);
        assert_int_equal(rule.scheme, cases[i].scheme);
        assert_int_equal(rule.by_address, cases[i].net != NULL);
        assert_string_equal(rule.name, cases[i].name);
        if (cases[i].net)
            assert_string_equal(cidr_format(&rule.net, text), cases[i].net);
        assert_int_equal(rule.port_low, cases[i].low);
        assert_int_equal(rule.port_high, cases[i].high);
    }
}

/* A mistake and a part of the sentence that answers it. */
static void mistakes_are_told_what_to_write(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "it is empty; write a name such as example.com"},
        /* bytes */
        {"a b", "has a space"},
        {" example.com", "has a space"},
        {"example.com\t", "control character"},
        {"a\nb", "control character"},
        {"b\xc3\xbc.example", "xn--"},
        /* schemes */
        {"https://example.com/x", "inside TLS nobody sees a path"},
        {"https://example.com:8443/", "inside TLS nobody sees a path"},
        {"GET https://example.com", "inside TLS nobody sees a method"},
        {"GET example.com", "only http:// rules have a method; write http://NAME"},
        {"example.com/path", "only http:// rules have a path; write http://NAME/PATH"},
        {"GET tcp://example.com:22", "only http:// rules have a method"},
        {"GET 10.0.0.0/8", "methods go with http://NAME only"},
        {"udp://ntp.example.com", "udp:// needs a port; write udp://ntp.example.com:PORT"},
        {"udp://192.0.2.1", "udp:// needs a port; write udp://ADDR:PORT"},
        {"icmp://example.com:7", "ICMP has no ports; write icmp://example.com"},
        {"icmp://", "the name is missing"},
        {"icmp://example.com/x", "only http:// rules have a path"},
        {"udp://:123", "the name is missing"},
        {"udp://ntp.example.com:0", "\"0\" is not a port"},
        {"udp://10.0.0.1/8:123", "it has bits behind the prefix"},
        {"udp://2001:db8::/32:123", "an IPv6 network with a port needs brackets"},
        {"icmp://192.0.2.1:80", "ICMP has no ports; write icmp://192.0.2.1"},
        /* methods and paths */
        {"CONNECT http://example.com", "the gateway is no forward proxy"},
        {"get http://example.com", "\"get\" is no method that rules know; write GET, HEAD"},
        {"GET,FROB http://example.com", "\"FROB\" is no method"},
        {"GET,,HEAD http://example.com", "write them as GET,HEAD"},
        {",GET http://example.com", "write them as GET,HEAD"},
        {"GET  http://example.com", "has a space"},
        {"GET http://example.com /x", "has a space"},
        {"http://example.com/a b", "has a space"},
        {"http://example.com/a?b", "the query is not looked at"},
        {"http://example.com/a#b", "a fragment is never sent"},
        {"http://example.com/a/../b", "a dot segment in the path: servers may read it in several ways"},
        {"http://example.com//b", "two slashes together"},
        {"http://example.com/a%2fb", "an encoded slash"},
        {"http://example.com/a;b", "a \";\" in the path"},
        {"http://example.com/%7euser", "paths are compared with escapes decoded; write /~user"},
        {"http://example.com/%e9", "write /%E9"},
        {"http://example.com/%zz", "encodes nothing"},
        {"http://example.com/a*b/c", "a * in a path stands at its end or alone"},
        {"http://example.com/*a", "a * in a path stands at its end or alone"},
        {"http://example.com/**/c", "a * in a path stands at its end or alone"},
        {"http://10.0.0.0/8", "an address stands where http://"},
        {"ftp://example.com", "\"ftp://\" is no scheme of a rule; write https://NAME:PORT"},
        {"wss://example.com", "\"wss://\" is no scheme"},
        {"://example.com", "scheme is missing"},
        {"http//x", "write http://x"},
        {"https:/example.com", "write https://example.com"},
        {"https:example.com", "write https://example.com"},
        {"tcp:", "write tcp://NAME"},
        {"https://", "the name is missing"},
        /* names */
        {"*example.com", "write *.example.com (and example.com itself"},
        {"*.", "write * for every name"},
        {"**", "write * for every name"},
        {"**.", "write * for every name"},
        {"a.*.example.com", "write *.example.com"},
        {"*.*.example.com", "stands alone or once in front"},
        {"example.*", "stands alone or once in front"},
        {"https://*example.com:8443", "write *.example.com"},
        {".example.com", "write *.example.com for the names under it, example.com for itself"},
        {"example..com", "two dots"},
        {"example.com..", "two dots"},
        {".", "the name is missing"},
        {"!example.com", "write the name under deny"},
        {"a,b", "letters, digits"},
        {"https://user@example.com", "letters, digits"},
        {"https://192.0.2.1",
         "an address stands where http:// and https:// need a name; by address write ADDR:PORT"},
        {"http://[2001:db8::1]:80", "an address stands where"},
        {"*.192.0.2.1", "is read as an address"},
        /* ports */
        {"example.com:443",
         "write https://example.com:PORT, http://example.com:PORT or tcp://example.com:PORT"},
        {"*.example.com:443", "write https://*.example.com:PORT"},
        {"example.com:*", "a name with a port needs a scheme"},
        {"tcp://example.com",
         "tcp:// needs a port; write tcp://example.com:PORT, for example tcp://example.com:22"},
        {"tcp://192.0.2.1", "tcp:// needs a port; write tcp://ADDR:PORT"},
        {"tcp://:22", "the name is missing"},
        {"tcp://example.com:0", "write a number from 1 to 65535"},
        {"tcp://example.com:65536", "write a number from 1 to 65535"},
        {"tcp://example.com:022", "write a number from 1 to 65535"},
        {"tcp://example.com:-1", "write a number from 1 to 65535"},
        {"tcp://example.com:22-", "write a number from 1 to 65535"},
        {"tcp://example.com:", "the port is missing"},
        {":", "the port is missing"},
        {":0", "write a number from 1 to 65535"},
        {"tcp://example.com:30-20", "reversed; write 20-30"},
        {"tcp://example.com:22,23", "one rule for each port"},
        /* networks */
        {"10.0.0.1/8", "write 10.0.0.0/8 for the network"},
        {"10.0.0.1/8:80", "write 10.0.0.0/8:80 for the network"},
        {"[2001:db8::1]/32:443", "write [2001:db8::]/32:443 for the network"},
        {"2001:db8::/32:443", "write [2001:db8::]/LEN:PORT"},
        {"10.0.0.0/33", "write /0 to /32"},
        {"10.0.0.0/255.0.0.0", "write /0 to /32"},
        {"10.0.0.0/", "write /0 to /32"},
        {"2001:db8::/129", "write /0 to /128"},
        {"10.0.0.0:80/8", "a prefix length stands in front of the port"},
        {"[192.0.2.1]:80", "only an IPv6 address stands in brackets"},
        {"[example.com]:80", "only an IPv6 address stands in brackets"},
        {"[2001:db8::1", "has no \"]\""},
        {"[2001:db8::1]80", "write [ADDR]:PORT"},
        {"fe80::1%eth0", "without \"%...\""},
        {"example.com:80:90", "is not an IPv6 address"},
        {"::ffff:192.0.2.1", "write 192.0.2.1/32"},
        {"::ffff:10.0.0.0/104", "write 10.0.0.0/8"},
        {"127.1", "four decimal numbers"},
        {"0300.0.2.1:80", "four decimal numbers"},
        {"0x7f000001", "four decimal numbers"},
        {"[]:80", "the address is missing"},
        {"*/8:80", "the address is missing"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct acl_rule rule;
        struct error err = {0};
        memset(&rule, 0x5a, sizeof(rule));
        if (parse(cases[i].text, strlen(cases[i].text), true, &rule, &err) != -EINVAL)
            fail_msg("\"%s\" is taken", cases[i].text);
        assert_int_equal(err.code, EINVAL);
        assert_int_equal(((unsigned char *)&rule)[0], 0x5a); /* outputs stay untouched */
        if (!strstr(err.text, cases[i].says))
            fail_msg("\"%s\" says: %s", cases[i].text, err.text);
        for (const char *p = err.text; *p; p++)
            assert_true(*p >= 0x20 && *p < 0x7f); /* one printable line */
    }
}

static void long_rules_are_refused_in_few_words(void **state)
{
    (void)state;
    static char text[100000];
    static const size_t lengths[] = {254, 300, 1024, 1025, 5000, sizeof(text)};
    memset(text, 'a', sizeof(text));
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        struct acl_rule rule;
        struct error err = {0};
        assert_int_equal(parse(text, lengths[i], false, &rule, &err), -EINVAL);
        assert_non_null(strstr(err.text, "aaa...\":"));
    }
    assert_int_equal(acl_rule_parse("*.", 2, false, &(struct acl_rule){0}, NULL),
                     -EINVAL); /* nobody listens */
}

static void the_longest_wildcard_leaves_room_for_a_label(void **state)
{
    (void)state;
    char text[2 + ACL_NAME_MAX + 1] = "*.";
    struct acl_rule rule;
    struct error err;
    for (size_t i = 2; i < sizeof(text); i++)
        text[i] = i % 50 == 49 ? '.' : 'a';
    assert_int_equal(parse(text, 2 + 251, false, &rule, &err), 0);
    assert_int_equal(strlen(rule.name), 251);
    assert_int_equal(parse(text, 2 + 252, false, &rule, &err), -EINVAL);
}

/* Every text of up to four characters from a hostile alphabet: no crash, and a verdict that holds together.
 */
static void odd_texts_are_taken_or_refused_whole(void **state)
{
    (void)state;
    static const char alphabet[] = "a1.*:/[]-0x% ";
    char text[5] = "";
    size_t n = sizeof(alphabet) - 1;
    for (size_t code = 0; code < n * n * n * n; code++) {
        struct acl_rule rule;
        struct error err = {0};
        size_t rest = code;
        for (size_t i = 0; i < 4; i++, rest /= n)
            text[i] = alphabet[rest % n];
        for (size_t length = 1; length <= 4; length++) {
            int r = parse(text, length, false, &rule, &err);
            assert_true(r == 0 || (r == -EINVAL && err.text[0]));
            if (r == 0 && rule.scheme != ACL_SCHEME_WEB)
                assert_true(rule.port_low >= 1 && rule.port_low <= rule.port_high);
            if (r == 0 && rule.scheme == ACL_SCHEME_WEB)
                assert_true(rule.wildcard || rule.name[0]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_rules),
        cmocka_unit_test(networks_are_rules),
        cmocka_unit_test(requests_are_limited_by_method_and_path),
        cmocka_unit_test(packets_have_rules_by_name_and_by_address),
        cmocka_unit_test(mistakes_are_told_what_to_write),
        cmocka_unit_test(long_rules_are_refused_in_few_words),
        cmocka_unit_test(the_longest_wildcard_leaves_room_for_a_label),
        cmocka_unit_test(odd_texts_are_taken_or_refused_whole),
    };
    return cmocka_run_group_tests_name("acl_rule", tests, NULL, NULL);
}
