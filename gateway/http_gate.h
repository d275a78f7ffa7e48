/*
 * HTTP/1 requests of one connection, each judged before a byte of it goes on (RFC 9110, 9112).
 *
 * Pure: bytes in, events out; no sockets, no clock. Built on llhttp with no lenient flag, plus what llhttp does not
 * check. The caller feeds bytes and is told, event by event, what they are; it forwards exactly the bytes that the gate
 * released. Heads are held until they are complete and judged; bodies stream through.
 *
 * The caller keeps what the gate did not consume and shows it again, at the front, with what came behind it:
 *
 *   while ((event = http_gate_feed(gate, bytes, length, &consumed)) != HTTP_GATE_MORE && event != HTTP_GATE_BAD)
 *       forward `consumed` bytes (bytes += consumed, length -= consumed), act on the event;
 *   keep the `length` bytes left, read more behind them
 *
 * - A head in progress consumes nothing: HTTP_GATE_MORE, *ret_consumed 0. The next call must begin with the same bytes
 *   (they may have moved) and have more of them. What was looked at is not looked at again: reading byte by byte costs
 *   the same as in one piece. HTTP_GATE_REQUEST then consumes the head and nothing behind it.
 * - Of a body everything is consumed as it comes, its end included, never a byte of the next request.
 * - HTTP_GATE_MORE and HTTP_GATE_BAD always consume nothing. Events do not depend on how the stream was cut, save that
 *   one HTTP_GATE_BODY may come as several.
 * - Call until HTTP_GATE_MORE also when no bytes are left: HTTP_GATE_END consumes none.
 *
 * Only requests are parsed here; http_answers (below) follows responses far enough to know which request is answered,
 * whether a 101 came, and where a kept-alive response ends.
 */
#pragma once

#include "acl/name.h"
#include "acl/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_HEAD_MAX 65536 /* request line and headers of one request */
#define HTTP_METHOD_MAX 32

enum http_gate_event {
    HTTP_GATE_MORE,    /* nothing consumed: give more bytes (or, behind an upgrade, resolve it) */
    HTTP_GATE_REQUEST, /* a head is complete, http_gate_request() tells about it; *ret_consumed is its length */
    HTTP_GATE_BODY,    /* *ret_consumed bytes are body (or chunk framing, trailers) of the current request */
    HTTP_GATE_END,     /* the current request is complete; consumes nothing */
    HTTP_GATE_BAD,     /* ->reason, ->detail say why; final, nothing consumed */
};

struct http_request {
    char host[ACL_NAME_MAX + 1]; /* normal form, port stripped */
    uint8_t host_length;
    uint16_t port; /* from Host or the absolute-form target; 0 when none was written */
    char method[HTTP_METHOD_MAX];
    /* Where the path and the query are, counted from the head's first byte, which only the caller has. An absolute-form
     * target without a path has length 0: it means "/". */
    uint32_t target_at, target_length;
    bool is_head;    /* the response will have no body */
    bool upgrade;    /* has an acceptable Upgrade (WebSocket…): bytes behind it wait for a 101 */
    bool expect_continue;
    bool keep_alive;
};

struct http_gate;

/* NULL when out of memory. `dialled_port`: a Host with another port is ACL_HOST_MISMATCH. */
struct http_gate *http_gate_create(uint16_t dialled_port);
void http_gate_destroy(struct http_gate *gate);

/* One event and how many bytes it used up, as told above. Between HTTP_GATE_REQUEST and its END come BODY events. After
 * the END of a request with `upgrade` the gate returns HTTP_GATE_MORE and consumes nothing until the caller resolves it
 * with http_gate_upgrade_refused() (go on parsing) or stops using the gate (tunnel). */
enum http_gate_event http_gate_feed(struct http_gate *gate, const uint8_t *bytes, size_t length, size_t *ret_consumed);
void http_gate_upgrade_refused(struct http_gate *gate);
/* End of the client's stream: true when it came between requests (a clean end). */
bool http_gate_finish(struct http_gate *gate);

/* Of the latest HTTP_GATE_REQUEST, until bytes of the next head are fed. After HTTP_GATE_BAD: as much as was understood
 * before the fault (`method`, and `host` when only its port or the target disagreed); unknown fields are empty. */
const struct http_request *http_gate_request(const struct http_gate *gate);
enum acl_reason http_gate_reason(const struct http_gate *gate);             /* after HTTP_GATE_BAD */
const char *http_gate_detail(const struct http_gate *gate);                 /* a static sentence, NULL before BAD */

/* Could these first bytes be the beginning of an HTTP/1 request line or of the HTTP/2 preface? (Then the gate judges
 * them; else the flow is ACL_NOT_TLS / ACL_MALFORMED_HTTP.) A token char sequence is enough. */
bool http_gate_looks_like(const uint8_t *bytes, size_t length);

/*
 * The response side. Lenient where origins are sloppy: when it loses track (http_answers_lost) the caller lets the
 * bytes of the answer through but never another request.
 */
struct http_answers;
struct http_answers *http_answers_create(void);
void http_answers_destroy(struct http_answers *answers);
/* A request's head is being forwarded: call at HTTP_GATE_REQUEST, for an origin may answer before the body is there.
 * -ENOSPC when too many (64) are outstanding: stop reading the client until one is answered. */
int http_answers_expect(struct http_answers *answers, bool is_head, bool upgrade);

/*
 * Call until HTTP_ANSWERS_MORE, also when no bytes are left (the END behind a REFUSED consumes none). Unlike the gate it
 * consumes everything: all bytes of an answer go to the client, the events only tell where in them something happened.
 */
enum http_answers_event {
    HTTP_ANSWERS_MORE,     /* consumed everything */
    HTTP_ANSWERS_END,      /* up to *ret_consumed: a final response is complete; ->outstanding went down by one */
    HTTP_ANSWERS_SWITCHED, /* 101 to the outstanding upgrade: from *ret_consumed on it is a tunnel; final */
    HTTP_ANSWERS_REFUSED,  /* the upgrade was answered by something else, complete; its HTTP_ANSWERS_END follows */
    HTTP_ANSWERS_LOST,     /* not parseable, or not asked for; told once, afterwards MORE consumes everything */
};
enum http_answers_event http_answers_feed(struct http_answers *answers, const uint8_t *bytes, size_t length,
                                          size_t *ret_consumed);
unsigned http_answers_outstanding(const struct http_answers *answers);
bool http_answers_lost(const struct http_answers *answers);
/* Has any byte of the current outstanding response been seen? (Then a refusal cannot be inserted any more.) A whole
 * interim response (100 Continue) in front of it does not count. */
bool http_answers_mid_response(const struct http_answers *answers);
