/*
 * certs/: a TLS server in the same process, over memory, with certificates made on the spot.
 */
#include "certs/proof.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define DAY (24L * 3600)

struct identity {
    EVP_PKEY *key;
    X509 *certificate;
};

static void add_extension(X509 *certificate, int nid, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

/* `issuer` NULL: it signs itself. `names`: "DNS:a,DNS:b" or NULL. */
static struct identity make_identity(const char *subject, const char *names, bool authority, long from,
                                     long until, const struct identity *issuer)
{
    struct identity id = {.key = EVP_EC_gen("P-256"), .certificate = X509_new()};
    static long serial;
    X509_set_version(id.certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(id.certificate), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(id.certificate), from);
    X509_gmtime_adj(X509_getm_notAfter(id.certificate), until);
    X509_set_pubkey(id.certificate, id.key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(id.certificate), "CN", MBSTRING_ASC,
                               (const uint8_t *)subject, -1, -1, 0);
    X509_set_issuer_name(id.certificate,
                         X509_get_subject_name(issuer ? issuer->certificate : id.certificate));
    add_extension(id.certificate, NID_basic_constraints,
                  authority ? "critical,CA:TRUE" : "critical,CA:FALSE");
    if (names)
        add_extension(id.certificate, NID_subject_alt_name, names);
    assert_true(X509_sign(id.certificate, issuer ? issuer->key : id.key, EVP_sha256()) > 0);
    return id;
}

static void free_identity(struct identity *id)
{
    EVP_PKEY_free(id->key);
    X509_free(id->certificate);
}

static struct trust *trust_in(const struct identity *authority)
{
    struct trust *trust;
    struct error err;
    char *text;
    BIO *pem = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(pem, authority->certificate);
    long length = BIO_get_mem_data(pem, &text);
    assert_int_equal(trust_create(text, (size_t)length, &trust, &err), 0);
    assert_int_equal(trust_count(trust), 1);
    BIO_free(pem);
    return trust;
}

/* What the server staples, and what the proof makes of it. */
static struct {
    enum staple_mode mode;
    uint8_t *bytes;
    int length;
} stapling;

static int send_staple(SSL *server, void *unused)
{
    (void)unused;
    if (!stapling.bytes)
        return SSL_TLSEXT_ERR_NOACK;
    SSL_set_tlsext_status_ocsp_resp(server, OPENSSL_memdup(stapling.bytes, (size_t)stapling.length),
                                    stapling.length);
    return SSL_TLSEXT_ERR_OK;
}

/* Carries bytes between the proof and a server until the proof is over; `piece` bytes at a time. */
static struct proof_result converse(const struct trust *trust, const char *name,
                                    const struct identity *server_id, int version, size_t piece,
                                    char *ret_sni)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    SSL_CTX_use_certificate(context, server_id->certificate);
    SSL_CTX_use_PrivateKey(context, server_id->key);
    SSL_CTX_set_tlsext_status_cb(context, send_staple);
    SSL *server = SSL_new(context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    SSL_set_bio(server, in, out);
    SSL_set_accept_state(server);
    struct proof *proof = proof_create(trust, name, stapling.mode);
    bool over = proof_step(proof, NULL, 0, false);
    uint8_t bytes[16384];
    for (int turn = 0; !over && turn < 100000; turn++) {
        size_t length;
        while ((length = proof_take(proof, bytes, sizeof(bytes))) > 0)
            BIO_write(in, bytes, (int)length);
        SSL_do_handshake(server);
        int got = BIO_read(out, bytes, (int)piece);
        over = proof_step(proof, bytes, got > 0 ? (size_t)got : 0, got <= 0);
    }
    assert_true(over);
    if (ret_sni)
        strcpy(ret_sni, SSL_get_servername(server, TLSEXT_NAMETYPE_host_name));
    struct proof_result result = *proof_get(proof);
    proof_destroy(proof);
    SSL_free(server);
    SSL_CTX_free(context);
    ERR_clear_error();
    return result;
}

static struct identity authority, stranger;

static int make_authorities(void **state)
{
    (void)state;
    authority = make_identity("Test Authority", NULL, true, -DAY, 10 * DAY, NULL);
    stranger = make_identity("Stranger", NULL, true, -DAY, 10 * DAY, NULL);
    return 0;
}

static int free_authorities(void **state)
{
    (void)state;
    free_identity(&authority);
    free_identity(&stranger);
    return 0;
}

static void certificates_prove_or_say_why_not(void **state)
{
    (void)state;
    static const struct {
        const char *what, *subject, *names;
        long from, until;
        const struct identity *issuer;
        const char *reason; /* NULL: proven */
    } cases[] = {
        {"right", "x", "DNS:www.example.org", -DAY, DAY, &authority, NULL},
        {"one of several names", "x", "DNS:a.example,DNS:www.example.org", -DAY, DAY, &authority, NULL},
        {"a wildcard", "x", "DNS:*.example.org", -DAY, DAY, &authority, NULL},
        {"capitals", "x", "DNS:WWW.Example.ORG", -DAY, DAY, &authority, NULL},
        {"another name", "x", "DNS:example.org", -DAY, DAY, &authority,
         "the origin's certificate is for another name"},
        {"a wildcard two labels up", "x", "DNS:*.org", -DAY, DAY, &authority,
         "the origin's certificate is for another name"},
        {"a part of a label", "x", "DNS:w*.example.org", -DAY, DAY, &authority,
         "the origin's certificate is for another name"},
        {"only a common name", "www.example.org", NULL, -DAY, DAY, &authority,
         "the origin's certificate is for another name"},
        {"an address that reads like it", "x", "IP:192.0.2.1", -DAY, DAY, &authority,
         "the origin's certificate is for another name"},
        {"expired", "x", "DNS:www.example.org", -2 * DAY, -DAY, &authority,
         "the origin's certificate has expired"},
        {"of tomorrow", "x", "DNS:www.example.org", DAY, 2 * DAY, &authority,
         "the origin's certificate is not valid yet"},
        {"signed by itself", "x", "DNS:www.example.org", -DAY, DAY, NULL,
         "the origin's certificate is of nobody we trust"},
        {"of another authority", "x", "DNS:www.example.org", -DAY, DAY, &stranger,
         "the origin's certificate is of nobody we trust"},
    };
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    struct trust *trust = trust_in(&authority);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct identity id = make_identity(cases[i].subject, cases[i].names, false, cases[i].from,
                                           cases[i].until, cases[i].issuer);
        for (size_t v = 0; v < 2; v++) {
            char sni[256];
            struct proof_result r = converse(trust, "www.example.org", &id, versions[v], 16384, sni);
            const char *wanted = cases[i].reason;
            if (r.proven != !wanted || !r.seen || (wanted && (!r.reason || strcmp(r.reason, wanted))))
                fail_msg("%s: proven %d, %s", cases[i].what, r.proven, r.reason ? r.reason : "no reason");
            assert_string_equal(sni, "www.example.org");
            if (cases[i].issuer == &authority)
                assert_string_equal(r.issuer, "CN=Test Authority");
            assert_in_range(r.not_after, time(NULL) + cases[i].until - 60, time(NULL) + cases[i].until);
        }
        free_identity(&id);
    }
    trust_destroy(trust);
}

