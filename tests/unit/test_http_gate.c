/*
 * Unit tests of gateway/http_gate.c, http_chunked.c and http_answers.c.
 *
 * A case is a stream and the trace of events it must give, the same however it is cut. Traces read
 *   R host:port method flags/length   a request; flags u(pgrade) x(expect) c(lose); length of its head
 *   B n                               body bytes (neighbouring events summed)
 *   E                                 end of the request
 *   !reason                           refused; final
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "gateway/http_gate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))
#define BYTES(literal) literal, sizeof(literal) - 1

struct trace {
    char text[4096];
    size_t used;
    size_t body; /* summed, not yet written */
};

static void __attribute__((format(printf, 2, 3))) note(struct trace *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->text + t->used, sizeof(t->text) - t->used, format, args);
    va_end(args);
    assert_true(n >= 0 && t->used + (size_t)n < sizeof(t->text));
    t->used += (size_t)n;
}

static void note_body(struct trace *t)
{
    if (t->body)
        note(t, "B%zu ", t->body);
    t->body = 0;
}

static void note_event(struct trace *t, const struct http_gate *gate, enum http_gate_event event,
                       size_t consumed)
{
    const struct http_request *r = http_gate_request(gate);
    if (event == HTTP_GATE_BODY) {
        assert_true(consumed > 0);
        t->body += consumed;
        return;
    }
    note_body(t);
    if (event == HTTP_GATE_REQUEST) {
        assert_int_equal(strlen(r->host), r->host_length);
        note(t, "R %s:%u %s %s%s%s%s/%zu ", r->host, r->port, r->method, r->upgrade ? "u" : "",
             r->expect_continue ? "x" : "", r->is_head ? "h" : "", r->keep_alive ? "" : "c", consumed);
    } else if (event == HTTP_GATE_END) {
        assert_int_equal(consumed, 0);
        note(t, "E ");
    } else if (event == HTTP_GATE_BAD) {
        assert_int_equal(consumed, 0);
        assert_true(strlen(http_gate_detail(gate)) > 0);
        note(t, "!%s ", acl_reason_name(http_gate_reason(gate)));
    }
}

/* Exactly these bytes, somewhere else each time: a read behind them, or of where they were, shows under ASan.
 */
static uint8_t *copy_of(const char *bytes, size_t length)
{
    uint8_t *copy = malloc(length ? length : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, length);
    return copy;
}

/* Plays the caller: shows [from, to) of the stream, moves on by what is consumed, until MORE or BAD. */
static enum http_gate_event drain(struct http_gate *gate, const char *stream, size_t *from, size_t to,
                                  struct trace *t)
{
    for (;;) {
        size_t consumed, left = to - *from;
        uint8_t *copy = copy_of(stream + *from, left);
        enum http_gate_event event = http_gate_feed(gate, copy, left, &consumed);
        free(copy);
        assert_true(consumed <= left);
        *from += consumed;
        if (event == HTTP_GATE_MORE) {
            assert_int_equal(consumed, 0);
            return event;
        }
        note_event(t, gate, event, consumed);
        if (event == HTTP_GATE_BAD)
            return event;
    }
}

/* The stream in pieces: first `first` bytes, then `step` at a time. */
static void run(const char *stream, size_t length, size_t first, size_t step, uint16_t port, struct trace *t)
{
    struct http_gate *gate = http_gate_create(port);
    size_t from = 0;
    *t = (struct trace){0};
    assert_non_null(gate);
    for (size_t to = first; drain(gate, stream, &from, to, t) != HTTP_GATE_BAD && to < length;)
        to = to + step < length ? to + step : length;
    note_body(t);
    http_gate_destroy(gate);
    if (t->used)
        t->text[t->used - 1] = 0;
}

static void check_all_cuts(const char *stream, size_t length, uint16_t port, const char *expected)
{
    struct trace t;
    run(stream, length, length, 1, port, &t);
    if (strcmp(t.text, expected) != 0)
        fail_msg("\"%s\" gives \"%s\", not \"%s\"", stream, t.text, expected);
    run(stream, length, 0, 1, port, &t);
    if (strcmp(t.text, expected) != 0)
        fail_msg("\"%s\" byte by byte gives \"%s\", not \"%s\"", stream, t.text, expected);
    for (size_t cut = 1; cut < length; cut++) {
        run(stream, length, cut, length, port, &t);
        if (strcmp(t.text, expected) != 0)
            fail_msg("\"%s\" cut at %zu gives \"%s\", not \"%s\"", stream, cut, t.text, expected);
    }
}

struct gate_case {
    const char *stream;
    size_t length;
    const char *expected;
};

static void check_cases(const struct gate_case *cases, size_t count, uint16_t port)
{
    for (size_t i = 0; i < count; i++)
        check_all_cuts(cases[i].stream, cases[i].length, port, cases[i].expected);
}

#define HOST "Host: example.com\r\n"

