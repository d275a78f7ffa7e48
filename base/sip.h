/*
 * SipHash-1-3 (Aumasson, Bernstein: "SipHash: a fast short-input PRF"; one round a word, three to finish, as
 * the hash tables of Rust and Python have it), fed a label at a time so that the hash of every suffix of a
 * name comes out of one pass from the right.
 */
#pragma once

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct sip {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t rotate(uint64_t x, unsigned by)
{
    return x << by | x >> (64 - by);
}

static inline void sip_round(struct sip *s)
{
    s->v0 += s->v1;
    s->v2 += s->v3;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 = rotate(s->v0, 32);
    s->v2 += s->v1;
    s->v0 += s->v3;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 = rotate(s->v2, 32);
}

static inline void sip_word(struct sip *s, uint64_t word)
{
    s->v3 ^= word;
    sip_round(s);
    s->v0 ^= word;
}

static inline struct sip sip_begin(const uint64_t key[2])
{
    return (struct sip){key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d, key[0] ^ 0x6c7967656e657261,
                        key[1] ^ 0x7465646279746573};
}

/* The last word of a label carries its length, so no two sequences of labels give the same words. At least 8
 * bytes must be readable behind the label: it is read in whole words. */
static inline void sip_label(struct sip *s, const char *label, size_t length)
{
    uint64_t word;
    size_t left = length;
    for (; left >= 8; left -= 8, label += 8) {
        memcpy(&word, label, 8);
        sip_word(s, le64toh(word));
    }
    memcpy(&word, label, 8);
    word = le64toh(word) & ((UINT64_C(1) << (8 * left)) - 1);
    sip_word(s, word | (uint64_t)length << 56);
}

/* The hash of what went in so far, set apart by `kind`; the state may take more labels afterwards. */
static inline uint32_t sip_end(struct sip s, unsigned kind)
{
    sip_word(&s, kind);
    s.v2 ^= 0xff;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    return (uint32_t)(s.v0 ^ s.v1 ^ s.v2 ^ s.v3);
}
