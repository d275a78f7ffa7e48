/*
 * The DNS code against ldns, an implementation that shares nothing with it: what ldns writes (compressed its
 * way) we read, and what we write ldns reads, record for record.
 */
#include "gateway/dns_message.h"

#include <errno.h>
#include <ldns/ldns.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define NAME "www.example.org"

static void push(ldns_pkt *packet, ldns_pkt_section section, const char *text)
{
    ldns_rr *rr = NULL;
    ldns_status status = ldns_rr_new_frm_str(&rr, text, 60, NULL, NULL);
    if (status != LDNS_STATUS_OK)
        fail_msg("%s: %s", text, ldns_get_errorstr_by_id(status));
    ldns_pkt_push_rr(packet, section, rr);
}

/* An answer about NAME as ldns sends it. */
static uint8_t *answer_of_ldns(ldns_rr_type type, ldns_pkt_rcode rcode, const char *const *answers,
                               const char *const *authority, size_t *ret_length)
{
    ldns_pkt *packet =
        ldns_pkt_query_new(ldns_dname_new_frm_str(NAME), type, LDNS_RR_CLASS_IN, LDNS_RD | LDNS_RA);
    uint8_t *wire = NULL;
    ldns_pkt_set_id(packet, 0x1234);
    ldns_pkt_set_qr(packet, true);
    ldns_pkt_set_rcode(packet, rcode);
    for (; *answers; answers++)
        push(packet, LDNS_SECTION_ANSWER, *answers);
    for (; *authority; authority++)
        push(packet, LDNS_SECTION_AUTHORITY, *authority);
    push(packet, LDNS_SECTION_ADDITIONAL, "unasked.example.net. 60 IN A 10.0.0.1");
    assert_int_equal(ldns_pkt2wire(&wire, packet, ret_length), LDNS_STATUS_OK);
    ldns_pkt_free(packet);
    return wire;
}

/* The records of a section, one a line, sorted. */
static char *records_text(ldns_rr_list *records)
{
    ldns_rr_list_sort(records);
    return ldns_rr_list2str(records);
}

static char *wanted_text(const char *const *lines)
{
    ldns_rr_list *list = ldns_rr_list_new();
    for (; *lines; lines++) {
        ldns_rr *rr = NULL;
        assert_int_equal(ldns_rr_new_frm_str(&rr, *lines, 60, NULL, NULL), LDNS_STATUS_OK);
        ldns_rr_list_push_rr(list, rr);
    }
    char *text = records_text(list);
    ldns_rr_list_deep_free(list);
    return text;
}

static void assert_section(const char *what, ldns_rr_list *got, const char *const *wanted)
{
    char *got_text = records_text(got), *wanted_lines = wanted_text(wanted);
    if (strcmp(got_text ? got_text : "", wanted_lines ? wanted_lines : "") != 0)
        fail_msg("%s:\n--- got\n%s--- wanted\n%s", what, got_text, wanted_lines);
    free(got_text);
    free(wanted_lines);
}

#define LINES 5