static void good_requests_pass(void **state)
{
    (void)state;
    static const struct gate_case cases[] = {
        {BYTES("GET / HTTP/1.1\r\n" HOST "\r\n"), "R example.com:0 GET /37 E"},
        {BYTES("GET / HTTP/1.1\r\nhOsT:EXAMPLE.com.\r\n\r\n"), "R example.com:0 GET /37 E"},
        {BYTES("GET / HTTP/1.1\r\nHost: \t example.com \t \r\n\r\n"), "R example.com:0 GET /42 E"},
        {BYTES("GET / HTTP/1.1\r\nHost: example.com:80\r\n\r\n"), "R example.com:80 GET /40 E"},
        {BYTES("GET / HTTP/1.0\r\n" HOST "\r\n"), "R example.com:0 GET c/37 E"},
        {BYTES("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n" HOST "\r\n"), "R example.com:0 GET /61 E"},
        {BYTES("GET / HTTP/1.1\r\nConnection: foo, Close\r\n" HOST "\r\n"), "R example.com:0 GET c/61 E"},
        {BYTES("HEAD / HTTP/1.1\r\n" HOST "\r\n"), "R example.com:0 HEAD h/38 E"},
        {BYTES("OPTIONS * HTTP/1.1\r\n" HOST "\r\n"), "R example.com:0 OPTIONS /41 E"},
        {BYTES("GET http://example.com/x HTTP/1.1\r\n" HOST "\r\n"), "R example.com:0 GET /56 E"},
        {BYTES("GET HTTP://Example.COM.:80 HTTP/1.1\r\n" HOST "\r\n"), "R example.com:80 GET /58 E"},
        {BYTES("GET /?u=http://other.org/@x, HTTP/1.1\r\n" HOST "\r\n"), "R example.com:0 GET /60 E"},
        {BYTES("GET /\xc3\xa9 HTTP/1.1\r\n" HOST "X: \xc3\xa9\tb\r\n\r\n"), "R example.com:0 GET /48 E"},
        {BYTES("GET / HTTP/1.1\r\nX-Empty:\r\n" HOST "\r\n"), "R example.com:0 GET /47 E"},
        /* bodies */
        {BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello"), "R example.com:0 POST /57 B5 E"},
        {BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n"), "R example.com:0 POST /57 E"},
        {BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n"),
         "R example.com:0 POST /66 B5 E"},
        {BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
               "5\r\nhello\r\n00A;a=b;c=\"d\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n"),
         "R example.com:0 POST /66 B56 E"},
        {BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n00000007fffffff\r\nx"),
         "R example.com:0 POST /66 B18"},
        {BYTES("POST / HTTP/1.1\r\n" HOST "Expect: 100-Continue\r\nContent-Length: 2\r\n\r\nok"),
         "R example.com:0 POST x/79 B2 E"},
        /* pipelined: never a byte of the second in the first's events */
        {BYTES("POST / HTTP/1.1\r\n" HOST
               "Content-Length: 2\r\n\r\nokGET / HTTP/1.1\r\nHost: b.example\r\n\r\n"
               "GET /x HTTP/1.1\r\nHost: c.example\r\n\r\n"),
         "R example.com:0 POST /57 B2 E R b.example:0 GET /35 E R c.example:0 GET /36 E"},
        {BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
               "GET / HTTP/1.1\r\nHost: denied.example\r\nHost: x\r\n\r\n"),
         "R example.com:0 POST /66 B11 E !host_ambiguous"},
        /* behind an upgrade nothing is read */
        {BYTES("GET /ws HTTP/1.1\r\n" HOST "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello"),
         "R example.com:0 GET u/80 E"},
        {BYTES("GET /ws HTTP/1.1\r\n" HOST
               "Upgrade: websocket\r\nContent-Length: 1\r\n\r\nxGET / HTTP/1.1\r\n"),
         "R example.com:0 GET u/78 B1 E"},
    };
    check_cases(cases, COUNT(cases), 80);
}

