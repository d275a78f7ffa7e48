#include "certs/server.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tls_server {
    SSL_CTX *context;
};

struct tls_session {
    SSL *tls;
    BIO *in, *out; /* the connection's */
    char trouble[160];
};

/* ---- what it shows ---- */

static BIO *open_pem(struct pem pem)
{
    return BIO_new_mem_buf(pem.text, (int)pem.length);
}

/* A key that needs a passphrase must fail, not ask the terminal. */
static int no_passphrase(char *ret, int size, int writing, void *unused)
{
    (void)ret, (void)size, (void)writing, (void)unused;
    return -1;
}

/* The leaf, and the certificates that lead from it to an authority. */
static int use_certificates(SSL_CTX *context, struct pem pem, struct error *err)
{
    BIO *text = open_pem(pem);
    X509 *leaf = text ? PEM_read_bio_X509_AUX(text, NULL, no_passphrase, NULL) : NULL, *next;
    bool good = leaf && SSL_CTX_use_certificate(context, leaf) == 1;
    X509_free(leaf);
    while (good && (next = PEM_read_bio_X509(text, NULL, no_passphrase, NULL)))
        if (SSL_CTX_add0_chain_cert(context, next) != 1)
            X509_free(next);
    BIO_free(text);
    return good ? 0 : error_set(err, EINVAL, "the file of the certificate has none that can be read");
}

static int use_key(SSL_CTX *context, struct pem pem, struct error *err)
{
    BIO *text = open_pem(pem);
    EVP_PKEY *key = text ? PEM_read_bio_PrivateKey(text, NULL, no_passphrase, NULL) : NULL;
    BIO_free(text);
    if (!key)
        return error_set(err, EINVAL, "the key cannot be read: write a PEM file with a private key, without a passphrase");
    bool good = SSL_CTX_use_PrivateKey(context, key) == 1 && SSL_CTX_check_private_key(context) == 1;
    EVP_PKEY_free(key);
    return good ? 0 : error_set(err, EINVAL, "the key does not belong to the certificate");
}

/* ---- whom it takes ---- */

static int require_clients(SSL_CTX *context, struct pem pem, struct error *err)
{
    BIO *text = open_pem(pem);
    X509 *authority;
    size_t count = 0;
    while (text && (authority = PEM_read_bio_X509_AUX(text, NULL, no_passphrase, NULL))) {
        count += X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority) == 1 &&
                 SSL_CTX_add_client_CA(context, authority) == 1;
        X509_free(authority);
    }
    BIO_free(text);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return count ? 0 : error_set(err, EINVAL, "the file of the clients' authorities has no certificate that can be read");
}

static SSL_CTX *make_context(void)
{
    static const unsigned char id[] = "sallyport-admin";
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    if (!context)
        return NULL;
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_session_id_context(context, id, sizeof(id) - 1);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_num_tickets(context, 0);
    return context;
}

int tls_server_create(struct pem certificate, struct pem key, struct pem authorities, struct tls_server **ret, struct error *err)
{
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL); /* there is no file to be read where this runs */
    struct tls_server *server = calloc(1, sizeof(*server));
    int r = 0;
    if (server)
        server->context = make_context();
    if (!server || !server->context)
        r = error_set(err, ENOMEM, "out of memory");
    if (r == 0)
        r = use_certificates(server->context, certificate, err);
    if (r == 0)
        r = use_key(server->context, key, err);
    if (r == 0 && authorities.text)
        r = require_clients(server->context, authorities, err);
    ERR_clear_error();
    if (r < 0) {
        tls_server_destroy(server);
        return r;
    }
    *ret = server;
    return 0;
}

void tls_server_destroy(struct tls_server *server)
{
    if (!server)
        return;
    SSL_CTX_free(server->context);
    free(server);
}

/* ---- one connection ---- */

struct tls_session *tls_session_create(const struct tls_server *server)
{
    struct tls_session *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->tls = SSL_new(server->context);
    s->in = BIO_new(BIO_s_mem());
    s->out = BIO_new(BIO_s_mem());
    if (!s->tls || !s->in || !s->out) {
        BIO_free(s->in);
        BIO_free(s->out);
        SSL_free(s->tls);
        free(s);
        return NULL;
    }
    SSL_set_bio(s->tls, s->in, s->out);
    SSL_set_accept_state(s->tls);
    return s;
}

void tls_session_destroy(struct tls_session *s)
{
    if (!s)
        return;
    SSL_free(s->tls);
    free(s);
}

static int broke(struct tls_session *s)
{
    unsigned long first = ERR_peek_error();
    const char *text = first ? ERR_reason_error_string(first) : NULL;
    long verified = SSL_get_verify_result(s->tls);
    snprintf(s->trouble, sizeof(s->trouble), "%s%s%s", text ? text : "the connection broke",
             verified != X509_V_OK ? ": " : "", verified != X509_V_OK ? X509_verify_cert_error_string(verified) : "");
    ERR_clear_error();
    return -EPROTO;
}

int tls_session_feed(struct tls_session *s, const void *bytes, size_t length)
{
    return length == 0 || BIO_write(s->in, bytes, (int)length) == (int)length ? 0 : -ENOMEM;
}

ssize_t tls_session_read(struct tls_session *s, void *ret, size_t size)
{
    size_t got;
    ERR_clear_error();
    if (SSL_read_ex(s->tls, ret, size, &got) == 1)
        return (ssize_t)got;
    switch (SSL_get_error(s->tls, 0)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        return broke(s);
    }
}

int tls_session_write(struct tls_session *s, const void *bytes, size_t length)
{
    size_t written;
    ERR_clear_error();
    if (length == 0 || SSL_write_ex(s->tls, bytes, length, &written) == 1)
        return 0; /* without partial writes it is all or nothing, and memory takes all */
    return broke(s);
}

void tls_session_close(struct tls_session *s)
{
    if (SSL_is_init_finished(s->tls))
        SSL_shutdown(s->tls);
    ERR_clear_error();
}

size_t tls_session_take(struct tls_session *s, void *ret, size_t size)
{
    int length = BIO_read(s->out, ret, (int)size);
    return length > 0 ? (size_t)length : 0;
}

const char *tls_session_trouble(const struct tls_session *s)
{
    return s->trouble;
}
