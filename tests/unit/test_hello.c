/*
 * gateway/hello.c: real hellos, hand-made ones, and every way to cut or bend them.
 *
 * tests/data/hello holds what programs of Debian 12 sent to a local socket (openssl, curl, wget, git, python,
 * node) and one made here in the shape of a browser's: GREASE, ECH, a key share of post-quantum size.
 */
#include "gateway/hello.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* --- helpers
 * -------------------------------------------------------------------------------------------------- */

struct bytes {
    const uint8_t *at;
    size_t length;
};
#define BYTES(...)                                                             \
    {                                                                          \
        (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}) \
    }

/* Feed `bytes` in steps of `step` bytes until there is a verdict; from a copy that ends where its allocation
 * ends, so that the sanitizer sees a byte read too far. */
static enum hello_status feed_in_steps(struct bytes b, size_t step, struct hello *ret)
{
    uint8_t *copy = malloc(b.length ? b.length : 1);
    if (b.length)
        memcpy(copy, b.at, b.length);
    struct hello_reader reader;
    enum hello_status status = HELLO_MORE;
    hello_reader_init(&reader);
    for (size_t sent = 0; status == HELLO_MORE && sent < b.length;) {
        sent = b.length - sent < step ? b.length : sent + step;
        status = hello_feed(&reader, copy, sent, ret);
    }
    free(copy);
    return status;
}

static enum hello_status feed_in_two(struct bytes b, size_t first, struct hello *ret)
{
    struct hello_reader reader;
    hello_reader_init(&reader);
    enum hello_status status = hello_feed(&reader, b.at, first, ret);
    return status != HELLO_MORE ? status : hello_feed(&reader, b.at, b.length, ret);
}

static void assert_same(enum hello_status a_status, const struct hello *a, enum hello_status b_status,
                        const struct hello *b)
{
    assert_int_equal(a_status, b_status);
    if (a_status == HELLO_MORE)
        return;
    assert_int_equal(a->reason, b->reason);
    assert_string_equal(a->name, b->name);
    assert_int_equal(a->name_length, strlen(a->name));
    assert_string_equal(a->alpn, b->alpn);
    assert_int_equal(a->ech_offered, b->ech_offered);
    assert_int_equal(a->version, b->version);
    assert_true(a->detail == b->detail);
}

/* The verdict in one piece, after checking that every other segmentation comes to the same one. */
static enum hello_status judge(struct bytes b, struct hello *ret)
{
    struct hello other;
    memset(ret, 0, sizeof(*ret));
    enum hello_status status = feed_in_steps(b, b.length, ret);
    assert_same(status, ret, feed_in_steps(b, 1, &other), &other);
    for (size_t first = 0; first <= b.length; first++)
        assert_same(status, ret, feed_in_two(b, first, &other), &other);
    return status;
}

/* A hello being written. It remembers where its length fields are. */
struct draft {
    uint8_t bytes[3 * HELLO_MAX];
    size_t used;
    struct field {
        size_t at, width;
    } fields[64], *open[8];
    size_t field_count, depth;
};

static struct bytes drafted(const struct draft *d)
{
    return (struct bytes){d->bytes, d->used};
}

static void add(struct draft *d, const void *bytes, size_t length)
{
    assert_true(d->used + length <= sizeof(d->bytes));
    if (length)
        memcpy(d->bytes + d->used, bytes, length);
    d->used += length;
}

static void add_number(struct draft *d, size_t value, size_t width)
{
    for (size_t i = width; i-- > 0;)
        add(d, &(uint8_t){(uint8_t)(value >> 8 * i)}, 1);
}

static void add_filler(struct draft *d, size_t length)
{
    for (size_t i = 0; i < length; i++)
        add(d, &(uint8_t){(uint8_t)(i * 7 + 3)}, 1);
}

/* A length field of `width` bytes, and what it counts, up to the matching end(). */
static void begin(struct draft *d, size_t width)
{
    assert_true(d->field_count < 64 && d->depth < 8);
    d->open[d->depth++] = &d->fields[d->field_count];
    d->fields[d->field_count++] = (struct field){d->used, width};
    add_number(d, 0, width);
}

static void set_field(uint8_t *bytes, struct field f, size_t value)
{
    for (size_t i = 0; i < f.width; i++)
        bytes[f.at + i] = (uint8_t)(value >> 8 * (f.width - 1 - i));
}

static size_t get_field(const uint8_t *bytes, struct field f)
{
    size_t value = 0;
    for (size_t i = 0; i < f.width; i++)
        value = value << 8 | bytes[f.at + i];
    return value;
}

static void end(struct draft *d)
{
    struct field *f = d->open[--d->depth];
    set_field(d->bytes, *f, d->used - f->at - f->width);
}

static void begin_extension(struct draft *d, size_t type)
{
    add_number(d, type, 2);
    begin(d, 2);
}

/* Cut one record's message into records of `size` bytes. */
static void record_again(struct bytes whole, size_t size, struct draft *ret)
{
    memset(ret, 0, sizeof(*ret));
    for (size_t at = 5; at < whole.length; at += size) {
        size_t part = whole.length - at < size ? whole.length - at : size;
        add(ret, whole.at, 3);
        add_number(ret, part, 2);
        add(ret, whole.at + at, part);
    }
}

