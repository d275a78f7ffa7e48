/*
 * A ClientHello as browsers send it (RFC 8446 section 4.1.2): 517 bytes with padding (RFC 7685), GREASE (RFC 8701), ALPN h2
 * and http/1.1, TLS 1.3 and 1.2, one X25519 share. Nobody answers it with a handshake: proxies that read the name, and the
 * servers of the load lab, only look at its form.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define CLIENT_HELLO_SIZE 517 /* for names up to 150 bytes, which is all that the benchmarks use */

/* Writes the record for `name` into `ret`; returns its length. */
size_t client_hello_write(const char *name, uint8_t ret[CLIENT_HELLO_SIZE]);
