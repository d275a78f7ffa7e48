/*
 * gateway/dns_message.c: messages as dig and dnsmasq really wrote them, and bent ones.
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

/* Parses a copy that ends where its allocation ends, so that the sanitizer sees a byte read too far. */
static int parse_query(struct bytes b, struct dns_query *ret)
{
    uint8_t *copy = malloc(b.length ? b.length : 1);
    memcpy(copy, b.at, b.length);
    int r = dns_query_parse(copy, b.length, ret);
    free(copy);
    return r;
}

static int parse_answer(struct bytes b, const char *name, uint16_t type, struct dns_answer *ret)
{
    uint8_t *copy = malloc(b.length ? b.length : 1);
    memcpy(copy, b.at, b.length);
    int r = dns_answer_parse(copy, b.length, name, type, ret);
    free(copy);
    return r;
}

/* --- pieces
 * --------------------------------------------------------------------------------------------------- */

#define ORG 3, 'o', 'r', 'g', 0
#define EXAMPLE_ORG 7, 'e', 'x', 'a', 'm', 'p', 'l', 'e', ORG
#define WWW_EXAMPLE_ORG 3, 'w', 'w', 'w', EXAMPLE_ORG
#define TYPE_A 0, 1
#define TYPE_CNAME 0, 5
#define TYPE_TXT 0, 16
#define TYPE_AAAA 0, 28
#define TYPE_OPT 0, 41
#define IN 0, 1
#define CHAOS 0, 3
#define MINUTE 0, 0, 0, 60
#define POINTER(offset) 0xc0, offset

#define THIRTEEN 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm'
#define SIXTY_FIVE THIRTEEN, THIRTEEN, THIRTEEN, THIRTEEN, THIRTEEN

#define ID 0x82, 0x24
#define ASKS 0x01, 0x20    /* flags: RD, AD, as dig sets them */
#define ANSWERS 0x85, 0x80 /* QR, AA, RD, RA */
#define COUNTS(q, an, ns, ar) 0, q, 0, an, 0, ns, 0, ar

/* One line is one field of the message. */
/* clang-format off */

/* As dig 9.18 sends it: a cookie in the OPT record. */
static const uint8_t dig_query[] = {
    ID, ASKS, COUNTS(1, 0, 0, 1),
    WWW_EXAMPLE_ORG, TYPE_A, IN,
    0, TYPE_OPT, 0x04, 0xd0 /* takes 1232 */, 0, 0, 0, 0 /* rcode, version, flags */, 0, 12 /* of options */,
    0, 10 /* cookie */, 0, 8, 0x84, 0x4a, 0xeb, 0x79, 0x4b, 0xc1, 0xa4, 0xd1,
};

/* As dnsmasq 2.90 answered it: two CNAMEs, compressed, then the address. */
static const uint8_t chain_answer[] = {
    ID, ANSWERS, COUNTS(1, 3, 0, 1),
    WWW_EXAMPLE_ORG, TYPE_A, IN,                                                                /* at 12 */
    POINTER(12), TYPE_CNAME, IN, MINUTE, 0, 18,                                                 /* at 33 */
    4, 'e', 'd', 'g', 'e', 3, 'c', 'd', 'n', 7, 'e', 'x', 'a', 'm', 'p', 'l', 'e', 0,           /* at 45 */
    POINTER(45), TYPE_CNAME, IN, MINUTE, 0, 20,                                                 /* at 63 */
    6, 'h', 'o', 's', 't', '-', '7', 3, 'p', 'o', 'p', 7, 'e', 'x', 'a', 'm', 'p', 'l', 'e', 0, /* at 75 */
    POINTER(75), TYPE_A, IN, MINUTE, 0, 4, 198, 18, 0, 7,                                       /* at 95 */
    0, TYPE_OPT, 0x04, 0xd0, 0, 0, 0, 0, 0, 0,
};
/* clang-format on */

/* --- queries
 * -------------------------------------------------------------------------------------------------- */

static void a_query_of_dig_is_read(void **state)
{
    (void)state;
    struct dns_query q;
    assert_int_equal(parse_query((struct bytes){dig_query, sizeof(dig_query)}, &q), 0);
    assert_int_equal(q.id, 0x8224);
    assert_int_equal(q.opcode, 0);
    assert_int_equal(q.type, DNS_TYPE_A);
    assert_int_equal(q.class, 1);
    assert_true(q.recursion_desired);
    assert_false(q.checking_disabled);
    assert_true(q.edns);
    assert_int_equal(q.edns_version, 0);
    assert_false(q.dnssec_ok);
    assert_int_equal(q.udp_size, 1232);
    assert_int_equal(q.name_kind, ACL_NAME_OK);
    assert_string_equal(q.name, "www.example.org");
    assert_int_equal(q.name_length, 15);
    assert_string_equal(q.shown, "www.example.org");
    assert_int_equal(q.question_length, 21);
}

