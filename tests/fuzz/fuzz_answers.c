/*
 * The response side of HTTP: whatever an origin sends, everything is consumed, and the same answers end at
 * the same places however the stream is cut. The first byte says which requests wait for an answer.
 */
#include "tests/fuzz/fuzz.h"

#include "gateway/http_gate.h"

static uint64_t run(const uint8_t *data, size_t size, uint8_t asked, enum fuzz_cut cut)
{
    uint64_t state = fuzz_hash(FUZZ_HASH_START, data, size) | 1, hash = FUZZ_HASH_START;
    struct http_answers *answers = http_answers_create();
    enum http_answers_event event = HTTP_ANSWERS_MORE;
    CHECK(answers);
    for (unsigned i = 0; i < 1u + asked % 4; i++) /* the last one may ask for an upgrade */
        CHECK(http_answers_expect(answers, asked >> (2 + i) & 1, asked & 0x80 && i == asked % 4u) == 0);
    for (size_t at = 0, sent = 0; sent < size && event != HTTP_ANSWERS_SWITCHED;) {
        sent += fuzz_next_piece(cut, &state, size - sent);
        do {
            size_t consumed;
            uint8_t *copy = malloc(sent - at ? sent - at : 1);
            memcpy(copy, data + at, sent - at);
            event = http_answers_feed(answers, copy, sent - at, &consumed);
            free(copy);
            CHECK(consumed <= sent - at);
            CHECK(event != HTTP_ANSWERS_MORE || consumed == sent - at);
            at += consumed;
            if (event != HTTP_ANSWERS_MORE) {
                unsigned outstanding = http_answers_outstanding(answers);
                hash = fuzz_hash(hash, &event, sizeof(event));
                hash = fuzz_hash(hash, &outstanding, sizeof(outstanding));
                if (event != HTTP_ANSWERS_LOST) /* where the fault shows may depend on the cut */
                    hash = fuzz_hash(hash, &at, sizeof(at));
            }
        } while (event != HTTP_ANSWERS_MORE && event != HTTP_ANSWERS_SWITCHED);
    }
    bool lost = http_answers_lost(answers);
    http_answers_destroy(answers);
    return fuzz_hash(hash, &lost, sizeof(lost));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    uint64_t whole = run(data + 1, size - 1, data[0], FUZZ_WHOLE);
    for (enum fuzz_cut cut = FUZZ_BYTES; cut <= FUZZ_PIECES; cut++)
        CHECK(run(data + 1, size - 1, data[0], cut) == whole);
    return 0;
}