/* A list of `issuer` that revokes `revoked` (or nobody), valid until then, appended to `pem`. */
static void put_list(BIO *pem, const struct identity *issuer, const struct identity *revoked, long until)
{
    X509_CRL *list = X509_CRL_new();
    ASN1_TIME *from = X509_gmtime_adj(NULL, -DAY), *end = X509_gmtime_adj(NULL, until);
    X509_CRL_set_version(list, 1);
    X509_CRL_set_issuer_name(list, X509_get_subject_name(issuer->certificate));
    X509_CRL_set1_lastUpdate(list, from);
    X509_CRL_set1_nextUpdate(list, end);
    if (revoked) {
        X509_REVOKED *entry = X509_REVOKED_new();
        X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(revoked->certificate));
        X509_REVOKED_set_revocationDate(entry, from);
        X509_CRL_add0_revoked(list, entry);
    }
    assert_true(X509_CRL_sign(list, issuer->key, EVP_sha256()) > 0);
    PEM_write_bio_X509_CRL(pem, list);
    X509_CRL_free(list);
    ASN1_TIME_free(from);
    ASN1_TIME_free(end);
}

static void revocation_lists_hold_for_their_issuer(void **state)
{
    (void)state;
    struct identity good = make_identity("x", "DNS:www.example.org", false, -DAY, DAY, &authority),
                    bad = make_identity("x", "DNS:www.example.org", false, -DAY, DAY, &authority),
                    other = make_identity("x", "DNS:www.example.org", false, -DAY, DAY, &stranger);
    for (int expired = 0; expired < 2; expired++) {
        struct trust *trust;
        struct error err;
        char *text;
        BIO *pem = BIO_new(BIO_s_mem());
        PEM_write_bio_X509(pem, authority.certificate);
        put_list(pem, &authority, &bad, expired ? -1 : DAY);
        PEM_write_bio_X509(pem, stranger.certificate); /* has no list */
        long length = BIO_get_mem_data(pem, &text);
        assert_int_equal(trust_create(text, (size_t)length, &trust, &err), 0);
        assert_int_equal(trust_count(trust), 2);
        struct proof_result r = converse(trust, "www.example.org", &good, TLS1_3_VERSION, 16384, NULL);
        assert_int_equal(r.proven, !expired);
        if (expired)
            assert_string_equal(r.reason, "the revocation list of the certificate's issuer has expired");
        r = converse(trust, "www.example.org", &bad, TLS1_3_VERSION, 16384, NULL);
        assert_false(r.proven);
        if (!expired)
            assert_string_equal(r.reason, "the origin's certificate was revoked");
        assert_true(converse(trust, "www.example.org", &other, TLS1_3_VERSION, 16384, NULL).proven);
        BIO_free(pem);
        trust_destroy(trust);
    }
    free_identity(&good);
    free_identity(&bad);
    free_identity(&other);
}

