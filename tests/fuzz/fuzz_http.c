/*
 * The HTTP gate: however a stream is cut into segments the same requests come out at the same places, with
 * the same verdict; and a host that comes out is a name in normal form.
 */
#include "tests/fuzz/fuzz.h"

#include "gateway/http_gate.h"

struct trace {
    uint64_t hash;
    size_t body;  /* bytes of the current request's body: its events may be cut, the sum may not */
    bool upgrade; /* the current request asks for one */
    bool ended;
};

static void note(struct trace *t, const void *bytes, size_t length)
{
    t->hash = fuzz_hash(t->hash, bytes, length);
}

static void check_request(const struct http_request *r, size_t head)
{
    char name[ACL_NAME_MAX + 1];
    size_t length;
    CHECK(head > 0 && head <= HTTP_HEAD_MAX);
    CHECK(acl_name_normalise(r->host, strlen(r->host), name, &length) == ACL_NAME_OK);
    CHECK(length == r->host_length && !strcmp(name, r->host));
    CHECK(memchr(r->method, 0, sizeof(r->method)) && r->method[0]);
}

static void note_request(struct trace *t, const struct http_request *r)
{
    uint8_t flags = (uint8_t)(r->is_head | r->upgrade << 1 | r->expect_continue << 2 | r->keep_alive << 3);
    note(t, r->host, strlen(r->host) + 1);
    note(t, r->method, strlen(r->method) + 1);
    note(t, &r->port, sizeof(r->port));
    note(t, &flags, 1);
    t->body = 0;
    t->upgrade = r->upgrade;
}

/* One event that is not a piece of a body, at `offset` in the stream. */
static void note_event(struct trace *t, const struct http_gate *gate, enum http_gate_event event,
                       size_t offset)
{
    note(t, &event, sizeof(event));
    note(t, &offset, sizeof(offset));
    if (event == HTTP_GATE_REQUEST) {
        note_request(t, http_gate_request(gate));
    } else if (event == HTTP_GATE_END) {
        note(t, &t->body, sizeof(t->body));
    } else {
        enum acl_reason reason = http_gate_reason(gate);
        CHECK(event == HTTP_GATE_BAD && http_gate_detail(gate));
        note(t, &reason, sizeof(reason));
        note(t, http_gate_detail(gate), strlen(http_gate_detail(gate)));
        t->ended = true;
    }
}

/* Gives the gate what is there until it wants more; `offset` is where that is in the stream. Returns how much
 * it consumed. */
static size_t pump(struct http_gate *gate, const uint8_t *bytes, size_t length, size_t offset,
                   struct trace *t)
{
    size_t at = 0, consumed;
    enum http_gate_event event;
    while (!t->ended &&
           (event = http_gate_feed(gate, bytes + at, length - at, &consumed)) != HTTP_GATE_MORE) {
        CHECK(consumed <= length - at);
        CHECK((consumed > 0) == (event == HTTP_GATE_REQUEST || event == HTTP_GATE_BODY));
        at += consumed;
        if (event == HTTP_GATE_BODY)
            t->body += consumed;
        else
            note_event(t, gate, event, offset + at);
        if (event == HTTP_GATE_REQUEST)
            check_request(http_gate_request(gate), consumed);
        if (event == HTTP_GATE_END && t->upgrade)
            http_gate_upgrade_refused(gate);
    }
    return at;
}

static struct trace run(const uint8_t *data, size_t size, enum fuzz_cut cut)
{
    uint64_t state = fuzz_hash(FUZZ_HASH_START, data, size) | 1;
    struct trace t = {.hash = FUZZ_HASH_START};
    struct http_gate *gate = http_gate_create(80);
    CHECK(gate);
    for (size_t at = 0, sent = 0; !t.ended && sent < size;) {
        sent += fuzz_next_piece(cut, &state, size - sent);
        uint8_t *copy = malloc(sent - at ? sent - at : 1); /* only what was not consumed, and it moves */
        memcpy(copy, data + at, sent - at);
        at += pump(gate, copy, sent - at, at, &t);
        free(copy);
        CHECK(t.ended || sent - at <= HTTP_HEAD_MAX);
    }
    bool clean = !t.ended && http_gate_finish(gate);
    note(&t, &clean, sizeof(clean));
    http_gate_destroy(gate);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct trace whole = run(data, size, FUZZ_WHOLE);
    for (enum fuzz_cut cut = FUZZ_BYTES; cut <= FUZZ_PIECES; cut++) {
        if (cut == FUZZ_BYTES && size > 4096)
            continue; /* copying makes it quadratic here, though not in the gate */
        struct trace other = run(data, size, cut);
        CHECK(other.hash == whole.hash && other.body == whole.body && other.ended == whole.ended);
    }
    http_gate_looks_like(data, size);
    return 0;
}