static void the_same_records_come_out(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        ldns_rr_type type;
        ldns_pkt_rcode rcode;
        const char *answers[LINES], *authority[LINES];
        const char *out[LINES], *out_authority[LINES]; /* where they differ from what went in */
        size_t addresses;
    } cases[] = {
        {"A", LDNS_RR_TYPE_A, 0, {NAME ". 60 IN A 192.0.2.1", NAME ". 60 IN A 192.0.2.2"}, .addresses = 2},
        {"AAAA", LDNS_RR_TYPE_AAAA, 0, {NAME ". 60 IN AAAA 2001:db8::1"}, .addresses = 1},
        {"a chain of three",
         LDNS_RR_TYPE_A,
         0,
         {NAME ". 60 IN CNAME a.example.org.", "a.example.org. 60 IN CNAME b.cdn.example.net.",
          "b.cdn.example.net. 60 IN CNAME c.example.net.", "c.example.net. 60 IN A 192.0.2.9"},
         .addresses = 1},
        {"MX",
         LDNS_RR_TYPE_MX,
         0,
         {NAME ". 60 IN MX 10 mail.example.org.", NAME ". 60 IN MX 20 mail.example.net."}},
        {"TXT", LDNS_RR_TYPE_TXT, 0, {NAME ". 60 IN TXT \"v=spf1 -all\" \"second\""}},
        {"SRV", LDNS_RR_TYPE_SRV, 0, {NAME ". 60 IN SRV 1 2 443 host.example.org."}},
        {"NAPTR",
         LDNS_RR_TYPE_NAPTR,
         0,
         {NAME ". 60 IN NAPTR 100 10 \"u\" \"sip\" \"!^.*$!x!\" sip.example.org."}},
        {"CAA", LDNS_RR_TYPE_CAA, 0, {NAME ". 60 IN CAA 0 issue \"ca.example.net\""}},
        {"TLSA", LDNS_RR_TYPE_TLSA, 0, {NAME ". 60 IN TLSA 3 1 1 d2abde240d7cd3ee6b4b28c54df034b9"}},
        {"SSHFP", LDNS_RR_TYPE_SSHFP, 0, {NAME ". 60 IN SSHFP 4 2 00112233"}},
        {"DS", LDNS_RR_TYPE_DS, 0, {NAME ". 60 IN DS 12345 13 2 00112233445566778899aabbccddeeff"}},
        {"NS and glue", LDNS_RR_TYPE_NS, 0, {NAME ". 60 IN NS ns1.example.org."}},
        {"SOA",
         LDNS_RR_TYPE_SOA,
         0,
         {NAME ". 60 IN SOA ns1.example.org. host.example.org. 1 3600 600 86400 60"}},
        {"records that were not asked for",
         LDNS_RR_TYPE_A,
         0,
         {NAME ". 60 IN A 192.0.2.1", NAME ". 60 IN TXT \"more\"",
          NAME ". 60 IN RRSIG A 13 3 60 20300101000000 20200101000000 1 example.org. AAAA"},
         {"example.org. 60 IN NS ns1.example.org."},
         .out = {NAME ". 60 IN A 192.0.2.1"},
         .out_authority = {NULL},
         .addresses = 1},
        {"no such name",
         LDNS_RR_TYPE_A,
         LDNS_RCODE_NXDOMAIN,
         {NULL},
         {"example.org. 60 IN SOA ns1.example.org. host.example.org. 1 3600 600 86400 60",
          "example.org. 60 IN NS ns1.example.org."},
         .out_authority = {"example.org. 60 IN SOA ns1.example.org. host.example.org. 1 3600 600 86400 60"}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        size_t length;
        uint8_t kept[4096];
        struct dns_answer facts;
        uint8_t *wire =
            answer_of_ldns(cases[i].type, cases[i].rcode, cases[i].answers, cases[i].authority, &length);
        if (dns_answer_parse(wire, length, NAME, (uint16_t)cases[i].type, &facts) < 0)
            fail_msg("%s: not read", cases[i].what);
        assert_int_equal(facts.address_count, cases[i].addresses);
        ssize_t distilled =
            dns_answer_distil(wire, length, NAME, (uint16_t)cases[i].type, &facts, kept, sizeof(kept));
        ldns_pkt *packet = NULL;
        if (distilled < 0 || ldns_wire2pkt(&packet, kept, (size_t)distilled) != LDNS_STATUS_OK)
            fail_msg("%s: what we wrote is not read (%zd)", cases[i].what, distilled);
        bool differs = cases[i].out[0] || cases[i].out_authority[0];
        assert_section(cases[i].what, ldns_pkt_answer(packet),
                       cases[i].out[0] ? cases[i].out : cases[i].answers);
        assert_section(cases[i].what, ldns_pkt_authority(packet),
                       differs ? cases[i].out_authority : cases[i].authority);
        assert_int_equal(ldns_pkt_arcount(packet), 0);
        assert_int_equal(ldns_pkt_get_rcode(packet), cases[i].rcode);
        assert_true(ldns_pkt_qr(packet));
        ldns_pkt_free(packet);
        free(wire);
    }
}

static void our_questions_are_read(void **state)
{
    (void)state;
    uint8_t wire[512];
    ldns_pkt *packet = NULL;
    ssize_t length = dns_query_write(0xbeef, NAME, DNS_TYPE_AAAA, true, wire, sizeof(wire));
    assert_true(length > 0);
    assert_int_equal(ldns_wire2pkt(&packet, wire, (size_t)length), LDNS_STATUS_OK);
    ldns_rr *question = ldns_rr_list_rr(ldns_pkt_question(packet), 0);
    char *owner = ldns_rdf2str(ldns_rr_owner(question));
    assert_string_equal(owner, NAME ".");
    assert_int_equal(ldns_rr_get_type(question), LDNS_RR_TYPE_AAAA);
    assert_int_equal(ldns_pkt_id(packet), 0xbeef);
    assert_true(ldns_pkt_rd(packet) && ldns_pkt_edns(packet));
    free(owner);
    ldns_pkt_free(packet);
}