/* ---- OCSP ---- */

struct staple {
    const char *what;
    int status;
    long from, until; /* `until` 0: it does not say */
    const struct identity *signer;
    bool signer_within; /* its certificate comes with it */
    bool of_another;    /* is about another certificate */
    bool sha256;        /* names it so */
    const char *reason, *reason_required; /* NULL: proven */
};

#define NONE_HOLDS "the origin sends no OCSP response that holds"
#define DEMANDED NONE_HOLDS ", and its certificate demands one"
#define SAYS_REVOKED "the origin's certificate was revoked, as the OCSP response that it sends says"

static void staple_make(const struct staple *s, const struct identity *about)
{
    OCSP_BASICRESP *basic = OCSP_BASICRESP_new();
    ASN1_TIME *from = X509_gmtime_adj(NULL, s->from), *until = s->until ? X509_gmtime_adj(NULL, s->until) : NULL;
    OCSP_CERTID *id = OCSP_cert_to_id(s->sha256 ? EVP_sha256() : EVP_sha1(), about->certificate, authority.certificate);
    OCSP_basic_add1_status(basic, id, s->status, OCSP_REVOKED_STATUS_KEYCOMPROMISE, from, from, until);
    assert_int_equal(OCSP_basic_sign(basic, s->signer->certificate, s->signer->key, EVP_sha256(), NULL,
                                     s->signer_within ? 0 : OCSP_NOCERTS),
                     1);
    OCSP_RESPONSE *response = OCSP_response_create(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic);
    stapling.bytes = NULL;
    stapling.length = i2d_OCSP_RESPONSE(response, &stapling.bytes);
    OCSP_RESPONSE_free(response);
    OCSP_BASICRESP_free(basic);
    OCSP_CERTID_free(id);
    ASN1_TIME_free(from);
    ASN1_TIME_free(until);
}

static void staple_drop(void)
{
    OPENSSL_free(stapling.bytes);
    memset(&stapling, 0, sizeof(stapling));
}

static void expect(const struct trust *trust, const struct identity *server, enum staple_mode mode, const char *what,
                   const char *reason)
{
    stapling.mode = mode;
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        struct proof_result r = converse(trust, "www.example.org", server, version, 16384, NULL);
        if (r.proven != !reason || (reason && strcmp(r.reason ? r.reason : "none", reason)))
            fail_msg("%s, mode %d: %s", what, mode, r.reason ? r.reason : "proven");
    }
}

/* An identity of `issuer` with one more extension. */
static struct identity make_special(const struct identity *issuer, int nid, const char *value)
{
    struct identity id = make_identity("x", "DNS:www.example.org", false, -DAY, DAY, issuer);
    add_extension(id.certificate, nid, value);
    assert_true(X509_sign(id.certificate, issuer->key, EVP_sha256()) > 0);
    return id;
}

