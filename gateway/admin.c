#include "gateway/admin.h"

#include "base/fds.h"
#include "base/log.h"
#include "certs/server.h"
#include "gateway/buffer.h"
#include "gateway/worker_internal.h"
#include "redirect/daemon/httpd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define CONNECTIONS_MAX 64
#define ACCEPT_BATCH 16
#define PIECE 16384

struct admin {
    struct worker *worker;
    const struct metrics *metrics;
    struct poll_handle listener;
    struct list connections;
    unsigned count;
    struct tls_server *tls;
    bool broken; /* TLS is configured, and cannot be spoken */
    struct rate complaints;
};

struct connection {
    struct list link;
    struct admin *admin;
    struct poll_handle poll;
    struct deadline deadline;
    struct addr peer;
    struct tls_session *tls; /* NULL: plain */
    struct buffer in, out;   /* plain text that came; bytes for the network */
    bool readable, writable;
    bool closing; /* no more requests; it ends when `out` is gone */
    bool shut;    /* it is gone, and the peer knows */
};

static void complain(const struct connection *c, const char *what, const char *why)
{
    struct worker *w = c->admin->worker;
    char peer[ADDR_TEXT_MAX];
    if (rate_take(&c->admin->complaints, 1, uv_now(&w->loop)))
        log_info("worker: admin endpoint: %s: %s: %s", addr_format_with_port(&c->peer, peer), what, why);
}

static void connection_destroy(struct connection *c)
{
    int fd = c->poll.fd;
    poller_remove(&c->admin->worker->poller, &c->poll);
    deadline_stop(&c->deadline);
    list_remove(&c->link);
    c->admin->count--;
    fd_close(&fd);
    tls_session_destroy(c->tls);
    buffer_free(&c->in);
    buffer_free(&c->out);
    free(c);
}

/* ---- answers ---- */

static int put(struct buffer *out, const void *bytes, size_t length)
{
    if (buffer_reserve(out, length) < 0)
        return -ENOMEM;
    memcpy(out->bytes + out->end, bytes, length);
    out->end += length;
    return 0;
}

static int put_plain(struct connection *c, const void *bytes, size_t length)
{
    return c->tls ? tls_session_write(c->tls, bytes, length) : put(&c->out, bytes, length);
}

static int answer(struct connection *c, int status, const char *type, const char *text, size_t length, bool with_body, const char *more)
{
    char head[HTTPD_ANSWER_HEAD_MAX];
    ssize_t n = httpd_head(status, type, length, !c->closing, more, head, sizeof(head));
    int r = n < 0 ? (int)n : put_plain(c, head, (size_t)n);
    return r == 0 && with_body ? put_plain(c, text, length) : r;
}

static int answer_text(struct connection *c, int status, const char *text, bool with_body, const char *more)
{
    char line[256];
    int n = snprintf(line, sizeof(line), "%s\n", text);
    return answer(c, status, "text/plain; charset=utf-8", line, (size_t)n, with_body, more);
}

static int answer_metrics(struct connection *c, bool plain, bool with_body)
{
    size_t length;
    char *text = metrics_render(c->admin->metrics, plain, &length);
    int r = text ? answer(c, 200, plain ? METRICS_PLAIN_CONTENT_TYPE : METRICS_CONTENT_TYPE, text, length, with_body, "") : -ENOMEM;
    free(text);
    return r;
}

/* NULL: ready. */
static const char *why_not_ready(const struct admin *admin)
{
    const struct worker *w = admin->worker;
    if ((w->draining && !w->yielding) || w->finishing) /* what yields has a successor that serves */
        return "not ready: the gateway is about to end";
    if (!audit_ready(w->audit))
        return "not ready: the audit log cannot be written, or not fast enough";
    if (!metric_get(&admin->metrics->worker_ready))
        return "not ready: not all containers are served yet";
    return NULL;
}

static int answer_request(struct connection *c, const struct httpd_request *request)
{
    bool head = !strcmp(request->method, "HEAD");
    bool metrics = !strcmp(request->path, "/metrics"), health = !strcmp(request->path, "/healthz"),
         ready = !strcmp(request->path, "/readyz");
    if (!request->keep_alive)
        c->closing = true;
    if (!metrics && !health && !ready)
        return answer_text(c, 404, "there is /metrics, /healthz and /readyz", !head, "");
    if (!head && strcmp(request->method, "GET") != 0)
        return answer_text(c, 405, "only GET and HEAD", true, "Allow: GET, HEAD\r\n");
    if (metrics)
        return answer_metrics(c, request->wants_text, !head);
    const char *why = ready ? why_not_ready(c->admin) : NULL;
    return answer_text(c, why ? 503 : 200, why ? why : ready ? "ready" : "ok", !head, "");
}

