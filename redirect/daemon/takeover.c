#include "redirect/daemon/daemon_internal.h"

#include "base/fds.h"
#include "base/log.h"
#include "redirect/daemon/network.h"
#include "redirect/monitor/notify.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define LOOK_MS \
    5 /* between two looks whether all is quiet: there are many reasons why not, and few upgrades */
#define QUIET_WAIT_MS 20000 /* longer than any one thing takes */
#define HEIR_WAIT_MS 60000  /* for its configuration, its worker, its first service */
#define SEND_WAIT_MS 5000
#define ELDER_DRAIN_MS 3600000 /* for flows that were up; under every new policy, so there is no haste */
#define WORKER_NAME "_worker"
#define ELDER_NAME "_elder"
#define END_NAME "."

/* ---- the old one ---- */

static void step_to(struct daemon *d, enum heir_step step, uint64_t wait_ms,
                    void (*expired)(struct loop_timer *timer))
{
    d->heir.step = step;
    d->heir.timer.expired = expired;
    loop_timer_start(&d->loop, &d->heir.timer, wait_ms);
}

static void keep_as_elder(struct daemon *d, int channel)
{
    elder_add(d, channel, true);
}

/* Our workers keep their flows, and do nothing else any more. */
static void part_with_workers(struct daemon *d)
{
    workers_release(d, keep_as_elder);
}

static void heir_forget(struct daemon *d)
{
    watch_stop(&d->loop, &d->heir.watch);
    loop_timer_stop(&d->heir.timer);
    fd_close(&d->heir.fd);
    d->heir.step = HEIR_NONE;
}

void heir_give_up(struct daemon *d, const char *why)
{
    enum heir_step step = d->heir.step;
    struct client *asker = d->heir.asker;
    if (step == HEIR_NONE)
        return;
    log_error("not taken over: %s; this gateway (process %d) stays", why, (int)getpid());
    heir_forget(d);
    if (d->heir.child > 0)
        kill(d->heir.child, SIGKILL);
    d->heir.child = -1;
    d->heir.asker = NULL;
    client_refuse(asker, "failed", "%s (see the log); the gateway that ran runs on", why);
    if (step == HEIR_SPAWNED)
        return;
    watch_start(&d->loop, &d->listener_watch, d->listener, EPOLLIN, client_accept);
    api_pause(d, false);
    elders_listen(d, true);
    if (step == HEIR_DRAIN)
        part_with_workers(d);
    if (step >= HEIR_DRAIN)
        workers_start(d);
    struct error err;
    if (step == HEIR_SERVES &&
        networks_apply(d, d->snapshot, &err) < 0) /* the heir may have replaced the rules */
        log_error("%s", err.text);
    daemon_reload_if_wanted(d);
}

static void heir_late(struct loop_timer *timer)
{
    heir_give_up(list_entry(timer, struct daemon, heir.timer), "the new gateway does not get ready");
}

static int heir_send(struct daemon *d, const char *name, const int *fds, size_t count)
{
    int r;
    struct pollfd polled = {.fd = d->heir.fd, .events = POLLOUT};
    while ((r = fds_send(d->heir.fd, name, strlen(name), fds, count)) == -EAGAIN &&
           poll(&polled, 1, SEND_WAIT_MS) == 1)
        ;
    return r;
}

static int offer_elder(int channel, void *daemon)
{
    return heir_send(daemon, ELDER_NAME, &channel, 1);
}

static int offer_sockets(struct daemon *d, const char *name, const struct capture_sockets *sockets)
{
    int all[CAPTURE_SOCKETS], there[CAPTURE_SOCKETS];
    size_t count = 0;
    memcpy(all, sockets, sizeof(all));
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++)
        if (all[i] >= 0)
            there[count++] = all[i];
    return count ? heir_send(d, name, there, count) : 0;
}

static int offer_listener(int listener, void *daemon)
{
    return heir_send(daemon, INHERITED_LISTENER, &listener, 1);
}

