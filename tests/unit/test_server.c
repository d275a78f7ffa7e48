/*
 * certs/server.c: a client of OpenSSL in the same process, over memory, with certificates made on the spot.
 */
#include "certs/server.h"

#include <errno.h>
#include <openssl/err.h>
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
    struct pem certificate_pem, key_pem;
};

static struct pem text_of(BIO *bio)
{
    char *text;
    long length = BIO_get_mem_data(bio, &text);
    struct pem pem = {memcpy(malloc((size_t)length), text, (size_t)length), (size_t)length};
    BIO_free(bio);
    return pem;
}

static void add_extension(X509 *certificate, int nid, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    assert_int_equal(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

static struct identity make_identity(const char *subject, bool authority, const struct identity *issuer)
{
    static long serial;
    struct identity id = {.key = EVP_EC_gen("P-256"), .certificate = X509_new()};
    X509_set_version(id.certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(id.certificate), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(id.certificate), -DAY);
    X509_gmtime_adj(X509_getm_notAfter(id.certificate), DAY);
    X509_set_pubkey(id.certificate, id.key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(id.certificate), "CN", MBSTRING_ASC, (const uint8_t *)subject, -1, -1, 0);
    X509_set_issuer_name(id.certificate, X509_get_subject_name(issuer ? issuer->certificate : id.certificate));
    add_extension(id.certificate, NID_basic_constraints, authority ? "critical,CA:TRUE" : "critical,CA:FALSE");
    assert_true(X509_sign(id.certificate, issuer ? issuer->key : id.key, EVP_sha256()) > 0);
    BIO *certificate = BIO_new(BIO_s_mem()), *key = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(certificate, id.certificate);
    PEM_write_bio_PrivateKey(key, id.key, NULL, NULL, 0, NULL, NULL);
    id.certificate_pem = text_of(certificate);
    id.key_pem = text_of(key);
    return id;
}

static struct identity authority, stranger, host, known_client, strange_client;

static int make_all(void **state)
{
    (void)state;
    authority = make_identity("Authority", true, NULL);
    stranger = make_identity("Stranger", true, NULL);
    host = make_identity("host", false, &authority);
    known_client = make_identity("known", false, &authority);
    strange_client = make_identity("strange", false, &stranger);
    return 0;
}

static int free_all(void **state)
{
    struct identity *all[] = {&authority, &stranger, &host, &known_client, &strange_client};
    (void)state;
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        EVP_PKEY_free(all[i]->key);
        X509_free(all[i]->certificate);
        free((char *)all[i]->certificate_pem.text);
        free((char *)all[i]->key_pem.text);
    }
    return 0;
}

static const struct pem nobody = {0};

static struct tls_server *make_server(struct pem clients)
{
    struct tls_server *server = NULL;
    struct error err;
    if (tls_server_create(host.certificate_pem, host.key_pem, clients, &server, &err) < 0)
        fail_msg("%s", err.text);
    return server;
}

static SSL *make_client(const struct identity *identity, int version)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_security_level(context, 0); /* also for versions that are too old */
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority.certificate);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (identity) {
        SSL_CTX_use_certificate(context, identity->certificate);
        SSL_CTX_use_PrivateKey(context, identity->key);
    }
    SSL *client = SSL_new(context);
    SSL_CTX_free(context);
    SSL_set_bio(client, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(client);
    return client;
}

/* A question and its answer, `piece` bytes at a time. 0, or what tls_session_read() came to. */
static ssize_t converse(struct tls_session *session, SSL *client, size_t piece)
{
    static const char question[] = "question", answer[] = "answer";
    char said[64];
    uint8_t bytes[4096];
    bool asked = false, answered = false;
    for (int turn = 0; turn < 100000; turn++) {
        size_t length;
        asked = asked || SSL_write(client, question, sizeof(question)) == sizeof(question);
        if (answered && SSL_read(client, said, sizeof(said)) == sizeof(answer)) {
            assert_string_equal(said, answer);
            return 0;
        }
        int got = BIO_read(SSL_get_wbio(client), bytes, (int)piece);
        assert_int_equal(tls_session_feed(session, bytes, got > 0 ? (size_t)got : 0), 0);
        ssize_t read = tls_session_read(session, said, sizeof(said));
        if (read > 0) {
            assert_int_equal(read, sizeof(question));
            assert_string_equal(said, question);
            assert_int_equal(tls_session_write(session, answer, sizeof(answer)), 0);
            answered = true;
        } else if (read != -EAGAIN) {
            return read;
        }
        while ((length = tls_session_take(session, bytes, piece)) > 0)
            BIO_write(SSL_get_rbio(client), bytes, (int)length);
        if (!answered)
            SSL_do_handshake(client);
        ERR_clear_error();
    }
    return -ETIMEDOUT;
}