static void hosts_are_judged(void **state)
{
    (void)state;
    static const struct gate_case cases[] = {
#define GET(host) BYTES("GET / HTTP/1.1\r\nHost: " host "\r\n\r\n")
        {BYTES("GET / HTTP/1.1\r\n\r\n"), "!host_missing"},
        {BYTES("GET / HTTP/1.0\r\n\r\n"), "!host_missing"},
        {BYTES("GET http://example.com/ HTTP/1.1\r\nX: y\r\n\r\n"), "!host_missing"},
        {GET(""), "!host_missing"},
        {GET(" \t "), "!host_missing"},
        {BYTES("GET / HTTP/1.1\r\n" HOST HOST "\r\n"), "!host_ambiguous"},
        {BYTES("GET / HTTP/1.1\r\nHost:\r\n" HOST "\r\n"), "!host_ambiguous"},
        {BYTES("GET / HTTP/1.1\r\n" HOST "host:\r\n\r\n"), "!host_ambiguous"},
        {GET("a.example, b.example"), "!host_ambiguous"},
        {GET("a.example b.example"), "!host_ambiguous"},
        {GET("user@a.example"), "!host_ambiguous"},
        {GET("a.example?x"), "!host_ambiguous"},
        {GET("a.example/x"), "!host_ambiguous"},
        {GET("a.example#x"), "!host_ambiguous"},
        {GET("a.example\\x"), "!host_ambiguous"},
        {GET("a.example%2ecom"), "!host_ambiguous"},
        {GET("http://a.example"), "!host_ambiguous"},
        {GET("caf\xc3\xa9.example"), "!host_ambiguous"},
        {GET("a.example.."), "!host_ambiguous"},
        {GET(".a.example"), "!host_ambiguous"},
        {GET("."), "!host_ambiguous"},
        {GET("a.example:81"), "!host_mismatch"},
        {GET("a.example:443"), "!host_mismatch"},
        {GET("a.example:"), "!host_ambiguous"},
        {GET(":80"), "!host_ambiguous"},
        {GET("a.example:65616"), "!host_ambiguous"}, /* 65536 + 80 */
        {GET("a.example:080"), "!host_ambiguous"},
        {GET("a.example:+80"), "!host_ambiguous"},
        {GET("a.example:80x"), "!host_ambiguous"},
        {GET("a.example:80:80"), "!host_ambiguous"},
        {GET("192.0.2.1"), "!ip_literal"},
        {GET("192.0.2.1:80"), "!ip_literal"},
        {GET("0xc0000201"), "!ip_literal"},
        {GET("3221225985:80"), "!ip_literal"},
        {GET("[2001:db8::1]"), "!ip_literal"},
        {GET("[2001:db8::1]:80"), "!ip_literal"},
        {GET("2001:db8::1"), "!ip_literal"},
        {GET("2001:db8::x"), "!host_ambiguous"},
#undef GET
    };
    check_cases(cases, COUNT(cases), 80);
    check_all_cuts(BYTES("GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n"), 8080,
                   "R a.example:8080 GET /40 E");
    check_all_cuts(BYTES("GET / HTTP/1.1\r\nHost: a.example:80\r\n\r\n"), 8080, "!host_mismatch");
    check_all_cuts(BYTES("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"), 8080, "R a.example:0 GET /35 E");
}

static void targets_are_judged(void **state)
{
    (void)state;
    static const struct gate_case cases[] = {
#define TARGET(target) BYTES("GET " target " HTTP/1.1\r\n" HOST "\r\n")
        {TARGET("http://other.example/"), "!host_mismatch"},
        {TARGET("http://example.com.evil.example/"), "!host_mismatch"},
        {TARGET("http://example.com:81/"), "!host_mismatch"},
        {TARGET("http://example.com:x/"), "!host_ambiguous"},
        {TARGET("http://example.com?@other.example/"), "!host_ambiguous"},
        {TARGET("http://example.com,other.example/"), "!host_ambiguous"},
        {TARGET("http://user@example.com/"), "!host_ambiguous"},
        {TARGET("http://user:pw@example.com/"), "!host_ambiguous"},
        {TARGET("http://example.com\\@other.example/"), "!host_ambiguous"},
        {TARGET("http:///x"), "!host_ambiguous"},
        {TARGET("http://192.0.2.1/"), "!ip_literal"},
        {TARGET("http://[::1]/"), "!ip_literal"},
        {TARGET("https://example.com/"), "!malformed_http"},
        {TARGET("ftp://example.com/"), "!malformed_http"},
        {TARGET("http:/example.com/"), "!malformed_http"},
        {TARGET("example.com/"), "!malformed_http"},
        {TARGET("example.com:80"), "!malformed_http"},
        {TARGET("x"), "!malformed_http"},
        {TARGET("?x"), "!malformed_http"},
        {TARGET("*"), "!malformed_http"},
        {TARGET("/#fragment"), "!malformed_http"},
        {TARGET("/a\tb"), "!malformed_http"},
        {TARGET("/a b"), "!malformed_http"},
        {TARGET("\x2f\x7f"), "!malformed_http"},
#undef TARGET
    };
    check_cases(cases, COUNT(cases), 80);
}

