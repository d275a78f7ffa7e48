#pragma once

#include <openssl/x509_vfy.h>

/* SSL_CTX_set_cert_verify_callback(): verifies as usual, and notes what was found in the connection's app data,
 * a struct proof_result.
 */
int proof_verify_chain(X509_STORE_CTX *store, void *unused);
