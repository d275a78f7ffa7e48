/*
 * HTTP/1 requests of one connection, each judged before a byte of it goes on (RFC 9110, 9112).
 *
 * Pure: bytes in, events out; no sockets, no clock. Built on llhttp with no lenient flag, plus what llhttp does not
 * check. The caller feeds bytes and is told, event by event, what they are; it forwards exactly the bytes that the gate
 * released. Headers are held until they are complete and judged; bodies stream through.
 *
 *   while ((event = http_gate_feed(gate, bytes, length, &consumed)) != HTTP_GATE_MORE) …
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
    HTTP_GATE_MORE,    /* all `length` bytes consumed, need more */
    HTTP_GATE_REQUEST, /* a head is complete: ->request is filled. Its bytes end at *ret_consumed of this call */
    HTTP_GATE_BODY,    /* *ret_consumed bytes are body (or chunk framing, trailers) of the current request */
    HTTP_GATE_END,     /* the current request is complete (consumed may be 0) */
    HTTP_GATE_BAD,     /* ->reason, ->detail say why; nothing more can be fed */
};

struct http_request {
    char host[ACL_NAME_MAX + 1]; /* normal form, port stripped */
    uint8_t host_length;
    uint16_t port; /* from Host or the absolute-form target; 0 when none was written */
    char method[HTTP_METHOD_MAX];
    bool is_head;    /* the response will have no body */
    bool upgrade;    /* Connection: upgrade with an acceptable Upgrade (WebSocket…): bytes behind it wait for a 101 */
    bool expect_continue;
    bool keep_alive;
};

struct http_gate;

/* NULL when out of memory. `dialled_port`: a Host with another port is ACL_HOST_MISMATCH. */
struct http_gate *http_gate_create(uint16_t dialled_port);
void http_gate_destroy(struct http_gate *gate);

/* Feed bytes that come next in the stream. Returns one event and how many bytes it used up; call again with the rest.
 * Between HTTP_GATE_REQUEST and its END come BODY events. After the END of a request with `upgrade` the gate returns
 * HTTP_GATE_MORE and consumes nothing until the caller resolves it with http_gate_upgrade_refused() (go on parsing) or
 * stops using the gate (tunnel). */
enum http_gate_event http_gate_feed(struct http_gate *gate, const uint8_t *bytes, size_t length, size_t *ret_consumed);
void http_gate_upgrade_refused(struct http_gate *gate);
/* End of the client's stream: true when it came between requests (a clean end). */
bool http_gate_finish(struct http_gate *gate);

const struct http_request *http_gate_request(const struct http_gate *gate); /* of the latest HTTP_GATE_REQUEST */
enum acl_reason http_gate_reason(const struct http_gate *gate);             /* after HTTP_GATE_BAD */
const char *http_gate_detail(const struct http_gate *gate);                 /* a static sentence, after BAD */

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
/* A request was forwarded. -ENOSPC when too many (64) are outstanding: stop reading the client until one is answered. */
int http_answers_expect(struct http_answers *answers, bool is_head, bool upgrade);

enum http_answers_event {
    HTTP_ANSWERS_MORE,     /* consumed everything */
    HTTP_ANSWERS_END,      /* a final response is complete; ->outstanding went down by one */
    HTTP_ANSWERS_SWITCHED, /* 101 to the outstanding upgrade: from *ret_consumed on it is a tunnel */
    HTTP_ANSWERS_REFUSED,  /* the upgrade was answered by something else: parsing goes on as HTTP */
    HTTP_ANSWERS_LOST,     /* not parseable: everything from here on only passes through */
};
enum http_answers_event http_answers_feed(struct http_answers *answers, const uint8_t *bytes, size_t length,
                                          size_t *ret_consumed);
unsigned http_answers_outstanding(const struct http_answers *answers);
bool http_answers_lost(const struct http_answers *answers);
/* Has any byte of the current outstanding response been seen? (Then a refusal cannot be inserted any more.) */
bool http_answers_mid_response(const struct http_answers *answers);
