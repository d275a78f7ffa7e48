/* Unit tests of acl/name.c and acl/reason.c: one normal form, and nothing that two programs could read
 * differently. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "acl/name.h"
#include "acl/reason.h"

#include <stdlib.h>
#include <string.h>

struct name_case {
    const char *text;
    enum acl_name_kind kind;
    const char *normal; /* when the kind is OK */
};

/* The text is handed over in an allocation of its exact size, so that a sanitizer sees every byte read too
 * far. */
static enum acl_name_kind normalise(const char *text, size_t length, char ret[ACL_NAME_MAX + 1],
                                    size_t *ret_length)
{
    char *exact = malloc(length ? length : 1);
    assert_non_null(exact);
    memcpy(exact, text, length);
    enum acl_name_kind kind = acl_name_normalise(exact, length, ret, ret_length);
    free(exact);
    return kind;
}

static void check(const struct name_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct name_case *c = &cases[i];
        char name[ACL_NAME_MAX + 1] = "untouched";
        size_t length = 4711;
        enum acl_name_kind kind = normalise(c->text, strlen(c->text), name, &length);
        if (kind != c->kind)
            fail_msg("\"%s\" is %s, not %s", c->text, acl_name_kind_text(kind), acl_name_kind_text(c->kind));
        assert_string_equal(name, kind == ACL_NAME_OK ? c->normal : "untouched");
        assert_int_equal(length, kind == ACL_NAME_OK ? strlen(c->normal) : 4711);
    }
}

#define CHECK(cases) check(cases, sizeof(cases) / sizeof(*(cases)))

static void names_get_their_normal_form(void **state)
{
    (void)state;
    static const struct name_case cases[] = {
        {"example.com", ACL_NAME_OK, "example.com"},
        {"EXAMPLE.Com", ACL_NAME_OK, "example.com"},
        {"example.com.", ACL_NAME_OK, "example.com"}, /* one trailing dot: the root, spelled out */
        {"localhost", ACL_NAME_OK, "localhost"},
        {"_dmarc.a-b.example", ACL_NAME_OK, "_dmarc.a-b.example"},
        {"xn--bcher-kva.example", ACL_NAME_OK, "xn--bcher-kva.example"},
        {"1.2.3.4.example", ACL_NAME_OK, "1.2.3.4.example"},
        {"4.3.2.1.in-addr.arpa", ACL_NAME_OK, "4.3.2.1.in-addr.arpa"},
        {"1e100.net", ACL_NAME_OK, "1e100.net"},
        {"example.1e", ACL_NAME_OK, "example.1e"},     /* no number in any base without 0x */
        {"example.0xg", ACL_NAME_OK, "example.0xg"},   /* g is no hex digit */
        {"0x7f.example", ACL_NAME_OK, "0x7f.example"}, /* only the last label counts */
    };
    CHECK(cases);
}

static void broken_names_are_told_apart(void **state)
{
    (void)state;
    static const struct name_case cases[] = {
        {"", ACL_NAME_EMPTY, NULL},
        {".", ACL_NAME_EMPTY, NULL},
        {"..", ACL_NAME_BAD_LABEL, NULL},
        {"example.com..", ACL_NAME_BAD_LABEL, NULL},
        {".example.com", ACL_NAME_BAD_LABEL, NULL},
        {"example..com", ACL_NAME_BAD_LABEL, NULL},
        {"exa mple.com", ACL_NAME_BAD_BYTE, NULL},
        {"example.com:443", ACL_NAME_BAD_BYTE, NULL},
        {"example.com/", ACL_NAME_BAD_BYTE, NULL},
        {"*.example.com", ACL_NAME_BAD_BYTE, NULL},
        {"user@example.com", ACL_NAME_BAD_BYTE, NULL},
        {"example%2ecom", ACL_NAME_BAD_BYTE, NULL},
        {"b\xc3\xbc"
         "cher.example",
         ACL_NAME_BAD_BYTE, NULL},
        {"example\xe3\x80\x82"
         "com",
         ACL_NAME_BAD_BYTE, NULL}, /* ideographic full stop */
        {"example.com\n", ACL_NAME_BAD_BYTE, NULL},
        {"a:b", ACL_NAME_BAD_BYTE, NULL},
    };
    CHECK(cases);
}

