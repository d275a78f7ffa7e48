/*
 * The ClientHello reader: however a stream is cut into segments the verdict is the same, a hello is done
 * exactly at its last byte, and a name that comes out is a name in normal form.
 */
#include "tests/fuzz/fuzz.h"

#include "gateway/hello.h"

static enum hello_status feed(const uint8_t *data, size_t size, enum fuzz_cut cut, struct hello *ret)
{
    uint64_t state = fuzz_hash(FUZZ_HASH_START, data, size) | 1;
    enum hello_status status = HELLO_MORE;
    struct hello_reader reader;
    uint8_t *copy = malloc(size ? size : 1); /* ends where the stream does */
    hello_reader_init(&reader);
    memset(ret, 0, sizeof(*ret));
    for (size_t sent = 0; status == HELLO_MORE && sent < size;) {
        size_t piece = fuzz_next_piece(cut, &state, size - sent);
        memcpy(copy + sent, data + sent, piece);
        sent += piece;
        status = hello_feed(&reader, copy, sent, ret);
    }
    free(copy);
    return status;
}

static void check_done(const uint8_t *data, size_t size, const struct hello *hello)
{
    struct hello other;
    char name[ACL_NAME_MAX + 1];
    size_t length;
    CHECK(hello->length <= size && hello->length <= HELLO_MAX);
    CHECK(feed(data, hello->length, FUZZ_WHOLE, &other) == HELLO_DONE);
    CHECK(feed(data, hello->length - 1, FUZZ_WHOLE, &other) == HELLO_MORE);
    CHECK(acl_name_normalise(hello->name, hello->name_length, name, &length) == ACL_NAME_OK);
    CHECK(length == hello->name_length && !strcmp(name, hello->name));
}

static void check_bad(const struct hello *hello)
{
    CHECK(hello->reason == ACL_NO_SNI || hello->reason == ACL_MALFORMED_CLIENT_HELLO ||
          hello->reason == ACL_NOT_TLS || hello->reason == ACL_IP_LITERAL ||
          hello->reason == ACL_HELLO_TOO_LARGE);
    CHECK(hello->detail && !hello->name[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hello whole, cut;
    enum hello_status status = feed(data, size, FUZZ_WHOLE, &whole);
    for (enum fuzz_cut how = FUZZ_BYTES; how <= FUZZ_PIECES; how++) {
        CHECK(feed(data, size, how, &cut) == status);
        CHECK(cut.reason == whole.reason && cut.detail == whole.detail && !strcmp(cut.name, whole.name));
        CHECK(cut.ech_offered == whole.ech_offered && cut.version == whole.version &&
              cut.length == whole.length);
        CHECK(!strcmp(cut.alpn, whole.alpn));
    }
    CHECK(status != HELLO_MORE || size < HELLO_MAX);
    for (const char *c = whole.alpn; *c; c++)
        CHECK(*c > 0x20 && *c < 0x7f);
    if (status == HELLO_DONE)
        check_done(data, size, &whole);
    else if (status == HELLO_BAD)
        check_bad(&whole);
    return 0;
}
