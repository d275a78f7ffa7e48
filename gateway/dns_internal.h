/*
 * What dns_message.c (reading, short messages of our own) and dns_answer.c (answers kept and served) share.
 *
 *   wire name   a name uncompressed and with ASCII capitals folded, the root's zero included: two names are equal
 *               exactly when their bytes are
 *   chain       the names that a question leads to by CNAME records, the question's own first
 */
#pragma once

#include "base/cursor.h"
#include "gateway/dns_message.h"

enum { HEADER = 12, LABEL_MAX = 63, WIRE_NAME_MAX = 255, JUMPS_MAX = 127, CNAMES_MAX = 16 };
enum { CLASS_IN = 1, OPCODE_QUERY = 0, OPTION_PADDING = 12, OPTION_EDE = 15 };
enum { QR = 0x8000, AA = 0x0400, TC = 0x0200, RD = 0x0100, RA = 0x0080, AD = 0x0020, CD = 0x0010 };

struct message {
    const uint8_t *bytes;
    size_t length;
    struct cursor at;
};

struct header {
    uint16_t id, flags, counts[4]; /* question, answer, authority, additional */
};

struct wire_name {
    uint8_t bytes[WIRE_NAME_MAX];
    size_t length;
};

struct record {
    struct wire_name owner;
    uint16_t type, class;
    uint32_t ttl;
    struct cursor rdata;
};

struct chain {
    struct wire_name names[CNAMES_MAX + 1];
    uint32_t ttls[CNAMES_MAX]; /* of the CNAME that leads on from a name */
    size_t count;
};

static inline struct message dns_message_over(const uint8_t *bytes, size_t length)
{
    return (struct message){.bytes = bytes, .length = length, .at = cursor_over(bytes, length)};
}

bool dns_name_equal(const struct wire_name *a, const struct wire_name *b);
/* Normal-form text to wire form. False for what is not a name in normal form. */
bool dns_name_from_text(const char *text, struct wire_name *ret);
struct header dns_read_header(struct message *m);
/* Reads the name at `c`, which is inside the message, and leaves `c` behind it (behind its first pointer). On
 * failure `c` has failed. */
void dns_read_name(const struct message *m, struct cursor *c, struct wire_name *ret);
void dns_read_record(struct message *m, struct record *ret);
/* Is the question section what we asked? Leaves `m` behind it. */
bool dns_question_is(struct message *m, const struct wire_name *name, uint16_t type);
/* The chain that begins with `first`, in the `records` of the answer section at `m`. False when a target is
 * malformed, or leads back into the chain. */
bool dns_chain_read(struct message m, size_t records, const struct wire_name *first, struct chain *ret);
bool dns_chain_has(const struct chain *chain, const struct wire_name *name);
/* Lowers *ttl to that of a record. RFC 2181 section 8: one with the top bit set is zero. */
void dns_lower_ttl(uint32_t *ttl, uint32_t record_ttl);

/* Fails as a whole when something does not fit. */
struct writer {
    uint8_t *bytes;
    size_t size, used;
    bool failed;
};
void dns_put(struct writer *w, const void *bytes, size_t length);
void dns_put_u16(struct writer *w, unsigned value);
void dns_put_u32(struct writer *w, uint32_t value);
void dns_put_header(struct writer *w, unsigned id, unsigned flags, bool question, bool additional);
/* RFC 6891 section 6.1.2, up to the length of the options. */
void dns_put_opt(struct writer *w, unsigned rcode, bool dnssec_ok, size_t options);
static inline void dns_set_u16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}