/* What TLS has to say goes to `out`. */
static int collect_tls(struct connection *c)
{
    size_t got;
    do {
        if (buffer_reserve(&c->out, PIECE) < 0)
            return -ENOMEM;
        got = tls_session_take(c->tls, c->out.bytes + c->out.end, PIECE);
        c->out.end += got;
    } while (got);
    return 0;
}

/* ---- requests ---- */

/* One request at a time: the next is read when the answer is gone. -1: it is over. */
static int take_request(struct connection *c)
{
    struct httpd_request request;
    int status, r = 0;
    const char *why;
    if (c->closing || buffer_length(&c->out) || buffer_length(&c->in) == 0)
        return 0;
    switch (httpd_read(c->in.bytes + c->in.start, buffer_length(&c->in), 0, &request, &status, &why)) {
    case HTTPD_MORE:
        return 0;
    case HTTPD_BAD:
        c->closing = true;
        r = answer_text(c, status, why, true, "");
        break;
    case HTTPD_WHOLE:
        c->in.start += request.head_length;
        r = answer_request(c, &request);
        deadline_start(&c->admin->worker->admin_timeouts, &c->deadline);
        break;
    }
    if (c->closing && c->tls)
        tls_session_close(c->tls);
    return r == 0 && c->tls ? collect_tls(c) : r;
}

/* Bytes of the network into `in`. -1: it is over. */
static int take_bytes(struct connection *c, const uint8_t *bytes, size_t length)
{
    if (!c->tls)
        return put(&c->in, bytes, length);
    if (tls_session_feed(c->tls, bytes, length) < 0)
        return -ENOMEM;
    for (;;) {
        if (buffer_reserve(&c->in, PIECE) < 0)
            return -ENOMEM;
        ssize_t got = tls_session_read(c->tls, c->in.bytes + c->in.end, PIECE);
        if (got > 0)
            c->in.end += (size_t)got;
        else if (got == -EAGAIN)
            return 0;
        else {
            if (got < 0)
                complain(c, "TLS", tls_session_trouble(c->tls));
            c->closing = true; /* an alert may still have to go */
            return 0;
        }
    }
}

/* -1: it is over. */
static int read_some(struct connection *c)
{
    uint8_t *scratch = c->admin->worker->scratch;
    while (c->readable && !c->closing && buffer_length(&c->out) == 0 && buffer_length(&c->in) < HTTPD_HEAD_MAX) {
        ssize_t got = recv(c->poll.fd, scratch, PIECE, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN) {
            c->readable = false;
            return 0;
        }
        if (got <= 0 || take_bytes(c, scratch, (size_t)got) < 0)
            return -1;
        if (take_request(c) < 0)
            return -1;
    }
    return 0;
}

/* 1: all is gone, 0: the socket is full, -1: it is over. */
static int write_some(struct connection *c)
{
    if (c->tls && collect_tls(c) < 0)
        return -1;
    while (buffer_length(&c->out)) {
        if (!c->writable)
            return 0;
        ssize_t sent = send(c->poll.fd, c->out.bytes + c->out.start, buffer_length(&c->out), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno != EAGAIN)
            return -1;
        if (sent < 0)
            c->writable = false;
        else
            c->out.start += (size_t)sent;
    }
    buffer_free(&c->out);
    return 1;
}

/* The answer is out. Reading on for a while keeps it from being lost to a reset. */
static void drain(struct connection *c)
{
    if (!c->shut)
        shutdown(c->poll.fd, SHUT_WR);
    c->shut = true;
    while (c->readable) {
        ssize_t got = recv(c->poll.fd, c->admin->worker->scratch, PIECE, 0);
        if (got < 0 && errno == EAGAIN)
            c->readable = false;
        else if (got <= 0) {
            connection_destroy(c);
            return;
        }
    }
}

static void run(struct connection *c)
{
    int gone;
    while ((gone = write_some(c)) > 0 && !c->closing) {
        /* what came behind the last request, then what comes now */
        if (take_request(c) < 0 || read_some(c) < 0 || (c->tls && collect_tls(c) < 0)) {
            connection_destroy(c);
            return;
        }
        if (buffer_length(&c->out) == 0 && !c->closing)
            return;
    }
    if (gone < 0)
        connection_destroy(c);
    else if (gone > 0)
        drain(c);
}