static void other_protocols_are_refused(void **state)
{
    (void)state;
    static const struct gate_case cases[] = {
        {BYTES("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"), "!method_denied"},
        {BYTES("CONNECT / HTTP/1.1\r\n" HOST "\r\n"), "!method_denied"},
        {BYTES("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "!http2_cleartext"},
        {BYTES("PRI * HTTP/1.1\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("GET / HTTP/1.1\r\n" HOST "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"),
         "!http2_cleartext"},
        {BYTES("GET / HTTP/1.1\r\n" HOST "Upgrade: websocket, H2C\r\n\r\n"), "!http2_cleartext"},
        {BYTES("GET / HTTP/1.1\r\n" HOST "Upgrade: websocket\r\nUpgrade: h2c\r\n\r\n"), "!http2_cleartext"},
        {BYTES("GET / HTTP/1.1\r\n" HOST "Upgrade: HTTP/2.0\r\n\r\n"), "!http2_cleartext"},
        {BYTES("GET / HTTP/1.1\r\n" HOST "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"),
         "!http2_cleartext"},
        {BYTES("FROBNICATE / HTTP/1.1\r\n" HOST "\r\n"), "!method_denied"},
        {BYTES("get / HTTP/1.1\r\n" HOST "\r\n"), "!method_denied"},
        {BYTES("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n" HOST "\r\n"), "!method_denied"},
        {BYTES("GET /\r\n"), "!malformed_http"}, /* HTTP/0.9 */
        {BYTES("GET\r\n"), "!malformed_http"},
        {BYTES("GET / HTTP/0.9\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("GET / HTTP/1.2\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("GET / HTTP/2.0\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("GET / HTTP/1.10\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("GET / http/1.1\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("GET / ICE/1.0\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("SOURCE / HTTP/1.1\r\n" HOST "\r\n"), "R example.com:0 SOURCE /40 E"},
        {BYTES("SETUP / HTTP/1.1\r\n" HOST "\r\n"), "!malformed_http"}, /* RTSP's */
    };
    check_cases(cases, COUNT(cases), 80);
}

/* What llhttp 8 forgives in places, and other ways to be read twice. */
static void malformed_heads_are_refused(void **state)
{
    (void)state;
    static const struct gate_case cases[] = {
#define FIELD(text) BYTES("GET / HTTP/1.1\r\n" HOST text "\r\n\r\n")
        /* line ends */
        {BYTES("GET / HTTP/1.1\nHost: a.example\r\n\r\n"), "!malformed_http"},
        {BYTES("GET / HTTP/1.1\r\nHost: a.example\n\r\n"), "!malformed_http"},
        {BYTES("GET / HTTP/1.1\r\nHost: a.example\r\n\n"), "!malformed_http"},
        {BYTES("GET / HTTP/1.1\r\nHost: a.example\r\n\rX"), "!malformed_http"},
        {BYTES("GET / HTTP/1.1\rHost: a.example\r\n\r\n"), "!malformed_http"},
        {BYTES("\r\nGET / HTTP/1.1\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("\nGET / HTTP/1.1\r\n" HOST "\r\n"), "!malformed_http"},
        {FIELD("X: a\rb"), "!malformed_http"},
        {FIELD("X: a\nHost: b.example"), "!malformed_http"},
        {FIELD("X: a\r\r\nY: b"), "!malformed_http"},
        /* request line */
        {BYTES(" GET / HTTP/1.1\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("GET  / HTTP/1.1\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("GET /  HTTP/1.1\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("GET / HTTP/1.1 \r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("GET\t/\tHTTP/1.1\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("G\0T / HTTP/1.1\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("GET /\0 HTTP/1.1\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("\x16\x03\x01\x02"), "!malformed_http"},
        /* fields */
        {FIELD(" folded"), "!malformed_http"},
        {FIELD("\tfolded"), "!malformed_http"},
        {FIELD("X: a\r\n b"), "!malformed_http"},
        {BYTES("GET / HTTP/1.1\r\n Host: b.example\r\n" HOST "\r\n"), "!malformed_http"},
        {BYTES("GET / HTTP/1.1\r\nHost : a.example\r\n\r\n"), "!malformed_http"},
        {BYTES("GET / HTTP/1.1\r\nHost\t: a.example\r\n\r\n"), "!malformed_http"},
        {FIELD(": b"), "!malformed_http"},
        {FIELD("no colon"), "!malformed_http"},
        {FIELD("X(y): b"), "!malformed_http"},
        {FIELD("X\"y: b"), "!malformed_http"},
        {FIELD("X\xc3\xa9: b"), "!malformed_http"},
        {FIELD("X\0: b"), "!malformed_http"},
        {FIELD("X: \0b"), "!malformed_http"},
        {FIELD("X: \x01"), "!malformed_http"},
        {FIELD("X: \x0b"), "!malformed_http"},
        {FIELD("X: \x1b[31m"), "!malformed_http"},
        {FIELD("X: \x7f"), "!malformed_http"},
        {BYTES("GET / HTTP/1.1\r\nHost: a.ex\0ample\r\n\r\n"), "!malformed_http"},
        /* framing */
        {FIELD("Content-Length: 5\r\nTransfer-Encoding: chunked"), "!malformed_http"},
        {FIELD("Transfer-Encoding: chunked\r\nContent-Length: 0"), "!malformed_http"},
        {FIELD("Content-Length: 5\r\nContent-Length: 5"), "!malformed_http"},
        {FIELD("Content-Length: 5\r\nContent-Length: 6"), "!malformed_http"},
        {FIELD("Content-Length: 5, 5"), "!malformed_http"},
        {FIELD("Content-Length: 5 5"), "!malformed_http"},
        {FIELD("Content-Length: +5"), "!malformed_http"},
        {FIELD("Content-Length: -1"), "!malformed_http"},
        {FIELD("Content-Length: 0x5"), "!malformed_http"},
        {FIELD("Content-Length:"), "!malformed_http"},
        {FIELD("Content-Length: 18446744073709551616"), "!malformed_http"},
        {FIELD("Content-Length: 18446744073709551620"), "!malformed_http"},
        {FIELD("Transfer-Encoding: gzip, chunked"), "!malformed_http"},
        {FIELD("Transfer-Encoding: chunked, chunked"), "!malformed_http"},
        {FIELD("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), "!malformed_http"},
        {FIELD("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"), "!malformed_http"},
        {FIELD("Transfer-Encoding: identity"), "!malformed_http"},
        {FIELD("Transfer-Encoding: xchunked"), "!malformed_http"},
        {FIELD("Transfer-Encoding: \"chunked\""), "!malformed_http"},
        {FIELD("Transfer-Encoding:"), "!malformed_http"},
        {BYTES("POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"), "!malformed_http"},
#undef FIELD
    };
    check_cases(cases, COUNT(cases), 80);
}

static void malformed_chunks_are_refused(void **state)
{
    (void)state;
    static const struct gate_case cases[] = {
#define CHUNKS(text) BYTES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n" text)
#define BAD_AT(n) "R example.com:0 POST /66 B" n " !malformed_http"
        {CHUNKS("x\r\n"), "R example.com:0 POST /66 !malformed_http"},
        {CHUNKS("\r\n"), "R example.com:0 POST /66 !malformed_http"},
        {CHUNKS("-1\r\n"), "R example.com:0 POST /66 !malformed_http"},
        {CHUNKS(" 1\r\n"), "R example.com:0 POST /66 !malformed_http"},
        {CHUNKS("1\nx\r\n"), BAD_AT("1")},            /* bare LF behind a size */
        {CHUNKS("1 \r\nx\r\n"), BAD_AT("1")},         /* space behind a size */
        {CHUNKS("0x1\r\nx\r\n"), BAD_AT("1")},        /* not a C number */
        {CHUNKS("1\rx\r\n"), BAD_AT("2")},            /* bare CR */
        {CHUNKS("1;a\nx\r\n0\r\n\r\n"), BAD_AT("3")}, /* LF in an extension */
        {CHUNKS("1;\0\r\n"), BAD_AT("2")},            /* NUL in an extension */
        {CHUNKS("1;a\r;b\r\n"), BAD_AT("4")},         /* CR in an extension */
        {CHUNKS("1\r\nxx\r\n"), BAD_AT("4")},         /* data longer than its size */
        {CHUNKS("1\r\nx\n0\r\n"), BAD_AT("4")},       /* bare LF behind data */
        {CHUNKS("1\r\nx\rz"), BAD_AT("5")},
        {CHUNKS("80000000\r\n"), BAD_AT("7")},         /* negative, or nothing, where numbers are short */
        {CHUNKS("100000000\r\n"), BAD_AT("8")},
        {CHUNKS("0000000000000001\r\n"), BAD_AT("15")}, /* too many digits for some */
        {CHUNKS("0\r\n\n"), BAD_AT("3")},
        {CHUNKS("0\r\n\rx"), BAD_AT("4")},
        {CHUNKS("0\r\nX: y\n\r\n"), BAD_AT("7")},
        {CHUNKS("0\r\nX : y\r\n\r\n"), BAD_AT("4")},
        {CHUNKS("0\r\nX: y\r\n fold\r\n\r\n"), BAD_AT("9")},
        {CHUNKS("0\r\nX: \0\r\n\r\n"), BAD_AT("6")},
        {CHUNKS("0\r\n: y\r\n\r\n"), BAD_AT("3")},
        {CHUNKS("0\r\nHost: b.example\r\n\r\n"), BAD_AT("7")},
        {CHUNKS("0\r\ncontent-LENGTH: 4\r\n\r\n"), BAD_AT("17")},
        {CHUNKS("0\r\nTransfer-Encoding: chunked\r\n\r\n"), BAD_AT("20")},
        {CHUNKS("0\r\nTransfer-Encodings: chunked\r\n\r\n"), "R example.com:0 POST /66 B34 E"},
#undef CHUNKS
#undef BAD_AT
    };
    check_cases(cases, COUNT(cases), 80);
}

/* A head of exactly `length` bytes. */
static char *head_of(size_t length)
{
    static const char begin[] = "GET / HTTP/1.1\r\nHost: a.example\r\nX: ";
    char *head = malloc(length);
    memset(head, 'x', length);
    memcpy(head, begin, sizeof(begin) - 1);
    memcpy(head + length - 4, "\r\n\r\n", 4);
    return head;
}

static void heads_have_a_size(void **state)
{
    (void)state;
    struct trace t;
    for (size_t excess = 0; excess < 2; excess++)
        for (size_t step = 1; step < 100000; step += 65536) {
            char *head = head_of(HTTP_HEAD_MAX + excess);
            run(head, HTTP_HEAD_MAX + excess, 65000, step, 80, &t);
            assert_string_equal(t.text, excess ? "!hello_too_large" : "R a.example:0 GET /65536 E");
            free(head);
        }
}

/* 64 KiB one byte at a time, ten times over: were the head looked at from its start at each byte, this would
 * be 20 thousand million bytes and a test that times out. */
static void single_bytes_cost_linear_work(void **state)
{
    (void)state;
    char *head = head_of(HTTP_HEAD_MAX);
    for (int round = 0; round < 10; round++) {
        struct http_gate *gate = http_gate_create(80);
        enum http_gate_event event = HTTP_GATE_MORE;
        size_t consumed = 0;
        for (size_t length = 0; length <= HTTP_HEAD_MAX && event == HTTP_GATE_MORE; length++)
            event = http_gate_feed(gate, (const uint8_t *)head, length, &consumed);
        assert_int_equal(event, HTTP_GATE_REQUEST);
        assert_int_equal(consumed, HTTP_HEAD_MAX);
        http_gate_destroy(gate);
    }
    free(head);
}

static void bulk_bodies_are_one_event(void **state)
{
    (void)state;
    static const char head[] = "PUT / HTTP/1.1\r\n" HOST "Content-Length: 100000000000\r\n\r\n";
    static const uint8_t bulk[1 << 16];
    struct http_gate *gate = http_gate_create(80);
    uint64_t total = 0;
    size_t consumed;
    assert_int_equal(http_gate_feed(gate, (const uint8_t *)head, sizeof(head) - 1, &consumed),
                     HTTP_GATE_REQUEST);
    assert_int_equal(consumed, sizeof(head) - 1);
    while (http_gate_feed(gate, bulk, sizeof(bulk), &consumed) == HTTP_GATE_BODY) {
        total += consumed;
        assert_true(consumed == sizeof(bulk) || total == 100000000000);
    }
    assert_int_equal(total, 100000000000);
    http_gate_destroy(gate);
}

static void upgrade_refused_goes_on(void **state)
{
    (void)state;
    static const char first[] = "GET /ws HTTP/1.1\r\n" HOST "Upgrade: websocket\r\n\r\n";
    static const char second[] = "GET / HTTP/1.1\r\nHost: b.example:81\r\n\r\n";
    struct http_gate *gate = http_gate_create(80);
    struct trace t = {0};
    size_t from = 0;
    assert_int_equal(drain(gate, first, &from, sizeof(first) - 1, &t), HTTP_GATE_MORE);
    assert_string_equal(t.text, "R example.com:0 GET u/59 E ");
    from = 0;
    assert_int_equal(drain(gate, second, &from, sizeof(second) - 1, &t), HTTP_GATE_MORE);
    assert_int_equal(from, 0); /* waits */
    http_gate_upgrade_refused(gate);
    assert_int_equal(drain(gate, second, &from, sizeof(second) - 1, &t), HTTP_GATE_BAD);
    assert_string_equal(t.text, "R example.com:0 GET u/59 E !host_mismatch ");
    assert_string_equal(http_gate_request(gate)->host, "b.example"); /* for the audit event */
    assert_string_equal(http_gate_request(gate)->method, "GET");
    http_gate_destroy(gate);
}

static void clean_ends_are_known(void **state)
{
    (void)state;
    static const struct {
        const char *stream;
        bool clean;
    } cases[] = {
        {"", true},
        {"G", false},
        {"GET / HTTP/1.1\r\n" HOST, false},
        {"GET / HTTP/1.1\r\n" HOST "\r\n", true},
        {"GET / HTTP/1.1\r\n" HOST "\r\nG", false},
        {"PUT / HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\n", false},
        {"PUT / HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nx", false},
        {"PUT / HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nxy", true},
        {"PUT / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n", false},
        {"GET / HTTP/1.1\r\n" HOST "Upgrade: websocket\r\n\r\n", true},
        {"GET /\r\n", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct http_gate *gate = http_gate_create(80);
        struct trace t = {0};
        size_t from = 0;
        drain(gate, cases[i].stream, &from, strlen(cases[i].stream), &t);
        if (http_gate_finish(gate) != cases[i].clean)
            fail_msg("\"%s\"", cases[i].stream);
        http_gate_destroy(gate);
    }
}

static void first_bytes_tell_http(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
        bool http;
    } cases[] = {
        {BYTES(""), true},
        {BYTES("G"), true},
        {BYTES("GET"), true},
        {BYTES("GET /"), true},
        {BYTES("PRI * HTTP/"), true},
        {BYTES("M-SEARCH "), true},
        {BYTES(" GET /"), false},
        {BYTES("\x16\x03\x01"), false},
        {BYTES("GE\x00T"), false},
        {BYTES("\r\nGET"), false},
        {BYTES("GET\r\n"), false},
        {BYTES("\x80\x2e\x01"), false},
        {BYTES("abcdefghijklmnopqrstuvwxyzabcdef"), false},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        if (http_gate_looks_like((const uint8_t *)cases[i].bytes, cases[i].length) != cases[i].http)
            fail_msg("\"%s\"", cases[i].bytes);
}

/* xorshift: the same every run */
static uint32_t next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* Streams stitched from what requests are made of, with bytes flipped: whatever comes out, every cut gives
 * the same. */
static void random_streams_are_judged_the_same_in_any_cut(void **state)
{
    (void)state;
    static const char *const pieces[] = {
        "GET / HTTP/1.1\r\n",
        "POST http://example.com/ HTTP/1.1\r\n",
        HOST,
        HOST,
        "\r\n",
        "\r\n",
        "\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Upgrade: websocket\r\n",
        "3\r\nabc\r\n",
        "0\r\n",
        "0\r\n\r\n",
        "abc",
        "X: y\r\n",
        "Connection: close\r\n",
        "\n",
        "Expect: 100-continue\r\n",
    };
    uint32_t seed = 20240607;
    unsigned requests = 0, refusals = 0;
    for (int i = 0; i < 4000; i++) {
        char stream[512] = "GET / HTTP/1.1\r\n" HOST;
        size_t length = strlen(stream);
        for (uint32_t n = next_random(&seed) % 10; n; n--) {
            const char *piece = pieces[next_random(&seed) % COUNT(pieces)];
            strcpy(stream + length, piece);
            length += strlen(piece);
        }
        if (next_random(&seed) % 2)
            stream[next_random(&seed) % length] = (char)next_random(&seed);
        struct trace whole, cut;
        run(stream, length, length, 1, 80, &whole);
        run(stream, length, 0, 1, 80, &cut);
        assert_string_equal(whole.text, cut.text);
        run(stream, length, next_random(&seed) % length, 1 + next_random(&seed) % 40, 80, &cut);
        assert_string_equal(whole.text, cut.text);
        requests += whole.text[0] == 'R';
        refusals += strchr(whole.text, '!') != NULL;
    }
    assert_true(requests > 400 && refusals > 400); /* both sides were really tried */
}

static void random_bytes_do_no_harm(void **state)
{
    (void)state;
    uint32_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        uint8_t bytes[64];
        for (size_t k = 0; k < sizeof(bytes); k++)
            bytes[k] = (uint8_t)next_random(&seed);
        struct trace t;
        run((const char *)bytes, sizeof(bytes), 0, 7, 80, &t);
        assert_true(t.text[0] == '!' || t.text[0] == 0);
        struct http_answers *answers = http_answers_create();
        size_t consumed;
        http_answers_expect(answers, i & 1, i & 2);
        http_answers_feed(answers, bytes, sizeof(bytes), &consumed);
        assert_true(consumed <= sizeof(bytes));
        http_answers_destroy(answers);
    }
}

/* ---- answers ---- */

struct answer_case {
    const char *requests; /* g(et) h(ead) u(pgrade), in order */
    const char *stream;
    const char *expected; /* E@offset S@ R@ L@, then the number outstanding */
};

static void note_answer(struct trace *t, enum http_answers_event event, size_t at)
{
    static const char letters[] = {[HTTP_ANSWERS_END] = 'E',
                                   [HTTP_ANSWERS_SWITCHED] = 'S',
                                   [HTTP_ANSWERS_REFUSED] = 'R',
                                   [HTTP_ANSWERS_LOST] = 'L'};
    if (event == HTTP_ANSWERS_LOST)
        note(t, "L "); /* where depends on the cut: everything passes anyway */
    else
        note(t, "%c@%zu ", letters[event], at);
}

static void feed_answers(struct http_answers *answers, const char *stream, size_t from, size_t to,
                         struct trace *t)
{
    enum http_answers_event event;
    size_t consumed;
    do {
        uint8_t *copy = copy_of(stream + from, to - from);
        event = http_answers_feed(answers, copy, to - from, &consumed);
        free(copy);
        assert_true(consumed <= to - from);
        from += consumed;
        if (event != HTTP_ANSWERS_MORE)
            note_answer(t, event, from);
    } while (event != HTTP_ANSWERS_MORE && event != HTTP_ANSWERS_SWITCHED);
    if (event == HTTP_ANSWERS_MORE)
        assert_int_equal(from, to);
}

static void run_answers(const struct answer_case *c, size_t first, size_t step, struct trace *t)
{
    struct http_answers *answers = http_answers_create();
    size_t length = strlen(c->stream);
    *t = (struct trace){0};
    for (const char *r = c->requests; *r; r++)
        assert_int_equal(http_answers_expect(answers, *r == 'h', *r == 'u'), 0);
    for (size_t from = 0, to = first;; from = to, to = to + step < length ? to + step : length) {
        feed_answers(answers, c->stream, from, to, t);
        if (to == length || strchr(t->text, 'S'))
            break;
    }
    note(t, "%u%s", http_answers_outstanding(answers), http_answers_mid_response(answers) ? " mid" : "");
    assert_int_equal(http_answers_lost(answers), strchr(t->text, 'L') != NULL);
    http_answers_destroy(answers);
}

static void check_answer(const struct answer_case *c)
{
    struct trace t;
    size_t length = strlen(c->stream);
    run_answers(c, length, 1, &t);
    if (strcmp(t.text, c->expected) != 0)
        fail_msg("\"%s\" gives \"%s\", not \"%s\"", c->stream, t.text, c->expected);
    run_answers(c, 0, 1, &t);
    if (strcmp(t.text, c->expected) != 0)
        fail_msg("\"%s\" byte by byte gives \"%s\", not \"%s\"", c->stream, t.text, c->expected);
    for (size_t cut = 1; cut < length; cut++) {
        run_answers(c, cut, length, &t);
        if (strcmp(t.text, c->expected) != 0)
            fail_msg("\"%s\" cut at %zu gives \"%s\", not \"%s\"", c->stream, cut, t.text, c->expected);
    }
}

#define OK_2 "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" /* 40 bytes */

static void answers_are_followed(void **state)
{
    (void)state;
    static const struct answer_case cases[] = {
        {"g", OK_2, "E@40 0"},
        {"gg", OK_2 OK_2, "E@40 E@80 0"},
        {"ggg", OK_2 "HTTP/1.1 2", "E@40 2 mid"},
        {"g", "HTTP/1.1 200 OK\r\n", "1 mid"},
        {"g", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n", "E@65 0"},
        {"h", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "E@38 0"},
        {"hg", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" OK_2, "E@47 E@87 0"},
        {"gg", "HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n" OK_2, "E@38 E@78 0"},
        {"gg", "HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\n" OK_2, "E@38 E@78 0"},
        {"g", "HTTP/1.1 100 Continue\r\n\r\n", "1"},
        {"g", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" OK_2, "E@96 0"},
        {"gg", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok" OK_2, "E@59 E@99 0"},
        {"gg", "HTTP/1.1 200 OK\r\n\r\nuntil the end", "2 mid"}, /* close-delimited */
        {"gg", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok" OK_2, "E@40 E@80 0"},
        /* upgrades */
        {"u", "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi", "S@60 0"},
        {"u", "HTTP/1.1 101 Go\r\n\r\nanything", "S@19 0"},
        {"gu", OK_2 "HTTP/1.1 101 Go\r\nContent-Length: 5\r\n\r\nanything", "E@40 S@78 0"},
        {"u", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Go\r\n\r\nanything", "S@44 0"},
        {"u", OK_2, "R@40 E@40 0"},
        {"u", "HTTP/1.1 426 No\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n",
         "R@71 E@71 0"},
        /* no tunnel without a request for it */
        {"g", "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nanything", "L 1 mid"},
        {"gu", "HTTP/1.1 101 Go\r\n\r\n", "L 2 mid"},
        /* lost */
        {"g", "SSH-2.0-x\r\n", "L 1 mid"},
        {"", OK_2, "L 0"},
        {"g", OK_2 "more", "E@40 L 0"},
        {"g", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "L 1 mid"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        check_answer(&cases[i]);
}

static void answers_have_a_bound(void **state)
{
    (void)state;
    struct http_answers *answers = http_answers_create();
    struct trace t = {0};
    size_t length = strlen(OK_2);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(http_answers_expect(answers, i == 63, false), 0);
    assert_int_equal(http_answers_expect(answers, false, false), -ENOSPC);
    assert_int_equal(http_answers_outstanding(answers), 64);
    for (unsigned i = 0; i < 63; i++)
        feed_answers(answers, OK_2, 0, length, &t);
    assert_int_equal(http_answers_outstanding(answers), 1);
    feed_answers(answers, OK_2, 0, length - 2, &t); /* the 64th was HEAD: no body */
    assert_int_equal(http_answers_outstanding(answers), 0);
    assert_int_equal(http_answers_expect(answers, false, false), 0);
    http_answers_destroy(answers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_requests_pass),
        cmocka_unit_test(hosts_are_judged),
        cmocka_unit_test(targets_are_judged),
        cmocka_unit_test(other_protocols_are_refused),
        cmocka_unit_test(malformed_heads_are_refused),
        cmocka_unit_test(malformed_chunks_are_refused),
        cmocka_unit_test(heads_have_a_size),
        cmocka_unit_test(single_bytes_cost_linear_work),
        cmocka_unit_test(bulk_bodies_are_one_event),
        cmocka_unit_test(upgrade_refused_goes_on),
        cmocka_unit_test(clean_ends_are_known),
        cmocka_unit_test(first_bytes_tell_http),
        cmocka_unit_test(random_streams_are_judged_the_same_in_any_cut),
        cmocka_unit_test(random_bytes_do_no_harm),
        cmocka_unit_test(answers_are_followed),
        cmocka_unit_test(answers_have_a_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
