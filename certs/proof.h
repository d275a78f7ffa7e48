/*
 * Is whoever speaks at the other end the owner of a name? A TLS handshake of our own, with that name as SNI,
 * whose certificate must lead to an authority we trust, be valid now, and be for the name (RFC 9525: a DNS
 * id; a wildcard stands for one whole label).
 *
 * Bytes in, bytes out: no sockets, no clock but the one certificates are compared with. After the handshake
 * nothing is said: the proof is that the other end could finish it.
 */
#pragma once

#include "certs/staple.h"
#include "certs/trust.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

struct proof;

#define PROOF_ISSUER_MAX 200

struct proof_result {
    bool proven;
    bool seen;                     /* there was a certificate: issuer and not_after are its */
    const char *reason;            /* a static sentence; NULL when proven */
    char issuer[PROOF_ISSUER_MAX]; /* RFC 2253 */
    time_t not_after;
};

/* NULL when out of memory. `name` in normal form. */
struct proof *proof_create(const struct trust *trust, const char *name, enum staple_mode staple);
void proof_destroy(struct proof *proof); /* accepts NULL */

/* Bytes of the other end; none at the beginning, and at its end (then it is over). True: the result stands,
 * nothing more is to be sent. */
bool proof_step(struct proof *proof, const void *bytes, size_t length, bool end);
/* Bytes to send to the other end, up to `size`; 0 when there are none. */
size_t proof_take(struct proof *proof, void *ret, size_t size);
const struct proof_result *proof_get(const struct proof *proof);