static int offer_enrolment(struct daemon *d, const struct enrolment *e)
{
    char name[ENROLMENT_KEPT_NAME];
    int r = offer_sockets(d, enrolment_kept_name(&e->record, name), &e->sockets);
    return r < 0 ? r : publishing_each_listener(e, offer_listener, d);
}

static int offer_network(const char *name, const struct capture_sockets *sockets, void *daemon)
{
    return offer_sockets(daemon, name, sockets);
}

/* Copies of everything. We keep ours, in case it fails. */
static int offer(struct daemon *d)
{
    char answer[128];
    snprintf(answer, sizeof(answer), "{\"ok\": true, \"version\": \"%s\", \"message\": %zu}",
             SALLYPORT_VERSION, sizeof(struct channel_message));
    int r = heir_send(d, answer, NULL, 0);
    if (r == 0)
        r = heir_send(d, INHERITED_STATE, &d->state, 1);
    if (r == 0)
        r = heir_send(d, INHERITED_METRICS, (int[]){metrics_descriptor()}, 1);
    if (r == 0)
        r = heir_send(d, INHERITED_CONTROL, &d->listener, 1);
    if (r == 0 && d->api >= 0)
        r = heir_send(d, INHERITED_API, &d->api, 1);
    if (r == 0 && d->admin >= 0)
        r = offer_listener(d->admin, d);
    for (unsigned i = 0; r == 0 && i < d->worker_count; i++)
        r = heir_send(d, WORKER_NAME, &d->workers[i].process.channel, 1);
    if (r == 0)
        r = elders_each_channel(d, offer_elder, d);
    if (r == 0)
        r = networks_each_sockets(d, offer_network, d);
    for (struct list *link = d->enrolments.next; r == 0 && link != &d->enrolments; link = link->next)
        r = offer_enrolment(d, list_entry(link, struct enrolment, link));
    return r < 0 ? r : heir_send(d, END_NAME, NULL, 0);
}

/* Nothing is under way, so what the heir is given is all there is. */
static bool quiet(const struct daemon *d)
{
    return workers_are_quiet(d) && d->api_count == 0 && !d->loading.running && networks_settled(d) &&
           !d->reload_client && list_empty(&d->changes) && list_empty(&d->jobs) && d->running == 0 &&
           d->client_count == (d->heir.asker ? 1 : 0);
}

static void look_whether_quiet(struct loop_timer *timer)
{
    struct daemon *d = list_entry(timer, struct daemon, heir.timer);
    api_pause(d, true);
    if (quiet(d)) {
        step_to(d, HEIR_HAS_ALL, HEIR_WAIT_MS, heir_late);
        if (offer(d) < 0)
            heir_give_up(d, "the new gateway does not take what it is given");
    } else if (monotonic_ms() > d->heir.patience) {
        heir_give_up(d, "this gateway does not come to rest");
    } else {
        step_to(d, HEIR_WAITS, LOOK_MS, look_whether_quiet);
    }
}

static void commit(struct daemon *d)
{
    unsigned for_ms = d->options->drain_ms > ELDER_DRAIN_MS ? d->options->drain_ms : ELDER_DRAIN_MS;
    int r = 0;
    d->heir.serial = daemon_next_serial(d);
    step_to(d, HEIR_DRAIN, HEIR_WAIT_MS, heir_late);
    for (unsigned i = 0; i < d->worker_count && r == 0; i++) {
        d->workers[i].yielded = false;
        r = channel_send_drain(d->workers[i].process.channel, d->heir.serial, for_ms);
    }
    if (r < 0)
        heir_give_up(d, "the worker cannot be told");
}