static void stored_queries_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *file, *shown;
        enum acl_name_kind kind;
        uint16_t type;
        bool edns, dnssec_ok;
    } rows[] = {
        {"dig-cname-a", "www.example.org", ACL_NAME_OK, DNS_TYPE_A, true, false},
        {"dig-cname-aaaa", "www.example.org", ACL_NAME_OK, DNS_TYPE_AAAA, false,
         false}, /* "WWW.Example.ORG" */
        {"dig-https", "svc.example.org", ACL_NAME_OK, DNS_TYPE_HTTPS, true, true},
        {"dig-txt", "txt.example.org", ACL_NAME_OK, 16, true, false},
        {"dig-nxdomain", "no.such.example.org", ACL_NAME_OK, DNS_TYPE_A, true, false}, /* padded */
        {"dig-escaped", "a\\046b.c\\000d.example.org", ACL_NAME_BAD_BYTE, 10, true, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char path[512];
        uint8_t bytes[512];
        struct dns_query q;
        snprintf(path, sizeof(path), "%s/dns/%s.query.bin", TEST_DATA, rows[i].file);
        FILE *f = fopen(path, "rb");
        assert_non_null(f);
        size_t length = fread(bytes, 1, sizeof(bytes), f);
        fclose(f);
        assert_int_equal(parse_query((struct bytes){bytes, length}, &q), 0);
        assert_string_equal(q.shown, rows[i].shown);
        assert_int_equal(q.name_kind, rows[i].kind);
        assert_string_equal(q.name, rows[i].kind == ACL_NAME_OK ? rows[i].shown : "");
        assert_int_equal(q.type, rows[i].type);
        assert_int_equal(q.edns, rows[i].edns);
        assert_int_equal(q.dnssec_ok, rows[i].dnssec_ok);
    }
}