static void addresses_are_no_names(void **state)
{
    (void)state;
    static const struct name_case cases[] = {
        {"192.0.2.1", ACL_NAME_IP_LITERAL, NULL},
        {"192.0.2.1.", ACL_NAME_IP_LITERAL, NULL},
        {"0300.0.2.1", ACL_NAME_IP_LITERAL, NULL}, /* octal */
        {"0xc0.0.2.1", ACL_NAME_IP_LITERAL, NULL}, /* hex */
        {"0XC0000201", ACL_NAME_IP_LITERAL, NULL}, /* hex, one number */
        {"3221225985", ACL_NAME_IP_LITERAL, NULL}, /* decimal, one number */
        {"127.1", ACL_NAME_IP_LITERAL, NULL},      /* short */
        {"0", ACL_NAME_IP_LITERAL, NULL},          /* unspecified */
        {"0x", ACL_NAME_IP_LITERAL, NULL},         /* WHATWG: a number without digits is 0 */
        {"999.999.999.999", ACL_NAME_IP_LITERAL, NULL},
        {"1.2.3.4.5", ACL_NAME_IP_LITERAL, NULL},
        {"example.09", ACL_NAME_IP_LITERAL, NULL}, /* a bad octal is still a number there */
        {"example.0x1F", ACL_NAME_IP_LITERAL, NULL},
        {"::1", ACL_NAME_IP_LITERAL, NULL},
        {"[::1]", ACL_NAME_IP_LITERAL, NULL},
        {"[192.0.2.1]", ACL_NAME_IP_LITERAL, NULL},
        {"[v1.future]", ACL_NAME_IP_LITERAL, NULL}, /* RFC 3986 IPvFuture */
        {"2001:db8::1", ACL_NAME_IP_LITERAL, NULL},
        {"::ffff:192.0.2.1", ACL_NAME_IP_LITERAL, NULL},
        {"fe80::1%eth0", ACL_NAME_IP_LITERAL, NULL},
    };
    CHECK(cases);
}

static void lengths_are_bounded(void **state)
{
    (void)state;
    char text[70000], name[ACL_NAME_MAX + 1];
    size_t length;
    memset(text, 'a', sizeof(text));
    assert_int_equal(normalise(text, 63, name, &length), ACL_NAME_OK);
    assert_int_equal(normalise(text, 64, name, &length), ACL_NAME_TOO_LONG);
    assert_int_equal(normalise(text, sizeof(text), name, &length), ACL_NAME_TOO_LONG);
    for (size_t i = 63; i < sizeof(text); i += 64) /* labels of 63 */
        text[i] = '.';
    assert_int_equal(normalise(text, 253, name, &length), ACL_NAME_OK);
    assert_int_equal(length, 253);
    assert_int_equal(strlen(name), 253);
    assert_int_equal(normalise(text, 254, name, &length), ACL_NAME_TOO_LONG);
    text[253] = '.'; /* 253 and the root's dot */
    assert_int_equal(normalise(text, 254, name, &length), ACL_NAME_OK);
    assert_int_equal(length, 253);
    assert_int_equal(normalise(text, 255, name, &length), ACL_NAME_TOO_LONG);
}

static void every_byte_is_judged_alone(void **state)
{
    (void)state;
    for (int byte = 0; byte < 256; byte++) {
        char text[] = {'a', (char)byte, 'b', 0};
        char name[ACL_NAME_MAX + 1];
        size_t length;
        bool good = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
                    (byte >= '0' && byte <= '9') || byte == '-' || byte == '_' || byte == '.';
        assert_int_equal(normalise(text, 3, name, &length), good ? ACL_NAME_OK : ACL_NAME_BAD_BYTE);
    }
}

static void reasons_have_their_fixed_names(void **state)
{
    (void)state;
    static const struct {
        enum acl_reason reason;
        const char *name;
    } cases[] = {
        {ACL_RULE_ALLOW, "rule_allow"},
        {ACL_RULE_DENY, "rule_deny"},
        {ACL_NO_RULE, "no_rule"},
        {ACL_MALFORMED_CLIENT_HELLO, "malformed_client_hello"},
        {ACL_HTTP2_CLEARTEXT, "http2_cleartext"},
        {ACL_DESTINATION_GUARDED, "destination_guarded"},
        {ACL_AUDIT_UNAVAILABLE, "audit_unavailable"},
        {ACL_REASON_COUNT, "unknown"},
        {(enum acl_reason)1000, "unknown"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_string_equal(acl_reason_name(cases[i].reason), cases[i].name);
    for (int a = 0; a < ACL_REASON_COUNT; a++) {
        for (int b = 0; b < a; b++)
            assert_string_not_equal(acl_reason_name((enum acl_reason)a), acl_reason_name((enum acl_reason)b));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_get_their_normal_form), cmocka_unit_test(broken_names_are_told_apart),
        cmocka_unit_test(addresses_are_no_names),      cmocka_unit_test(lengths_are_bounded),
        cmocka_unit_test(every_byte_is_judged_alone),  cmocka_unit_test(reasons_have_their_fixed_names),
    };
    return cmocka_run_group_tests_name("acl_name", tests, NULL, NULL);
}
