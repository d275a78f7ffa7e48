/*
 * The HTTP API: requests of the control socket for those who speak HTTP, on a unix socket beside it.
 *
 * The monitor parses HTTP here, which it does of nobody else: who may connect is root or its own user (SO_PEERCRED, before a byte
 * is read), and could order the same over the control socket. What a request means is api_route.c's; it becomes a client (client.c)
 * like any other, whose answer comes back here. A connection has one request at a time; what came behind it waits in the buffer.
 */
#include "redirect/daemon/daemon_internal.h"

#include "base/fds.h"
#include "base/log.h"
#include "redirect/daemon/api_route.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define CONNECTIONS_MAX 64
#define BODY_MAX CONTROL_REQUEST_MAX
#define INPUT_MAX (HTTPD_HEAD_MAX + BODY_MAX)
#define PATIENCE_MS 10000 /* for a request to come whole, and for its answer to be taken */
#define IDLE_MS 60000     /* between two */
#define TEXT "text/plain; charset=utf-8"

struct api_connection {
    struct list link;
    struct daemon *daemon;
    int fd;
    struct watch watch;
    struct loop_timer timer;
    char *in; /* INPUT_MAX bytes */
    size_t used;
    char *out; /* NULL: nothing to send */
    size_t length, sent;
    struct client *pending; /* the request that is being worked on */
    struct api_call call;   /* what it asked for */
    bool head;              /* no body, please */
    bool closing, advancing;
    bool served; /* a request at least: it may be closed between two */
};

