#include "gateway/verify.h"

#include "base/fds.h"
#include "base/secret_hash.h"
#include "gateway/outbound.h"
#include "gateway/worker_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define KEY_MAX (sizeof(struct addr) + 256)

/* Address (zero where it says nothing) and name, as one run of bytes. */
struct key {
    size_t length;
    uint8_t bytes[KEY_MAX];
};

struct known {
    UT_hash_handle hh;
    struct list by_age;
    uint64_t expires_ms;
    struct proof_result result;
    struct key key;
};

struct check {
    struct list link; /* running, or waiting its turn */
    struct verifier *verifier;
    struct key key;
    struct addr address;
    struct list waiters;
    struct poll_handle poll;
    struct deadline timeout;
    struct outbound outbound;
    struct proof *proof;
    char name[256];
};

struct verifier {
    uv_loop_t *loop;
    struct poller *poller;
    struct config_snapshot *const *snapshot;
    struct authorities *authorities;
    struct metrics_worker *metrics; /* NULL: nobody counts */
    struct deadline_queue timeouts, paces;
    struct deadline pace; /* waits while VERIFY_PER_SECOND is used up */
    struct rate rate;
    unsigned timers; /* not yet closed, at the end */
    struct list running, waiting;
    unsigned running_count, waiting_count;
    struct known *known;
    struct list ages;
};

static struct key make_key(const char *name, const struct addr *address)
{
    struct key key = {0};
    size_t length = strlen(name);
    key.bytes[0] = address->family;
    key.bytes[1] = (uint8_t)(address->port >> 8);
    key.bytes[2] = (uint8_t)address->port;
    memcpy(key.bytes + 3, address->bytes, sizeof(address->bytes));
    memcpy(key.bytes + 3 + sizeof(address->bytes), name, length < 255 ? length : 255);
    key.length = 3 + sizeof(address->bytes) + (length < 255 ? length : 255);
    return key;
}

/* ---- what is known ---- */

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
static void known_drop(struct verifier *v, struct known *known)
{
    HASH_DELETE(hh, v->known, known);
    list_remove(&known->by_age);
    free(known);
}

static struct known *known_find(struct verifier *v, const struct key *key)
{
    struct known *known;
    HASH_FIND(hh, v->known, key->bytes, key->length, known);
    if (known && known->expires_ms <= uv_now(v->loop)) {
        known_drop(v, known);
        known = NULL;
    }
    return known;
}

static void known_add(struct verifier *v, const struct key *key, const struct proof_result *result,
                      uint64_t for_ms)
{
    struct known *known = known_find(v, key);
    if (known)
        known_drop(v, known);
    if (HASH_COUNT(v->known) >= VERIFY_KEPT_MAX)
        known_drop(v, list_entry(v->ages.next, struct known, by_age));
    known = calloc(1, sizeof(*known));
    if (!known)
        return;
    known->expires_ms = uv_now(v->loop) + for_ms;
    known->result = *result;
    known->key = *key;
    HASH_ADD_KEYPTR(hh, v->known, known->key.bytes, known->key.length, known);
    if (!known->hh.tbl) { /* uthash could not grow */
        free(known);
        return;
    }
    list_append(&v->ages, &known->by_age);
}
#pragma GCC diagnostic pop

static void forget_all(struct verifier *v)
{
    while (!list_empty(&v->ages))
        known_drop(v, list_entry(v->ages.next, struct known, by_age));
}

static uint64_t time_to_keep(const struct proof_result *result)
{
    if (!result->proven)
        return result->seen ? VERIFY_BAD_MS : VERIFY_SILENT_MS;
    time_t left = result->not_after - time(NULL);
    return left <= 0 ? 0 : (uint64_t)left < VERIFY_GOOD_MS / 1000 ? (uint64_t)left * 1000 : VERIFY_GOOD_MS;
}

/* ---- one check ---- */

static void run_next(struct verifier *v);

static void check_free(struct check *c)
{
    int fd = c->poll.fd;
    poller_remove(c->verifier->poller, &c->poll);
    fd_close(&fd);
    deadline_stop(&c->timeout);
    list_remove(&c->link);
    proof_destroy(c->proof);
    free(c);
}

