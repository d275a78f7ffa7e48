/*
 * Whom to believe: certificate authorities from PEM text, ready to make TLS connections that are verified
 * against them.
 *
 * From text, never from paths: OpenSSL would look files up when it needs them, in a worker that has no file
 * system.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>

struct trust;

/* 0, -EINVAL when no certificate can be read from it, or -ENOMEM. Certificates that are not understood are
 * passed over, as long as there is another. Revocation lists in the text ("X509 CRL") hold for certificates of
 * their issuers; an expired list proves nothing any more, so its issuer's certificates are refused. */
int trust_create(const char *pem, size_t length, struct trust **ret, struct error *err);
void trust_destroy(struct trust *trust); /* accepts NULL; proofs under way keep what they need */
size_t trust_count(const struct trust *trust);

/* The system's authorities, as text: the file that SSL_CERT_FILE names, or the distribution's bundle. -ENOENT
 * when there is none. The caller frees. */
int trust_read_system(char **ret_pem, size_t *ret_length);
