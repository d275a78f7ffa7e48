/*
 * Addresses that lately did not answer, so that the next flow tries a name's other addresses first instead of waiting for the
 * dead one again (RFC 8305 section 5 leaves the order to who has such knowledge). Only the order changes: an address is
 * never left out, and what is forgotten costs a wait.
 */
#pragma once

#include "base/addr.h"

#include <stdint.h>

#define DEAD_ADDRESSES_KEPT 256 /* a power of two */
#define DEAD_ADDRESSES_MS 60000

/* Zero is empty. */
struct dead_addresses {
    struct {
        struct addr address; /* with its port */
        uint64_t until_ms;
    } kept[DEAD_ADDRESSES_KEPT];
};

void dead_addresses_note(struct dead_addresses *dead, const struct addr *address, uint64_t now_ms);
void dead_addresses_forget(struct dead_addresses *dead, const struct addr *address);
/* Moves those that are dead behind the others; both keep their order. */
void dead_addresses_last(const struct dead_addresses *dead, struct addr *addresses, size_t count,
                         uint64_t now_ms);
