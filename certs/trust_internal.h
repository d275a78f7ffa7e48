#pragma once

#include "certs/trust.h"

#include <openssl/ssl.h>

struct trust {
    SSL_CTX *context;
    size_t count;
};

struct proof_result;

/* A connection over memory to whoever has a certificate for `name`, which the SNI says too: bytes go in by *ret_in and come
 * out of *ret_out, which are the connection's. What is found of the certificate goes to `found`. NULL when out of memory. */
SSL *trust_connect(const struct trust *trust, const char *name, struct proof_result *found, BIO **ret_in, BIO **ret_out);
