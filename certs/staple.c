#include "certs/staple.h"

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/x509v3.h>
#include <stdbool.h>

#define CLOCK_SKEW_S 300
#define WITHOUT_END_S (7L * 24 * 3600) /* how old a response may be that does not say when the next comes */
#define FEATURE_STATUS_REQUEST 5       /* RFC 7633: the number of the TLS extension */

enum verdict { NOTHING, GOOD, REVOKED };

void staple_ask(SSL *tls, enum staple_mode mode)
{
    if (mode != STAPLE_OFF)
        SSL_set_tlsext_status_type(tls, TLSEXT_STATUSTYPE_ocsp);
}

static bool demands_staple(const X509 *certificate)
{
    TLS_FEATURE *features = X509_get_ext_d2i(certificate, NID_tlsfeature, NULL, NULL);
    bool demands = false;
    for (int i = 0; i < sk_ASN1_INTEGER_num(features); i++)
        demands |= ASN1_INTEGER_get(sk_ASN1_INTEGER_value(features, i)) == FEATURE_STATUS_REQUEST;
    TLS_FEATURE_free(features);
    return demands;
}

static OCSP_BASICRESP *read_staple(SSL *tls)
{
    const uint8_t *bytes = NULL;
    long length = SSL_get_tlsext_status_ocsp_resp(tls, &bytes);
    OCSP_RESPONSE *response = bytes && length > 0 ? d2i_OCSP_RESPONSE(NULL, &bytes, length) : NULL;
    OCSP_BASICRESP *basic = NULL;
    if (response && OCSP_response_status(response) == OCSP_RESPONSE_STATUS_SUCCESSFUL)
        basic = OCSP_response_get1_basic(response);
    OCSP_RESPONSE_free(response);
    return basic;
}

/* Signed by the issuer itself, or by a responder with a certificate of the issuer for it. The leaf is not among those that
 * are believed, so it cannot vouch for itself. */
static bool is_signed(OCSP_BASICRESP *basic, SSL *tls, X509 *issuer)
{
    STACK_OF(X509) *believed = sk_X509_new_null();
    bool good = believed && sk_X509_push(believed, issuer) > 0 &&
                OCSP_basic_verify(basic, believed, SSL_CTX_get_cert_store(SSL_get_SSL_CTX(tls)),
                                  OCSP_TRUSTOTHER) == 1;
    sk_X509_free(believed);
    return good;
}

static bool is_about(OCSP_SINGLERESP *single, const X509 *certificate, const X509 *issuer)
{
    const OCSP_CERTID *theirs = OCSP_SINGLERESP_get0_id(single);
    ASN1_OBJECT *hash = NULL;
    OCSP_id_get0_info(NULL, &hash, NULL, NULL, (OCSP_CERTID *)theirs);
    const EVP_MD *digest = EVP_get_digestbyobj(hash);
    OCSP_CERTID *ours = digest ? OCSP_cert_to_id(digest, certificate, issuer) : NULL;
    bool same = ours && OCSP_id_cmp(ours, theirs) == 0;
    OCSP_CERTID_free(ours);
    return same;
}

static enum verdict read_verdict(OCSP_SINGLERESP *single)
{
    ASN1_GENERALIZEDTIME *from = NULL, *until = NULL;
    int status = OCSP_single_get0_status(single, NULL, NULL, &from, &until);
    if (!OCSP_check_validity(from, until, CLOCK_SKEW_S, until ? -1 : WITHOUT_END_S))
        return NOTHING;
    return status == V_OCSP_CERTSTATUS_REVOKED ? REVOKED : status == V_OCSP_CERTSTATUS_GOOD ? GOOD : NOTHING;
}

static enum verdict examine(SSL *tls, const X509 *certificate, X509 *issuer)
{
    OCSP_BASICRESP *basic = read_staple(tls);
    enum verdict verdict = NOTHING;
    if (basic && is_signed(basic, tls, issuer))
        for (int i = 0; i < OCSP_resp_count(basic) && verdict == NOTHING; i++)
            if (is_about(OCSP_resp_get0(basic, i), certificate, issuer))
                verdict = read_verdict(OCSP_resp_get0(basic, i));
    OCSP_BASICRESP_free(basic);
    ERR_clear_error();
    return verdict;
}

const char *staple_problem(SSL *tls, enum staple_mode mode)
{
    STACK_OF(X509) *chain = SSL_get0_verified_chain(tls);
    if (mode == STAPLE_OFF)
        return NULL;
    if (sk_X509_num(chain) < 1)
        return "the origin's certificate does not hold";
    const X509 *certificate = sk_X509_value(chain, 0);
    X509 *issuer = sk_X509_value(chain, sk_X509_num(chain) > 1 ? 1 : 0);
    switch (examine(tls, certificate, issuer)) {
    case GOOD:
        return NULL;
    case REVOKED:
        return "the origin's certificate was revoked, as the OCSP response that it sends says";
    default:
        break;
    }
    if (demands_staple(certificate))
        return "the origin sends no OCSP response that holds, and its certificate demands one";
    return mode == STAPLE_REQUIRE ? "the origin sends no OCSP response that holds" : NULL;
}
