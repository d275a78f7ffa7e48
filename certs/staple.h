/*
 * Revocation as the origin shows it: the OCSP response stapled to its certificate (RFC 6066 section 8, RFC 6960).
 *
 * We never ask a responder ourselves: that would tell it, unencrypted, which names a container reaches, and be a way out that
 * no rule names. A staple says something only when it is of the certificate's issuer (or of a responder that the issuer made
 * one), of now, and about this certificate; any other is as if there was none. That is enough where it says "revoked", and
 * where there is none it is too little for a certificate that demands one ("must-staple", RFC 7633), or where the
 * configuration demands it of everybody: whoever stole a key does not staple that it was stolen.
 */
#pragma once

#include <openssl/ssl.h>

enum staple_mode {
    STAPLE_LOOK,    /* at what is there, and at what the certificate demands */
    STAPLE_OFF,     /* not asked for */
    STAPLE_REQUIRE, /* there must be one */
};

/* Before the handshake. */
void staple_ask(SSL *tls, enum staple_mode mode);
/* After a handshake whose chain was verified: a static sentence that says what is wrong, or NULL. */
const char *staple_problem(SSL *tls, enum staple_mode mode);