/* Tells everybody who waits, and lets the next have its turn. */
static void check_end(struct check *c, const struct proof_result *result)
{
    struct verifier *v = c->verifier;
    struct proof_result kept = *result;
    struct list waiters;
    uint64_t for_ms = time_to_keep(&kept);
    if (v->metrics)
        metric_add(&v->metrics->verifications[kept.proven ? METRICS_PROVEN : kept.seen ? METRICS_NOT_PROVEN : METRICS_NOT_SEEN], 1);
    if (for_ms && c->poll.fd >= 0) /* without a socket it says something about us */
        known_add(v, &c->key, &kept, for_ms);
    list_init(&waiters);
    while (!list_empty(&c->waiters)) {
        struct list *link = c->waiters.next;
        list_remove(link);
        list_append(&waiters, link);
    }
    v->running_count--;
    check_free(c);
    while (!list_empty(&waiters)) {
        struct verify_waiter *waiter = list_entry(waiters.next, struct verify_waiter, link);
        list_remove(&waiter->link);
        waiter->done(waiter, &kept);
    }
    run_next(v);
}

static void check_fail(struct check *c, const char *reason)
{
    check_end(c, &(struct proof_result){.reason = reason});
}

/* What the proof has to say goes out: a hello, which fits an empty socket. False: it did not. */
static bool send_pending(struct check *c)
{
    uint8_t bytes[4096];
    size_t length;
    while ((length = proof_take(c->proof, bytes, sizeof(bytes))) > 0)
        if (send(c->poll.fd, bytes, length, MSG_NOSIGNAL) != (ssize_t)length)
            return false;
    return true;
}

/* The connection stands: the handshake begins. */
static bool handshake_begin(struct check *c)
{
    static const enum staple_mode staples[] = {
        [CONFIG_OCSP_STAPLE] = STAPLE_LOOK, [CONFIG_OCSP_OFF] = STAPLE_OFF, [CONFIG_OCSP_REQUIRE] = STAPLE_REQUIRE};
    c->proof = proof_create(authorities_trust(c->verifier->authorities), c->name,
                            staples[config_ocsp(*c->verifier->snapshot)]);
    if (!c->proof) {
        check_fail(c, "out of memory");
        return false;
    }
    if (proof_step(c->proof, NULL, 0, false) || !send_pending(c)) {
        check_fail(c, "no TLS handshake can be begun");
        return false;
    }
    return true;
}