/* Cut it into two records behind `first` bytes of the message. */
static void record_in_two(struct bytes whole, size_t first, struct draft *ret)
{
    memset(ret, 0, sizeof(*ret));
    add(ret, whole.at, 3);
    add_number(ret, first, 2);
    add(ret, whole.at + 5, first);
    add(ret, whole.at, 3);
    add_number(ret, whole.length - 5 - first, 2);
    add(ret, whole.at + 5 + first, whole.length - 5 - first);
}

/* --- real ones
 * ------------------------------------------------------------------------------------------------ */

static const struct real {
    const char *file;
    enum hello_status status;
    enum acl_reason reason;
    const char *name, *alpn;
    bool ech;
    uint16_t version;
} real_hellos[] = {
    {"openssl-default.bin", HELLO_DONE, 0, "api.example.com", "h2,http/1.1", false, 0x0304},
    {"openssl-tls13-only.bin", HELLO_DONE, 0, "api.example.com", "", false, 0x0304},
    {"openssl-tls12-mixed-case-dot.bin", HELLO_DONE, 0, "api.example.com", "", false, 0x0303},
    {"openssl-no-sni.bin", HELLO_BAD, ACL_NO_SNI, "", "", false, 0x0304},
    {"openssl-ip-literal.bin", HELLO_BAD, ACL_IP_LITERAL, "", "", false, 0x0304},
    {"curl.bin", HELLO_DONE, 0, "www.example.com", "h2,http/1.1", false, 0x0304},
    {"curl-http11-tls12.bin", HELLO_DONE, 0, "www.example.com", "http/1.1", false, 0x0303},
    {"wget.bin", HELLO_DONE, 0, "localhost", "", false, 0x0304},
    {"git.bin", HELLO_DONE, 0, "git.example.com", "h2,http/1.1", false, 0x0304},
    {"python.bin", HELLO_DONE, 0, "pypi.example.org", "", false, 0x0304},
    {"node.bin", HELLO_DONE, 0, "registry.example.net", "http/1.1", false, 0x0304},
    {"browser-pq-grease-ech.bin", HELLO_DONE, 0, "www.example.org", "h2,http/1.1", true, 0x0304},
};
#define REAL_COUNT (sizeof(real_hellos) / sizeof(*real_hellos))

static struct bytes load(const char *file, uint8_t *buffer, size_t size)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/hello/%s", TEST_DATA, file);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("cannot read %s", path);
    struct bytes b = {buffer, fread(buffer, 1, size, f)};
    fclose(f);
    return b;
}

static void assert_real(const struct real *want, enum hello_status status, const struct hello *hello)
{
    assert_int_equal(status, want->status);
    assert_string_equal(hello->name, want->name);
    assert_string_equal(hello->alpn, want->alpn);
    assert_int_equal(hello->ech_offered, want->ech);
    assert_int_equal(hello->version, want->version);
    if (status == HELLO_BAD)
        assert_int_equal(hello->reason, want->reason);
}

static void real_hellos_read_the_same_however_segmented(void **state)
{
    (void)state;
    uint8_t buffer[8192];
    for (size_t i = 0; i < REAL_COUNT; i++) {
        struct bytes b = load(real_hellos[i].file, buffer, sizeof(buffer));
        struct hello hello;
        assert_real(&real_hellos[i], judge(b, &hello), &hello);
        if (real_hellos[i].status == HELLO_DONE)
            assert_int_equal(hello.length, b.length);
    }
}

static void real_hellos_read_the_same_however_recorded(void **state)
{
    (void)state;
    static struct draft again;
    uint8_t buffer[8192];
    struct hello hello;
    for (size_t i = 0; i < REAL_COUNT; i++) {
        struct bytes b = load(real_hellos[i].file, buffer, sizeof(buffer));
        for (size_t first = 1; first < b.length - 5; first++) {
            record_in_two(b, first, &again);
            assert_real(&real_hellos[i], feed_in_steps(drafted(&again), SIZE_MAX, &hello), &hello);
            assert_real(&real_hellos[i], feed_in_steps(drafted(&again), 1, &hello), &hello);
        }
        for (size_t size = 1; size < 40; size++) {
            record_again(b, size, &again);
            assert_real(&real_hellos[i], feed_in_steps(drafted(&again), SIZE_MAX, &hello), &hello);
            assert_real(&real_hellos[i], feed_in_steps(drafted(&again), 1, &hello), &hello);
        }
    }
}

static void a_prefix_is_never_done(void **state)
{
    (void)state;
    static struct draft again;
    uint8_t buffer[8192];
    struct hello hello;
    for (size_t i = 0; i < REAL_COUNT; i++) {
        struct bytes b = load(real_hellos[i].file, buffer, sizeof(buffer));
        for (size_t length = 0; length < b.length; length++)
            assert_int_equal(feed_in_steps((struct bytes){b.at, length}, SIZE_MAX, &hello), HELLO_MORE);
        record_again(b, 7, &again);
        for (size_t length = 0; length < again.used; length++)
            assert_int_equal(feed_in_steps((struct bytes){again.bytes, length}, SIZE_MAX, &hello),
                             HELLO_MORE);
    }
}

