/*
 * DNS over TLS to one name server (RFC 7858), in the strict profile of RFC 8310: it has a certificate for the name
 * that the configuration gives it, or it is not asked. There is no way from here to plain DNS.
 *
 *   CLOSED ──ask──► CONNECTING ──► HANDSHAKE ──► OPEN
 *     ▲                 │              │          │      idle for DOT_IDLE_MS, end of file, an error,
 *     └─────────────────┴──────────────┴──────────┘      or nothing heard while a question waited too long
 *
 * One connection for all questions: they are sent as they come (pipelining, RFC 7766 section 6.2.1.1), and answers
 * are taken in whatever order they come, told apart by their id, which is ours to choose. A connection that failed
 * before it answered anything is not tried again for a while, which doubles; meanwhile questions fail at once.
 */
#pragma once

#include "base/list.h"
#include "config/snapshot.h"
#include "gateway/authorities.h"
#include "gateway/deadline.h"
#include "gateway/poller.h"

#define DOT_IDLE_MS 10000
#define DOT_BACKOFF_MS 100 /* after the first failure */
#define DOT_BACKOFF_MAX_MS 5000

struct dot;

/* Embedded by who asks. */
struct dot_question {
    struct list link;
    struct dot *dot;  /* NULL when it is not under way */
    uint8_t *message; /* two bytes of length, and the message */
    size_t length;
    uint64_t asked_ms;
    bool sent;
    /* `bytes` valid during the call, writable. Or a negative errno, and no bytes: -EKEYREJECTED for a server that does
     * not prove its name. */
    void (*answered)(struct dot_question *question, int error, uint8_t *bytes, size_t length);
};

void dot_question_init(struct dot_question *question,
                       void (*answered)(struct dot_question *question, int error, uint8_t *bytes,
                                        size_t length));

/* NULL when out of memory. All but `server` is borrowed; `idle` has dot_idle_expired() and DOT_IDLE_MS. */
struct dot *dot_create(struct poller *poller, struct deadline_queue *idle, struct authorities *authorities,
                       const struct config_resolver *server);
/* Questions under way end with -ESRCH. Accepts NULL. */
void dot_destroy(struct dot *dot);
void dot_idle_expired(struct deadline *deadline);

/* `message` (with its length, writable: it gets an id) must live until the answer or dot_cancel(). Answers come later,
 * never inside; a negative errno when it could not even start. */
int dot_ask(struct dot *dot, struct dot_question *question, uint8_t *message, size_t length);
void dot_cancel(struct dot_question *question);
/* The same, because it took too long: a connection on which nothing was heard meanwhile is given up. */
void dot_give_up(struct dot_question *question);
