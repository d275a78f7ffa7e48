/*
 * A TCP connection to the outside: straight to an address, or through the site's proxy (`gateway.upstream`)
 * with HTTP CONNECT (RFC 9110 section 9.3.6) or SOCKS5 without authentication (RFC 1928).
 *
 * The proxy is given the address, never the name: what was guarded and bound is what is dialled. When the
 * proxy is down the connection fails; there is no other way out. Not a byte behind the proxy's answer is
 * taken: it may be the origin's greeting.
 */
#pragma once

#include "base/addr.h"
#include "config/snapshot.h"

#include <stdbool.h>
#include <stdint.h>

enum outbound_state { OUTBOUND_CONNECTING, OUTBOUND_GREETED, OUTBOUND_ASKED, OUTBOUND_OPEN };

struct outbound {
    enum outbound_state state;
    struct config_upstream upstream;
    struct addr address;
    const char
        *problem; /* a static sentence, when outbound_step() failed for a reason that errno has no word for */
};

/* Begins to connect. A new non-blocking socket, or a negative errno. The address has passed the guard; the
 * proxy's need not. `speaks_first`: bytes go up as soon as it is connected, so that the handshake's ACK may
 * wait for them and travel along (a packet less for everybody). */
int outbound_open(struct outbound *outbound, const struct config_upstream *upstream,
                  const struct addr *address, bool speaks_first);
/* The socket is ready, with these epoll bits: 1 connected to the address, 0 not yet, or a negative errno. Reads
 * and writes until EAGAIN. */
int outbound_step(struct outbound *outbound, int fd, uint32_t events);