/* Early data and whatever else comes behind the last record of the hello is not looked at, and counted out.
 */
static void bytes_behind_the_hello_are_left_alone(void **state)
{
    (void)state;
    static struct draft again;
    uint8_t buffer[8192];
    struct hello hello;
    struct bytes b = load("curl.bin", buffer, sizeof(buffer));
    for (size_t size = 1; size <= 512; size *= 2) {
        record_again(b, size, &again);
        size_t length = again.used;
        add(&again,
            "\x17\x03\x03\x00\x05"
            "early and then some",
            24);
        assert_int_equal(judge(drafted(&again), &hello), HELLO_DONE);
        assert_int_equal(hello.length, length);
    }
}

/* --- hand-made ones
 * ------------------------------------------------------------------------------------------- */

/* What the rows below change. Empty members take the value of a plain TLS 1.2 hello. */
struct spec {
    struct bytes record;       /* content type, version */
    struct bytes message_type; /* handshake type */
    struct bytes version;      /* legacy_version */
    struct bytes session_id;   /* with its length byte */
    struct bytes suites;       /* with its length */
    struct bytes compression;  /* with its length byte */
    struct bytes extensions;   /* without the length of the list; without any: no list at all */
    struct bytes behind;       /* inside the message, behind the extensions */
    struct bytes same_record;  /* behind the message */
};

static const struct spec plain = {
    .record = BYTES(22, 3, 1),
    .message_type = BYTES(1),
    .version = BYTES(3, 3),
    .session_id = BYTES(0),
    .suites = BYTES(0, 4, 0x13, 0x01, 0xc0, 0x2f),
    .compression = BYTES(1, 0),
};

static void add_part(struct draft *d, struct bytes part, struct bytes otherwise)
{
    struct bytes b = part.at ? part : otherwise;
    add(d, b.at, b.length);
}

static void draft_from(const struct spec *spec, struct draft *ret)
{
    memset(ret, 0, sizeof(*ret));
    add_part(ret, spec->record, plain.record);
    begin(ret, 2);
    add_part(ret, spec->message_type, plain.message_type);
    begin(ret, 3);
    add_part(ret, spec->version, plain.version);
    add_filler(ret, 32); /* random */
    add_part(ret, spec->session_id, plain.session_id);
    add_part(ret, spec->suites, plain.suites);
    add_part(ret, spec->compression, plain.compression);
    if (spec->extensions.at) {
        begin(ret, 2);
        add(ret, spec->extensions.at, spec->extensions.length);
        end(ret);
    }
    add(ret, spec->behind.at, spec->behind.length);
    end(ret);
    add(ret, spec->same_record.at, spec->same_record.length);
    end(ret);
}

#define A_EXAMPLE 'a', '.', 'e', 'x', 'a', 'm', 'p', 'l', 'e'
#define SNI 0, 0, 0, 14, 0, 12, 0, 0, 9, A_EXAMPLE
#define TLS13 0, 43, 0, 3, 2, 3, 4

/* A real browser's shape: GREASE in each list, ECH, an X25519MLKEM768 share (1216 bytes) before an X25519
 * one. */
static void draft_browser(struct draft *d)
{
    memset(d, 0, sizeof(*d));
    add(d, "\x16\x03\x01", 3);
    begin(d, 2);
    add(d, "\x01", 1);
    begin(d, 3);
    add(d, "\x03\x03", 2);
    add_filler(d, 32);
    begin(d, 1); /* session id, for middleboxes */
    add_filler(d, 32);
    end(d);
    begin(d, 2); /* suites, GREASE first */
    add(d, "\x6a\x6a\x13\x01\x13\x02\x13\x03\xc0\x2b\xc0\x2f", 12);
    end(d);
    begin(d, 1); /* compression */
    add(d, "\0", 1);
    end(d);
    begin(d, 2);                /* extensions */
    begin_extension(d, 0xfe0d); /* encrypted_client_hello: outer, HKDF-SHA256, AES-128-GCM, config 0x2f */
    add(d, "\x00\x00\x01\x00\x01\x2f", 6);
    add_number(d, 32, 2); /* lengths inside extensions that are not judged are no fields to lie in */
    add_filler(d, 32);
    add_number(d, 176, 2);
    add_filler(d, 176);
    end(d);
    begin_extension(d, 0); /* server_name */
    begin(d, 2);
    add(d, "\0", 1);
    begin(d, 2);
    add(d, "www.example.org", 15);
    end(d);
    end(d);
    end(d);
    begin_extension(d, 10); /* supported_groups: GREASE, X25519MLKEM768, X25519 */
    add(d, "\x00\x06\x2a\x2a\x11\xec\x00\x1d", 8);
    end(d);
    begin_extension(d, 16); /* ALPN */
    begin(d, 2);
    begin(d, 1);
    add(d, "h2", 2);
    end(d);
    begin(d, 1);
    add(d, "http/1.1", 8);
    end(d);
    end(d);
    end(d);
    begin_extension(d, 51); /* key_share */
    begin(d, 2);
    add(d, "\x2a\x2a", 2); /* GREASE group, one byte */
    begin(d, 2);
    add(d, "\0", 1);
    end(d);
    add(d, "\x11\xec", 2);
    begin(d, 2);
    add_filler(d, 1216);
    end(d);
    add(d, "\x00\x1d", 2);
    begin(d, 2);
    add_filler(d, 32);
    end(d);
    end(d);
    end(d);
    begin_extension(d, 43); /* supported_versions: GREASE, 1.3, 1.2 */
    begin(d, 1);
    add(d, "\x9a\x9a\x03\x04\x03\x03", 6);
    end(d);
    end(d);
    begin_extension(d, 0x3a3a); /* the last one: a GREASE extension of one byte */
    add(d, "\0", 1);
    end(d);
    end(d);
    end(d);
    end(d);
}