static void connection_destroy(struct api_connection *c)
{
    struct daemon *d = c->daemon;
    struct client *pending = c->pending;
    c->pending = NULL;
    if (pending)
        client_abandon(pending);
    watch_stop(&d->loop, &c->watch);
    loop_timer_stop(&c->timer);
    list_remove(&c->link);
    d->api_count--;
    fd_close(&c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

/* ---- answers ---- */

static void answer(struct api_connection *c, int status, const char *type, const char *body, size_t length, const char *more)
{
    char head[HTTPD_ANSWER_HEAD_MAX];
    ssize_t n = httpd_head(status, type, length, !c->closing, more, head, sizeof(head));
    size_t with_body = c->head ? 0 : length;
    c->out = n > 0 ? malloc((size_t)n + with_body) : NULL;
    if (!c->out) {
        c->closing = true; /* nothing can be said */
        return;
    }
    memcpy(c->out, head, (size_t)n);
    memcpy(c->out + n, body, with_body);
    c->length = (size_t)n + with_body;
    c->sent = 0;
}

static void answer_json(struct api_connection *c, int status, const json_t *value, const char *more)
{
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    size_t length = text ? strlen(text) : 0;
    if (text)
        text[length++] = '\n'; /* where the NUL was */
    answer(c, text ? status : 500, "application/json", text ? text : "", length, more);
    free(text);
}

static void refuse(struct api_connection *c, int status, const char *code, const char *text, const char *allow)
{
    char more[128] = "";
    json_t *sentence = json_string(text);
    json_t *value = json_pack("{s:b, s:s, s:o}", "ok", 0, "code", code, "error",
                              sentence ? sentence : json_string("a text that is not UTF-8"));
    if (*allow)
        snprintf(more, sizeof(more), "Allow: %s\r\n", allow);
    answer_json(c, status, value, more);
    json_decref(value);
}

static void answer_text(struct api_connection *c, int status, const char *text)
{
    answer(c, status, TEXT, text, strlen(text), "");
}

static void answer_metrics(struct api_connection *c, bool plain)
{
    size_t length;
    char *text = metrics_render(c->daemon->options->metrics, plain, &length);
    if (text)
        answer(c, 200, plain ? METRICS_PLAIN_CONTENT_TYPE : METRICS_CONTENT_TYPE, text, length, "");
    else
        answer_text(c, 500, "out of memory\n");
    free(text);
}

static void answer_ready(struct api_connection *c)
{
    const struct daemon *d = c->daemon;
    if (d->draining)
        answer_text(c, 503, "not ready: the gateway is about to end\n");
    else if (!workers_are_ready(d) || !d->announced)
        answer_text(c, 503, "not ready: not all containers are served yet\n");
    else if (metrics_audit_failing(d->options->metrics))
        answer_text(c, 503, "not ready: the audit log cannot be written\n");
    else
        answer_text(c, 200, "ready\n");
}

/* The one of a list that was asked for. Borrowed; NULL when it is not there. */
static json_t *find_one(const json_t *whole, const char *id)
{
    size_t i;
    json_t *one;
    json_array_foreach (json_object_get(whole, "containers"), i, one) {
        const char *its = json_string_value(json_object_get(one, "id"));
        if (its && !strcmp(its, id))
            return one;
    }
    return NULL;
}

static void advance(struct api_connection *c);

/* The answer of the request that was pending. */
static void delivered(void *arg, json_t *whole)
{
    struct api_connection *c = arg;
    const char *code = json_string_value(json_object_get(whole, "code"));
    bool good = json_is_true(json_object_get(whole, "ok"));
    c->pending = NULL;
    if (!good) {
        int status = api_status_of(code);
        answer_json(c, status, whole, status == 503 ? "Retry-After: 1\r\n" : "");
    } else if (!*c->call.one) {
        answer_json(c, c->call.status, whole, "");
    } else {
        json_t *one = find_one(whole, c->call.one);
        char text[CHANNEL_ID_MAX + 32];
        snprintf(text, sizeof(text), "nothing is enrolled as %s", c->call.one);
        if (one)
            answer_json(c, 200, one, "");
        else
            refuse(c, 404, "unknown", text, "");
    }
    if (!c->advancing)
        advance(c);
}

/* ---- requests ---- */

/* Who is to be enrolled: the descriptors that come beside the request on the control socket. */
static int open_target(const struct api_call *call, const char *text, int fds[2], size_t *ret_count, struct error *err)
{
    struct control_request request;
    int r = control_parse(text, strlen(text), &request, err); /* what is wrong with the rest is said first */
    if (r < 0)
        return r;
    control_request_finish(&request);
    *ret_count = call->pid ? 2 : 1;
    if (call->pid)
        return process_open(call->pid, &fds[0], &fds[1], err);
    fds[0] = open(call->netns, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return fds[0] < 0 ? error_errno(err, errno, "%s", call->netns) : 0;
}

static void order(struct api_connection *c)
{
    struct error err;
    int fds[2] = {-1, -1};
    size_t count = 0;
    json_t *request = c->call.request;
    char *text = json_dumps(request, JSON_COMPACT);
    c->call.request = NULL;
    json_decref(request);
    c->pending = text ? client_create_for(c->daemon, c->fd, delivered, c) : NULL;
    if (!c->pending) {
        refuse(c, 503, "busy", "out of memory, or too many requests", "");
    } else if (c->call.enrolls && open_target(&c->call, text, fds, &count, &err) < 0) {
        struct client *pending = c->pending;
        c->pending = NULL;
        client_abandon(pending);
        refuse(c, 400, "invalid", err.text, "");
    } else {
        client_obey(c->pending, text, strlen(text), fds, count);
    }
    fd_close(&fds[0]);
    fd_close(&fds[1]);
    free(text);
}

static void take(struct api_connection *c, const struct httpd_request *request)
{
    struct api_refusal refusal;
    c->head = !strcmp(request->method, "HEAD");
    if (!request->keep_alive)
        c->closing = true;
    if (api_route(request, c->in + request->head_length, &c->call, &refusal) < 0) {
        refuse(c, refusal.status, refusal.code, refusal.text, refusal.allow);
        return;
    }
    switch (c->call.kind) {
    case API_CONTROL:
        order(c);
        break;
    case API_METRICS:
        answer_metrics(c, request->wants_text);
        break;
    case API_HEALTH:
        answer_text(c, 200, "ok\n");
        break;
    case API_READY:
        answer_ready(c);
        break;
    }
}

/* False: more bytes are needed. */
static bool take_request(struct api_connection *c)
{
    struct httpd_request request;
    int status;
    const char *why;
    switch (httpd_read(c->in, c->used, BODY_MAX, &request, &status, &why)) {
    case HTTPD_MORE:
        return false;
    case HTTPD_BAD:
        c->closing = true;
        c->head = false;
        c->used = 0;
        refuse(c, status, "invalid", why, "");
        return true;
    case HTTPD_WHOLE:
        break;
    }
    loop_timer_stop(&c->timer);
    if (c->daemon->api_watch.fd < 0) /* paused: the next request is another monitor's */
        c->closing = true;
    take(c, &request);
    size_t whole = request.head_length + request.body_length;
    c->used -= whole;
    memmove(c->in, c->in + whole, c->used);
    return true;
}

/* ---- its turns ---- */

/* 1: it is all gone, 0: the socket is full, -1: it broke. */
static int send_some(struct api_connection *c)
{
    while (c->sent < c->length) {
        ssize_t n = send(c->fd, c->out + c->sent, c->length - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        c->sent += (size_t)n;
    }
    free(c->out);
    c->out = NULL;
    c->length = c->sent = 0;
    c->served = true;
    return 1;
}

/* 1: something came, 0: nothing now, -1: it is over. */
static int receive_some(struct api_connection *c)
{
    ssize_t n = recv(c->fd, c->in + c->used, INPUT_MAX - c->used, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    c->used += (size_t)n;
    return n == 0 ? -1 : 1;
}

static void wait_for(struct api_connection *c, uint32_t events, uint64_t ms)
{
    watch_change(&c->daemon->loop, &c->watch, events);
    loop_timer_start(&c->daemon->loop, &c->timer, ms);
}

/* One step: true when there may be another at once. May destroy the connection: then *ret_gone. */
static bool step(struct api_connection *c, bool *ret_gone)
{
    int r = c->out ? send_some(c) : 1;
    if (r == 0) {
        wait_for(c, EPOLLOUT, PATIENCE_MS);
        return false;
    }
    if (c->pending) {
        watch_change(&c->daemon->loop, &c->watch, EPOLLRDHUP);
        return false;
    }
    if (r > 0 && !c->closing && take_request(c))
        return true;
    if (r > 0 && !c->closing)
        r = receive_some(c);
    if (r < 0 || c->closing) {
        *ret_gone = true;
        return false;
    }
    if (r == 0)
        wait_for(c, EPOLLIN | EPOLLRDHUP, c->used || !c->served ? PATIENCE_MS : IDLE_MS);
    return r > 0;
}

static void advance(struct api_connection *c)
{
    bool gone = false;
    c->advancing = true;
    while (step(c, &gone))
        ;
    c->advancing = false;
    if (gone)
        connection_destroy(c);
}

static void connection_ready(struct watch *watch, uint32_t events)
{
    struct api_connection *c = list_entry(watch, struct api_connection, watch);
    if (c->pending && events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        connection_destroy(c); /* nobody waits for the answer any more */
    else
        advance(c);
}

static void connection_late(struct loop_timer *timer)
{
    connection_destroy(list_entry(timer, struct api_connection, timer));
}

/* ---- coming and going ---- */

static struct api_connection *connection_create(struct daemon *d, int fd)
{
    struct api_connection *c = d->api_count < CONNECTIONS_MAX ? calloc(1, sizeof(*c)) : NULL;
    if (c && !(c->in = malloc(INPUT_MAX))) {
        free(c);
        return NULL;
    }
    if (!c)
        return NULL;
    c->daemon = d;
    c->fd = fd;
    c->watch.fd = -1;
    loop_timer_init(&c->timer, connection_late);
    list_append(&d->api_connections, &c->link);
    d->api_count++;
    return c;
}

static void api_accept(struct watch *watch, uint32_t events)
{
    struct daemon *d = list_entry(watch, struct daemon, api_watch);
    (void)events;
    _cleanup_fd_ int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (!control_peer_allowed(fd)) {
        log_warning("a process that is neither root's nor ours called at the API's socket; refused");
        return;
    }
    struct api_connection *c = connection_create(d, fd);
    if (!c)
        return;
    (void)fd_steal(&fd);
    if (watch_start(&d->loop, &c->watch, c->fd, EPOLLIN | EPOLLRDHUP, connection_ready) < 0)
        connection_destroy(c);
    else
        loop_timer_start(&d->loop, &c->timer, PATIENCE_MS);
}

int api_start(struct daemon *d, struct error *err)
{
    if (!d->options->api_path)
        return 0;
    int r = 0;
    d->api = inherited_take(&d->inherited, INHERITED_API);
    if (d->api >= 0 && !control_is_at(d->api, d->options->api_path))
        fd_close(&d->api);
    if (d->api < 0)
        r = control_listen_at(d->options->api_path, SOCK_STREAM, &d->api, err);
    if (r < 0 || d->borrowed)
        return r;
    r = watch_start(&d->loop, &d->api_watch, d->api, EPOLLIN, api_accept);
    return r < 0 ? error_errno(err, -r, "cannot watch the API's socket") : 0;
}

void api_close(struct daemon *d)
{
    if (d->api < 0)
        return;
    watch_stop(&d->loop, &d->api_watch);
    fd_close(&d->api);
    if (!d->borrowed)
        unlink(d->options->api_path);
}

void api_pause(struct daemon *d, bool on)
{
    for (struct list *link = d->api_connections.next, *next; on && link != &d->api_connections; link = next) {
        struct api_connection *c = list_entry(link, struct api_connection, link);
        next = link->next;
        char byte;
        if (c->served && !c->pending && !c->out && c->used == 0 && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
            connection_destroy(c);
    }
    if (d->api < 0)
        return;
    watch_stop(&d->loop, &d->api_watch);
    if (!on)
        watch_start(&d->loop, &d->api_watch, d->api, EPOLLIN, api_accept);
}

void api_finish(struct daemon *d)
{
    api_close(d);
    while (!list_empty(&d->api_connections)) {
        struct api_connection *c = list_entry(d->api_connections.next, struct api_connection, link);
        c->pending = NULL; /* client_close_all() has it: it is withdrawn by nobody any more */
        connection_destroy(c);
    }
}
