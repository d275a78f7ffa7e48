/*
 * Where the kernel lets packets pass by itself (network capture), a udp:// or icmp:// rule by name is a set of addresses there. What our
 * DNS answers for such a name is told to the monitor, which puts it into the set; the answer waits for that, so that the container's
 * first packet is not refused. What was told a short while ago is not told again.
 */
#pragma once

#include "base/addr.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct capture;
struct worker;

#define LEARNED_SLOTS 4096

struct learned_slot {
    uint64_t key, until_ms;
};

struct learned {
    uint32_t sent, done; /* serial numbers of messages to the monitor */
    struct learned_slot slots[LEARNED_SLOTS];
};

/* These addresses were answered for a name. Returns the serial number that is to be done before the container is told, or 0. */
uint32_t learned_note(struct capture *capture, const char *name, size_t length, const struct addr *addresses, size_t count,
                      uint32_t ttl);
/* The monitor has done all up to this one. */
void learned_done(struct worker *worker, uint32_t serial);
bool learned_is_done(const struct worker *worker, uint32_t serial);
