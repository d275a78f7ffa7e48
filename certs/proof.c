#include "certs/proof.h"

#include "certs/proof_internal.h"
#include "certs/trust_internal.h"

#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

struct proof {
    SSL *tls;
    BIO *in, *out; /* the connection's */
    struct proof_result result;
    enum staple_mode staple;
    bool over;
};

static const char *reason_text(long error)
{
    switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        return "the origin's certificate has expired";
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return "the origin's certificate is not valid yet";
    case X509_V_ERR_HOSTNAME_MISMATCH:
        return "the origin's certificate is for another name";
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        return "the origin's certificate is of nobody we trust";
    case X509_V_ERR_CERT_REVOKED:
        return "the origin's certificate was revoked";
    case X509_V_ERR_CRL_HAS_EXPIRED:
        return "the revocation list of the certificate's issuer has expired";
    default:
        return "the origin's certificate does not hold";
    }
}

static void note_certificate(struct proof_result *result, const X509 *certificate)
{
    struct tm end;
    BIO *text = BIO_new(BIO_s_mem());
    result->seen = true;
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &end))
        result->not_after = timegm(&end);
    if (text && X509_NAME_print_ex(text, X509_get_issuer_name(certificate), 0, XN_FLAG_RFC2253) >= 0) {
        int length = BIO_read(text, result->issuer, PROOF_ISSUER_MAX - 1);
        result->issuer[length > 0 ? length : 0] = 0;
    }
    BIO_free(text);
}

/* An issuer without a revocation list among the authorities has none to look at. */
static int without_list(int good, X509_STORE_CTX *store)
{
    if (good || X509_STORE_CTX_get_error(store) != X509_V_ERR_UNABLE_TO_GET_CRL)
        return good;
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
}

int proof_verify_chain(X509_STORE_CTX *store, void *unused)
{
    SSL *tls = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct proof_result *result = SSL_get_app_data(tls);
    const X509 *certificate = X509_STORE_CTX_get0_cert(store);
    (void)unused;
    X509_STORE_CTX_set_verify_cb(store, without_list);
    int good = X509_verify_cert(store);
    if (certificate)
        note_certificate(result, certificate);
    if (good <= 0)
        result->reason = reason_text(X509_STORE_CTX_get_error(store));
    return good;
}

struct proof *proof_create(const struct trust *trust, const char *name, enum staple_mode staple)
{
    struct proof *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->tls = trust_connect(trust, name, &p->result, &p->in, &p->out);
    if (!p->tls) {
        free(p);
        return NULL;
    }
    p->staple = staple;
    staple_ask(p->tls, staple);
    return p;
}

void proof_destroy(struct proof *p)
{
    if (!p)
        return;
    SSL_free(p->tls);
    free(p);
}

static bool finish(struct proof *p, const char *reason)
{
    p->over = true;
    p->result.proven = !reason;
    if (!p->result.reason)
        p->result.reason = reason;
    return true;
}

bool proof_step(struct proof *p, const void *bytes, size_t length, bool end)
{
    if (p->over)
        return true;
    if (length > 0 && BIO_write(p->in, bytes, (int)length) != (int)length)
        return finish(p, "out of memory");
    ERR_clear_error();
    int r = SSL_do_handshake(p->tls);
    int why = r == 1 ? SSL_ERROR_NONE : SSL_get_error(p->tls, r);
    ERR_clear_error();
    if (r == 1)
        return finish(p, SSL_get_verify_result(p->tls) == X509_V_OK ? staple_problem(p->tls, p->staple)
                                                                    : "the origin's certificate does not hold");
    if (why == SSL_ERROR_WANT_READ && !end)
        return false;
    return finish(p, end && why == SSL_ERROR_WANT_READ ? "the origin closed before its certificate was proven"
                                                       : "the origin does not finish a TLS handshake");
}

size_t proof_take(struct proof *p, void *ret, size_t size)
{
    int length = BIO_read(p->out, ret, (int)size);
    return length > 0 ? (size_t)length : 0;
}

const struct proof_result *proof_get(const struct proof *p)
{
    return &p->result;
}
