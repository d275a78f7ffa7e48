/*
 * TLS ClientHello: bytes in, name out. Pure: no I/O, no allocation, no clock.
 *
 * Strict where a strict server is strict (DESIGN section 5; RFC 8446 sections 4.1.2, 5.1; RFC 6066 section 3): what a
 * lenient origin might read differently is malformed here. Reassembles the handshake message over any number of TLS
 * records; TCP segmentation is the caller's appending to one buffer.
 */
#pragma once

#include "acl/name.h"
#include "acl/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HELLO_MAX 65536    /* bytes from the first byte to the end of the hello, records included */
#define HELLO_ALPN_MAX 64  /* of the text kept */

enum hello_status {
    HELLO_MORE, /* a proper prefix: read on */
    HELLO_DONE, /* a whole hello with a usable name */
    HELLO_BAD,  /* deny with ->reason */
};

struct hello {
    enum acl_reason reason;      /* when HELLO_BAD: ACL_NO_SNI, ACL_MALFORMED_CLIENT_HELLO, ACL_NOT_TLS, ACL_IP_LITERAL,
                                    ACL_HELLO_TOO_LARGE */
    char name[ACL_NAME_MAX + 1]; /* normal form; "" when there is none */
    uint8_t name_length;
    bool ech_offered;            /* extension 0xfe0d was there, GREASE or real */
    char alpn[HELLO_ALPN_MAX];   /* offered protocols, comma-separated, bytes outside 0x21-0x7e as '?', cut at the end */
    uint16_t version;            /* highest offered (supported_versions, GREASE ignored), else legacy_version */
    size_t length;               /* bytes of the stream that make up the hello's records (HELLO_DONE) */
    const char *detail;          /* when HELLO_BAD: a static sentence for people ("two server_name extensions") */
};

/* What a reader keeps between calls: so that a hello that comes one byte at a time costs linear, not quadratic work. */
struct hello_reader {
    size_t record_at;     /* stream offset of the first record not yet complete */
    size_t message_bytes; /* handshake bytes in the complete records before it */
    size_t message_need;  /* 4 + handshake length once known, else 0 */
    uint8_t message_head[4];
};

void hello_reader_init(struct hello_reader *reader);

/* `bytes[0..length)` is the whole stream so far (only ever appended to). *ret is filled for DONE and BAD, after which the
 * reader is used up. A stream of HELLO_MAX bytes never gets HELLO_MORE. Uses up to 72 KiB of stack. */
enum hello_status hello_feed(struct hello_reader *reader, const uint8_t *bytes, size_t length, struct hello *ret);