/* When the last one has. */
static bool yield(struct daemon_worker *worker)
{
    struct daemon *d = worker->daemon;
    worker->yielded = true;
    for (unsigned i = 0; i < d->worker_count; i++)
        if (!d->workers[i].yielded)
            return true;
    step_to(d, HEIR_SERVES, HEIR_WAIT_MS, heir_late);
    elders_listen(d, false);
    part_with_workers(d);
    if (heir_send(d, "yours", NULL, 0) < 0)
        heir_give_up(d, "the new gateway is gone");
    return true;
}

bool heir_worker_answered(struct daemon_worker *worker, uint32_t serial)
{
    const struct heir *heir = &worker->daemon->heir;
    return heir->step == HEIR_DRAIN && serial == heir->serial && yield(worker);
}

/* Without flows it ends as soon as it is told, and its answer may be read after that. */
bool heir_worker_ended(struct daemon_worker *worker, int status)
{
    return worker->daemon->heir.step == HEIR_DRAIN && WIFEXITED(status) && WEXITSTATUS(status) == 0 && yield(worker);
}

static void depart(struct daemon *d)
{
    struct ucred heir = {0};
    socklen_t length = sizeof(heir);
    getsockopt(d->heir.fd, SOL_SOCKET, SO_PEERCRED, &heir, &length);
    log_info("process %d has taken over", (int)heir.pid);
    notify("MAINPID=%d", (int)heir.pid);
    if (d->reload_wanted) /* it may have read the file before that */
        kill(heir.pid, SIGHUP);
    client_answer(d->heir.asker, json_pack("{s:i}", "monitor", (int)heir.pid));
    d->heir.asker = NULL;
    metrics_detach(d->options->metrics);
    fd_close(&d->listener); /* the paths are the heir's */
    fd_close(&d->api);
    heir_forget(d);
    daemon_stop(d, 0);
}