static void bent_queries_are_refused(void **state)
{
    (void)state;
    const struct {
        const char *title;
        struct bytes bytes;
        int result;
    } rows[] = {
        {"nothing", {dig_query, 0}, -EINVAL},
        {"half a header", {dig_query, 11}, -EINVAL},
        {"a response", {chain_answer, sizeof(chain_answer)}, -EINVAL},
        {"only a header", BYTES(ID, ASKS, COUNTS(0, 0, 0, 0)), -EBADMSG},
        {"no question behind the header", BYTES(ID, ASKS, COUNTS(1, 0, 0, 0)), -EBADMSG},
        {"a plain one", BYTES(ID, ASKS, COUNTS(1, 0, 0, 0), EXAMPLE_ORG, TYPE_A, IN), 0},
        {"two questions", BYTES(ID, ASKS, COUNTS(2, 0, 0, 0), ORG, TYPE_A, IN, ORG, TYPE_AAAA, IN), -EBADMSG},
        {"a byte behind it", BYTES(ID, ASKS, COUNTS(1, 0, 0, 0), ORG, TYPE_A, IN, 0), -EBADMSG},
        {"an answer in it",
         BYTES(ID, ASKS, COUNTS(1, 1, 0, 0), ORG, TYPE_A, IN, ORG, TYPE_A, IN, MINUTE, 0, 0), -EBADMSG},
        {"an authority in it",
         BYTES(ID, ASKS, COUNTS(1, 0, 1, 0), ORG, TYPE_A, IN, ORG, TYPE_A, IN, MINUTE, 0, 0), -EBADMSG},
        {"an IXFR has one", BYTES(ID, ASKS, COUNTS(1, 0, 1, 0), ORG, 0, 251, IN, ORG, 0, 6, IN, MINUTE, 0, 0),
         0},
        {"65535 records promised", BYTES(ID, ASKS, 0, 1, 0, 0, 0, 0, 0xff, 0xff, ORG, TYPE_A, IN), -EBADMSG},
        {"a name that points at itself", BYTES(ID, ASKS, COUNTS(1, 0, 0, 0), POINTER(12), TYPE_A, IN),
         -EBADMSG},
        {"forwards", BYTES(ID, ASKS, COUNTS(1, 0, 0, 0), POINTER(18), TYPE_A, IN, ORG), -EBADMSG},
        {"into the header", BYTES(ID, ASKS, COUNTS(1, 0, 0, 0), POINTER(4), TYPE_A, IN), -EBADMSG},
        {"half a pointer", BYTES(ID, ASKS, COUNTS(1, 0, 0, 0), 0xc0), -EBADMSG},
        {"label type 01", BYTES(ID, ASKS, COUNTS(1, 0, 0, 0), 0x41, 'x', 0, TYPE_A, IN), -EBADMSG},
        {"label type 01, were it a length of 65",
         BYTES(ID, ASKS, COUNTS(1, 0, 0, 0), 65, SIXTY_FIVE, 0, TYPE_A, IN), -EBADMSG},
        {"an answer promised, and none there", BYTES(ID, ASKS, COUNTS(1, 1, 0, 0), ORG, TYPE_A, IN),
         -EBADMSG},
        {"an OPT record as authority",
         BYTES(ID, ASKS, COUNTS(1, 0, 1, 0), ORG, 0, 251, IN, 0, TYPE_OPT, 4, 0, 0, 0, 0, 0, 0, 0), -EBADMSG},
        {"label type 10", BYTES(ID, ASKS, COUNTS(1, 0, 0, 0), 0x81, 'x', 0, TYPE_A, IN), -EBADMSG},
        {"a label past the end", BYTES(ID, ASKS, COUNTS(1, 0, 0, 0), 9, 'x', 0, TYPE_A, IN), -EBADMSG},
        {"two OPT records",
         BYTES(ID, ASKS, COUNTS(1, 0, 0, 2), ORG, TYPE_A, IN, 0, TYPE_OPT, 4, 0, 0, 0, 0, 0, 0, 0, 0,
               TYPE_OPT, 4, 0, 0, 0, 0, 0, 0, 0),
         -EBADMSG},
        {"an OPT record with a name",
         BYTES(ID, ASKS, COUNTS(1, 0, 0, 1), ORG, TYPE_A, IN, ORG, TYPE_OPT, 4, 0, 0, 0, 0, 0, 0, 0),
         -EBADMSG},
        {"an option past its record",
         BYTES(ID, ASKS, COUNTS(1, 0, 0, 1), ORG, TYPE_A, IN, 0, TYPE_OPT, 4, 0, 0, 0, 0, 0, 0, 5, 0, 10, 0,
               2, 7),
         -EBADMSG},
        {"an UPDATE is for the caller to refuse", BYTES(ID, 0x28, 0, COUNTS(1, 1, 0, 0), ORG, 0, 6, IN, 1, 2),
         0},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct dns_query q;
        memset(&q, 0xee, sizeof(q));
        int r = parse_query(rows[i].bytes, &q);
        if (r != rows[i].result)
            fail_msg("%s: %d", rows[i].title, r);
        if (r == -EBADMSG) { /* what a FORMERR needs */
            assert_int_equal(q.id, 0x8224);
            assert_true(q.recursion_desired);
            assert_int_equal(q.question_length, 0);
            assert_false(q.edns);
        }
    }
}

static void a_cut_query_is_never_read(void **state)
{
    (void)state;
    struct dns_query q;
    for (size_t length = 0; length < sizeof(dig_query); length++)
        assert_int_equal(parse_query((struct bytes){dig_query, length}, &q),
                         length < 12 ? -EINVAL : -EBADMSG);
}

static void flags_and_sizes_are_read(void **state)
{
    (void)state;
    struct dns_query q;
    struct bytes update = BYTES(ID, 0x28, 0, COUNTS(1, 0, 0, 0), ORG, 0, 6, IN);
    assert_int_equal(parse_query(update, &q), 0);
    assert_int_equal(q.opcode, 5);
    assert_false(q.recursion_desired);
    assert_int_equal(q.udp_size, 512);

    struct bytes edns = BYTES(ID, 0x01, 0x10, COUNTS(1, 0, 0, 1), ORG, TYPE_A, CHAOS, 0, TYPE_OPT, 0, 100, 0,
                              1, 0x80, 0, 0, 0); /* CD; takes 100, version 1, DO */
    assert_int_equal(parse_query(edns, &q), 0);
    assert_true(q.checking_disabled);
    assert_int_equal(q.class, 3);
    assert_true(q.edns && q.dnssec_ok);
    assert_int_equal(q.edns_version, 1);
    assert_int_equal(q.udp_size, 512);
}

