#include "bench/client_hello.h"

#include <assert.h>
#include <string.h>

struct writer {
    uint8_t *bytes;
    size_t used;
};

static void put(struct writer *w, const void *bytes, size_t length)
{
    assert(w->used + length <= CLIENT_HELLO_SIZE);
    memcpy(w->bytes + w->used, bytes, length);
    w->used += length;
}

static void put_u8(struct writer *w, unsigned value)
{
    put(w, &(uint8_t){(uint8_t)value}, 1);
}

static void put_u16(struct writer *w, size_t value)
{
    put_u8(w, (unsigned)(value >> 8) & 0xff);
    put_u8(w, (unsigned)value & 0xff);
}

static void put_same(struct writer *w, uint8_t value, size_t count)
{
    assert(w->used + count <= CLIENT_HELLO_SIZE);
    memset(w->bytes + w->used, value, count);
    w->used += count;
}

static void put_extension(struct writer *w, unsigned type, const void *body, size_t length)
{
    put_u16(w, type);
    put_u16(w, length);
    put(w, body, length);
}

static void put_server_name(struct writer *w, const char *name)
{
    size_t length = strlen(name);
    put_u16(w, 0);
    put_u16(w, length + 5);
    put_u16(w, length + 3);
    put_u8(w, 0); /* host_name */
    put_u16(w, length);
    put(w, name, length);
}

static void put_key_share(struct writer *w)
{
    static const uint8_t head[] = {0x00, 0x29, 0x2a, 0x2a, 0x00, 0x01, 0x00, 0x00, 0x1d, 0x00, 0x20};
    put_u16(w, 51);
    put_u16(w, sizeof(head) + 32);
    put(w, head, sizeof(head)); /* GREASE with one byte, then x25519 */
    put_same(w, 0x5a, 32);
}

#define EXTENSION(w, type, ...) \
    put_extension(w, type, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void put_extensions(struct writer *w, const char *name)
{
    put_extension(w, 0x1a1a, "", 0); /* GREASE */
    put_server_name(w, name);
    put_extension(w, 23, "", 0);                                   /* extended_master_secret */
    EXTENSION(w, 0xff01, 0);                                       /* renegotiation_info */
    EXTENSION(w, 10, 0, 8, 0x2a, 0x2a, 0, 0x1d, 0, 0x17, 0, 0x18); /* supported_groups */
    EXTENSION(w, 11, 1, 0);                                        /* ec_point_formats */
    put_extension(w, 35, "", 0);                                   /* session_ticket */
    EXTENSION(w, 16, 0, 12, 2, 'h', '2', 8, 'h', 't', 't', 'p', '/', '1', '.', '1'); /* ALPN */
    EXTENSION(w, 5, 1, 0, 0, 0, 0);                                                  /* status_request */
    EXTENSION(w, 13, 0, 16, 4, 3, 8, 4, 4, 1, 5, 3, 8, 5, 5, 1, 8, 6, 6, 1); /* signature_algorithms */
    put_extension(w, 18, "", 0); /* signed_certificate_timestamp */
    put_key_share(w);
    EXTENSION(w, 45, 1, 1);                      /* psk_key_exchange_modes */
    EXTENSION(w, 43, 6, 0x3a, 0x3a, 3, 4, 3, 3); /* supported_versions */
    put_u16(w, 21);                              /* padding: the rest */
    size_t left = CLIENT_HELLO_SIZE - w->used - 2;
    put_u16(w, left);
    put_same(w, 0, left);
}

size_t client_hello_write(const char *name, uint8_t ret[CLIENT_HELLO_SIZE])
{
    static const uint8_t suites[] = {0x0a, 0x0a, 0x13, 0x01, 0x13, 0x02, 0x13, 0x03, 0xc0, 0x2b, 0xc0,
                                     0x2f, 0xc0, 0x2c, 0xc0, 0x30, 0xcc, 0xa9, 0xcc, 0xa8, 0xc0, 0x13,
                                     0xc0, 0x14, 0x00, 0x9c, 0x00, 0x9d, 0x00, 0x2f, 0x00, 0x35};
    struct writer w = {.bytes = ret};
    put(&w, (const uint8_t[]){0x16, 3, 1}, 3); /* handshake record */
    put_u16(&w, CLIENT_HELLO_SIZE - 5);
    put(&w, (const uint8_t[]){1, 0}, 2); /* client_hello, 24 bits of length */
    put_u16(&w, CLIENT_HELLO_SIZE - 9);
    put_u16(&w, 0x0303);
    put_same(&w, 0xa5, 32); /* random */
    put_u8(&w, 32);
    put_same(&w, 0x3c, 32); /* legacy_session_id */
    put_u16(&w, sizeof(suites));
    put(&w, suites, sizeof(suites));
    put_u16(&w, 0x0100); /* no compression */
    put_u16(&w, CLIENT_HELLO_SIZE - w.used - 2);
    put_extensions(&w, name);
    return w.used;
}
