/*
 * Is an address one of the machine the gateway runs on? Its services trust who is local, so a name that leads
 * there is rebinding as much as one that leads to loopback.
 *
 * Asks the kernel's routing table (RTM_GETROUTE, rtnetlink(7); RTN_LOCAL is what fib_lookup gives for an own
 * address) over a socket that is opened before the worker is confined. The kernel answers within the call.
 */
#pragma once

#include "base/addr.h"
#include "base/error.h"

#include <stdbool.h>

/* A routing socket, or a negative errno. The caller closes it. */
int own_address_open(struct error *err);
/* True for an own address, and also when the kernel's answer cannot be read: then better not. */
bool own_address_is(int socket, const struct addr *address);

/* What the kernel said of addresses within the last second: for answers of the name service, whose addresses are looked at
 * again when they are dialled. */
#define OWN_ADDRESS_KEPT 1024 /* a power of two */
#define OWN_ADDRESS_KEPT_MS 1000
struct own_address_cache {
    struct {
        struct addr address;
        bool own;
        uint64_t until_ms;
    } kept[OWN_ADDRESS_KEPT];
};
bool own_address_is_lately(struct own_address_cache *cache, int socket, const struct addr *address, uint64_t now_ms);