static void the_stored_browser_hello_is_the_one_made_here(void **state)
{
    (void)state;
    static struct draft browser;
    uint8_t buffer[8192];
    draft_browser(&browser);
    struct bytes b = load("browser-pq-grease-ech.bin", buffer, sizeof(buffer));
    assert_int_equal(b.length, browser.used);
    assert_memory_equal(b.at, browser.bytes, b.length);
}

static void length_fields_that_lie_are_never_done(void **state)
{
    (void)state;
    static const int64_t lies[] = {1, -1, 4, -4, 0xffff, -0xffff};
    static struct draft browser;
    struct hello hello;
    draft_browser(&browser);
    for (size_t i = 0; i < browser.field_count; i++) {
        struct field f = browser.fields[i];
        size_t most = ((size_t)1 << 8 * f.width) - 1, truth = get_field(browser.bytes, f);
        for (size_t j = 0; j < sizeof(lies) / sizeof(*lies); j++) {
            int64_t lie = (int64_t)truth + lies[j];
            lie = lie < 0 ? 0 : lie > (int64_t)most ? (int64_t)most : lie;
            set_field(browser.bytes, f, (size_t)lie);
            enum hello_status status = judge(drafted(&browser), &hello);
            if (status == HELLO_DONE)
                fail_msg("length at %zu: %zu passes as %lld", f.at, truth, (long long)lie);
            if (status == HELLO_BAD && hello.reason != ACL_HELLO_TOO_LARGE)
                assert_int_equal(hello.reason, ACL_MALFORMED_CLIENT_HELLO);
            if (status == HELLO_MORE) /* only the record and the message can promise more than is there */
                assert_true(i < 2 && lie > (int64_t)truth);
        }
        set_field(browser.bytes, f, truth);
    }
    assert_int_equal(judge(drafted(&browser), &hello), HELLO_DONE);
}

