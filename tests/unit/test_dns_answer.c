/*
 * gateway/dns_answer.c: what of an upstream answer passes, how long it is kept, and how it is served.
 */
#include "gateway/dns_message.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct bytes {
    const uint8_t *at;
    size_t length;
};
#define BYTES(...)                                                             \
    {                                                                          \
        (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}) \
    }

#define ORG 3, 'o', 'r', 'g', 0
#define EXAMPLE_ORG 7, 'e', 'x', 'a', 'm', 'p', 'l', 'e', ORG
#define WWW_EXAMPLE_ORG 3, 'w', 'w', 'w', EXAMPLE_ORG
#define TYPE_A 0, 1
#define TYPE_NS 0, 2
#define TYPE_CNAME 0, 5
#define TYPE_SOA 0, 6
#define TYPE_MX 0, 15
#define TYPE_TXT 0, 16
#define TYPE_HTTPS 0, 65
#define IN 0, 1
#define MINUTE 0, 0, 0, 60
#define HOUR 0, 0, 0x0e, 0x10
#define POINTER(offset) 0xc0, offset
#define WWW POINTER(12) /* the question */
#define PARENT POINTER(16)
#define COUNTS(q, an, ns, ar) 0, q, 0, an, 0, ns, 0, ar
#define ID 0x82, 0x24
#define ANSWERS 0x85, 0x80 /* QR, AA, RD, RA */
#define NOTHING 0x85, 0x83 /* the same with NXDOMAIN */
#define KEPT 0, 0, 0x80, 0x80
#define KEPT_NOTHING 0, 0, 0x80, 0x83

#define ALPN_H2 0, 1, 0, 3, 2, 'h', '2'
#define ALPN_H3_H2 0, 1, 0, 6, 2, 'h', '3', 2, 'h', '2'
#define ALPN_H3 0, 1, 0, 3, 2, 'h', '3'
#define ALPN_H3_29 0, 1, 0, 6, 5, 'h', '3', '-', '2', '9'
#define ALPN_H3X 0, 1, 0, 4, 3, 'h', '3', 'x'
#define NO_DEFAULT 0, 2, 0, 0
#define PORT_8443 0, 3, 0, 2, 0x20, 0xfb
#define V4_HINT 0, 4, 0, 4, 192, 0, 2, 7
#define ECH 0, 5, 0, 3, 0xfe, 0x0d, 0x00
#define V6_HINT 0, 6, 0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9
#define MANDATORY(key) 0, 0, 0, 2, 0, key

/* Exact copies, so that the sanitizer sees a byte read or written too far. */
static ssize_t distil(struct bytes b, const char *name, uint16_t type, struct dns_answer *facts, uint8_t *ret, size_t size)
{
    uint8_t *copy = malloc(b.length), *out = malloc(size ? size : 1);
    memcpy(copy, b.at, b.length);
    ssize_t length = dns_answer_parse(copy, b.length, name, type, facts);
    if (length == 0)
        length = dns_answer_distil(copy, b.length, name, type, facts, out, size);
    if (length > 0)
        memcpy(ret, out, (size_t)length);
    free(copy);
    free(out);
    return length;
}

static void assert_bytes(const char *what, const uint8_t *got, ssize_t length, struct bytes wanted)
{
    if (length >= 0 && (size_t)length == wanted.length && !memcmp(got, wanted.at, wanted.length))
        return;
    print_error("%s: %zd bytes:", what, length);
    for (ssize_t i = 0; i < length; i++)
        print_error(" %02x", got[i]);
    print_error("\n");
    fail();
}

/* clang-format off */

