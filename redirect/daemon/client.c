#include "redirect/daemon/daemon_internal.h"

#include "base/fds.h"
#include "base/log.h"
#include "redirect/daemon/network.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define CLIENTS_MAX 512
#define REQUEST_WAIT_MS 10000

struct client {
    struct list link;
    struct daemon *daemon;
    int fd;
    struct watch watch;
    struct loop_timer timer; /* for its request, and for reading the answer */
    bool asked, enrolls;     /* the request is there; it is to enroll */
    char who[32];            /* for the record of what it changes */
    uint32_t user;
    char *answer;            /* NULL: none yet */
    size_t length, sent;
    client_deliver_fn deliver; /* of the API: takes the answer; then there is no socket here */
    void *deliver_to;
};

static void client_destroy(struct client *client)
{
    struct daemon *d = client->daemon;
    watch_stop(&d->loop, &client->watch);
    loop_timer_stop(&client->timer);
    list_remove(&client->link);
    d->client_count--;
    fd_close(&client->fd);
    free(client->answer);
    free(client);
}

int client_detach(struct client *client)
{
    watch_stop(&client->daemon->loop, &client->watch);
    int fd = fd_steal(&client->fd);
    client_destroy(client);
    return fd;
}

/* It went before it had its answer: what it asked for is not wanted any more. */
static void client_gone(struct client *client)
{
    struct daemon *d = client->daemon;
    if (d->reload_client == client)
        d->reload_client = NULL;
    if (d->reload_next == client)
        d->reload_next = NULL;
    runtime_client_gone(client);
    heir_client_gone(client);
    for (struct list *link = d->enrolments.next, *next; link != &d->enrolments; link = next) {
        struct enrolment *enrolment = list_entry(link, struct enrolment, link);
        next = link->next;
        if (enrolment->client == client) {
            enrolment_client_gone(enrolment);
            break; /* a client waits for one; and others may be gone with it */
        }
    }
    client_destroy(client);
}

/* ---- the answer ---- */

static void client_send(struct client *client)
{
    while (client->sent < client->length) {
        size_t piece = client->length - client->sent;
        if (piece > CONTROL_PACKET_MAX)
            piece = CONTROL_PACKET_MAX;
        ssize_t n = send(client->fd, client->answer + client->sent, piece, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            watch_change(&client->daemon->loop, &client->watch, EPOLLOUT);
            return;
        }
        if (n < 0)
            break;
        client->sent += (size_t)n;
    }
    client_destroy(client);
}

void client_answer(struct client *client, json_t *answer)
{
    json_t *whole = answer ? answer : json_object();
    if (client) {
        if (!json_object_get(whole, "ok"))
            json_object_set_new(whole, "ok", json_true());
    }
    if (client && client->deliver) {
        client_deliver_fn deliver = client->deliver;
        void *to = client->deliver_to;
        client_destroy(client);
        deliver(to, whole);
    } else if (client) {
        client->answer = json_dumps(whole, JSON_COMPACT);
        client->length = client->answer ? strlen(client->answer) : 0;
        loop_timer_start(&client->daemon->loop, &client->timer, REQUEST_WAIT_MS);
        client_send(client);
    }
    json_decref(whole);
}

void client_refuse(struct client *client, const char *code, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (client && client->enrolls)
        log_warning("not enrolled: %s", text);
    json_t *sentence = json_string(text);
    client_answer(client, json_pack("{s:b, s:s, s:o}", "ok", 0, "code", code, "error",
                                    sentence ? sentence : json_string("a text that is not UTF-8")));
}

/* ---- the requests ---- */

static void list_enrolments(struct client *client)
{
    struct daemon *d = client->daemon;
    json_t *all = json_array();
    for (struct list *link = d->enrolments.next; link != &d->enrolments; link = link->next)
        json_array_append_new(all, enrolment_describe(list_entry(link, struct enrolment, link)));
    client_answer(client, json_pack("{s:o}", "containers", all));
}

static void tell_status(struct client *client)
{
    const struct daemon *d = client->daemon;
    const struct metrics *m = d->options->metrics;
    client_answer(client, json_pack("{s:s, s:s, s:i, s:i, s:o, s:b, s:i, s:i, s:i, s:o, s:I, s:b, s:b}", "version", SALLYPORT_VERSION, "policy_version",
                                    config_version(d->snapshot), "monitor", (int)getpid(), "worker", (int)d->workers[0].process.pid, "workers", workers_describe(d),
                                    "ready", d->announced && workers_are_ready(d), "worker_restarts", (int)d->worker_restarts,
                                    "containers", (int)d->count, "draining_workers", (int)d->elder_count,
                                    "networks", networks_describe(d), "flows_active",
                                    (json_int_t)metrics_flows_active(m), "audit_failing", metrics_audit_failing(m), "reload_failed",
                                    metric_get(&m->reload_failed_last) != 0));
}

