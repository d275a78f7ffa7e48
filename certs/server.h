/*
 * The server's side of TLS, for the admin endpoint: bytes of the network in and out, plain text out and in. No sockets.
 *
 * TLS 1.2 and up, no tickets, no renegotiation, no session cache. With authorities for clients a certificate of one of them
 * is required.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct tls_server;
struct tls_session;

struct pem {
    const char *text;
    size_t length;
};

/* `authorities` without text: clients need no certificate. Everything is copied. -EINVAL with a sentence about what is wrong
 * with which, or -ENOMEM. */
int tls_server_create(struct pem certificate, struct pem key, struct pem authorities, struct tls_server **ret, struct error *err);
void tls_server_destroy(struct tls_server *server); /* accepts NULL; sessions keep what they need */

/* NULL when out of memory. */
struct tls_session *tls_session_create(const struct tls_server *server);
void tls_session_destroy(struct tls_session *session); /* accepts NULL */

/* Bytes of the network. 0 or -ENOMEM. */
int tls_session_feed(struct tls_session *session, const void *bytes, size_t length);
/* Plain text that the peer sent: > 0 bytes, 0 at its end, -EAGAIN when there is none now, -EPROTO (tls_session_trouble). Call it
 * after every feed: it also moves the handshake on. */
ssize_t tls_session_read(struct tls_session *session, void *ret, size_t size);
/* Plain text for the peer, all of it; only after the handshake. 0 or -EPROTO. */
int tls_session_write(struct tls_session *session, const void *bytes, size_t length);
void tls_session_close(struct tls_session *session); /* says so to the peer */
/* Bytes for the network, up to `size`; 0 when there are none. */
size_t tls_session_take(struct tls_session *session, void *ret, size_t size);
/* What went wrong, in OpenSSL's words; "" when nothing did. */
const char *tls_session_trouble(const struct tls_session *session);
