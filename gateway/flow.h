/*
 * A flow: one captured TCP connection and its upstream twin, from accept to close (DESIGN section 4).
 *
 *   state     what happens in it                                             left by
 *   SNIFF     reading the client until it has named whom it wants            decide, deny, end
 *   RESOLVE   binding: the name is being looked up                           binding.c
 *   CONNECT   one or two upstream attempts under way                         dial.c
 *   RELAY     bytes go both ways; plain HTTP stays parsed                    relay.c, http_flow.c
 *   LINGER    refused: the explanation is sent, the client's rest is drained flow.c
 *   ENDED     closed; freed at the end of the loop's turn                    -
 *
 * Only flow_set_state() changes the state. A flow that has ended stays valid memory until the turn is over,
 * so a handler checks `state` after calling anything that may end it.
 */
#pragma once

#include "gateway/buffer.h"
#include "gateway/hello.h"
#include "gateway/http_gate.h"
#include "gateway/outbound.h"
#include "gateway/verify.h"
#include "gateway/worker_internal.h"

enum flow_state { FLOW_SNIFF, FLOW_RESOLVE, FLOW_CONNECT, FLOW_RELAY, FLOW_LINGER, FLOW_ENDED };
enum flow_kind { FLOW_UNKNOWN, FLOW_TLS, FLOW_HTTP, FLOW_RAW };

struct flow_side {
    struct poll_handle poll;
    struct flow *flow;
    bool readable, writable; /* as far as we know: false only after EAGAIN */
    bool hangup;             /* the peer's FIN or RST is in sight: read on after a short read */
    bool finished;           /* it is its FIN (EPOLLRDHUP), and all that came before has come: behind a short read is the end */
    bool urgent;             /* it sent urgent data: recv(2) stops at the mark, so a short read says nothing */
    bool bounded;            /* it was looked at how much memory it may hold: sock.h */
    bool eof, shut;          /* half-close is two facts: FIN read from it, FIN sent to it */
};

/* A direction that moves bulk: it borrows a pipe after a few full reads, and again at once as long as that is worth it. */
struct relay_bulk {
    struct pipe_pair *pipe;
    unsigned full_reads;
    uint32_t moved; /* with the pipe it has or had last; saturating */
};

#define DIAL_CANDIDATES_MAX 8

struct dial_attempt {
    struct outbound outbound;
    struct poll_handle own_poll; /* of the second attempt; the first uses the flow's origin.poll */
    struct flow *flow;
    struct addr address;
    bool active;
};

/* What a flow needs on its way to its origin, from the verdict to the connection, and no longer. */
struct dial {
    struct flow *flow;
    struct verify_waiter verify;
    struct addr candidates[DIAL_CANDIDATES_MAX];
    size_t count, next;
    struct dial_attempt attempts[2];
    struct deadline stagger;
    int last_error;
    const char *last_problem; /* in words, when errno has none */
    struct addr won;          /* connected; its certificate is being looked at */
    enum acl_reason refused; /* why the latest candidate was not taken */
    const char *refused_range;
};

struct http_flow {
    struct http_gate *gate;
    struct http_answers *answers;
    size_t released;    /* bytes of `up` behind start that were judged and may go */
    bool tunnel;        /* 101 was answered: both directions pass */
    bool waits_upgrade; /* an upgrade was asked for: nothing more goes up until it is answered */
    bool waits_binding; /* a request names another host: its address is being checked */
    bool head_pending;  /* a judged head waits for room among the outstanding answers */
    bool refusing;      /* a denied request: its refusal is sent when the answers before it are through */
    size_t head_length; /* of the request being decided */
    char refusal_name[ACL_NAME_MAX + 1];
    enum acl_reason refusal_reason;
    const char *refusal_detail;
    struct acl_verdict refusal_verdict;
    bool refusal_head;
};

struct flow {
    struct list link; /* in worker->flows or worker->ended_flows */
    struct worker *worker;
    struct capture *capture;
    const struct acl_policy *policy;
    enum flow_state state;
    enum flow_kind kind;
    struct flow_side client, origin;
    struct deadline timer;
    bool active; /* bytes moved since the idle timer was started */
    struct buffer up, down;
    struct relay_bulk bulk_up, bulk_down;
    uint64_t bytes_up, bytes_down;

    struct addr source, destination, dialled;
    const char *name, *alpn; /* flow_name(); both "" at first */
    char *texts;             /* where they are, when they are not "" */
    uint8_t name_length;
    struct acl_verdict verdict;
    enum acl_reason reason; /* of the decision */
    const char *detail, *binding;
    bool would_deny, decided, half_closed;
    bool client_waits; /* it said a whole ClientHello and nothing behind it: closing loses nothing and resets nothing */
    enum audit_close_by closed_first; /* whose FIN came first */
    bool ech_offered;
    char method[HTTP_METHOD_MAX];
    uint64_t serial;
    uint32_t judged; /* worker->judgement by which its verdict is */
    struct timespec started;
    uint64_t started_ns; /* monotonic */

    struct hello_reader hello;
    struct http_flow *http;
    struct lookup *lookup;
    struct dial *dial; /* from dial_begin() to dial_cancel(); NULL before and behind */
    struct inbound *inbound; /* it comes from outside, to a published port (inbound.h); NULL: as nearly all, from the container */
    struct proof_result *proof; /* what the origin's certificate showed; NULL: nobody looked */
};