static ssize_t meet(struct pem clients, const struct identity *identity, int version, size_t piece, char *ret_trouble)
{
    struct tls_server *server = make_server(clients);
    struct tls_session *session = tls_session_create(server);
    tls_server_destroy(server); /* the session has what it needs */
    SSL *client = make_client(identity, version);
    ssize_t r = converse(session, client, piece);
    if (ret_trouble)
        strcpy(ret_trouble, tls_session_trouble(session));
    tls_session_close(session);
    tls_session_destroy(session);
    SSL_free(client);
    return r;
}

static void questions_are_answered_however_they_are_cut(void **state)
{
    (void)state;
    for (size_t piece = 1; piece <= 4096; piece *= 4) {
        assert_int_equal(meet(nobody, NULL, TLS1_3_VERSION, piece, NULL), 0);
        assert_int_equal(meet(nobody, NULL, TLS1_2_VERSION, piece, NULL), 0);
    }
}

static void old_versions_are_refused(void **state)
{
    char trouble[200];
    (void)state;
    assert_int_equal(meet(nobody, NULL, TLS1_1_VERSION, 4096, trouble), -EPROTO);
    assert_non_null(strstr(trouble, "unsupported protocol"));
}

static void clients_need_a_certificate_where_authorities_are_named(void **state)
{
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    char trouble[200];
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(meet(authority.certificate_pem, &known_client, versions[i], 4096, NULL), 0);
        assert_int_equal(meet(authority.certificate_pem, NULL, versions[i], 4096, trouble), -EPROTO);
        assert_non_null(strstr(trouble, "peer did not return a certificate"));
        assert_int_equal(meet(authority.certificate_pem, &strange_client, versions[i], 4096, trouble), -EPROTO);
        assert_non_null(strstr(trouble, "certificate verify failed"));
    }
}

static void what_is_no_tls_is_told(void **state)
{
    static const char request[] = "GET /metrics HTTP/1.1\r\n\r\n";
    char bytes[64];
    struct tls_server *server = make_server(nobody);
    struct tls_session *session = tls_session_create(server);
    (void)state;
    assert_int_equal(tls_session_feed(session, request, sizeof(request) - 1), 0);
    assert_int_equal(tls_session_read(session, bytes, sizeof(bytes)), -EPROTO);
    assert_non_null(strstr(tls_session_trouble(session), "http request"));
    tls_session_destroy(session);
    tls_server_destroy(server);
}

static void refused(struct pem certificate, struct pem key, struct pem clients, const char *why)
{
    struct tls_server *server = NULL;
    struct error err;
    assert_int_equal(tls_server_create(certificate, key, clients, &server, &err), -EINVAL);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" is not in \"%s\"", why, err.text);
    assert_null(server);
}

static void what_cannot_be_used_is_named(void **state)
{
    static const struct pem broken = {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 58};
    BIO *locked_text = BIO_new(BIO_s_mem());
    (void)state;
    PEM_write_bio_PKCS8PrivateKey(locked_text, host.key, EVP_aes_128_cbc(), NULL, 0, NULL, "word");
    struct pem locked = text_of(locked_text);
    refused(broken, host.key_pem, nobody, "the file of the certificate");
    refused(host.key_pem, host.key_pem, nobody, "the file of the certificate");
    refused(host.certificate_pem, host.certificate_pem, nobody, "the key cannot be read");
    refused(host.certificate_pem, locked, nobody, "passphrase");
    refused(host.certificate_pem, stranger.key_pem, nobody, "does not belong");
    refused(host.certificate_pem, host.key_pem, host.key_pem, "clients' authorities");
    free((char *)locked.text);
    tls_server_destroy(NULL);
    tls_session_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(questions_are_answered_however_they_are_cut),
        cmocka_unit_test(old_versions_are_refused),
        cmocka_unit_test(clients_need_a_certificate_where_authorities_are_named),
        cmocka_unit_test(what_is_no_tls_is_told),
        cmocka_unit_test(what_cannot_be_used_is_named),
    };
    return cmocka_run_group_tests(tests, make_all, free_all);
}