static void names_are_shown_and_judged(void **state)
{
    (void)state;
    const struct {
        struct bytes wire;
        enum acl_name_kind kind;
        const char *shown;
    } rows[] = {
        {BYTES(0), ACL_NAME_EMPTY, "."},
        {BYTES(3, 'O', 'r', 'G', 0), ACL_NAME_OK, "org"},
        {BYTES(5, '_', 'h', '-', '0', 'X', ORG), ACL_NAME_OK, "_h-0x.org"},
        {BYTES(7, 'a', '.', 'o', 'r', 'g', '.', 'b', ORG), ACL_NAME_BAD_BYTE, "a\\046org\\046b.org"},
        {BYTES(4, 'a', 0, '\n', '\\', ORG), ACL_NAME_BAD_BYTE, "a\\000\\010\\092.org"},
        {BYTES(2, 0xc3, 0xbc, ORG), ACL_NAME_BAD_BYTE, "\\195\\188.org"},
        {BYTES(1, '*', ORG), ACL_NAME_BAD_BYTE, "\\042.org"},
        {BYTES(1, '1', 1, '2', 1, '3', 1, '4', 0), ACL_NAME_IP_LITERAL, "1.2.3.4"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        uint8_t message[64] = {ID, ASKS, COUNTS(1, 0, 0, 0)};
        struct dns_query q;
        memcpy(message + 12, rows[i].wire.at, rows[i].wire.length);
        memcpy(message + 12 + rows[i].wire.length, (const uint8_t[]){TYPE_A, IN}, 4);
        assert_int_equal(parse_query((struct bytes){message, 16 + rows[i].wire.length}, &q), 0);
        assert_string_equal(q.shown, rows[i].shown);
        assert_int_equal(q.name_kind, rows[i].kind);
        assert_string_equal(q.name, rows[i].kind == ACL_NAME_OK ? rows[i].shown : "");
        assert_int_equal(q.question_length, rows[i].wire.length + 4);
    }
}

/* The longest name is 255 octets on the wire: three labels of 63 and one of 61. */
static void names_are_as_long_as_the_protocol_allows(void **state)
{
    (void)state;
    for (unsigned last = 60; last <= 63; last++) {
        uint8_t message[400] = {ID, ASKS, COUNTS(1, 0, 0, 0)};
        size_t used = 12;
        for (unsigned i = 0; i < 4; i++) {
            uint8_t label = (uint8_t)(i < 3 ? 63 : last);
            message[used++] = label;
            memset(message + used, 0xff, label);
            used += label;
        }
        used++;
        memcpy(message + used, (const uint8_t[]){TYPE_A, IN}, 4);
        struct dns_query q;
        assert_int_equal(parse_query((struct bytes){message, used + 4}, &q), last <= 61 ? 0 : -EBADMSG);
        if (last <= 61)
            assert_int_equal(strlen(q.shown), 4 * (3 * 63 + last) + 3);
    }
}

/* --- answers
 * -------------------------------------------------------------------------------------------------- */

static void a_cname_chain_is_followed(void **state)
{
    (void)state;
    struct dns_answer a;
    assert_int_equal(
        parse_answer((struct bytes){chain_answer, sizeof(chain_answer)}, "www.example.org", DNS_TYPE_A, &a),
        0);
    assert_int_equal(a.rcode, DNS_NOERROR);
    assert_false(a.truncated);
    assert_false(a.foreign_addresses);
    assert_int_equal(a.ttl, 60);
    assert_int_equal(a.address_count, 1);
    assert_int_equal(a.addresses[0].family, AF_INET);
    assert_memory_equal(a.addresses[0].bytes, ((const uint8_t[]){198, 18, 0, 7}), 4);
}

static void a_cut_answer_is_never_read(void **state)
{
    (void)state;
    struct dns_answer a;
    for (size_t length = 0; length < sizeof(chain_answer); length++)
        assert_int_equal(
            parse_answer((struct bytes){chain_answer, length}, "www.example.org", DNS_TYPE_A, &a), -EBADMSG);
}

#define QUESTION_A EXAMPLE_ORG, TYPE_A, IN /* at 12, 17 bytes: the first record is at 29 */
#define CNAME_TO_B POINTER(12), TYPE_CNAME, IN, 0, 0, 1, 0, 0, 4, 1, 'b', POINTER(20)
#define A_OF_B 1, 'b', POINTER(20), TYPE_A, IN, 0, 0, 0, 9, 0, 4, 198, 18, 0, 2

static void answers_count_only_what_the_question_leads_to(void **state)
{
    (void)state;
    const struct {
        const char *title;
        struct bytes bytes;
        int result;
        int rcode;
        size_t addresses;
        uint32_t ttl;
        bool foreign, truncated;
    } rows[] = {
        {"an address",
         BYTES(ID, ANSWERS, COUNTS(1, 1, 0, 0), QUESTION_A, POINTER(12), TYPE_A, IN, MINUTE, 0, 4, 198, 18, 0,
               1),
         0, 0, 1, 60},
        {"none", BYTES(ID, 0x81, 0x83, COUNTS(1, 0, 0, 0), QUESTION_A), 0, DNS_NXDOMAIN},
        {"an extended rcode",
         BYTES(ID, ANSWERS, COUNTS(1, 0, 0, 1), QUESTION_A, 0, TYPE_OPT, 4, 0, 1, 0, 0, 0, 0, 0), 0,
         DNS_BADVERS},
        {"truncated", BYTES(ID, 0x83, 0x80, COUNTS(1, 0, 0, 0), QUESTION_A), 0, 0, 0, 0, false, true},
        {"spelt otherwise",
         BYTES(ID, ANSWERS, COUNTS(1, 0, 0, 0), 7, 'E', 'x', 'A', 'm', 'P', 'l', 'E', ORG, TYPE_A, IN), 0},
        {"both families",
         BYTES(ID, ANSWERS, COUNTS(1, 2, 0, 0), QUESTION_A, POINTER(12), TYPE_A, IN, MINUTE, 0, 4, 198, 18, 0,
               1, POINTER(12), TYPE_AAAA, IN, 0, 0, 0, 7, 0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0,
               0, 0, 0, 1),
         0, 0, 2, 7},
        {"a chain in order", BYTES(ID, ANSWERS, COUNTS(1, 2, 0, 0), QUESTION_A, CNAME_TO_B, A_OF_B), 0, 0, 1,
         9},
        {"a chain backwards", BYTES(ID, ANSWERS, COUNTS(1, 2, 0, 0), QUESTION_A, A_OF_B, CNAME_TO_B), 0, 0, 1,
         9},
        {"a chain through CHAOS",
         BYTES(ID, ANSWERS, COUNTS(1, 2, 0, 0), QUESTION_A, POINTER(12), TYPE_CNAME, CHAOS, 0, 0, 1, 0, 0, 4,
               1, 'b', POINTER(20), A_OF_B),
         0, 0, 0, 0, true},
        {"an address without its CNAME", BYTES(ID, ANSWERS, COUNTS(1, 1, 0, 0), QUESTION_A, A_OF_B), 0, 0, 0,
         0, true},
        {"an address in the additional section", BYTES(ID, ANSWERS, COUNTS(1, 0, 0, 1), QUESTION_A, A_OF_B),
         0},
        {"a CHAOS address",
         BYTES(ID, ANSWERS, COUNTS(1, 1, 0, 0), QUESTION_A, POINTER(12), TYPE_A, CHAOS, MINUTE, 0, 4, 198, 18,
               0, 1),
         0},
        {"a negative TTL",
         BYTES(ID, ANSWERS, COUNTS(1, 1, 0, 0), QUESTION_A, POINTER(12), TYPE_A, IN, 0x80, 0, 0, 1, 0, 4, 198,
               18, 0, 1),
         0, 0, 1, 0},

        {"a query", BYTES(ID, ASKS, COUNTS(1, 0, 0, 0), QUESTION_A), -EBADMSG},
        {"a NOTIFY", BYTES(ID, 0xa5, 0x80, COUNTS(1, 0, 0, 0), QUESTION_A), -EBADMSG},
        {"another name", BYTES(ID, ANSWERS, COUNTS(1, 0, 0, 0), ORG, TYPE_A, IN), -EBADMSG},
        {"another type", BYTES(ID, ANSWERS, COUNTS(1, 0, 0, 0), EXAMPLE_ORG, TYPE_AAAA, IN), -EBADMSG},
        {"another class", BYTES(ID, ANSWERS, COUNTS(1, 0, 0, 0), EXAMPLE_ORG, TYPE_A, CHAOS), -EBADMSG},
        {"no question", BYTES(ID, ANSWERS, COUNTS(0, 0, 0, 0)), -EBADMSG},
        {"a byte behind it", BYTES(ID, ANSWERS, COUNTS(1, 0, 0, 0), QUESTION_A, 0), -EBADMSG},
        {"an address of three bytes",
         BYTES(ID, ANSWERS, COUNTS(1, 1, 0, 0), QUESTION_A, POINTER(12), TYPE_A, IN, MINUTE, 0, 3, 198, 18,
               0),
         -EBADMSG},
        {"a CNAME that ends before its data does",
         BYTES(ID, ANSWERS, COUNTS(1, 1, 0, 0), QUESTION_A, POINTER(12), TYPE_CNAME, IN, MINUTE, 0, 6, ORG,
               0),
         -EBADMSG},
        {"a CNAME that runs past its data",
         BYTES(ID, ANSWERS, COUNTS(1, 2, 0, 0), QUESTION_A, POINTER(12), TYPE_CNAME, IN, MINUTE, 0, 2, 3, 'o',
               0, TYPE_TXT, IN, MINUTE, 0, 0),
         -EBADMSG},
        {"a CNAME to itself",
         BYTES(ID, ANSWERS, COUNTS(1, 1, 0, 0), QUESTION_A, POINTER(12), TYPE_CNAME, IN, MINUTE, 0, 2,
               POINTER(12)),
         -EBADMSG},
        {"a pointer to itself in a record",
         BYTES(ID, ANSWERS, COUNTS(1, 1, 0, 0), QUESTION_A, POINTER(29), TYPE_A, IN, MINUTE, 0, 4, 198, 18, 0,
               1),
         -EBADMSG},
        {"a label that leads back to its own pointer",
         BYTES(ID, ANSWERS, COUNTS(1, 1, 0, 0), QUESTION_A, 1, 'x', POINTER(29), TYPE_A, IN, MINUTE, 0, 4,
               198, 18, 0, 1),
         -EBADMSG},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct dns_answer a = {0};
        int r = parse_answer(rows[i].bytes, "example.org", DNS_TYPE_A, &a);
        if (r != rows[i].result || a.rcode != rows[i].rcode || a.address_count != rows[i].addresses ||
            a.ttl != rows[i].ttl || a.foreign_addresses != rows[i].foreign ||
            a.truncated != rows[i].truncated)
            fail_msg("%s: result %d, rcode %d, %zu addresses, ttl %u, foreign %d, truncated %d",
                     rows[i].title, r, a.rcode, a.address_count, a.ttl, a.foreign_addresses, a.truncated);
    }
}

/* `count` CNAMEs, 0.example.org -> 1.… -> 2.…, last link first when `backwards`, and an address for the last
 * name. */
static struct bytes chain_of(unsigned count, bool backwards, uint8_t *message)
{
    static const uint8_t head[] = {ID, ANSWERS, COUNTS(1, 0, 0, 0), 1, 'a', EXAMPLE_ORG, TYPE_A, IN};
    size_t used = sizeof(head);
    memcpy(message, head, used);
    message[7] = (uint8_t)(count + 1);
    for (unsigned i = 0; i < count; i++) {
        uint8_t from = (uint8_t)('a' + (backwards ? count - 1 - i : i));
        const uint8_t link[] = {1, from, POINTER(14), TYPE_CNAME,          IN,         MINUTE,
                                0, 4,    1,           (uint8_t)(from + 1), POINTER(14)};
        memcpy(message + used, link, sizeof(link));
        used += sizeof(link);
    }
    const uint8_t last[] = {1, (uint8_t)('a' + count), POINTER(14), TYPE_A, IN, MINUTE, 0, 4, 198, 18, 0, 1};
    memcpy(message + used, last, sizeof(last));
    return (struct bytes){message, used + sizeof(last)};
}

static void chains_are_followed_to_a_limit(void **state)
{
    (void)state;
    uint8_t message[1024];
    struct dns_answer a;
    for (unsigned backwards = 0; backwards < 2; backwards++) {
        for (unsigned count = 0; count <= 20; count++) {
            struct bytes b = chain_of(count, backwards, message);
            assert_int_equal(parse_answer(b, "a.example.org", DNS_TYPE_A, &a), 0);
            assert_int_equal(a.address_count, count <= 16 ? 1 : 0);
            assert_int_equal(a.foreign_addresses, count > 16);
        }
    }
}

static void many_addresses_are_too_many(void **state)
{
    (void)state;
    static const uint8_t head[] = {ID, ANSWERS, COUNTS(1, 0, 0, 0), QUESTION_A};
    static const uint8_t record[] = {POINTER(12), TYPE_A, IN, MINUTE, 0, 4, 198, 18, 0, 1};
    uint8_t message[2048];
    struct dns_answer a;
    for (unsigned count = DNS_ADDRESSES_MAX - 1; count <= DNS_ADDRESSES_MAX + 1; count++) {
        memcpy(message, head, sizeof(head));
        message[7] = (uint8_t)count;
        for (size_t i = 0; i < count; i++)
            memcpy(message + sizeof(head) + i * sizeof(record), record, sizeof(record));
        int r = parse_answer((struct bytes){message, sizeof(head) + count * sizeof(record)}, "example.org",
                             DNS_TYPE_A, &a);
        assert_int_equal(r, count > DNS_ADDRESSES_MAX ? -E2BIG : 0);
        assert_int_equal(a.address_count, count > DNS_ADDRESSES_MAX ? DNS_ADDRESSES_MAX : count);
    }
}

/* A name made of 126 pointers, each to the one before: as deep as a name can be, and still cheap. */
static void pointers_are_followed_to_a_limit(void **state)
{
    (void)state;
    for (unsigned depth = 125; depth <= 130; depth++) {
        uint8_t message[512] = {ID, ANSWERS, COUNTS(1, 2, 0, 0), QUESTION_A};
        /* a TXT record of the root whose data is a ladder of pointers: 12, then the one before, … */
        static const uint8_t txt[] = {0, TYPE_TXT, IN, MINUTE};
        size_t used = 29, ladder = 29 + sizeof(txt) + 2, target = 12;
        memcpy(message + used, txt, sizeof(txt));
        message[used + sizeof(txt)] = (uint8_t)(2 * depth >> 8);
        message[used + sizeof(txt) + 1] = (uint8_t)(2 * depth);
        for (unsigned i = 0; i < depth; i++) {
            message[ladder + 2 * i] = (uint8_t)(0xc0 | target >> 8);
            message[ladder + 2 * i + 1] = (uint8_t)target;
            target = ladder + 2 * i;
        }
        used = ladder + 2 * depth;
        const uint8_t a_record[] = {
            (uint8_t)(0xc0 | target >> 8), (uint8_t)target, TYPE_A, IN, MINUTE, 0, 4, 198, 18, 0, 1};
        memcpy(message + used, a_record, sizeof(a_record));
        struct dns_answer a;
        int r = parse_answer((struct bytes){message, used + sizeof(a_record)}, "example.org", DNS_TYPE_A, &a);
        assert_int_equal(r, depth + 1 <= 127 ? 0 : -EBADMSG);
        if (r == 0)
            assert_int_equal(a.address_count, 1);
    }
}

/* --- writing
 * -------------------------------------------------------------------------------------------------- */

static void a_refusal_is_what_a_resolver_would_send(void **state)
{
    (void)state;
    /* clang-format off */
    static const uint8_t want[] = {
        ID, 0x81, 0x83 /* QR, RD, RA, NXDOMAIN */, COUNTS(1, 0, 0, 1),
        WWW_EXAMPLE_ORG, TYPE_A, IN,
        0, TYPE_OPT, 0x04, 0xd0, 0, 0, 0, 0, 0, 8,
        0, 15 /* EDE */, 0, 4, 0, 15 /* Blocked */, 'n', 'o',
    };
    /* clang-format on */
    struct dns_query q;
    uint8_t bytes[512];
    assert_int_equal(dns_query_parse(dig_query, sizeof(dig_query), &q), 0);
    ssize_t length =
        dns_refusal_write(dig_query, &q, DNS_NXDOMAIN, DNS_EDE_BLOCKED, "no", bytes, sizeof(bytes));
    assert_int_equal(length, sizeof(want));
    assert_memory_equal(bytes, want, sizeof(want));
    struct dns_answer a;
    assert_int_equal(dns_answer_parse(bytes, sizeof(want), "www.example.org", DNS_TYPE_A, &a), 0);
    assert_int_equal(a.rcode, DNS_NXDOMAIN);

    /* Without room the text goes first, then there is none. */
    assert_int_equal(
        dns_refusal_write(dig_query, &q, DNS_NXDOMAIN, DNS_EDE_BLOCKED, "no", bytes, sizeof(want) - 1),
        sizeof(want) - 2);
    assert_int_equal(bytes[sizeof(want) - 5], 2);
    assert_int_equal(
        dns_refusal_write(dig_query, &q, DNS_NXDOMAIN, DNS_EDE_BLOCKED, "no", bytes, sizeof(want) - 3),
        -ENOSPC);
    for (size_t size = 0; size < 44; size++)
        assert_int_equal(dns_refusal_write(dig_query, &q, DNS_REFUSED, DNS_EDE_NONE, NULL, bytes, size),
                         -ENOSPC);
    assert_int_equal(dns_refusal_write(dig_query, &q, DNS_REFUSED, DNS_EDE_NONE, NULL, bytes, 44), 44);
}

static void a_refusal_of_what_could_not_be_read(void **state)
{
    (void)state;
    struct bytes two = BYTES(ID, ASKS, COUNTS(2, 0, 0, 0), ORG, TYPE_A, IN, ORG, TYPE_AAAA, IN);
    static const uint8_t want[] = {ID, 0x81, 0x81 /* FORMERR */, COUNTS(0, 0, 0, 0)};
    struct dns_query q;
    uint8_t bytes[512];
    assert_int_equal(parse_query(two, &q), -EBADMSG);
    assert_int_equal(dns_refusal_write(two.at, &q, DNS_FORMERR, DNS_EDE_NONE, NULL, bytes, sizeof(bytes)),
                     12);
    assert_memory_equal(bytes, want, 12);
}

static void a_refused_edns_version_says_badvers(void **state)
{
    (void)state;
    struct bytes query =
        BYTES(ID, ASKS, COUNTS(1, 0, 0, 1), ORG, TYPE_A, IN, 0, TYPE_OPT, 4, 0, 0, 1, 0x80, 0, 0, 0);
    struct dns_query q;
    struct dns_answer a;
    uint8_t bytes[512];
    assert_int_equal(parse_query(query, &q), 0);
    ssize_t length = dns_refusal_write(query.at, &q, DNS_BADVERS, DNS_EDE_NONE, NULL, bytes, sizeof(bytes));
    assert_int_equal(length, 12 + 9 + 11);
    assert_int_equal(bytes[12 + 9 + 7], 0x80); /* DO comes back */
    assert_int_equal(parse_answer((struct bytes){bytes, (size_t)length}, "org", DNS_TYPE_A, &a), 0);
    assert_int_equal(a.rcode, DNS_BADVERS);
}

static void our_own_queries(void **state)
{
    (void)state;
    /* clang-format off */
    static const uint8_t want[] = {
        0x12, 0x34, 0x01, 0x00, COUNTS(1, 0, 0, 1), WWW_EXAMPLE_ORG, TYPE_AAAA, IN,
        0, TYPE_OPT, 0x04, 0xd0, 0, 0, 0, 0, 0, 0,
    };
    /* clang-format on */
    uint8_t bytes[512];
    assert_int_equal(dns_query_write(0x1234, "www.example.org", DNS_TYPE_AAAA, true, bytes, sizeof(bytes)),
                     sizeof(want));
    assert_memory_equal(bytes, want, sizeof(want));
    for (size_t size = 0; size < sizeof(want); size++)
        assert_int_equal(dns_query_write(0x1234, "www.example.org", DNS_TYPE_AAAA, true, bytes, size),
                         -ENOSPC);

    static const char *const no_names[] = {
        "", ".", "a.", ".a", "a..b", "a123456789b123456789c123456789d123456789e123456789f123456789g123.org"};
    for (size_t i = 0; i < sizeof(no_names) / sizeof(*no_names); i++)
        assert_int_equal(dns_query_write(1, no_names[i], DNS_TYPE_A, true, bytes, sizeof(bytes)), -EINVAL);
    char longest[255];
    memset(longest, 'a', sizeof(longest));
    longest[63] = longest[127] = longest[191] = '.';
    longest[254] = '\0';
    assert_int_equal(dns_query_write(1, longest, DNS_TYPE_A, true, bytes, sizeof(bytes)), -EINVAL);
    longest[253] = '\0';
    assert_int_equal(dns_query_write(1, longest, DNS_TYPE_A, true, bytes, sizeof(bytes)), 12 + 255 + 4 + 11);
}

static void types_have_names(void **state)
{
    (void)state;
    char name[12];
    assert_string_equal(dns_type_name(DNS_TYPE_A, name), "A");
    assert_string_equal(dns_type_name(DNS_TYPE_HTTPS, name), "HTTPS");
    assert_string_equal(dns_type_name(10, name), "NULL");
    assert_string_equal(dns_type_name(DNS_TYPE_ANY, name), "ANY");
    assert_string_equal(dns_type_name(0, name), "TYPE0");
    assert_string_equal(dns_type_name(65535, name), "TYPE65535");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_query_of_dig_is_read),
        cmocka_unit_test(stored_queries_are_read),
        cmocka_unit_test(bent_queries_are_refused),
        cmocka_unit_test(a_cut_query_is_never_read),
        cmocka_unit_test(flags_and_sizes_are_read),
        cmocka_unit_test(names_are_shown_and_judged),
        cmocka_unit_test(names_are_as_long_as_the_protocol_allows),
        cmocka_unit_test(a_cname_chain_is_followed),
        cmocka_unit_test(a_cut_answer_is_never_read),
        cmocka_unit_test(answers_count_only_what_the_question_leads_to),
        cmocka_unit_test(chains_are_followed_to_a_limit),
        cmocka_unit_test(many_addresses_are_too_many),
        cmocka_unit_test(pointers_are_followed_to_a_limit),
        cmocka_unit_test(a_refusal_is_what_a_resolver_would_send),
        cmocka_unit_test(a_refusal_of_what_could_not_be_read),
        cmocka_unit_test(a_refused_edns_version_says_badvers),
        cmocka_unit_test(our_own_queries),
        cmocka_unit_test(types_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