/* Fills in what the descriptors say. */
static int identify(struct state_record *record, const int *fds, size_t count, struct error *err)
{
    if (count < 1 || count > 2)
        return error_set(err, EINVAL, "a descriptor of the network namespace must come along, and at most a pidfd");
    int r = namespace_identify(fds[0], &record->netns, err);
    if (r < 0)
        return r;
    if (count == 1 && record->path[0] != '/')
        return error_set(err, EINVAL, "without a process the namespace needs an absolute path");
    if (count == 1)
        return vanish_path_is(record->path, &record->netns) ? 0
               : error_set(err, EINVAL, "the gateway does not find that namespace at %s, so it could not notice its end: run it in the "
                           "host's mount namespace, or let it see the mounts of that folder", record->path);
    r = pidfd_process(fds[1], &record->pid);
    if (r == 0)
        r = process_start_time(record->pid, &record->start_time);
    if (r == 0 && pidfd_ended(fds[1]))
        r = -ESRCH;
    record->path[0] = 0;
    return r < 0 ? error_set(err, EINVAL, "the container's first process has ended") : 0;
}

/* The id is known. Fine when nothing else changes but an interface (CNI), or when it ended and its namespace lived on. */
static void enroll_again(struct enrolment *known, const struct state_record *record, int pidfd, struct client *client)
{
    struct error err;
    _cleanup_fd_ int process = pidfd;
    bool same = namespace_equal(&known->record.netns, &record->netns);
    bool served = known->state == ENROLMENT_SERVED && same && !known->ended;
    bool by_path = served && *known->record.path;
    bool by_cni = served && *known->record.attachment && *record->attachment;
    if (known->ended && same && process >= 0) {
        if (sharing_revive(known, record, fd_steal(&process), &err) < 0)
            client_refuse(client, "failed", "%s: %s", record->id, err.text);
        else
            client_answer(client, json_pack("{s:s}", "policy", acl_policy_name(enrolment_policy(known))));
    } else if ((by_cni || (by_path && process < 0 && !strcmp(known->record.path, record->path))) &&
               known->record.attached == record->attached) {
        enrolment_refresh(known, client);
    } else if (by_path && process >= 0 && sharing_fits(known, record)) { /* by the CNI plugin, and now by an engine's hook */
        client_answer(client, json_pack("{s:s}", "policy", acl_policy_name(enrolment_policy(known))));
    } else {
        client_refuse(client, "exists", "%s is enrolled already%s", record->id,
                      by_path && !sharing_fits(known, record) ? ", with another policy or capture" : "");
    }
}

static void enroll(struct client *client, struct state_record *record, int *fds, size_t count)
{
    struct daemon *d = client->daemon;
    struct error err;
    struct enrolment *other;
    if (d->draining) {
        client_refuse(client, "busy", "the gateway is about to end");
    } else if (identify(record, fds, count, &err) < 0) {
        client_refuse(client, "invalid", "%s", err.text);
    } else if (namespace_is_host(&record->netns)) {
        client_refuse(client, "refused",
                      "%s is in the network namespace of the host, which is not captured: start it with a network of its own",
                      record->id);
    } else if (record->attached && !namespace_host_known()) {
        client_refuse(client, "refused", "it cannot be told whether %s is in the network namespace of the host "
                      "(/proc/1/ns/net cannot be read), and attached capture would not notice", record->id);
    } else if ((other = enrolment_find(d, record->id))) {
        enroll_again(other, record, count > 1 ? fd_steal(&fds[1]) : -1, client);
    } else if (*record->policy && !config_policy(d->snapshot, record->policy)) {
        client_refuse(client, "refused", "there is no policy \"%s\"", record->policy);
    } else if ((other = enrolment_find_namespace(d, &record->netns))) {
        sharing_join(other, record, count > 1 ? fd_steal(&fds[1]) : -1, client);
    } else {
        enrolment_start(d, record, fd_steal(&fds[0]), count > 1 ? fd_steal(&fds[1]) : -1, client);
    }
}

/* The process of an enrolment may have ended and its successor be here before we were told. */
static void forget_ended(struct daemon *d, const struct control_request *request)
{
    struct enrolment *by_id = enrolment_find(d, request->record.id);
    if (request->verb == CONTROL_ENROLL && by_id && enrolment_ended(by_id))
        enrolment_withdraw(by_id, NULL);
}

static void about_one(struct client *client, const struct control_request *request)
{
    struct enrolment *enrolment = enrolment_find(client->daemon, request->record.id);
    const char *attachment = request->record.attachment;
    if (enrolment && *attachment && strcmp(attachment, enrolment->record.attachment) != 0)
        enrolment = NULL; /* enrolled with another one */
    if (!enrolment && request->verb == CONTROL_WITHDRAW)
        client_answer(client, json_pack("{s:b}", "withdrawn", 0));
    else if (!enrolment)
        client_refuse(client, "unknown", "nothing is enrolled as %s", request->record.id);
    else if (request->verb == CONTROL_WITHDRAW)
        enrolment_withdraw(enrolment, client);
    else
        enrolment_verify(enrolment, client);
}