static void only_what_was_asked_for_passes(void **state)
{
    (void)state;
    const struct {
        const char *what;
        uint16_t type;
        struct bytes from, to;
        uint32_t keep;
    } cases[] = {
        {"an address",
         DNS_TYPE_A,
         BYTES(ID, ANSWERS, COUNTS(1, 1, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               WWW, TYPE_A, IN, MINUTE, 0, 4, 192, 0, 2, 7),
         BYTES(KEPT, COUNTS(1, 1, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               WWW, TYPE_A, IN, MINUTE, 0, 4, 192, 0, 2, 7), 60},
        {"written without compression and in capitals: the same",
         DNS_TYPE_A,
         BYTES(ID, ANSWERS, COUNTS(1, 1, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               3, 'W', 'W', 'W', EXAMPLE_ORG, TYPE_A, IN, MINUTE, 0, 4, 192, 0, 2, 7),
         BYTES(KEPT, COUNTS(1, 1, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               WWW, TYPE_A, IN, MINUTE, 0, 4, 192, 0, 2, 7), 60},
        {"a chain, in any order; the name that it leads to is written once",
         DNS_TYPE_A,
         BYTES(ID, ANSWERS, COUNTS(1, 2, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               1, 'e', PARENT, TYPE_A, IN, HOUR, 0, 4, 192, 0, 2, 7,
               WWW, TYPE_CNAME, IN, MINUTE, 0, 4, 1, 'e', PARENT),
         BYTES(KEPT, COUNTS(1, 2, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               WWW, TYPE_CNAME, IN, MINUTE, 0, 4, 1, 'e', PARENT,
               1, 'e', PARENT, TYPE_A, IN, HOUR, 0, 4, 192, 0, 2, 7), 60},
        {"records of other types, of other classes, in the other sections: none of it",
         DNS_TYPE_A,
         BYTES(ID, ANSWERS, COUNTS(1, 3, 1, 1), WWW_EXAMPLE_ORG, TYPE_A, IN,
               WWW, TYPE_TXT, IN, MINUTE, 0, 2, 1, 'x',
               WWW, TYPE_A, 0, 3 /* CHAOS */, MINUTE, 0, 4, 10, 0, 0, 1,
               WWW, TYPE_A, IN, MINUTE, 0, 4, 192, 0, 2, 7,
               PARENT, TYPE_NS, IN, MINUTE, 0, 4, 1, 'n', PARENT,
               1, 'n', PARENT, TYPE_A, IN, MINUTE, 0, 4, 10, 0, 0, 2),
         BYTES(KEPT, COUNTS(1, 1, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               WWW, TYPE_A, IN, MINUTE, 0, 4, 192, 0, 2, 7), 60},
        {"no such name: the SOA, and its last field is the TTL",
         DNS_TYPE_A,
         BYTES(ID, NOTHING, COUNTS(1, 0, 1, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               PARENT, TYPE_SOA, IN, HOUR, 0, 26, 1, 'm', PARENT, PARENT,
               0, 0, 0, 1 /* serial */, MINUTE, MINUTE, MINUTE, 0, 0, 0, 9 /* minimum */),
         BYTES(KEPT_NOTHING, COUNTS(1, 0, 1, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               PARENT, TYPE_SOA, IN, 0, 0, 0, 9, 0, 26, 1, 'm', PARENT, PARENT,
               0, 0, 0, 1, MINUTE, MINUTE, MINUTE, 0, 0, 0, 9), 9},
        {"no such name, by a SOA of somebody else: not kept",
         DNS_TYPE_A,
         BYTES(ID, NOTHING, COUNTS(1, 0, 1, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               3, 'n', 'e', 't', 0, TYPE_SOA, IN, HOUR, 0, 24, PARENT, PARENT,
               0, 0, 0, 1, MINUTE, MINUTE, MINUTE, MINUTE),
         BYTES(KEPT_NOTHING, COUNTS(1, 0, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN), 0},
        {"no such record, and no SOA: not kept",
         DNS_TYPE_A,
         BYTES(ID, ANSWERS, COUNTS(1, 0, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN),
         BYTES(KEPT, COUNTS(1, 0, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN), 0},
        {"an error of the server is no more than that",
         DNS_TYPE_A,
         BYTES(ID, 0x85, 0x85 /* REFUSED */, COUNTS(1, 1, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               WWW, TYPE_A, IN, MINUTE, 0, 4, 192, 0, 2, 7),
         BYTES(0, 0, 0x80, 0x82, COUNTS(1, 0, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN), 0},
        {"a TTL of years is a day, one with the top bit set is none",
         DNS_TYPE_A,
         BYTES(ID, ANSWERS, COUNTS(1, 2, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               WWW, TYPE_A, IN, 0x7f, 0, 0, 0, 0, 4, 192, 0, 2, 7,
               WWW, TYPE_A, IN, 0x80, 0, 0, 1, 0, 4, 192, 0, 2, 8),
         BYTES(KEPT, COUNTS(1, 2, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
               WWW, TYPE_A, IN, 0, 1, 0x51, 0x80, 0, 4, 192, 0, 2, 7,
               WWW, TYPE_A, IN, 0, 0, 0, 0, 0, 4, 192, 0, 2, 8), 0},
        {"a name inside RDATA is expanded and compressed anew",
         15 /* MX */,
         BYTES(ID, ANSWERS, COUNTS(1, 2, 0, 0), WWW_EXAMPLE_ORG, TYPE_MX, IN,
               WWW, TYPE_TXT, IN, MINUTE, 0, 8, 7, 'm', 'a', 'i', 'l', '1', '2', '3',     /* goes */
               WWW, TYPE_MX, IN, MINUTE, 0, 9, 0, 10, 4, 'm', 'a', 'i', 'l', PARENT),
         BYTES(KEPT, COUNTS(1, 1, 0, 0), WWW_EXAMPLE_ORG, TYPE_MX, IN,
               WWW, TYPE_MX, IN, MINUTE, 0, 9, 0, 10, 4, 'm', 'a', 'i', 'l', PARENT), 60},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        uint8_t got[512];
        struct dns_answer facts;
        ssize_t length = distil(cases[i].from, "www.example.org", cases[i].type, &facts, got, sizeof(got));
        assert_bytes(cases[i].what, got, length, cases[i].to);
        if (facts.keep_s != cases[i].keep)
            fail_msg("%s: kept for %u", cases[i].what, facts.keep_s);
        for (size_t size = 0; size < (size_t)length; size++) /* too little room is said, whatever fits */
            assert_int_equal(distil(cases[i].from, "www.example.org", cases[i].type, &facts, got, size), -ENOSPC);
    }
}

/* Each: parameters of one HTTPS record, priority 1, target "."; what is left of them. */
static void services_lose_ech_and_h3(void **state)
{
    (void)state;
    const struct {
        const char *what;
        struct bytes from, to;
        bool gone, malformed;
        size_t hints;
    } cases[] = {
        {"nothing to cut", BYTES(ALPN_H2, PORT_8443), BYTES(ALPN_H2, PORT_8443), .hints = 0},
        {"no parameters", BYTES(0), BYTES(0), .hints = 0},
        {"ech", BYTES(ALPN_H2, ECH), BYTES(ALPN_H2), .hints = 0},
        {"h3 first, h2 stays", BYTES(ALPN_H3_H2, ECH), BYTES(ALPN_H2), .hints = 0},
        {"only h3: HTTP/1.1 is left, the default", BYTES(ALPN_H3, PORT_8443), BYTES(PORT_8443), .hints = 0},
        {"a draft of h3", BYTES(ALPN_H3_29), BYTES(0), .hints = 0},
        {"not h3 though it begins so", BYTES(ALPN_H3X), BYTES(ALPN_H3X), .hints = 0},
        {"only h3, and no default", BYTES(ALPN_H3, NO_DEFAULT), BYTES(0), .gone = true},
        {"h3 and h2, no default", BYTES(ALPN_H3_H2, NO_DEFAULT), BYTES(ALPN_H2, NO_DEFAULT), .hints = 0},
        {"ech is mandatory", BYTES(MANDATORY(5), ALPN_H2, ECH), BYTES(0), .gone = true},
        {"alpn is mandatory, and all of it goes", BYTES(MANDATORY(1), ALPN_H3), BYTES(0), .gone = true},
        {"alpn is mandatory, and some of it stays", BYTES(MANDATORY(1), ALPN_H3_H2), BYTES(MANDATORY(1), ALPN_H2), .hints = 0},
        {"hints are told", BYTES(ALPN_H2, V4_HINT, ECH, V6_HINT), BYTES(ALPN_H2, V4_HINT, V6_HINT), .hints = 2},
        {"keys nobody knows yet", BYTES(0x02, 0x00, 0, 1, 'x'), BYTES(0x02, 0x00, 0, 1, 'x'), .hints = 0},
        {"keys out of order", BYTES(PORT_8443, ALPN_H2), BYTES(0), .malformed = true},
        {"a key twice", BYTES(ALPN_H2, ALPN_H2), BYTES(0), .malformed = true},
        {"a value longer than the record", BYTES(0, 1, 0, 9, 2, 'h', '2'), BYTES(0), .malformed = true},
        {"an alpn id longer than the list", BYTES(0, 1, 0, 3, 9, 'h', '2'), BYTES(0), .malformed = true},
        {"an empty alpn id", BYTES(0, 1, 0, 1, 0), BYTES(0), .malformed = true},
        {"an empty alpn list", BYTES(0, 1, 0, 0), BYTES(0), .malformed = true},
        {"no-default-alpn with a value", BYTES(ALPN_H2, 0, 2, 0, 1, 7), BYTES(0), .malformed = true},
        {"three bytes of an address", BYTES(0, 4, 0, 3, 192, 0, 2), BYTES(0), .malformed = true},
        {"no hint in the hints", BYTES(0, 6, 0, 0), BYTES(0), .malformed = true},
        {"half a mandatory key", BYTES(0, 0, 0, 3, 0, 1, 0), BYTES(0), .malformed = true},
    };
    static const uint8_t head[] = {WWW_EXAMPLE_ORG, TYPE_HTTPS, IN, WWW, TYPE_HTTPS, IN, MINUTE};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        uint8_t from[256] = {ID, ANSWERS, COUNTS(1, 1, 0, 0)}, to[256] = {KEPT, COUNTS(1, 1, 0, 0)}, got[256];
        uint8_t *const both[] = {from, to};
        size_t ends[2];
        for (int k = 0; k < 2; k++) {
            struct bytes params = k ? cases[i].to : cases[i].from;
            if (params.length == 1)
                params.length = 0; /* BYTES(0) stands for none */
            memcpy(both[k] + 12, head, sizeof(head));
            uint8_t *rdata = both[k] + 12 + sizeof(head);
            memcpy(rdata, (uint8_t[]){0, (uint8_t)(3 + params.length), 0, 1, 0}, 5);
            memcpy(rdata + 5, params.at, params.length);
            ends[k] = 12 + sizeof(head) + 5 + params.length;
        }
        if (cases[i].gone) {
            to[7] = 0;
            ends[1] = 12 + 21;
        }
        struct dns_answer facts;
        ssize_t length = distil((struct bytes){from, ends[0]}, "www.example.org", DNS_TYPE_HTTPS, &facts, got, sizeof(got));
        if (cases[i].malformed) {
            if (length != -EBADMSG)
                fail_msg("%s: %zd", cases[i].what, length);
            continue;
        }
        assert_bytes(cases[i].what, got, length, (struct bytes){to, ends[1]});
        assert_int_equal(facts.address_count, cases[i].hints);
        assert_int_equal(facts.keep_s, 60);
    }
}

static void malformed_rdata_is_refused(void **state)
{
    (void)state;
    const struct {
        const char *what;
        uint16_t type;
        struct bytes record; /* type to RDATA */
    } cases[] = {
        {"MX without a name", 15, BYTES(TYPE_MX, IN, MINUTE, 0, 2, 0, 10)},
        {"MX with bytes behind its name", 15, BYTES(TYPE_MX, IN, MINUTE, 0, 5, 0, 10, WWW, 0)},
        {"NS with a pointer forwards", 2, BYTES(TYPE_NS, IN, MINUTE, 0, 2, POINTER(200))},
        {"NAPTR with a string that is too long", 35,
         BYTES(0, 35, IN, MINUTE, 0, 8, 0, 1, 0, 1, 1, 'S', 9, 'x')},
        {"HTTPS without a target", 65, BYTES(TYPE_HTTPS, IN, MINUTE, 0, 2, 0, 1)},
        {"HTTPS with half a parameter", 65, BYTES(TYPE_HTTPS, IN, MINUTE, 0, 5, 0, 1, 0, 0, 1)},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        uint8_t from[128] = {ID, ANSWERS, COUNTS(1, 1, 0, 0), WWW_EXAMPLE_ORG, 0, (uint8_t)cases[i].type, IN, WWW}, got[256];
        struct dns_answer facts;
        memcpy(from + 35, cases[i].record.at, cases[i].record.length);
        ssize_t length = distil((struct bytes){from, 35 + cases[i].record.length}, "www.example.org", cases[i].type, &facts,
                                got, sizeof(got));
        if (length != -EBADMSG)
            fail_msg("%s: %zd", cases[i].what, length);
    }
}

/* --- serving --- */

static const uint8_t kept[] = {
    KEPT, COUNTS(1, 2, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
    WWW, TYPE_CNAME, IN, HOUR, 0, 4, 1, 'e', PARENT,
    1, 'e', PARENT, TYPE_A, IN, MINUTE, 0, 4, 192, 0, 2, 7,
};

static void a_kept_answer_is_made_the_clients_own(void **state)
{
    (void)state;
    static const uint8_t plain[] = {0xbe, 0xef, 0x01, 0x10 /* RD, CD */, COUNTS(1, 0, 0, 0),
                                    3, 'w', 'W', 'w', 7, 'e', 'X', 'a', 'm', 'p', 'l', 'e', ORG, TYPE_A, IN};
    static const uint8_t edns[] = {0xbe, 0xef, 0x01, 0, COUNTS(1, 0, 0, 1), WWW_EXAMPLE_ORG, TYPE_A, IN,
                                   0, 0, 41, 0x02, 0x00 /* 512 */, 0, 0, 0x80, 0 /* DO */, 0, 0};
    const struct {
        const char *what;
        struct bytes query;
        uint32_t age;
        size_t size;
        struct bytes wanted;
    } cases[] = {
        {"id, flags and spelling are the client's; TTLs have gone down", {plain, sizeof(plain)}, 59, 512,
         BYTES(0xbe, 0xef, 0x81, 0x90, COUNTS(1, 2, 0, 0), 3, 'w', 'W', 'w', 7, 'e', 'X', 'a', 'm', 'p', 'l', 'e', ORG, TYPE_A, IN,
               WWW, TYPE_CNAME, IN, 0, 0, 0x0d, 0xd5 /* 3541 */, 0, 4, 1, 'e', PARENT,
               1, 'e', PARENT, TYPE_A, IN, 0, 0, 0, 1, 0, 4, 192, 0, 2, 7)},
        {"with EDNS an OPT record, and DO as asked; no TTL below zero", {edns, sizeof(edns)}, 4000, 512,
         BYTES(0xbe, 0xef, 0x81, 0x80, COUNTS(1, 2, 0, 1), WWW_EXAMPLE_ORG, TYPE_A, IN,
               WWW, TYPE_CNAME, IN, 0, 0, 0, 0, 0, 4, 1, 'e', PARENT,
               1, 'e', PARENT, TYPE_A, IN, 0, 0, 0, 0, 0, 4, 192, 0, 2, 7,
               0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0)},
        {"too long: cut, and said so", {edns, sizeof(edns)}, 0, sizeof(kept) + 10,
         BYTES(0xbe, 0xef, 0x83, 0x80, COUNTS(1, 0, 0, 1), WWW_EXAMPLE_ORG, TYPE_A, IN,
               0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0)},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct dns_query query;
        uint8_t got[512];
        assert_int_equal(dns_query_parse(cases[i].query.at, cases[i].query.length, &query), 0);
        ssize_t length = dns_answer_serve(kept, sizeof(kept), cases[i].age, cases[i].query.at, &query, true, got, cases[i].size);
        assert_bytes(cases[i].what, got, length, cases[i].wanted);
        assert_int_equal(dns_answer_serve(kept, sizeof(kept), 0, cases[i].query.at, &query, true, got, 32), -ENOSPC);
    }
}

static void addresses_of_our_own_are_answers(void **state)
{
    (void)state;
    struct addr v4 = {.family = AF_INET, .bytes = {192, 0, 2, 7}};
    uint8_t got[512];
    ssize_t length = dns_answer_compose("www.example.org", DNS_TYPE_A, &v4, 1, 60, got, sizeof(got));
    assert_bytes("an address", got, length,
                 (struct bytes)BYTES(KEPT, COUNTS(1, 1, 0, 0), WWW_EXAMPLE_ORG, TYPE_A, IN,
                                     WWW, TYPE_A, IN, MINUTE, 0, 4, 192, 0, 2, 7));
    length = dns_answer_compose("www.example.org", DNS_TYPE_AAAA, &v4, 1, 60, got, sizeof(got));
    assert_bytes("none of that family", got, length,
                 (struct bytes)BYTES(KEPT, COUNTS(1, 0, 0, 0), WWW_EXAMPLE_ORG, 0, 28, IN));
    assert_int_equal(dns_answer_compose("www..org", DNS_TYPE_A, &v4, 1, 60, got, sizeof(got)), -EINVAL);
}
/* clang-format on */

static void types_pass_or_do_not(void **state)
{
    (void)state;
    static const uint16_t pass[] = {1, 2, 5, 6, 12, 15, 16, 28, 29, 33, 35, 43, 44, 48, 52, 64, 65, 99, 256, 257};
    static const uint16_t stay[] = {0, 10 /* NULL */, 13, 39 /* DNAME */, 41 /* OPT */, 46, 47, 249, 250, 251, 252, 255, 65280};
    for (size_t i = 0; i < sizeof(pass) / sizeof(*pass); i++)
        assert_true(dns_type_passes(pass[i]));
    for (size_t i = 0; i < sizeof(stay) / sizeof(*stay); i++)
        assert_false(dns_type_passes(stay[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_was_asked_for_passes),
        cmocka_unit_test(services_lose_ech_and_h3),
        cmocka_unit_test(malformed_rdata_is_refused),
        cmocka_unit_test(a_kept_answer_is_made_the_clients_own),
        cmocka_unit_test(addresses_of_our_own_are_answers),
        cmocka_unit_test(types_pass_or_do_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