static void connection_ready(struct poll_handle *handle, uint32_t events)
{
    struct connection *c = list_entry(handle, struct connection, poll);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP))
        c->readable = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        c->writable = true;
    run(c);
}

void admin_connection_expired(struct deadline *deadline)
{
    struct connection *c = list_entry(deadline, struct connection, deadline);
    if (buffer_length(&c->in) || buffer_length(&c->out))
        complain(c, "closed", "a request or its answer took longer than ten seconds");
    connection_destroy(c);
}

/* ---- coming ---- */

static void connection_start(struct admin *admin, int fd_owned, const struct addr *peer)
{
    _cleanup_fd_ int fd = fd_owned;
    struct connection *c = admin->broken || admin->count >= CONNECTIONS_MAX ? NULL : calloc(1, sizeof(*c));
    struct tls_session *tls = c && admin->tls ? tls_session_create(admin->tls) : NULL;
    if (!c || (admin->tls && !tls)) {
        free(c);
        return;
    }
    *c = (struct connection){.admin = admin, .tls = tls, .peer = *peer};
    poll_handle_init(&c->poll, connection_ready);
    deadline_init(&c->deadline);
    if (poller_add(&admin->worker->poller, &c->poll, fd) < 0) {
        tls_session_destroy(tls);
        free(c);
        return;
    }
    (void)fd_steal(&fd);
    list_append(&admin->connections, &c->link);
    admin->count++;
    deadline_start(&admin->worker->admin_timeouts, &c->deadline);
}

static void accept_ready(struct poll_handle *handle, uint32_t events)
{
    struct admin *admin = list_entry(handle, struct admin, listener);
    (void)events;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        struct sockaddr_storage from;
        socklen_t length = sizeof(from);
        struct addr peer = {0};
        int fd = accept4(handle->fd, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == ECONNABORTED || errno == EINTR))
            continue;
        if (fd < 0)
            return; /* nobody, or no descriptor left: whoever waits is taken with the next one that comes */
        addr_from_sockaddr((struct sockaddr *)&from, &peer);
        connection_start(admin, fd, &peer);
    }
    poller_again(&admin->worker->poller, handle);
}

/* ---- its life ---- */

struct admin *admin_create(struct worker *worker, const struct metrics *metrics)
{
    struct admin *admin = calloc(1, sizeof(*admin));
    if (!admin)
        return NULL;
    admin->worker = worker;
    admin->metrics = metrics;
    list_init(&admin->connections);
    poll_handle_init(&admin->listener, accept_ready);
    return admin;
}

void admin_listen(struct admin *admin, int fd)
{
    int before = admin->listener.fd;
    poller_remove(&admin->worker->poller, &admin->listener);
    fd_close(&before);
    if (fd < 0)
        return;
    int r = poller_add(&admin->worker->poller, &admin->listener, fd);
    if (r < 0) {
        log_error("worker: cannot serve the admin endpoint: %s", strerror(-r));
        close(fd);
    }
}

bool admin_is_idle(const struct admin *admin)
{
    return !admin || admin->count == 0;
}

void admin_destroy(struct admin *admin)
{
    if (!admin)
        return;
    admin_listen(admin, -1);
    while (!list_empty(&admin->connections))
        connection_destroy(list_entry(admin->connections.next, struct connection, link));
    tls_server_destroy(admin->tls);
    free(admin);
}

/* ---- configuration ---- */

static int make_tls(const struct config_admin *config, struct tls_server **ret, struct error *err)
{
    return tls_server_create((struct pem){config->certificate, config->certificate_length},
                             (struct pem){config->key, config->key_length},
                             (struct pem){config->client_authorities, config->client_authorities_length}, ret, err);
}

void admin_configure(struct admin *admin, const struct config_snapshot *snapshot)
{
    const struct config_admin *config = config_admin(snapshot);
    struct error err;
    tls_server_destroy(admin->tls);
    admin->tls = NULL;
    admin->broken = config->certificate && make_tls(config, &admin->tls, &err) < 0;
    if (admin->broken)
        log_error("worker: the admin endpoint serves nobody: %s", err.text);
}

int admin_check(const struct config_snapshot *snapshot, struct error *err)
{
    const struct config_admin *config = config_admin(snapshot);
    struct tls_server *tls = NULL;
    int r = config->certificate ? make_tls(config, &tls, err) : 0;
    tls_server_destroy(tls);
    return r < 0 ? error_prefix(err, "gateway.admin.tls (line %u)", config->line) : 0;
}
