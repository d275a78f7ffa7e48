#include "certs/trust_internal.h"

#include "certs/proof_internal.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUNDLE_MAX (16u << 20)

/* Where distributions keep theirs: Debian and Alpine, Red Hat, OpenSSL's own. */
static const char *const bundles[] = {"/etc/ssl/certs/ca-certificates.crt",
                                      "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem",
                                      "/usr/lib/ssl/cert.pem"};

static int read_file(const char *path, char **ret, size_t *ret_length)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return -errno;
    size_t length = 0, size = 1 << 18;
    char *text = malloc(size);
    while (text && !feof(file) && !ferror(file) && size <= BUNDLE_MAX) {
        length += fread(text + length, 1, size - length, file);
        if (length == size) {
            char *larger = realloc(text, size *= 2);
            if (!larger)
                break;
            text = larger;
        }
    }
    bool whole = text && feof(file);
    fclose(file);
    if (!whole) {
        free(text);
        return -EIO;
    }
    *ret = text;
    *ret_length = length;
    return 0;
}

int trust_read_system(char **ret_pem, size_t *ret_length)
{
    const char *named = getenv("SSL_CERT_FILE");
    if (named && *named)
        return read_file(named, ret_pem, ret_length);
    int r = -ENOENT;
    for (size_t i = 0; i < sizeof(bundles) / sizeof(*bundles) && r < 0; i++)
        r = read_file(bundles[i], ret_pem, ret_length);
    return r;
}

static size_t add_certificates(X509_STORE *store, BIO *text)
{
    size_t count = 0;
    for (;;) {
        X509 *certificate = PEM_read_bio_X509_AUX(text, NULL, NULL, NULL);
        if (certificate) {
            count += X509_STORE_add_cert(store, certificate) == 1;
            X509_free(certificate);
        } else if (ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE) {
            break; /* the end */
        } else if (BIO_eof(text)) {
            break;
        }
        ERR_clear_error();
    }
    ERR_clear_error();
    return count;
}

/* Revocation lists among the certificates: then leaves are looked up in their issuer's, if it has one here.
 * The store itself does not ask for lists: an OCSP responder, which it verifies too, need not be in one. */
static void add_revocations(SSL_CTX *context, BIO *text)
{
    X509_STORE *store = SSL_CTX_get_cert_store(context);
    bool any = false;
    X509_CRL *list;
    while ((list = PEM_read_bio_X509_CRL(text, NULL, NULL, NULL))) {
        any |= X509_STORE_add_crl(store, list) == 1;
        X509_CRL_free(list);
    }
    ERR_clear_error();
    if (any)
        X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_CRL_CHECK);
}

static SSL_CTX *make_context(void)
{
    static const unsigned char alpn[] = "\x02h2\x08http/1.1"; /* some servers take nobody without */
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (!context)
        return NULL;
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_cert_verify_callback(context, proof_verify_chain, NULL);
    SSL_CTX_set_alpn_protos(context, alpn, sizeof(alpn) - 1);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    return context;
}

int trust_create(const char *pem, size_t length, struct trust **ret, struct error *err)
{
    /* No configuration file: there is none to be read where this runs. */
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    struct trust *trust = calloc(1, sizeof(*trust));
    BIO *text = length <= BUNDLE_MAX ? BIO_new_mem_buf(pem, (int)length) : NULL;
    if (trust)
        trust->context = make_context();
    if (!trust || !text || !trust->context) {
        BIO_free(text);
        trust_destroy(trust);
        return error_set(err, ENOMEM, "out of memory");
    }
    trust->count = add_certificates(SSL_CTX_get_cert_store(trust->context), text);
    BIO_reset(text); /* from the beginning again */
    add_revocations(trust->context, text);
    BIO_free(text);
    if (trust->count == 0) {
        trust_destroy(trust);
        return error_set(err, EINVAL, "no certificate of an authority can be read");
    }
    *ret = trust;
    return 0;
}

SSL *trust_connect(const struct trust *trust, const char *name, struct proof_result *found, BIO **ret_in, BIO **ret_out)
{
    SSL *tls = SSL_new(trust->context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    if (!tls || !in || !out) {
        BIO_free(in);
        BIO_free(out);
        SSL_free(tls);
        return NULL;
    }
    SSL_set_bio(tls, in, out);
    SSL_set_app_data(tls, found);
    SSL_set_connect_state(tls);
    SSL_set_hostflags(tls, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    if (SSL_set_tlsext_host_name(tls, name) != 1 || SSL_set1_host(tls, name) != 1) {
        SSL_free(tls);
        return NULL;
    }
    *ret_in = in;
    *ret_out = out;
    return tls;
}

void trust_destroy(struct trust *trust)
{
    if (!trust)
        return;
    SSL_CTX_free(trust->context);
    free(trust);
}

size_t trust_count(const struct trust *trust)
{
    return trust->count;
}