/* A new connection; takes ownership of `fd`. Denials by limits, loops and the audit happen here, before a
 * byte is read. */
void flow_start(struct capture *capture, const struct capture_listener *listener, int fd,
                const struct addr *source);

/* The other way round (inbound.h): from outside, dialled `destination`. Takes ownership of `fd` and `inbound`. NULL when it was
 * refused; else it is in CONNECT. */
struct flow *flow_start_inbound(struct capture *capture, int fd, const struct addr *source, const struct addr *destination,
                                struct inbound *inbound);

void flow_set_state(struct flow *flow, enum flow_state state);

/* Whom the client wants, and with which protocols; copied. False, and no name, when out of memory. */
bool flow_name(struct flow *flow, const char *name, size_t length, const char *alpn);
/* Refuse it for want of memory. */
void flow_deny_memory(struct flow *flow);

/* decide.c: judge what can be judged before a byte is read; then read until the client has named whom it
 * wants. */
void flow_decide_before_reading(struct flow *flow);
void flow_sniff(struct flow *flow);
/* Audit mode: let it through to where it was going. */
void flow_pass_unjudged(struct flow *flow);
/* The name is known and well-formed: judge it, and go on to binding or refusal. */
void flow_decide_by_name(struct flow *flow, enum acl_protocol protocol);
/* The bytes name nobody, for `reason`: an address rule may still let them pass, else they are refused. */
void flow_decide_unnamed(struct flow *flow, enum acl_reason reason, const char *detail);
/* Refuse: event, explanation, linger. In audit-only mode a refusal by policy lets the flow through instead.
 */
void flow_deny(struct flow *flow, enum acl_reason reason, const char *detail);
/* Close both sides now and write the end event. `reset`: with RST instead of FIN. */
void flow_end(struct flow *flow, enum audit_close_by by, const char *why, bool reset);
/* RELAY: a refusal of a later request was sent: end event, then linger so that it is not lost to a reset. */
void flow_finish_refused(struct flow *flow);
/* Continue after the verdict: find an address that belongs to the name, and dial it (binding.c). */
void flow_bind(struct flow *flow);
/* The same without a name: the original destination or nothing. */
void flow_bind_destination(struct flow *flow, const char *binding);
/* dial.c: connect to the first of dial.candidates that answers; `binding` goes to the event. */
void dial_start(struct flow *flow, const char *binding);
/* Before binding looks for candidates: none there yet. False when out of memory: the flow has been refused. */
bool dial_begin(struct flow *flow);
void dial_cancel(struct flow *flow);
/* What a certificate showed is kept for the events. */
void flow_note_proof(struct flow *flow, const struct proof_result *result);
void dial_stagger_expired(struct deadline *deadline);
/* dial.c calls this when the origin's socket is connected and registered. */
void flow_connected(struct flow *flow, const struct addr *dialled);

/* Events of the two sides. */
void flow_client_ready(struct poll_handle *handle, uint32_t events);
void flow_origin_ready(struct poll_handle *handle, uint32_t events);
/* Note what epoll said; in RELAY and LINGER the flow then runs. */
void flow_side_note(struct flow_side *side, uint32_t events);

/* relay.c: move what can be moved, both ways. */
void relay_run(struct flow *flow);
/* Send up to `limit` bytes from the front of `buffer`. 1 when they are gone, 0 when the socket is full, -1
 * when it broke (the flow has been ended). */
int relay_flush(struct flow *flow, struct flow_side *to, struct buffer *buffer, size_t limit,
                uint64_t *count);
/* Read once. > 0 bytes, 0 nothing now (or end: side->eof), -1 broken (ended). */
ssize_t relay_read(struct flow *flow, struct flow_side *from, void *bytes, size_t size);
/* Pass a FIN on. */
void relay_shut(struct flow_side *to);

/* http_flow.c */
void http_flow_destroy(struct flow *flow);
void http_flow_sniff(struct flow *flow);   /* SNIFF: bytes were read into `up` */
/* What the policy says of the request that http_flow_sniff() came to. */
struct acl_verdict http_flow_judge(const struct flow *flow);
void http_flow_allowed(struct flow *flow); /* the first request was let through and the origin is connected */
void http_flow_up(struct flow *flow);      /* RELAY: read, judge and forward requests; may end the flow */
/* Bytes of answers, before they go down. */
void http_flow_observe(struct flow *flow, const uint8_t *bytes, size_t length);
/* Nothing more of the answers is waiting here: a refusal may be due. May end the flow. */
void http_flow_after_down(struct flow *flow);

void flow_hello_expired(struct deadline *deadline);
void flow_connect_expired(struct deadline *deadline);
void flow_idle_expired(struct deadline *deadline);
void flow_half_close_expired(struct deadline *deadline);
void flow_linger_expired(struct deadline *deadline);

/* An event filled with what is known of the flow. `id` needs FLOW_ID_SIZE bytes and must outlive the event.
 */
#define FLOW_ID_SIZE 32
struct audit_event flow_event(const struct flow *flow, enum audit_action action, char id[FLOW_ID_SIZE]);
/* For the summary; `name` is "" when there is none. */
void flow_report_denied(struct flow *flow, const char *name, enum acl_reason reason);