static const struct case_ {
    const char *title;
    struct spec spec;
    enum hello_status status;
    enum acl_reason reason;
    const char *detail; /* part of it */
} cases[] = {
    {"a plain one", {.extensions = BYTES(SNI)}, HELLO_DONE},
    {"TLS 1.3 only", {.suites = BYTES(0, 2, 0x13, 1), .extensions = BYTES(TLS13, SNI)}, HELLO_DONE},
    {"record version 3.0", {.record = BYTES(22, 3, 0), .extensions = BYTES(SNI)}, HELLO_DONE},
    {"record version 3.4", {.record = BYTES(22, 3, 4), .extensions = BYTES(SNI)}, HELLO_DONE},
    {"legacy_version 3.0", {.version = BYTES(3, 0), .extensions = BYTES(SNI)}, HELLO_DONE},
    {"GREASE extension, empty and full",
     {.extensions = BYTES(0xa, 0xa, 0, 0, SNI, 0x1a, 0x1a, 0, 1, 0)},
     HELLO_DONE},
    {"an unknown extension", {.extensions = BYTES(0xab, 0xcd, 0, 2, 9, 9, SNI)}, HELLO_DONE},
    {"an empty key_share list asks for a retry", {.extensions = BYTES(SNI, 0, 51, 0, 2, 0, 0)}, HELLO_DONE},
    {"pre_shared_key at the end", {.extensions = BYTES(SNI, 0, 41, 0, 1, 7)}, HELLO_DONE},
    {"an old compression method with TLS 1.2",
     {.compression = BYTES(2, 1, 0), .extensions = BYTES(SNI)},
     HELLO_DONE},

    {"no extensions", {.version = BYTES(3, 1)}, HELLO_BAD, ACL_NO_SNI, "no server_name"},
    {"an empty list of extensions", {.behind = BYTES(0, 0)}, HELLO_BAD, ACL_NO_SNI, "no server_name"},
    {"no server_name", {.extensions = BYTES(TLS13)}, HELLO_BAD, ACL_NO_SNI, "no server_name"},

    {"record version 2.1",
     {.record = BYTES(22, 2, 1)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "record version"},
    {"record version 3.5",
     {.record = BYTES(22, 3, 5)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "record version"},
    {"an alert first", {.record = BYTES(21, 3, 3)}, HELLO_BAD, ACL_NOT_TLS, "first byte"},
    {"a ServerHello", {.message_type = BYTES(2)}, HELLO_BAD, ACL_MALFORMED_CLIENT_HELLO, "begin with"},
    {"legacy_version 2.0",
     {.version = BYTES(2, 0), .extensions = BYTES(SNI)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "legacy_version"},
    {"legacy_version 3.5",
     {.version = BYTES(3, 5), .extensions = BYTES(SNI)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "legacy_version"},
    {"a session id of 33 bytes",
     {.session_id = BYTES(33, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
                          23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33),
      .extensions = BYTES(SNI)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "session id"},
    {"no cipher suites",
     {.suites = BYTES(0, 0), .extensions = BYTES(SNI)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "cipher suites"},
    {"half a cipher suite",
     {.suites = BYTES(0, 3, 1, 2, 3), .extensions = BYTES(SNI)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "cipher suites"},
    {"no compression method",
     {.compression = BYTES(0), .extensions = BYTES(SNI)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "compression"},
    {"no null compression",
     {.compression = BYTES(1, 1), .extensions = BYTES(SNI)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "compression"},
    {"TLS 1.3 with compression",
     {.compression = BYTES(2, 1, 0), .extensions = BYTES(SNI, TLS13)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "compression"},
    {"bytes behind the extensions",
     {.extensions = BYTES(SNI), .behind = BYTES(0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "do not fill"},
    {"another message in the last record",
     {.extensions = BYTES(SNI), .same_record = BYTES(1, 0, 0, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "behind the hello"},
    {"one byte of a length", {.behind = BYTES(0)}, HELLO_BAD, ACL_MALFORMED_CLIENT_HELLO, "do not fill"},
    {"half an extension",
     {.extensions = BYTES(SNI, 0, 1, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "runs past"},
    {"an extension past the end",
     {.extensions = BYTES(SNI, 0, 1, 0, 2, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "runs past"},

    {"two server_name extensions",
     {.extensions = BYTES(SNI, SNI)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "two server_name extensions"},
    {"two unknown extensions of a type",
     {.extensions = BYTES(SNI, 0xab, 0xcd, 0, 0, 0xab, 0xcd, 0, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "comes twice"},
    {"two names in the list",
     {.extensions = BYTES(0, 0, 0, 26, 0, 24, 0, 0, 9, A_EXAMPLE, 0, 0, 9, A_EXAMPLE)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "more than one entry"},
    {"an unknown name type first",
     {.extensions = BYTES(0, 0, 0, 18, 0, 16, 1, 0, 1, 'x', 0, 0, 9, A_EXAMPLE)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "unknown type"},
    {"an unknown name type behind",
     {.extensions = BYTES(0, 0, 0, 18, 0, 16, 0, 0, 9, A_EXAMPLE, 1, 0, 1, 'x')},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "more than one entry"},
    {"an empty server_name extension, as servers send",
     {.extensions = BYTES(0, 0, 0, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "server_name list"},
    {"an empty list of names",
     {.extensions = BYTES(0, 0, 0, 2, 0, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "server_name list"},
    {"an empty name",
     {.extensions = BYTES(0, 0, 0, 5, 0, 3, 0, 0, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "empty or runs past"},
    {"a name of length 0xffff",
     {.extensions = BYTES(0, 0, 0, 14, 0, 12, 0, 0xff, 0xff, A_EXAMPLE)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "runs past its list"},
    {"a byte behind the list of names",
     {.extensions = BYTES(0, 0, 0, 15, 0, 12, 0, 0, 9, A_EXAMPLE, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "server_name list"},

    {"an empty ALPN list",
     {.extensions = BYTES(SNI, 0, 16, 0, 2, 0, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "ALPN"},
    {"an empty ALPN name",
     {.extensions = BYTES(SNI, 0, 16, 0, 3, 0, 1, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "ALPN"},
    {"an ALPN name past its list",
     {.extensions = BYTES(SNI, 0, 16, 0, 4, 0, 2, 2, 'h')},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "ALPN"},
    {"no supported version",
     {.extensions = BYTES(SNI, 0, 43, 0, 1, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "supported_versions"},
    {"half a supported version",
     {.extensions = BYTES(SNI, 0, 43, 0, 4, 3, 3, 4, 3)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "supported_versions"},
    {"a byte behind the supported versions",
     {.extensions = BYTES(SNI, 0, 43, 0, 4, 2, 3, 4, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "supported_versions"},
    {"a key_share list that overruns",
     {.extensions = BYTES(SNI, 0, 51, 0, 7, 0, 6, 0, 29, 0, 1, 7)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "key_share"},
    {"a key that overruns its list",
     {.extensions = BYTES(SNI, 0, 51, 0, 7, 0, 5, 0, 29, 0, 2, 7)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "key_share"},
    {"an empty key",
     {.extensions = BYTES(SNI, 0, 51, 0, 6, 0, 4, 0, 29, 0, 0)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "key_share"},
    {"pre_shared_key before another",
     {.extensions = BYTES(0, 41, 0, 1, 7, SNI)},
     HELLO_BAD,
     ACL_MALFORMED_CLIENT_HELLO,
     "pre_shared_key"},
};

static void made_hellos_get_their_verdict(void **state)
{
    (void)state;
    static struct draft d, again;
    struct hello hello, other;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const struct case_ *c = &cases[i];
        draft_from(&c->spec, &d);
        enum hello_status status = judge(drafted(&d), &hello);
        if (status != c->status || (status == HELLO_BAD && hello.reason != c->reason))
            fail_msg("%s: status %d, %s", c->title, status, hello.detail ? hello.detail : "well-formed");
        if (status == HELLO_BAD && !strstr(hello.detail, c->detail))
            fail_msg("%s: refused for \"%s\"", c->title, hello.detail);
        assert_string_equal(hello.name, status == HELLO_DONE ? "a.example" : "");
        for (size_t size = 1; size < d.used && !c->spec.same_record.at; size += 3) {
            record_again(drafted(&d), size, &again);
            assert_same(status, &hello, feed_in_steps(drafted(&again), SIZE_MAX, &other), &other);
        }
    }
}

static void streams_that_are_no_hello(void **state)
{
    (void)state;
    const struct {
        const char *title;
        struct bytes bytes;
        enum hello_status status;
        enum acl_reason reason;
        const char *detail;
    } streams[] = {
        {"HTTP", BYTES('G', 'E', 'T', ' ', '/'), HELLO_BAD, ACL_NOT_TLS, "first byte"},
        {"SSH", BYTES('S'), HELLO_BAD, ACL_NOT_TLS, "first byte"},
        {"an SSLv2 hello", BYTES(0x80, 0x2e, 1, 3, 1), HELLO_BAD, ACL_MALFORMED_CLIENT_HELLO, "SSLv2"},
        {"perhaps an SSLv2 hello", BYTES(0x80, 0x2e), HELLO_MORE},
        {"not an SSLv2 hello", BYTES(0x80, 0x2e, 4), HELLO_BAD, ACL_NOT_TLS, "first byte"},
        {"nothing", {NULL, 0}, HELLO_MORE},
        {"an empty record", BYTES(22, 3, 1, 0, 0), HELLO_BAD, ACL_MALFORMED_CLIENT_HELLO,
         "an empty handshake record"},
        {"an empty record inside", BYTES(22, 3, 1, 0, 1, 1, 22, 3, 1, 0, 0), HELLO_BAD,
         ACL_MALFORMED_CLIENT_HELLO, "an empty handshake record"},
        {"a record of 16385 bytes", BYTES(22, 3, 1, 0x40, 1), HELLO_BAD, ACL_MALFORMED_CLIENT_HELLO, "16384"},
        {"a record of 16384 bytes", BYTES(22, 3, 1, 0x40, 0), HELLO_MORE},
        {"an alert inside", BYTES(22, 3, 1, 0, 1, 1, 21, 3, 1, 0, 2, 1, 0), HELLO_BAD,
         ACL_MALFORMED_CLIENT_HELLO, "another type"},
        {"application data inside", BYTES(22, 3, 1, 0, 1, 1, 23), HELLO_BAD, ACL_MALFORMED_CLIENT_HELLO,
         "another type"},
        {"HTTP inside", BYTES(22, 3, 1, 0, 1, 1, 'G'), HELLO_BAD, ACL_MALFORMED_CLIENT_HELLO, "another type"},
        {"another version inside", BYTES(22, 3, 1, 0, 1, 1, 22, 2), HELLO_BAD, ACL_MALFORMED_CLIENT_HELLO,
         "version"},
        {"a message of no bytes", BYTES(22, 3, 1, 0, 4, 1, 0, 0, 0), HELLO_BAD, ACL_MALFORMED_CLIENT_HELLO,
         "inside its fixed part"},
        {"a message of 16 MiB", BYTES(22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff), HELLO_BAD, ACL_HELLO_TOO_LARGE,
         "64 KiB"},
        {"one of 64 KiB", BYTES(22, 3, 1, 0, 4, 1, 0, 0xff, 0xf8), HELLO_BAD, ACL_HELLO_TOO_LARGE, "64 KiB"},
        {"one that just fits", BYTES(22, 3, 1, 0, 4, 1, 0, 0xff, 0xf7), HELLO_MORE},
    };
    for (size_t i = 0; i < sizeof(streams) / sizeof(*streams); i++) {
        struct hello hello;
        enum hello_status status = judge(streams[i].bytes, &hello);
        if (status != streams[i].status || (status == HELLO_BAD && hello.reason != streams[i].reason))
            fail_msg("%s: status %d, %s", streams[i].title, status,
                     hello.detail ? hello.detail : "well-formed");
        if (status == HELLO_BAD && !strstr(hello.detail, streams[i].detail))
            fail_msg("%s: refused for \"%s\"", streams[i].title, hello.detail);
    }
}

/* --- names, ALPN, versions
 * ------------------------------------------------------------------------------------ */

static void draft_with_name(const char *name, size_t length, struct draft *d)
{
    static uint8_t extension[9 + 512];
    struct draft *e = d; /* written there first, then wrapped */
    memset(e, 0, sizeof(*e));
    begin_extension(e, 0);
    begin(e, 2);
    add(e, "\0", 1);
    begin(e, 2);
    add(e, name, length);
    end(e);
    end(e);
    end(e);
    size_t used = e->used;
    memcpy(extension, e->bytes, used);
    draft_from(&(struct spec){.extensions = {extension, used}}, d);
}

#define L63 "abcdefghijklmnopqrstuvwxyz-0123456789-abcdefghijklmnopqrstuvwxy"
#define NAME(text) text, sizeof(text) - 1

static void names_are_strict(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t length;
        enum acl_reason reason; /* of the refusal */
        const char *normal;     /* or its normal form */
    } names[] = {
        {NAME("Example.COM"), 0, "example.com"},
        {NAME("example.com."), 0, "example.com"},
        {NAME("_dmarc.xn--bcher-kva.example"), 0, "_dmarc.xn--bcher-kva.example"},
        {NAME(L63 ".example"), 0, L63 ".example"},
        {NAME(L63 "." L63 "." L63 ".abcdefghijklmnopqrstuvwxyz-0123456789-abcdefghijklmnopqrstuvw"), 0,
         L63 "." L63 "." L63 ".abcdefghijklmnopqrstuvwxyz-0123456789-abcdefghijklmnopqrstuvw"},
        {NAME(L63 "." L63 "." L63 ".abcdefghijklmnopqrstuvwxyz-0123456789-abcdefghijklmnopqrstuvwx"),
         ACL_MALFORMED_CLIENT_HELLO},
        {NAME(L63 "x.example"), ACL_MALFORMED_CLIENT_HELLO},
        {NAME("example.com.."), ACL_MALFORMED_CLIENT_HELLO},
        {NAME("a..example"), ACL_MALFORMED_CLIENT_HELLO},
        {NAME(".example"), ACL_MALFORMED_CLIENT_HELLO},
        {NAME("."), ACL_MALFORMED_CLIENT_HELLO},
        {NAME("allowed.example\0.denied.example"), ACL_MALFORMED_CLIENT_HELLO},
        {NAME("a.example\r\nX: y"), ACL_MALFORMED_CLIENT_HELLO},
        {NAME("a.example/x"), ACL_MALFORMED_CLIENT_HELLO},
        {NAME("a.example:443"), ACL_MALFORMED_CLIENT_HELLO},
        {NAME("user@a.example"), ACL_MALFORMED_CLIENT_HELLO},
        {NAME("a.example?x"), ACL_MALFORMED_CLIENT_HELLO},
        {NAME("a b.example"), ACL_MALFORMED_CLIENT_HELLO},
        {NAME("*.example"), ACL_MALFORMED_CLIENT_HELLO},
        {NAME("b\xc3\xbc"
              "cher.example"),
         ACL_MALFORMED_CLIENT_HELLO},
        {NAME("192.0.2.1"), ACL_IP_LITERAL},
        {NAME("192.0.2.1."), ACL_IP_LITERAL},
        {NAME("3221225985"), ACL_IP_LITERAL},
        {NAME("0xC0000201"), ACL_IP_LITERAL},
        {NAME("0300.0.2.1"), ACL_IP_LITERAL},
        {NAME(L63 ".0123456789012345678901234567890123456789"), ACL_IP_LITERAL},
        {NAME("2001:db8::1"), ACL_IP_LITERAL},
        {NAME("[2001:db8::1]"), ACL_IP_LITERAL},
    };
    static struct draft d;
    struct hello hello;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        draft_with_name(names[i].name, names[i].length, &d);
        enum hello_status status = judge(drafted(&d), &hello);
        if (status != (names[i].normal ? HELLO_DONE : HELLO_BAD) || hello.reason != names[i].reason)
            fail_msg("%s: status %d, reason %d", names[i].name, status, hello.reason);
        assert_string_equal(hello.name, names[i].normal ? names[i].normal : "");
    }
}

static void alpn_text_is_bounded_and_harmless(void **state)
{
    (void)state;
    static struct draft d;
    struct hello hello;
    draft_from(&(struct spec){.extensions =
                                  BYTES(SNI, 0, 16, 0, 11, 0, 9, 2, 'h', '2', 5, 'a', ',', '\n', 0xff, '"')},
               &d);
    assert_int_equal(judge(drafted(&d), &hello), HELLO_DONE);
    assert_string_equal(hello.alpn, "h2,a???\"");

    /* 30 names of three bytes: "abc,abc,…" cut at 63 */
    uint8_t extensions[18 + 6 + 120] = {SNI, 0, 16, 0, 122, 0, 120};
    for (size_t i = 0; i < 30; i++)
        memcpy(extensions + 24 + 4 * i, "\3abc", 4);
    draft_from(&(struct spec){.extensions = {extensions, sizeof(extensions)}}, &d);
    assert_int_equal(judge(drafted(&d), &hello), HELLO_DONE);
    assert_int_equal(strlen(hello.alpn), HELLO_ALPN_MAX - 1);
    assert_memory_equal(hello.alpn + 56, "abc,abc", 7);
}

static void the_highest_version_counts(void **state)
{
    (void)state;
    const struct {
        struct spec spec;
        uint16_t version;
    } rows[] = {
        {{.version = BYTES(3, 1), .extensions = BYTES(SNI)}, 0x0301},
        {{.extensions = BYTES(SNI)}, 0x0303},
        {{.extensions = BYTES(SNI, TLS13)}, 0x0304},
        {{.extensions = BYTES(SNI, 0, 43, 0, 7, 6, 3, 2, 0xda, 0xda, 3, 3)}, 0x0303},
        {{.extensions = BYTES(SNI, 0, 43, 0, 5, 4, 0x7f, 0x1c, 0xfa, 0xfa)}, 0x0303}, /* a draft and GREASE */
    };
    static struct draft d;
    struct hello hello;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        draft_from(&rows[i].spec, &d);
        assert_int_equal(judge(drafted(&d), &hello), HELLO_DONE);
        assert_int_equal(hello.version, rows[i].version);
    }
}

/* --- size
 * ----------------------------------------------------------------------------------------------------- */

/* A hello whose message is `length` bytes long: filled with an unknown extension, in records of `size`. */
static void draft_long(size_t length, size_t size, struct draft *ret)
{
    static struct draft whole;
    memset(&whole, 0, sizeof(whole));
    add(&whole, "\x16\x03\x01\0\0\x01", 6);
    add_number(&whole, length - 4, 3);
    add(&whole, "\x03\x03", 2);
    add_filler(&whole, 32);
    add(&whole, "\0\0\2\x13\x01\1\0", 7);
    size_t extensions = length - 4 - 2 - 32 - 7 - 2;
    add_number(&whole, extensions, 2);
    add(&whole, (const uint8_t[]){SNI, 0xab, 0xcd}, 20);
    add_number(&whole, extensions - 22, 2);
    add_filler(&whole, extensions - 22);
    assert_int_equal(whole.used, 5 + length);
    record_again(drafted(&whole), size, ret);
}

static void up_to_64_kib_is_read_and_more_is_not(void **state)
{
    (void)state;
    static const struct {
        size_t length, record;
        enum hello_status status;
    } rows[] = {
        {65536 - 4 * 5, 16384, HELLO_DONE}, /* exactly HELLO_MAX with its record headers */
        {65536 - 4 * 5 + 1, 16384, HELLO_BAD},
        {65536 / 6, 1, HELLO_DONE}, /* 10922 records of one byte: 65532 */
        {65536 / 6 + 1, 1, HELLO_BAD},
    };
    static struct draft d;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct hello hello, other;
        draft_long(rows[i].length, rows[i].record, &d);
        enum hello_status status = feed_in_steps(drafted(&d), SIZE_MAX, &hello);
        assert_int_equal(status, rows[i].status);
        if (status == HELLO_BAD)
            assert_int_equal(hello.reason, ACL_HELLO_TOO_LARGE);
        assert_same(status, &hello, feed_in_steps(drafted(&d), 1, &other), &other);
        /* At HELLO_MAX bytes there is a verdict: a caller's buffer of that size is enough. */
        struct bytes cut = {d.bytes, d.used < HELLO_MAX ? d.used : HELLO_MAX};
        assert_int_equal(feed_in_steps(cut, SIZE_MAX, &other), status);
    }
}

/* 16000 distinct extensions, and the same with the first type again at the end. */
static void thousands_of_extensions(void **state)
{
    (void)state;
    enum { COUNT = 16000 };
    static uint8_t extensions[18 + 4 * (COUNT + 1)];
    static struct draft d, again;
    struct hello hello;
    memcpy(extensions, (const uint8_t[]){SNI}, 18);
    for (size_t i = 0; i <= COUNT; i++) {
        extensions[18 + 4 * i] = (uint8_t)(0x40 + i % COUNT / 256);
        extensions[18 + 4 * i + 1] = (uint8_t)(i % COUNT % 256);
    }
    draft_from(&(struct spec){.extensions = {extensions, sizeof(extensions) - 4}}, &d);
    record_again(drafted(&d), 16384, &again);
    assert_int_equal(feed_in_steps(drafted(&again), SIZE_MAX, &hello), HELLO_DONE);
    draft_from(&(struct spec){.extensions = {extensions, sizeof(extensions)}}, &d);
    record_again(drafted(&d), 16384, &again);
    assert_int_equal(feed_in_steps(drafted(&again), SIZE_MAX, &hello), HELLO_BAD);
    assert_int_equal(hello.reason, ACL_MALFORMED_CLIENT_HELLO);
    assert_string_equal(hello.detail, "an extension comes twice");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_hellos_read_the_same_however_segmented),
        cmocka_unit_test(real_hellos_read_the_same_however_recorded),
        cmocka_unit_test(a_prefix_is_never_done),
        cmocka_unit_test(bytes_behind_the_hello_are_left_alone),
        cmocka_unit_test(the_stored_browser_hello_is_the_one_made_here),
        cmocka_unit_test(length_fields_that_lie_are_never_done),
        cmocka_unit_test(made_hellos_get_their_verdict),
        cmocka_unit_test(streams_that_are_no_hello),
        cmocka_unit_test(names_are_strict),
        cmocka_unit_test(alpn_text_is_bounded_and_harmless),
        cmocka_unit_test(the_highest_version_counts),
        cmocka_unit_test(up_to_64_kib_is_read_and_more_is_not),
        cmocka_unit_test(thousands_of_extensions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
