#include "gateway/dot.h"

#include "base/fds.h"
#include "base/log.h"
#include "certs/tls_client.h"
#include "gateway/buffer.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#define BUCKETS 256
#define TURN_BUDGET 16 /* reads before others have their turn */
#define PIECE 16384

enum dot_state { DOT_CLOSED, DOT_CONNECTING, DOT_HANDSHAKE, DOT_OPEN };

struct dot {
    struct poller *poller;
    struct deadline_queue *idle_queue;
    struct authorities *authorities;
    struct config_resolver server;
    enum dot_state state;
    struct poll_handle poll;
    struct deadline idle;
    struct tls_client *tls;
    struct buffer in, out;     /* answers, decrypted; what the socket did not take yet */
    struct list waiting;       /* not sent */
    struct list sent[BUCKETS]; /* by id */
    unsigned sent_count;
    bool heard_once;      /* on this connection */
    uint64_t heard_ms;    /* when something last came */
    uint64_t closed_till; /* not to be tried before */
    unsigned failures;    /* in a row */
    int last_error, told; /* that failed it; that was logged */
};

static uint64_t now(const struct dot *dot)
{
    return uv_now(dot->idle_queue->timer.loop);
}

/* ---- questions ---- */

void dot_question_init(struct dot_question *question,
                       void (*answered)(struct dot_question *question, int error, uint8_t *bytes,
                                        size_t length))
{
    *question = (struct dot_question){.answered = answered};
    list_init(&question->link);
}

static struct list *bucket_of(struct dot *dot, const uint8_t *message)
{
    return &dot->sent[message[1]];
}

static struct dot_question *find_sent(struct dot *dot, const uint8_t *message)
{
    struct list *bucket = bucket_of(dot, message);
    for (struct list *link = bucket->next; link != bucket; link = link->next) {
        struct dot_question *question = list_entry(link, struct dot_question, link);
        if (!memcmp(question->message + 2, message, 2))
            return question;
    }
    return NULL;
}

static bool has_questions(const struct dot *dot)
{
    return dot->sent_count || !list_empty(&dot->waiting);
}

/* Out of the connection's hands. */
static void release(struct dot_question *question)
{
    struct dot *dot = question->dot;
    if (!dot)
        return;
    dot->sent_count -= question->sent;
    list_remove(&question->link);
    question->dot = NULL;
    question->sent = false;
    if (!has_questions(dot) && dot->state != DOT_CLOSED)
        deadline_start(dot->idle_queue, &dot->idle);
}

static void collect(struct list *from, struct list *to)
{
    while (!list_empty(from)) {
        struct list *link = from->next;
        list_remove(link);
        list_append(to, link);
    }
}

/* All of them, with this error. A callback may ask again, or cancel others. */
static void fail_questions(struct dot *dot, int error)
{
    struct list failed;
    list_init(&failed);
    for (size_t i = 0; i < BUCKETS; i++)
        collect(&dot->sent[i], &failed);
    collect(&dot->waiting, &failed);
    while (!list_empty(&failed)) {
        struct dot_question *question = list_entry(failed.next, struct dot_question, link);
        release(question);
        question->answered(question, error, NULL, 0);
    }
}

/* ---- the connection ---- */

static void connection_drop(struct dot *dot)
{
    poller_close(dot->poller, &dot->poll);
    deadline_stop(&dot->idle);
    tls_client_destroy(dot->tls);
    dot->tls = NULL;
    buffer_free(&dot->in);
    buffer_free(&dot->out);
    dot->state = DOT_CLOSED;
}

static void tell(struct dot *dot, int error)
{
    char text[CONFIG_RESOLVER_TEXT_MAX];
    if (error == dot->told)
        return;
    dot->told = error;
    config_resolver_format(&dot->server, text);
    if (error == -EKEYREJECTED && dot->tls)
        log_error("worker: the name server %s is not asked: %s", text, tls_client_problem(dot->tls));
    else
        log_error("worker: the name server %s cannot be asked: %s", text, strerror(-error));
}

/* One that has answered may have closed as servers do, and is tried again at once; another only after a while. */
static void note_failure(struct dot *dot, int error)
{
    dot->last_error = error;
    if (dot->heard_once)
        return;
    tell(dot, error);
    uint64_t pause = DOT_BACKOFF_MAX_MS;
    if (dot->failures < 8 && (uint64_t)DOT_BACKOFF_MS << dot->failures < pause)
        pause = (uint64_t)DOT_BACKOFF_MS << dot->failures;
    dot->failures++;
    dot->closed_till = now(dot) + pause;
}