static void questions_of_ldns_are_read(void **state)
{
    (void)state;
    static const ldns_rr_type types[] = {LDNS_RR_TYPE_A, LDNS_RR_TYPE_AAAA, LDNS_RR_TYPE_TXT,
                                         LDNS_RR_TYPE_NULL, LDNS_RR_TYPE_ANY};
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        ldns_pkt *packet = ldns_pkt_query_new(ldns_dname_new_frm_str("WwW.Example.ORG"), types[i],
                                              LDNS_RR_CLASS_IN, LDNS_RD);
        uint8_t *wire = NULL;
        size_t length;
        struct dns_query query;
        ldns_pkt_set_edns_udp_size(packet, 4096);
        ldns_pkt_set_edns_do(packet, true);
        assert_int_equal(ldns_pkt2wire(&wire, packet, &length), LDNS_STATUS_OK);
        assert_int_equal(dns_query_parse(wire, length, &query), 0);
        assert_string_equal(query.name, NAME);
        assert_int_equal(query.type, types[i]);
        assert_true(query.edns && query.dnssec_ok && query.recursion_desired);
        assert_int_equal(query.udp_size, 4096);
        free(wire);
        ldns_pkt_free(packet);
    }
}

/* Padded, a question says the same, in steps of 128 bytes. */
static void our_padding_is_read(void **state)
{
    (void)state;
    for (size_t labels = 1; labels <= 126; labels++) {
        char name[256] = "";
        uint8_t question[512];
        struct dns_query query;
        ldns_pkt *packet = NULL;
        for (size_t i = 0; i < labels; i++)
            strcat(name, i ? ".a" : "a");
        ssize_t bare = dns_query_write(7, name, DNS_TYPE_A, true, question, sizeof(question));
        assert_int_equal(dns_query_pad(question, (size_t)bare, 128, (size_t)bare + 3), bare); /* no room */
        size_t length = dns_query_pad(question, (size_t)bare, 128, sizeof(question));
        assert_true(length % 128 == 0 && length >= (size_t)bare + 4 && length < (size_t)bare + 4 + 128);
        assert_int_equal(dns_query_parse(question, length, &query), 0);
        assert_true(query.edns);
        assert_string_equal(query.name, name);
        assert_int_equal(ldns_wire2pkt(&packet, question, length), LDNS_STATUS_OK);
        assert_int_equal(ldns_pkt_qdcount(packet), 1);
        const ldns_rdf *options = ldns_pkt_edns_data(packet);
        assert_int_equal(ldns_rdf_size(options), length - (size_t)bare);
        assert_int_equal(ldns_read_uint16(ldns_rdf_data(options)), 12); /* PADDING */
        assert_int_equal(ldns_read_uint16(ldns_rdf_data(options) + 2), length - (size_t)bare - 4);
        ldns_pkt_free(packet);
    }
}

static void our_refusals_are_read(void **state)
{
    (void)state;
    uint8_t question[512], refusal[512];
    struct dns_query query;
    ldns_pkt *packet = NULL;
    ssize_t length = dns_query_write(7, NAME, DNS_TYPE_A, true, question, sizeof(question));
    assert_int_equal(dns_query_parse(question, (size_t)length, &query), 0);
    length = dns_refusal_write(question, &query, DNS_NXDOMAIN, DNS_EDE_BLOCKED, "no rule", refusal,
                               sizeof(refusal));
    assert_int_equal(ldns_wire2pkt(&packet, refusal, (size_t)length), LDNS_STATUS_OK);
    assert_int_equal(ldns_pkt_get_rcode(packet), LDNS_RCODE_NXDOMAIN);
    assert_int_equal(ldns_pkt_id(packet), 7);
    assert_true(ldns_pkt_edns(packet));
    assert_int_equal(ldns_rdf_size(ldns_pkt_edns_data(packet)), 4 + 2 + strlen("no rule"));
    ldns_pkt_free(packet);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_records_come_out),
        cmocka_unit_test(our_questions_are_read),
        cmocka_unit_test(questions_of_ldns_are_read),
        cmocka_unit_test(our_padding_is_read),
        cmocka_unit_test(our_refusals_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
