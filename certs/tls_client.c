#include "certs/tls_client.h"

#include "certs/proof.h"
#include "certs/trust_internal.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>
#include <stdlib.h>
#include <string.h>

struct tls_client {
    SSL *tls;
    BIO *in, *out;             /* the connection's */
    struct proof_result found; /* the context's callback notes it */
};

/* ALPN's form: a length and the bytes. */
static bool offer(SSL *tls, const char *protocol)
{
    uint8_t list[256];
    size_t length = strlen(protocol);
    if (length > 255)
        return false;
    list[0] = (uint8_t)length;
    memcpy(list + 1, protocol, length);
    return SSL_set_alpn_protos(tls, list, (unsigned)length + 1) == 0;
}

struct tls_client *tls_client_create(const struct trust *trust, const char *name, const char *protocol)
{
    struct tls_client *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->tls = trust_connect(trust, name, &c->found, &c->in, &c->out);
    if (!c->tls || !offer(c->tls, protocol)) {
        tls_client_destroy(c);
        return NULL;
    }
    return c;
}

void tls_client_destroy(struct tls_client *c)
{
    if (!c)
        return;
    SSL_free(c->tls);
    free(c);
}

int tls_client_feed(struct tls_client *c, const void *bytes, size_t length)
{
    return BIO_write(c->in, bytes, (int)length) == (int)length ? 0 : -ENOMEM;
}

int tls_client_handshake(struct tls_client *c)
{
    ERR_clear_error();
    int r = SSL_do_handshake(c->tls);
    int why = r == 1 ? SSL_ERROR_NONE : SSL_get_error(c->tls, r);
    ERR_clear_error();
    if (r == 1)
        return SSL_get_verify_result(c->tls) == X509_V_OK ? 1 : -EKEYREJECTED;
    if (why == SSL_ERROR_WANT_READ)
        return 0;
    return SSL_get_verify_result(c->tls) == X509_V_OK ? -EPROTO : -EKEYREJECTED;
}

ssize_t tls_client_read(struct tls_client *c, void *ret, size_t size)
{
    ERR_clear_error();
    int length = SSL_read(c->tls, ret, size > INT32_MAX ? INT32_MAX : (int)size);
    int why = length > 0 ? SSL_ERROR_NONE : SSL_get_error(c->tls, length);
    ERR_clear_error();
    if (length > 0)
        return length;
    return why == SSL_ERROR_WANT_READ ? 0 : why == SSL_ERROR_ZERO_RETURN ? -EPIPE : -EPROTO;
}

int tls_client_write(struct tls_client *c, const void *bytes, size_t length)
{
    ERR_clear_error();
    int r = SSL_write(c->tls, bytes, (int)length);
    ERR_clear_error();
    return r == (int)length ? 0 : -EPROTO; /* memory takes everything at once */
}

void tls_client_close(struct tls_client *c)
{
    SSL_shutdown(c->tls);
    ERR_clear_error();
}

size_t tls_client_take(struct tls_client *c, void *ret, size_t size)
{
    int length = BIO_read(c->out, ret, (int)size);
    return length > 0 ? (size_t)length : 0;
}

const char *tls_client_problem(const struct tls_client *c)
{
    return X509_verify_cert_error_string(SSL_get_verify_result(c->tls));
}