static void heir_ready(struct watch *watch, uint32_t events)
{
    struct daemon *d = list_entry(watch, struct daemon, heir.watch);
    char word[32];
    (void)events;
    ssize_t got = recv(watch->fd, word, sizeof(word) - 1, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    word[got > 0 ? got : 0] = 0;
    if (d->heir.step == HEIR_HAS_ALL && !strcmp(word, "commit"))
        commit(d);
    else if (d->heir.step == HEIR_SERVES && !strcmp(word, "done"))
        depart(d);
    else
        heir_give_up(d, "the new gateway is gone");
}

void heir_calls(struct client *client)
{
    struct daemon *d = client_daemon(client);
    if ((d->heir.step != HEIR_NONE && d->heir.step != HEIR_SPAWNED) || d->draining || !d->announced) {
        client_refuse(client, "busy",
                      "the gateway is being taken over already, or about to start or to end: try again");
        return;
    }
    d->heir.fd = client_detach(client);
    d->heir.patience = monotonic_ms() + QUIET_WAIT_MS;
    watch_stop(&d->loop, &d->listener_watch);
    step_to(d, HEIR_WAITS, 0, look_whether_quiet);
    if (watch_start(&d->loop, &d->heir.watch, d->heir.fd, EPOLLIN | EPOLLRDHUP, heir_ready) < 0)
        heir_give_up(d, "out of memory");
}

/* ---- starting one ---- */

static void become_heir(const struct daemon *d)
{
    const struct daemon_options *o = d->options;
    const char *arguments[64];
    size_t count = 0;
    arguments[count++] = o->program;
    for (char *const *argument = o->arguments; *argument && count < 62; argument++)
        if (strcmp(*argument, "--take-over"))
            arguments[count++] = *argument;
    arguments[count++] = "--take-over";
    arguments[count] = NULL;
    unsetenv("WATCHDOG_PID"); /* that was us */
    sigprocmask(SIG_SETMASK, &d->mask_before, NULL);
    signal(SIGPIPE, SIG_DFL);
    execv(o->program, (char *const *)arguments);
    log_error("%s: %s", o->program, strerror(errno));
    _exit(127);
}

void heir_spawn(struct client *client)
{
    struct daemon *d = client_daemon(client);
    if (d->heir.step != HEIR_NONE || d->draining || !d->announced) {
        client_refuse(client, "busy",
                      "the gateway is being taken over already, or about to start or to end: try again");
        return;
    }
    pid_t pid = fork();
    if (pid == 0)
        become_heir(d);
    if (pid < 0) {
        client_refuse(client, "failed", "cannot start the new gateway: %s", strerror(errno));
        return;
    }
    log_info("%s is to take over, as process %d", d->options->program, (int)pid);
    d->heir.child = pid;
    d->heir.asker = client;
    step_to(d, HEIR_SPAWNED, HEIR_WAIT_MS, heir_late);
}

void heir_reaped(struct daemon *d, pid_t pid, int status)
{
    char why[96];
    if (pid != d->heir.child)
        return;
    d->heir.child = -1;
    if (WIFSIGNALED(status))
        snprintf(why, sizeof(why), "the new gateway was killed by signal %d", WTERMSIG(status));
    else
        snprintf(why, sizeof(why), "the new gateway ended with status %d", WEXITSTATUS(status));
    heir_give_up(d, why);
}

void heir_client_gone(struct client *client)
{
    struct daemon *d = client_daemon(client);
    if (d->heir.asker == client)
        d->heir.asker = NULL;
}

void heir_init(struct daemon *d)
{
    d->heir = (struct heir){.fd = -1, .child = -1, .watch = WATCH_NONE};
    loop_timer_init(&d->heir.timer, heir_late);
    d->predecessor = (struct predecessor){.fd = -1, .bundle = -1, .watch = WATCH_NONE};
    list_init(&d->elders);
}

void heir_finish(struct daemon *d)
{
    heir_forget(d);
    elders_finish(d);
}

/* ---- the new one ---- */

/* -EPROTO: it does not want to, as `err` says. */
static int read_consent(struct daemon *d, int fd, struct error *err)
{
    char text[4096];
    const char *sentence = "it hangs up";
    json_int_t size = 0;
    int ok = 0;
    ssize_t got = recv(fd, text, sizeof(text), 0);
    json_t *answer = got > 0 ? json_loadb(text, (size_t)got, 0, NULL) : NULL;
    json_unpack(answer, "{s:b, s?I, s?s}", "ok", &ok, "message", &size, "error", &sentence);
    d->predecessor.same_form = size == (json_int_t)sizeof(struct channel_message);
    int r = ok ? 0
               : error_set(err, EPROTO, "the gateway at %s does not let itself be taken over: %s",
                           d->options->control_path, got < 0 ? strerror(errno) : sentence);
    json_decref(answer);
    return r;
}

/* 1, 0 at the end, or a negative errno. */
static int read_descriptors(struct daemon *d, int fd)
{
    char name[CHANNEL_ID_MAX];
    int fds[FDS_MAX], r = 0;
    size_t count = 0;
    ssize_t got = fds_receive(fd, name, sizeof(name) - 1, fds, &count);
    if (got <= 0)
        return got < 0 ? (int)got : -ECONNRESET;
    name[got] = 0;
    for (size_t i = 0; i < count; i++)
        if (inherited_add(&d->inherited, name, fds[i]) < 0)
            r = -ENOMEM;
    return r < 0 ? r : strcmp(name, END_NAME) != 0;
}

static int take_state(struct daemon *d, struct error *err)
{
    struct stat theirs, ours;
    const char *path = d->options->state_path;
    _cleanup_fd_ int folder = inherited_take(&d->inherited, INHERITED_STATE);
    if (folder < 0 || fstat(folder, &theirs) < 0 || stat(path, &ours) < 0 || theirs.st_ino != ours.st_ino ||
        theirs.st_dev != ours.st_dev)
        return error_set(err, EINVAL,
                         "the gateway at %s has another state folder than %s: name its own with --state",
                         d->options->control_path, path);
    d->state = fd_steal(&folder);
    return 0;
}

int predecessor_ask(struct daemon *d, struct error *err)
{
    static const char request[] = "{\"do\": \"take-over\"}";
    int r = control_dial(d->options->control_path, &d->predecessor.fd, err);
    if (r < 0)
        return r;
    if (send(d->predecessor.fd, request, strlen(request), MSG_NOSIGNAL) < 0)
        return error_errno(err, errno, "cannot ask the gateway at %s", d->options->control_path);
    r = read_consent(d, d->predecessor.fd, err);
    while (r == 0 && (r = read_descriptors(d, d->predecessor.fd)) == 1)
        r = 0;
    if (r < 0)
        return err->code ? r
                         : error_errno(err, -r, "the gateway at %s does not hand over what it has",
                                       d->options->control_path);
    int page = inherited_take(&d->inherited, INHERITED_METRICS);
    if (page >= 0 && !metrics_adopt(d->options->metrics, page))
        log_info("metrics begin anew: the gateway before this one counted others");
    fd_set_nonblocking(d->predecessor.fd);
    d->predecessor.step = PREDECESSOR_ASKED;
    return take_state(d, err);
}

static void adopt_elders(struct daemon *d)
{
    int channel;
    while ((channel = inherited_take(&d->inherited, WORKER_NAME)) >= 0)
        elder_add(d, channel, d->predecessor.same_form);
    while ((channel = inherited_take(&d->inherited, ELDER_NAME)) >= 0)
        elder_add(d, channel, d->predecessor.same_form);
    elders_tell_config(d, d->predecessor.bundle);
    fd_close(&d->predecessor.bundle);
}

static void predecessor_gone(struct daemon *d)
{
    bool ours = d->predecessor.step >= PREDECESSOR_YIELDED;
    predecessor_finish(d);
    if (!ours) {
        log_error("the gateway at %s has not let go; it goes on, this one ends", d->options->control_path);
        daemon_stop(d, 1);
        return;
    }
    watch_start(&d->loop, &d->listener_watch, d->listener, EPOLLIN, client_accept);
    api_pause(d, false);
    daemon_maybe_announce(d);
    daemon_reload_if_wanted(d);
}

static void predecessor_ready(struct watch *watch, uint32_t events)
{
    struct daemon *d = list_entry(watch, struct daemon, predecessor.watch);
    char word[32];
    (void)events;
    ssize_t got = recv(watch->fd, word, sizeof(word) - 1, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    word[got > 0 ? got : 0] = 0;
    if (d->predecessor.step != PREDECESSOR_COMMITTED || strcmp(word, "yours")) {
        predecessor_gone(d);
        return;
    }
    d->predecessor.step = PREDECESSOR_YIELDED;
    adopt_elders(d);
    daemon_adopt(d);
    daemon_maybe_announce(d);
}

void predecessor_commit(struct daemon *d)
{
    if (d->predecessor.step != PREDECESSOR_ASKED)
        return;
    d->predecessor.step = PREDECESSOR_COMMITTED;
    if (watch_start(&d->loop, &d->predecessor.watch, d->predecessor.fd, EPOLLIN, predecessor_ready) < 0 ||
        send(d->predecessor.fd, "commit", 6, MSG_NOSIGNAL) < 0)
        predecessor_gone(d);
}

void predecessor_done(struct daemon *d)
{
    if (d->predecessor.step != PREDECESSOR_YIELDED)
        return;
    d->predecessor.step = PREDECESSOR_DONE;
    if (send(d->predecessor.fd, "done", 4, MSG_NOSIGNAL) < 0)
        predecessor_gone(d);
}

void predecessor_finish(struct daemon *d)
{
    watch_stop(&d->loop, &d->predecessor.watch);
    fd_close(&d->predecessor.fd);
    fd_close(&d->predecessor.bundle);
    d->predecessor.step = PREDECESSOR_NONE;
}