static void staples_say_whether_a_certificate_was_revoked(void **state)
{
    (void)state;
    struct identity leaf = make_identity("x", "DNS:www.example.org", false, -DAY, DAY, &authority),
                    other = make_identity("x", "DNS:www.example.org", false, -DAY, DAY, &authority),
                    responder = make_special(&authority, NID_ext_key_usage, "OCSPSigning"),
                    foreign = make_special(&stranger, NID_ext_key_usage, "OCSPSigning");
    const int good = V_OCSP_CERTSTATUS_GOOD, revoked = V_OCSP_CERTSTATUS_REVOKED, unknown = V_OCSP_CERTSTATUS_UNKNOWN;
    const struct staple cases[] = {
        {"good", good, -60, DAY, &authority},
        {"good, named by SHA-256", good, -60, DAY, &authority, .sha256 = true},
        {"good, without an end", good, -60, 0, &authority},
        {"of a responder", good, -60, DAY, &responder, .signer_within = true},
        {"revoked", revoked, -60, DAY, &authority, .reason = SAYS_REVOKED, .reason_required = SAYS_REVOKED},
        {"revoked, by a responder", revoked, -60, DAY, &responder, .signer_within = true, .reason = SAYS_REVOKED,
         .reason_required = SAYS_REVOKED},
        {"unknown", unknown, -60, DAY, &authority, .reason_required = NONE_HOLDS},
        {"expired", good, -2 * DAY, -DAY, &authority, .reason_required = NONE_HOLDS},
        {"of last month, without an end", good, -30 * DAY, 0, &authority, .reason_required = NONE_HOLDS},
        {"of tomorrow", good, DAY, 2 * DAY, &authority, .reason_required = NONE_HOLDS},
        {"about another certificate", good, -60, DAY, &authority, .of_another = true, .reason_required = NONE_HOLDS},
        {"another revoked", revoked, -60, DAY, &authority, .of_another = true, .reason_required = NONE_HOLDS},
        {"of a stranger", good, -60, DAY, &stranger, .reason_required = NONE_HOLDS},
        {"a stranger's revocation", revoked, -60, DAY, &stranger, .reason_required = NONE_HOLDS},
        {"of a stranger's responder", good, -60, DAY, &foreign, .signer_within = true, .reason_required = NONE_HOLDS},
        {"of the leaf itself", good, -60, DAY, &leaf, .signer_within = true, .reason_required = NONE_HOLDS},
    };
    struct trust *trust = trust_in(&authority);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        staple_make(&cases[i], cases[i].of_another ? &other : &leaf);
        expect(trust, &leaf, STAPLE_LOOK, cases[i].what, cases[i].reason);
        expect(trust, &leaf, STAPLE_REQUIRE, cases[i].what, cases[i].reason_required);
        expect(trust, &leaf, STAPLE_OFF, cases[i].what, NULL);
        staple_drop();
    }
    trust_destroy(trust);
    struct identity *const all[] = {&leaf, &other, &responder, &foreign};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        free_identity(all[i]);
}

static void a_certificate_may_demand_a_staple(void **state)
{
    (void)state;
    struct identity plain = make_identity("x", "DNS:www.example.org", false, -DAY, DAY, &authority),
                    demanding = make_special(&authority, NID_tlsfeature, "status_request");
    const struct staple good = {"good", V_OCSP_CERTSTATUS_GOOD, -60, DAY, &authority},
                        old = {"old", V_OCSP_CERTSTATUS_GOOD, -2 * DAY, -DAY, &authority};
    struct trust *trust = trust_in(&authority);
    expect(trust, &plain, STAPLE_LOOK, "none", NULL);
    expect(trust, &plain, STAPLE_REQUIRE, "none", NONE_HOLDS);
    expect(trust, &demanding, STAPLE_LOOK, "none, demanded", DEMANDED);
    expect(trust, &demanding, STAPLE_REQUIRE, "none, demanded", DEMANDED);
    expect(trust, &demanding, STAPLE_OFF, "none, demanded", NULL);
    staple_make(&good, &demanding);
    expect(trust, &demanding, STAPLE_LOOK, "good, demanded", NULL);
    staple_drop();
    staple_make(&old, &demanding);
    expect(trust, &demanding, STAPLE_LOOK, "old, demanded", DEMANDED);
    staple_drop();
    stapling.bytes = OPENSSL_memdup("\x30\x03\x0a\x01\x06", 5); /* status "unauthorized" */
    stapling.length = 5;
    expect(trust, &demanding, STAPLE_LOOK, "refused by the responder", DEMANDED);
    staple_drop();
    trust_destroy(trust);
    free_identity(&plain);
    free_identity(&demanding);
}