static void obey(struct client *client, struct control_request *request, int *fds, size_t count)
{
    switch (request->verb) {
    case CONTROL_ENROLL:
        client->enrolls = true;
        forget_ended(client->daemon, request);
        enroll(client, &request->record, fds, count);
        break;
    case CONTROL_WITHDRAW:
    case CONTROL_VERIFY:
        about_one(client, request);
        break;
    case CONTROL_LIST:
        list_enrolments(client);
        break;
    case CONTROL_RELOAD:
        daemon_reload(client->daemon, client);
        break;
    case CONTROL_STATUS:
        tell_status(client);
        break;
    case CONTROL_TAKE_OVER:
        heir_calls(client);
        break;
    case CONTROL_UPGRADE:
        heir_spawn(client);
        break;
    case CONTROL_SHOW:
        show_target(client, request);
        break;
    case CONTROL_ALLOW:
    case CONTROL_DENY:
    case CONTROL_SET:
    case CONTROL_FORGET:
        runtime_change(client, request);
        break;
    }
}

void client_obey(struct client *client, const char *text, size_t length, int *fds, size_t count)
{
    struct control_request request;
    struct error err;
    if (control_parse(text, length, &request, &err) < 0) {
        client_refuse(client, "invalid", "%s", err.text);
        return;
    }
    obey(client, &request, fds, count);
    control_request_finish(&request);
}

static void take_request(struct client *client)
{
    static char text[CONTROL_REQUEST_MAX];
    int fds[FDS_MAX];
    size_t count = 0;
    ssize_t got = fds_receive(client->fd, text, sizeof(text), fds, &count);
    if (got <= 0 && got != -EMSGSIZE) {
        client_destroy(client);
        return;
    }
    client->asked = true;
    loop_timer_stop(&client->timer);
    watch_change(&client->daemon->loop, &client->watch, EPOLLRDHUP);
    if (got == -EMSGSIZE)
        client_refuse(client, "invalid", "the request is longer than %d bytes", CONTROL_REQUEST_MAX);
    else
        client_obey(client, text, (size_t)got, fds, count);
    for (size_t i = 0; i < count; i++)
        fd_close(&fds[i]);
}

/* ---- its life ---- */

static void client_ready(struct watch *watch, uint32_t events)
{
    struct client *client = list_entry(watch, struct client, watch);
    if (!client->asked)
        take_request(client);
    else if (client->answer && !(events & (EPOLLHUP | EPOLLERR)))
        client_send(client);
    else
        client_gone(client);
}

static void client_expired(struct loop_timer *timer)
{
    client_destroy(list_entry(timer, struct client, timer));
}

static void note_who(struct client *client, int peer_fd)
{
    struct ucred peer = {.uid = (uid_t)-1};
    socklen_t length = sizeof(peer);
    getsockopt(peer_fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
    client->user = peer.uid;
    snprintf(client->who, sizeof(client->who), "uid %u", peer.uid);
}

struct daemon *client_daemon(const struct client *client)
{
    return client->daemon;
}

const char *client_who(const struct client *client)
{
    return client->who;
}

uint32_t client_user(const struct client *client)
{
    return client ? client->user : NOTE_NOBODY;
}

static struct client *client_create(struct daemon *d, int peer_fd)
{
    struct client *client = d->client_count < CLIENTS_MAX ? calloc(1, sizeof(*client)) : NULL;
    if (!client)
        return NULL;
    client->daemon = d;
    client->fd = client->watch.fd = -1;
    note_who(client, peer_fd);
    loop_timer_init(&client->timer, client_expired);
    list_append(&d->clients, &client->link);
    d->client_count++;
    return client;
}

struct client *client_create_for(struct daemon *d, int peer_fd, client_deliver_fn deliver, void *deliver_to)
{
    struct client *client = client_create(d, peer_fd);
    if (!client)
        return NULL;
    client->asked = true;
    client->deliver = deliver;
    client->deliver_to = deliver_to;
    return client;
}

void client_abandon(struct client *client)
{
    client_gone(client);
}

void client_accept(struct watch *watch, uint32_t events)
{
    struct daemon *d = list_entry(watch, struct daemon, listener_watch);
    (void)events;
    _cleanup_fd_ int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (!control_peer_allowed(fd)) {
        log_warning("a process that is neither root's nor ours called at the control socket; refused");
        return;
    }
    struct client *client = client_create(d, fd);
    if (!client)
        return;
    client->fd = fd_steal(&fd);
    if (watch_start(&d->loop, &client->watch, client->fd, EPOLLIN | EPOLLRDHUP, client_ready) < 0)
        client_destroy(client);
    else
        loop_timer_start(&d->loop, &client->timer, REQUEST_WAIT_MS);
}

void client_close_all(struct daemon *d)
{
    while (!list_empty(&d->clients))
        client_destroy(list_entry(d->clients.next, struct client, link));
}
