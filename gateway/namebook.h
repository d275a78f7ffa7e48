/*
 * Which address was answered for which name: the memory behind binding (DESIGN section 6) and
 * `tcp://name:port` rules.
 *
 * Filled by the DNS service and by the gateway's own look-ups; an entry lives for its TTL plus a grace,
 * because clients keep addresses longer than DNS says. Bounded: when full, the oldest entry makes room. Times
 * are loop milliseconds.
 */
#pragma once

#include "base/addr.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NAMEBOOK_GRACE_MS (10u * 60 * 1000)

struct namebook;

/* NULL when out of memory. `capacity`: most pairs kept. */
struct namebook *namebook_create(size_t capacity);
void namebook_destroy(struct namebook *book);

/* `name` in normal form (acl/name.h). Learning a known pair again extends its life. Out of memory: forgotten,
 * which only costs another look-up later. */
void namebook_learn(struct namebook *book, const char *name, size_t length, const struct addr *address,
                    uint32_t ttl_s, uint64_t now_ms);
/* Was this address answered for this name? The port is not compared. */
bool namebook_knows(struct namebook *book, const char *name, size_t length, const struct addr *address,
                    uint64_t now_ms);
/* The addresses known for a name, newest first, at most `size`. Returns how many. */
size_t namebook_addresses(struct namebook *book, const char *name, size_t length, uint64_t now_ms,
                          struct addr *ret, size_t size);
/* Calls back with each name this address was answered for, newest first, until the callback returns false. */
void namebook_names(struct namebook *book, const struct addr *address, uint64_t now_ms,
                    bool (*each)(const char *name, size_t length, void *arg), void *arg);
size_t namebook_size(const struct namebook *book);