static void handshake_read(struct check *c)
{
    uint8_t bytes[16384];
    for (;;) {
        ssize_t got = recv(c->poll.fd, bytes, sizeof(bytes), 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return;
        if (proof_step(c->proof, bytes, got > 0 ? (size_t)got : 0, got <= 0)) {
            check_end(c, proof_get(c->proof));
            return;
        }
        if (!send_pending(c)) {
            check_fail(c, "the origin does not read");
            return;
        }
    }
}

static void on_ready(struct poll_handle *handle, uint32_t events)
{
    struct check *c = list_entry(handle, struct check, poll);
    if (!c->proof) {
        if (c->outbound.state == OUTBOUND_CONNECTING && !(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
            return;
        int r = outbound_step(&c->outbound, handle->fd, events);
        if (r < 0)
            check_fail(c, c->outbound.problem ? c->outbound.problem
                                              : "the origin cannot be reached to be verified");
        if (r <= 0 || !handshake_begin(c))
            return;
    }
    handshake_read(c);
}

static void on_timeout(struct deadline *deadline)
{
    check_fail(list_entry(deadline, struct check, timeout), "the origin took too long to be verified");
}

/* ---- running them ---- */

static void on_ready_or_failed(struct poll_handle *handle, uint32_t events)
{
    struct check *c = list_entry(handle, struct check, poll);
    if (handle->fd >= 0)
        on_ready(handle, events);
    else
        check_fail(c, !authorities_trust(c->verifier->authorities)   ? "there are no certificate authorities to verify with"
                      : c->outbound.problem ? c->outbound.problem
                                            : "the origin cannot be reached to be verified");
}

static void check_run(struct check *c)
{
    struct verifier *v = c->verifier;
    list_remove(&c->link);
    list_append(&v->running, &c->link);
    v->running_count++;
    deadline_start(&v->timeouts, &c->timeout);
    int fd = authorities_trust(v->authorities)
                 ? outbound_open(&c->outbound, config_upstream(*v->snapshot), &c->address, true)
                 : -ENOKEY;
    if (fd >= 0 && poller_add(v->poller, &c->poll, fd) < 0)
        fd_close(&fd);
    if (fd < 0)
        poller_again(v->poller, &c->poll); /* the failure is told in the next turn */
}

static void run_next(struct verifier *v)
{
    while (v->running_count < VERIFY_PARALLEL && !list_empty(&v->waiting)) {
        if (!rate_take(&v->rate, VERIFY_PER_SECOND, uv_now(v->loop))) {
            deadline_start(&v->paces, &v->pace);
            return;
        }
        v->waiting_count--;
        check_run(list_entry(v->waiting.next, struct check, link));
    }
}

static void on_pace(struct deadline *deadline)
{
    run_next(list_entry(deadline, struct verifier, pace));
}

static struct check *check_find(struct list *checks, const struct key *key)
{
    for (struct list *link = checks->next; link != checks; link = link->next) {
        struct check *c = list_entry(link, struct check, link);
        if (c->key.length == key->length && !memcmp(c->key.bytes, key->bytes, key->length))
            return c;
    }
    return NULL;
}

static struct check *check_create(struct verifier *v, const char *name, const struct addr *address)
{
    if (v->waiting_count >= VERIFY_WAITING_MAX || strlen(name) >= sizeof(((struct check *)0)->name))
        return NULL;
    struct check *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->verifier = v;
    c->key = make_key(name, address);
    c->address = *address;
    strcpy(c->name, name);
    list_init(&c->waiters);
    poll_handle_init(&c->poll, on_ready_or_failed);
    deadline_init(&c->timeout);
    list_append(&v->waiting, &c->link);
    v->waiting_count++;
    return c;
}

void verify_waiter_init(struct verify_waiter *waiter,
                        void (*done)(struct verify_waiter *waiter, const struct proof_result *result))
{
    list_init(&waiter->link);
    waiter->done = done;
}

void verify_cancel(struct verify_waiter *waiter)
{
    list_remove(&waiter->link);
}

const struct proof_result *verify_find(struct verifier *v, const char *name, const struct addr *address)
{
    struct key key = make_key(name, address);
    const struct known *known = known_find(v, &key);
    return known ? &known->result : NULL;
}

int verify_start(struct verifier *v, const char *name, const struct addr *address,
                 struct verify_waiter *waiter)
{
    struct key key = make_key(name, address);
    struct check *c = check_find(&v->running, &key);
    if (!c)
        c = check_find(&v->waiting, &key);
    if (!c)
        c = check_create(v, name, address);
    if (!c)
        return -ENOBUFS;
    list_append(&c->waiters, &waiter->link);
    run_next(v);
    return 0;
}

/* ---- life ---- */

void verifier_count_in(struct verifier *verifier, struct metrics_worker *metrics)
{
    if (verifier)
        verifier->metrics = metrics;
}

struct verifier *verifier_create(uv_loop_t *loop, struct poller *poller, struct authorities *authorities,
                                 struct config_snapshot *const *snapshot)
{
    struct verifier *v = calloc(1, sizeof(*v));
    if (!v)
        return NULL;
    v->loop = loop;
    v->poller = poller;
    v->snapshot = snapshot;
    v->authorities = authorities;
    list_init(&v->running);
    list_init(&v->waiting);
    list_init(&v->ages);
    deadline_init(&v->pace);
    deadline_queue_init(&v->timeouts, loop, VERIFY_TIMEOUT_MS, on_timeout);
    deadline_queue_init(&v->paces, loop, VERIFY_PACE_MS, on_pace);
    return v;
}

void verifier_reset(struct verifier *v)
{
    forget_all(v);
}

static void on_closed(uv_handle_t *timer)
{
    struct verifier *v = timer->data;
    if (--v->timers == 0)
        free(v);
}

void verifier_destroy(struct verifier *v)
{
    if (!v)
        return;
    while (!list_empty(&v->running))
        check_free(list_entry(v->running.next, struct check, link));
    while (!list_empty(&v->waiting))
        check_free(list_entry(v->waiting.next, struct check, link));
    forget_all(v);
    deadline_stop(&v->pace);
    v->timers = 2;
    v->timeouts.timer.data = v->paces.timer.data = v;
    uv_close((uv_handle_t *)&v->timeouts.timer, on_closed);
    uv_close((uv_handle_t *)&v->paces.timer, on_closed);
}
