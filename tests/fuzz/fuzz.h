/*
 * What every fuzz target shares: the entry that libFuzzer or replay.c calls, a check that cannot be compiled
 * out, and ways to cut a stream that depend on nothing but its bytes (so every input is replayed the same,
 * and any captured file can join a corpus as it is).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

/* FNV-1a. */
static inline uint64_t fuzz_hash(uint64_t hash, const void *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
    return hash;
}
#define FUZZ_HASH_START 0xcbf29ce484222325u

enum fuzz_cut { FUZZ_WHOLE, FUZZ_BYTES, FUZZ_PIECES };

/* Length of the next piece of a stream of which `left` bytes are to come. *state: any start value but 0. */
static inline size_t fuzz_next_piece(enum fuzz_cut cut, uint64_t *state, size_t left)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    size_t piece = cut == FUZZ_WHOLE   ? left
                   : cut == FUZZ_BYTES ? 1
                                       : 1 + (size_t)(*state % 64) * (*state >> 62);
    return piece > left ? left : piece;
}