static void a_leaf_is_no_authority(void **state)
{
    (void)state;
    struct identity leaf = make_identity("x", "DNS:other.example", false, -DAY, DAY, &authority),
                    forged = make_identity("x", "DNS:www.example.org", false, -DAY, DAY, &leaf);
    struct trust *trust = trust_in(&authority);
    assert_false(converse(trust, "www.example.org", &forged, TLS1_3_VERSION, 16384, NULL).proven);
    free_identity(&leaf);
    free_identity(&forged);
    trust_destroy(trust);
}

static void it_may_come_byte_by_byte(void **state)
{
    (void)state;
    struct identity id = make_identity("x", "DNS:www.example.org", false, -DAY, DAY, &authority);
    struct trust *trust = trust_in(&authority);
    assert_true(converse(trust, "www.example.org", &id, TLS1_3_VERSION, 1, NULL).proven);
    assert_true(converse(trust, "www.example.org", &id, TLS1_2_VERSION, 1, NULL).proven);
    free_identity(&id);
    trust_destroy(trust);
}

static void what_is_no_tls_proves_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        const char *reason;
    } cases[] = {
        {"", "the origin closed before its certificate was proven"},
        {"SSH-2.0-OpenSSH_9.2\r\n", "the origin does not finish a TLS handshake"},
        {"HTTP/1.1 400 Bad Request\r\n\r\n", "the origin does not finish a TLS handshake"},
        {"\x15\x03\x03\x00\x02\x02\x28" /* alert: handshake_failure */,
         "the origin does not finish a TLS handshake"},
    };
    struct trust *trust = trust_in(&authority);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct proof *proof = proof_create(trust, "www.example.org", STAPLE_LOOK);
        uint8_t hello[4096];
        assert_false(proof_step(proof, NULL, 0, false));
        assert_true(proof_take(proof, hello, sizeof(hello)) > 100);
        size_t length = i == 3 ? 7 : strlen(cases[i].bytes);
        assert_true(proof_step(proof, cases[i].bytes, length, true));
        assert_false(proof_get(proof)->proven);
        assert_false(proof_get(proof)->seen);
        assert_string_equal(proof_get(proof)->reason, cases[i].reason);
        assert_true(proof_step(proof, "more", 4, false)); /* over is over */
        proof_destroy(proof);
    }
    trust_destroy(trust);
}

static void trust_needs_a_certificate(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "nothing here",
                                        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        struct trust *trust = NULL;
        struct error err;
        assert_int_equal(trust_create(texts[i], strlen(texts[i]), &trust, &err), -EINVAL);
        assert_null(trust);
    }
}

static void one_bad_certificate_among_good_ones(void **state)
{
    (void)state;
    struct trust *trust;
    struct error err;
    char *text;
    BIO *pem = BIO_new(BIO_s_mem());
    BIO_puts(pem, "# comment\n");
    PEM_write_bio_X509(pem, authority.certificate);
    BIO_puts(pem, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    PEM_write_bio_X509(pem, stranger.certificate);
    long length = BIO_get_mem_data(pem, &text);
    assert_int_equal(trust_create(text, (size_t)length, &trust, &err), 0);
    assert_int_equal(trust_count(trust), 2);
    BIO_free(pem);
    trust_destroy(trust);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(certificates_prove_or_say_why_not),
        cmocka_unit_test(revocation_lists_hold_for_their_issuer),
        cmocka_unit_test(staples_say_whether_a_certificate_was_revoked),
        cmocka_unit_test(a_certificate_may_demand_a_staple),
        cmocka_unit_test(a_leaf_is_no_authority),
        cmocka_unit_test(it_may_come_byte_by_byte),
        cmocka_unit_test(what_is_no_tls_proves_nothing),
        cmocka_unit_test(trust_needs_a_certificate),
        cmocka_unit_test(one_bad_certificate_among_good_ones),
    };
    return cmocka_run_group_tests(tests, make_authorities, free_authorities);
}