static void connection_fail(struct dot *dot, int error)
{
    note_failure(dot, error);
    connection_drop(dot);
    fail_questions(dot, error);
}

static int connection_begin(struct dot *dot)
{
    struct sockaddr_storage to;
    const struct trust *trust = dot->authorities ? authorities_trust(dot->authorities) : NULL;
    socklen_t length = addr_to_sockaddr(&dot->server.address, &to);
    if (!trust)
        return -ENOKEY;
    _cleanup_fd_ int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(fd, (struct sockaddr *)&to, length) < 0 && errno != EINPROGRESS)
        return -errno;
    dot->tls = tls_client_create(trust, dot->server.name, "dot");
    int r = dot->tls ? poller_add(dot->poller, &dot->poll, fd) : -ENOMEM;
    if (r < 0) {
        tls_client_destroy(dot->tls);
        dot->tls = NULL;
        return r;
    }
    (void)fd_steal(&fd);
    dot->state = DOT_CONNECTING;
    dot->heard_once = false;
    return 0;
}

/* What TLS has to say goes out, as much as the socket takes. 0 or a negative errno. */
static int flush(struct dot *dot)
{
    struct buffer *out = &dot->out;
    for (;;) {
        if (buffer_length(out) == 0) {
            buffer_free(out);
            if (buffer_reserve(out, PIECE) < 0)
                return -ENOMEM;
            out->end = tls_client_take(dot->tls, out->bytes, PIECE);
            if (out->end == 0) {
                buffer_free(out);
                return 0;
            }
        }
        ssize_t sent = send(dot->poll.fd, out->bytes + out->start, buffer_length(out), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return errno == EAGAIN ? 0 : -errno;
        out->start += (size_t)sent;
    }
}

static int choose_id(struct dot *dot, uint8_t *message)
{
    do {
        if (getrandom(message, 2, 0) != 2)
            return -EIO;
    } while (find_sent(dot, message));
    return 0;
}

static int send_waiting(struct dot *dot)
{
    int r = 0;
    while (r == 0 && !list_empty(&dot->waiting)) {
        struct dot_question *question = list_entry(dot->waiting.next, struct dot_question, link);
        if ((r = choose_id(dot, question->message + 2)) < 0)
            break;
        list_remove(&question->link);
        list_append(bucket_of(dot, question->message + 2), &question->link);
        question->sent = true;
        dot->sent_count++;
        r = tls_client_write(dot->tls, question->message, question->length);
    }
    return r;
}

/* ---- answers ---- */

static void take_answer(struct dot *dot, uint8_t *bytes, size_t length)
{
    struct dot_question *question = length >= 2 ? find_sent(dot, bytes) : NULL;
    if (!question)
        return; /* of one that was cancelled */
    release(question);
    question->answered(question, 0, bytes, length);
}

/* Whole messages off the front of `in`. Nobody called from here takes the connection down: dot_ask() only queues. */
static void take_answers(struct dot *dot)
{
    struct buffer *in = &dot->in;
    while (buffer_length(in) >= 2) {
        uint8_t *bytes = in->bytes + in->start;
        size_t length = (size_t)(bytes[0] << 8 | bytes[1]);
        if (buffer_length(in) < 2 + length)
            return;
        in->start += 2 + length;
        take_answer(dot, bytes + 2, length);
    }
    if (buffer_length(in) == 0)
        buffer_free(in);
}

/* 0, or a negative errno when the connection is over. */
static int decrypt(struct dot *dot)
{
    for (;;) {
        if (buffer_reserve(&dot->in, PIECE) < 0)
            return -ENOMEM;
        ssize_t got = tls_client_read(dot->tls, dot->in.bytes + dot->in.end, PIECE);
        if (got > 0)
            dot->in.end += (size_t)got;
        if (got > 0 && !dot->heard_once) { /* it is well again */
            dot->heard_once = true;
            dot->failures = 0;
            dot->told = 0;
        }
        take_answers(dot);
        if (got <= 0)
            return (int)got;
    }
}

static int handshake(struct dot *dot)
{
    int r = tls_client_handshake(dot->tls);
    if (r == 1) {
        dot->state = DOT_OPEN;
        r = send_waiting(dot);
    }
    return r;
}

static int progress(struct dot *dot)
{
    int r = dot->state == DOT_HANDSHAKE ? handshake(dot) : 0;
    if (r == 0 && dot->state == DOT_OPEN)
        r = decrypt(dot);
    return r;
}

/* 1 there may be more, 0 nothing until the socket is ready again, or a negative errno. */
static int read_once(struct dot *dot)
{
    uint8_t bytes[PIECE];
    ssize_t got = recv(dot->poll.fd, bytes, sizeof(bytes), 0);
    if (got < 0)
        return errno == EINTR ? 1 : errno == EAGAIN ? 0 : -errno;
    if (got == 0)
        return -ECONNRESET;
    dot->heard_ms = now(dot);
    int r = tls_client_feed(dot->tls, bytes, (size_t)got);
    if (r == 0)
        r = progress(dot);
    return r < 0 ? r : 1;
}

/* The socket stands, or what became of it. 1, 0 not yet, or a negative errno. */
static int connected(struct dot *dot, uint32_t events)
{
    int error = 0;
    socklen_t length = sizeof(error);
    if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
        return 0;
    getsockopt(dot->poll.fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error)
        return -error;
    dot->state = DOT_HANDSHAKE;
    int r = progress(dot);
    return r < 0 ? r : 1;
}

static void on_ready(struct poll_handle *handle, uint32_t events)
{
    struct dot *dot = list_entry(handle, struct dot, poll);
    int r = dot->state == DOT_CONNECTING ? connected(dot, events) : 1;
    if (r == 0)
        return;
    if (r > 0 && dot->state == DOT_OPEN && send_waiting(dot) < 0)
        r = -EPROTO;
    for (int turn = 0; turn < TURN_BUDGET && r == 1; turn++)
        r = read_once(dot);
    if (r == 1)
        poller_again(dot->poller, &dot->poll);
    int sent = flush(dot); /* also the alert that says why we go */
    if (r < 0 || sent < 0)
        connection_fail(dot, r < 0 ? r : sent);
}

void dot_idle_expired(struct deadline *deadline)
{
    struct dot *dot = list_entry(deadline, struct dot, idle);
    if (has_questions(dot))
        return;
    if (dot->state == DOT_OPEN) {
        tls_client_close(dot->tls);
        (void)flush(dot);
    }
    connection_drop(dot);
}

/* ---- asking ---- */

int dot_ask(struct dot *dot, struct dot_question *question, uint8_t *message, size_t length)
{
    int r = 0;
    if (dot->state == DOT_CLOSED && now(dot) < dot->closed_till)
        return dot->last_error;
    if (dot->state == DOT_CLOSED && (r = connection_begin(dot)) < 0) {
        dot->heard_once = false;
        note_failure(dot, r);
        return r;
    }
    question->dot = dot;
    question->message = message;
    question->length = length;
    question->asked_ms = now(dot);
    list_append(&dot->waiting, &question->link);
    deadline_stop(&dot->idle);
    if (dot->state == DOT_OPEN)
        poller_again(dot->poller, &dot->poll); /* those that are asked in this turn go out together */
    return 0;
}

void dot_cancel(struct dot_question *question)
{
    release(question);
}

void dot_give_up(struct dot_question *question)
{
    struct dot *dot = question->dot;
    release(question);
    if (!dot || dot->state == DOT_CLOSED || dot->heard_ms > question->asked_ms)
        return;
    connection_fail(dot, -ETIMEDOUT);
}

/* ---- life ---- */

struct dot *dot_create(struct poller *poller, struct deadline_queue *idle, struct authorities *authorities,
                       const struct config_resolver *server)
{
    struct dot *dot = calloc(1, sizeof(*dot));
    if (!dot)
        return NULL;
    dot->poller = poller;
    dot->idle_queue = idle;
    dot->authorities = authorities;
    dot->server = *server;
    poll_handle_init(&dot->poll, on_ready);
    deadline_init(&dot->idle);
    list_init(&dot->waiting);
    for (size_t i = 0; i < BUCKETS; i++)
        list_init(&dot->sent[i]);
    return dot;
}

void dot_destroy(struct dot *dot)
{
    if (!dot)
        return;
    connection_drop(dot);
    fail_questions(dot, -ESRCH);
    free(dot);
}
