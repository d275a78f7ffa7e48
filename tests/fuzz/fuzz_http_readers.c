/*
 * What the gate lets pass, every server reads alike: the bytes it released are read once more here, by RFC 9112 in its narrowest sense
 * and by nothing that the gate is made of. Whatever servers are known to read differently (bare CR or LF, folded lines, space before a
 * colon, two lengths, lists of them, signs in numbers, a coding beside chunked) is no sentence of this grammar, so it must not come
 * through. Host and bounds of every request must be those that the gate told.
 */
#include "tests/fuzz/fuzz.h"

#include "gateway/http_gate.h"

#include <stdbool.h>
#include <strings.h>

struct text {
    const uint8_t *at;
    size_t left;
};

struct request {
    struct text host, authority; /* of the target, where it has one */
    bool chunked, has_length, old;
    uint64_t length;
};

/* ---- the grammar: false is "no such sentence" ---- */

static bool is_token(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_text(uint8_t c)
{
    return c == '\t' || (c >= ' ' && c != 0x7f);
}

/* As many bytes as are of this kind. */
static struct text take(struct text *from, bool (*kind)(uint8_t c))
{
    struct text taken = {from->at, 0};
    while (taken.left < from->left && kind(taken.at[taken.left]))
        taken.left++;
    from->at += taken.left;
    from->left -= taken.left;
    return taken;
}

static bool skip(struct text *from, const char *what)
{
    size_t length = strlen(what);
    if (from->left < length || memcmp(from->at, what, length) != 0)
        return false;
    from->at += length;
    from->left -= length;
    return true;
}

static bool is(struct text t, const char *what)
{
    return t.left == strlen(what) && !strncasecmp((const char *)t.at, what, t.left);
}

static struct text trimmed(struct text t)
{
    while (t.left && (*t.at == ' ' || *t.at == '\t'))
        t.at++, t.left--;
    while (t.left && (t.at[t.left - 1] == ' ' || t.at[t.left - 1] == '\t'))
        t.left--;
    return t;
}

static bool number(struct text digits, unsigned base, uint64_t *ret)
{
    uint64_t value = 0;
    for (size_t i = 0; i < digits.left; i++) {
        uint8_t c = digits.at[i] | 0x20;
        unsigned digit = digits.at[i] <= '9' ? digits.at[i] - '0' + 0u : c - 'a' + 10u;
        if (digits.at[i] < '0' || digit >= base || value > UINT64_MAX / base - 1)
            return false;
        value = value * base + digit;
    }
    *ret = value;
    return digits.left > 0;
}

static bool is_target(uint8_t c)
{
    return c > ' ' && c != 0x7f;
}

static bool is_authority(uint8_t c)
{
    return is_target(c) && c != '/' && c != '?' && c != '#';
}

static bool read_line(struct text *from, struct request *r)
{
    struct text method = take(from, is_token);
    if (!method.left || !skip(from, " "))
        return false;
    struct text target = take(from, is_target);
    if (!target.left || !skip(from, " HTTP/1."))
        return false;
    r->old = skip(from, "0\r\n");
    if (!r->old && !skip(from, "1\r\n"))
        return false;
    if (target.at[0] == '/' || is(target, "*"))
        return true;
    for (size_t i = 0; i < target.left && i < sizeof("https://") - 1; i++)
        if (target.at[i] == ':') {
            struct text rest = {target.at + i, target.left - i};
            bool web = is((struct text){target.at, i}, "http") || is((struct text){target.at, i}, "https");
            if (!web || !skip(&rest, "://"))
                return false;
            r->authority = take(&rest, is_authority);
            return r->authority.left > 0;
        }
    return false;
}

static bool read_field(struct text *from, struct request *r)
{
    struct text name = take(from, is_token);
    if (!name.left || !skip(from, ":"))
        return false;
    struct text value = trimmed(take(from, is_text));
    if (!skip(from, "\r\n"))
        return false;
    if (is(name, "host")) {
        if (r->host.at)
            return false;
        r->host = value;
    } else if (is(name, "content-length")) {
        if (r->has_length || !number(value, 10, &r->length))
            return false;
        r->has_length = true;
    } else if (is(name, "transfer-encoding")) {
        if (r->chunked || !is(value, "chunked"))
            return false;
        r->chunked = true;
    }
    return true;
}

static bool read_head(struct text *from, struct request *r)
{
    while (skip(from, "\r\n"))
        ;
    if (!read_line(from, r))
        return false;
    while (!skip(from, "\r\n"))
        if (!read_field(from, r))
            return false;
    return r->host.at && !(r->chunked && (r->has_length || r->old));
}

/* Whether as much as there is of a body is one; *ret_whole: nothing of it is missing. */
static bool read_chunks(struct text *from, bool *ret_whole)
{
    uint64_t size;
    struct text trailers;
    *ret_whole = false;
    for (;;) {
        struct text line = {from->at, 0};
        const uint8_t *end = from->left ? memchr(from->at, '\n', from->left) : NULL;
        if (!end)
            return true; /* to be continued */
        line.left = (size_t)(end - from->at);
        struct text rest = line, digits = {line.at, 0};
        while (digits.left < line.left && is_token(line.at[digits.left]))
            digits.left++;
        rest.at += digits.left, rest.left -= digits.left;
        if (!number(digits, 16, &size) || size > INT32_MAX || digits.left > 15)
            return false;
        take(&rest, is_text); /* extensions */
        if (!is(rest, "\r"))
            return false;
        from->left -= line.left + 1;
        from->at = end + 1;
        if (size == 0)
            break;
        if (size >= from->left || from->left - size < 2) {
            from->at += from->left, from->left = 0;
            return true;
        }
        from->at += size, from->left -= size;
        if (!skip(from, "\r\n"))
            return false;
    }
    for (trailers = *from; !skip(&trailers, "\r\n");) {
        struct request ignored = {0};
        if (!trailers.left || !memmem(trailers.at, trailers.left, "\r\n", 2)) {
            from->left = 0;
            return true;
        }
        if (!read_field(&trailers, &ignored))
            return false;
    }
    *from = trailers;
    *ret_whole = true;
    return true;
}

static bool read_body(struct text *from, const struct request *r, bool *ret_whole)
{
    if (r->chunked)
        return read_chunks(from, ret_whole);
    size_t there = r->length < from->left ? (size_t)r->length : from->left;
    from->at += there, from->left -= there;
    *ret_whole = there == r->length;
    return true;
}

/* ---- beside what the gate told ---- */

static bool same_host(struct text written, const struct http_request *told)
{
    uint64_t port;
    size_t length = told->host_length;
    if (written.left < length || strncasecmp((const char *)written.at, told->host, length) != 0)
        return false;
    struct text rest = {written.at + length, written.left - length};
    skip(&rest, ".");
    if (!rest.left)
        return true;
    return skip(&rest, ":") && (!rest.left || (number(rest, 10, &port) && port == told->port));
}

static void check_head(struct text *from, const struct http_request *told, const uint8_t *end,
                       struct request *ret)
{
    CHECK(read_head(from, ret));
    CHECK(from->at == end);
    CHECK(same_host(ret->host, told));
    CHECK(!ret->authority.at || same_host(ret->authority, told));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_gate *gate = http_gate_create(80);
    struct request request = {0};
    const uint8_t *at = data, *body = NULL; /* where the body of the request in progress begins */
    size_t consumed;
    enum http_gate_event event;
    bool whole;
    CHECK(gate);
    while ((event = http_gate_feed(gate, at, size - (size_t)(at - data), &consumed)) != HTTP_GATE_BAD) {
        struct text head = {at, consumed};
        at += consumed;
        if (event == HTTP_GATE_MORE)
            break;
        if (event == HTTP_GATE_REQUEST) {
            request = (struct request){0};
            check_head(&head, http_gate_request(gate), at, &request);
            body = at;
        } else if (event == HTTP_GATE_END) {
            struct text all = {body, (size_t)(at - body)};
            CHECK(read_body(&all, &request, &whole) && whole && !all.left);
            body = NULL;
            if (http_gate_request(gate)->upgrade)
                http_gate_upgrade_refused(gate);
        }
    }
    if (body) { /* what passed of a body that is not over, or went wrong later on */
        struct text all = {body, (size_t)(at - body)};
        CHECK(read_body(&all, &request, &whole));
    }
    http_gate_destroy(gate);
    return 0;
}
