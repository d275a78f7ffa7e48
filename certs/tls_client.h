/*
 * A TLS connection of our own that goes on after the proof (certs/proof.h): to a server that must have a certificate
 * for a name, and that then talks to us.
 *
 * Bytes in, bytes out, as there: feed what came, take what is to be sent. Not a byte of ours goes out before the
 * other end has proven who it is.
 */
#pragma once

#include "certs/trust.h"

#include <stdint.h>
#include <sys/types.h>

struct tls_client;

/* `protocol`: the only one offered by ALPN. NULL when out of memory. */
struct tls_client *tls_client_create(const struct trust *trust, const char *name, const char *protocol);
void tls_client_destroy(struct tls_client *client); /* accepts NULL */

/* Bytes of the other end. 0 or -ENOMEM. */
int tls_client_feed(struct tls_client *client, const void *bytes, size_t length);
/* Goes on with the handshake: 1 it is done, 0 more bytes are needed, -EKEYREJECTED the certificate does not prove the
 * name, -EPROTO no TLS that we know. */
int tls_client_handshake(struct tls_client *client);
/* What was said, decrypted: 0 nothing until more bytes are fed, -EPIPE the other end has finished, -EPROTO. */
ssize_t tls_client_read(struct tls_client *client, void *ret, size_t size);
/* To be said; after the handshake. 0 or a negative errno. */
int tls_client_write(struct tls_client *client, const void *bytes, size_t length);
/* Says that we have finished. */
void tls_client_close(struct tls_client *client);
/* Bytes to send to the other end, up to `size`; 0 when there are none. */
size_t tls_client_take(struct tls_client *client, void *ret, size_t size);
/* What was wrong with the certificate, after -EKEYREJECTED: a static sentence. */
const char *tls_client_problem(const struct tls_client *client);
