#include "redirect/daemon/daemon_internal.h"

#include "base/fds.h"
#include "base/log.h"
#include "redirect/daemon/network.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

static void worker_due(struct loop_timer *timer);

/* ---- which ---- */

static struct daemon_worker *end_of(struct daemon *d)
{
    return d->workers + d->worker_count;
}

static unsigned processors(void)
{
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    return count > 0 ? (unsigned)count : 1;
}

static unsigned wanted(const struct daemon *d)
{
    unsigned count = config_workers(d->snapshot) ? config_workers(d->snapshot) : processors();
    return count < WORKERS_MAX ? count : WORKERS_MAX;
}

bool workers_are_as_wanted(const struct daemon *d, char *text, size_t size)
{
    unsigned count = wanted(d);
    if (count == d->worker_count)
        return true;
    snprintf(text, size, "gateway.workers: %u instead of %u comes into force with 'sallyport upgrade'", count,
             d->worker_count);
    return false;
}

void workers_init(struct daemon *d)
{
    d->worker_count = wanted(d);
    for (unsigned i = 0; i < d->worker_count; i++) {
        struct daemon_worker *w = &d->workers[i];
        *w = (struct daemon_worker){
            .daemon = d, .index = i, .process = WORKER_PROCESS_NONE, .watch = WATCH_NONE};
        if (d->worker_count > 1)
            snprintf(w->process.which, sizeof(w->process.which), " (worker %u of %u)", i + 1, d->worker_count);
        loop_timer_init(&w->timer, worker_due);
        list_init(&w->unsent);
        list_init(&w->unanswered);
    }
}

struct daemon_worker *workers_with_pid(struct daemon *d, pid_t pid)
{
    for (struct daemon_worker *w = d->workers; w < end_of(d); w++)
        if (w->process.pid == pid)
            return w;
    return NULL;
}

struct daemon_worker *workers_choose(struct daemon *d)
{
    struct daemon_worker *chosen = d->workers;
    for (struct daemon_worker *w = d->workers; w < end_of(d); w++)
        if (w->captures < chosen->captures)
            chosen = w;
    chosen->captures++;
    return chosen;
}

json_t *workers_describe(const struct daemon *d)
{
    json_t *all = json_array();
    for (unsigned i = 0; i < d->worker_count; i++) {
        const struct daemon_worker *w = &d->workers[i];
        json_array_append_new(all, json_pack("{s:i, s:b, s:i}", "pid", (int)w->process.pid, "ready", w->ready,
                                             "captures", (int)w->captures));
    }
    return all;
}

bool workers_are_ready(const struct daemon *d)
{
    bool ready = true;
    for (unsigned i = 0; i < d->worker_count; i++)
        ready &= d->workers[i].ready;
    return ready;
}

bool workers_are_there(const struct daemon *d)
{
    bool there = false;
    for (unsigned i = 0; i < d->worker_count; i++)
        there |= d->workers[i].process.pid > 0;
    return there;
}

bool workers_have_config(const struct daemon *d)
{
    bool all = true;
    for (unsigned i = 0; i < d->worker_count; i++)
        all &= !d->workers[i].config_unsent && !d->workers[i].config_serial;
    return all;
}

static bool is_quiet(const struct daemon_worker *w)
{
    return w->ready && !w->pulse.serial && !w->audit_unsent && !w->changes_unsent && !w->admin_unsent && list_empty(&w->unsent) &&
           list_empty(&w->unanswered);
}

bool workers_are_quiet(const struct daemon *d)
{
    bool quiet = workers_have_config(d) && list_empty(&d->notes);
    for (unsigned i = 0; i < d->worker_count; i++)
        quiet &= is_quiet(&d->workers[i]);
    return quiet;
}

/* ---- telling ---- */

/* Who has it by now has it for all who were to be told: the last one closes it. */
static void config_known(struct daemon_worker *w)
{
    struct daemon *d = w->daemon;
    w->config_unsent = false;
    for (struct daemon_worker *other = d->workers; other < end_of(d); other++)
        if (other->config_unsent)
            return;
    fd_close(&d->bundle);
}

/* 0 when there is nothing more to say, or a negative errno. */
static int feed(struct daemon_worker *w)
{
    struct daemon *d = w->daemon;
    int channel = w->process.channel, r = 0;
    if (w->audit_unsent && d->audit >= 0 && (r = channel_send_audit(channel, d->audit)) < 0)
        return r;
    w->audit_unsent = false;
    if (w->config_unsent && !w->config_serial) {
        uint32_t serial = daemon_next_serial(d);
        if ((r = channel_send_config(channel, serial, d->bundle)) < 0)
            return r;
        w->config_serial = serial;
        config_known(w);
    }
    if (w->changes_unsent && (r = runtime_send(w)) < 0)
        return r;
    /* A listener comes behind the configuration that it belongs to. */
    if (w->admin_unsent && !w->config_unsent && (r = channel_send_admin(channel, d->admin)) < 0)
        return r;
    w->admin_unsent &= w->config_unsent;
    while (!list_empty(&w->unsent)) {
        struct enrolment *e = list_entry(w->unsent.next, struct enrolment, unsent_link);
        if ((r = enrolment_send(e, channel)) < 0)
            return r;
        list_remove(&e->unsent_link);
    }
    r = networks_feed(w);
    return r < 0 ? r : notes_feed(w);
}

void workers_feed_one(struct daemon_worker *w)
{
    if (w->process.channel < 0)
        return;
    int r = feed(w);
    watch_change(&w->daemon->loop, &w->watch, r == -EAGAIN ? EPOLLIN | EPOLLOUT : EPOLLIN);
    if (r < 0 && r != -EAGAIN && r != -EPIPE &&
        r != -ECONNRESET) { /* those two: it is dying, SIGCHLD will say so */
        log_error("cannot talk to the worker (%s): a new one gets everything anew%s", strerror(-r), w->process.which);
        worker_process_kill(&w->process);
    }
}

void daemon_feed(struct daemon *d)
{
    for (struct daemon_worker *w = d->workers; w < end_of(d); w++)
        workers_feed_one(w);
}

bool workers_tell_config(struct daemon *d)
{
    bool any = false;
    for (struct daemon_worker *w = d->workers; w < end_of(d); w++)
        any |= w->config_unsent = w->process.channel >= 0;
    return any;
}

uint32_t workers_tell_changes(struct daemon *d)
{
    uint32_t told = 0;
    for (struct daemon_worker *w = d->workers; w < end_of(d); w++) {
        w->changes_unsent = w->process.channel >= 0;
        told |= w->changes_unsent ? 1u << w->index : 0;
    }
    return told;
}

void workers_tell_audit(struct daemon *d)
{
    for (struct daemon_worker *w = d->workers; w < end_of(d); w++)
        w->audit_unsent = true;
}

/* ---- whether it lives ---- */

/* Not while another gateway takes over: it must find nothing unanswered. */
static void pulse_due(struct loop_timer *timer)
{
    struct daemon_worker *w = list_entry(timer, struct daemon_worker, timer);
    struct daemon *d = w->daemon;
    bool rest = d->heir.step > HEIR_SPAWNED || d->predecessor.step != PREDECESSOR_NONE;
    if (!rest || w->pulse.serial)
        pulse_turn(&w->pulse, &w->process, daemon_next_serial(d));
    loop_timer_start(&d->loop, timer, PULSE_MS);
}

static void begin_pulse(struct daemon_worker *w)
{
    w->pulse = (struct pulse){0};
    w->timer.expired = pulse_due;
    loop_timer_start(&w->daemon->loop, &w->timer, PULSE_MS);
}

/* ---- hearing ---- */

static void config_answered(struct daemon_worker *w, int code)
{
    w->config_serial = 0;
    if (code) {
        log_error("the worker does not take the new configuration (%s); a new one gets it%s", strerror(code), w->process.which);
        worker_process_kill(&w->process);
    }
    workers_feed_one(w); /* networks wait for it */
    daemon_reload_finished(w->daemon);
}

static void answered(struct daemon_worker *w, const struct channel_message *message)
{
    struct daemon *d = w->daemon;
    int code = message->type == CHANNEL_READY ? 0 : message->code ? message->code : EIO;
    if (heir_worker_answered(w, message->serial))
        return;
    if (pulse_answered(&w->pulse, message->serial) || notes_answered(w, message->serial))
        return;
    if (message->serial == w->ping_serial) {
        begin_pulse(w);
        w->ready = true;
        workers_feed_one(w); /* notes wait for it */
        if (workers_are_ready(d))
            predecessor_commit(d);
        daemon_maybe_announce(d);
        return;
    }
    if (message->serial == w->config_serial) {
        config_answered(w, code);
        return;
    }
    if (runtime_answered(w, message->serial, code)) {
        if (code)
            worker_process_kill(&w->process);
        return;
    }
    if (networks_answered(w, message->serial, code)) {
        daemon_maybe_announce(d);
        if (d->reload_client)
            daemon_reload_finished(d);
        return;
    }
    for (struct list *link = w->unanswered.next; link != &w->unanswered; link = link->next) {
        struct enrolment *e = list_entry(link, struct enrolment, answer_link);
        if (e->serial == message->serial) {
            enrolment_answered(e, code);
            return;
        }
    }
}

static void channel_ready(struct watch *watch, uint32_t events)
{
    struct daemon_worker *w = list_entry(watch, struct daemon_worker, watch);
    struct channel_message message;
    struct capture_sockets none = CAPTURE_SOCKETS_NONE;
    int unused = -1;
    if (events & EPOLLOUT)
        workers_feed_one(w);
    if (!(events & ~(uint32_t)EPOLLOUT))
        return;
    int got = channel_receive(watch->fd, &message, &none, &unused);
    capture_sockets_close(&none);
    fd_close(&unused);
    if (got == 1 && message.type == CHANNEL_LEARNED) {
        networks_learn(w, &message);
        workers_feed_one(w);
    } else if (got == 1 && message.serial != 0 &&
               (message.type == CHANNEL_READY || message.type == CHANNEL_FAILED))
        answered(w, &message);
    else if (got == 0 || (got < 0 && got != -EAGAIN && got != -EBADMSG)) {
        watch_stop(&w->daemon->loop, watch); /* SIGCHLD will follow */
        if (got < 0) /* an answer is lost, and whoever waits for it would wait for ever */
            worker_process_kill(&w->process);
    }
}

/* ---- coming and going ---- */

static void worker_late(struct loop_timer *timer)
{
    struct daemon_worker *w = list_entry(timer, struct daemon_worker, timer);
    log_error("the worker does not get ready; killed%s", w->process.which);
    worker_process_kill(&w->process);
}

static void start(struct daemon_worker *w)
{
    struct daemon *d = w->daemon;
    const struct daemon_options *o = d->options;
    struct error err;
    w->metrics = metrics_worker_slot(o->metrics, w->index);
    *o->worker_snapshot = d->snapshot;
    *o->worker_seat =
        (struct worker_seat){.index = w->index, .count = d->worker_count, .metrics = w->metrics};
    config_known(w); /* it has that by the fork */
    w->audit_unsent = w->changes_unsent = w->yielded = false;
    w->admin_unsent = w->index == 0 && d->admin >= 0;
    loading_before_fork(&d->loading);
    int r = worker_process_start(&w->process, o->worker, o->worker_arg, d->audit, &d->mask_before, &err);
    if (r < 0) {
        log_error("%s", err.text);
        w->timer.expired = worker_due;
        loop_timer_start(&d->loop, &w->timer, WORKER_PAUSE_LONGEST_MS);
        return;
    }
    w->timer.expired = worker_late;
    loop_timer_start(&d->loop, &w->timer, WORKER_READY_WAIT_MS);
    fd_set_nonblocking(w->process.channel);
    w->ping_serial = daemon_next_serial(d);
    r = watch_start(&d->loop, &w->watch, w->process.channel, EPOLLIN, channel_ready);
    if (r < 0 || channel_send_ping(w->process.channel, w->ping_serial) < 0)
        worker_process_kill(&w->process);
    else
        workers_feed_one(w);
}

static void worker_due(struct loop_timer *timer)
{
    start(list_entry(timer, struct daemon_worker, timer));
}

void workers_start(struct daemon *d)
{
    metric_set(&d->options->metrics->worker_count, d->worker_count);
    if (list_empty(&d->elders) && d->predecessor.step == PREDECESSOR_NONE)
        metrics_elders_gone(d->options->metrics);
    for (struct daemon_worker *w = d->workers; w < end_of(d); w++)
        if (w->process.channel < 0)
            start(w);
}

/* Whatever it had or was to be told of what is captured. */
static void forget_captures(struct daemon_worker *w)
{
    struct daemon *d = w->daemon;
    for (struct list *link = d->enrolments.next, *next; link != &d->enrolments; link = next) {
        struct enrolment *e = list_entry(link, struct enrolment, link);
        next = link->next;
        if (e->worker == w)
            enrolment_worker_died(e);
    }
    networks_worker_died(w);
}

void workers_died(struct daemon_worker *w, int status)
{
    struct daemon *d = w->daemon;
    bool never_ready = !d->announced && !w->ready;
    watch_stop(&d->loop, &w->watch);
    loop_timer_stop(&w->timer);
    worker_process_died(&w->process);
    w->ready = false;
    w->pulse = (struct pulse){0};
    if (d->draining) {
        daemon_elder_gone(d);
        return;
    }
    if (heir_worker_ended(w, status))
        return;
    metric_set(&d->options->metrics->worker_ready, 0);
    metrics_worker_start(w->metrics); /* none of its flows is left */
    if (never_ready) {
        log_error("the worker ended at its start%s", w->process.which);
        daemon_stop(d, 1);
        return;
    }
    worker_process_log_death(&w->process, status);
    d->worker_restarts++;
    metric_add(&d->options->metrics->worker_restarts, 1);
    forget_captures(w);
    notes_worker_died(w);
    w->config_serial = 0;
    config_known(w);
    runtime_worker_died(w);
    daemon_reload_finished(d);
    w->timer.expired = worker_due;
    loop_timer_start(&d->loop, &w->timer, (uint64_t)worker_process_due(&w->process));
    if (d->heir.step >= HEIR_HAS_ALL)
        heir_give_up(d, "the worker of the old gateway died");
}

void workers_release(struct daemon *d, void (*take)(struct daemon *daemon, int channel))
{
    for (struct daemon_worker *w = d->workers; w < end_of(d); w++) {
        watch_stop(&d->loop, &w->watch);
        loop_timer_stop(&w->timer);
        int channel = fd_steal(&w->process.channel);
        w->process.pid = -1;
        w->ready = false;
        w->pulse = (struct pulse){0};
        forget_captures(w);
        if (channel >= 0)
            take(d, channel);
    }
}

void workers_end(struct daemon *d, unsigned drain_ms)
{
    for (struct daemon_worker *w = d->workers; w < end_of(d); w++) {
        loop_timer_stop(&w->timer);
        if (w->process.pid < 0)
            continue;
        int r = drain_ms ? channel_send_drain(w->process.channel, 0, drain_ms)
                         : channel_send_finish(w->process.channel, false);
        if (r < 0)
            worker_process_kill(&w->process);
    }
}

void workers_kill(struct daemon *d)
{
    for (struct daemon_worker *w = d->workers; w < end_of(d); w++)
        worker_process_kill(&w->process);
}

/* Without their channels they end. */
void workers_finish(struct daemon *d)
{
    for (struct daemon_worker *w = d->workers; w < end_of(d); w++)
        fd_close(&w->process.channel);
    for (struct daemon_worker *w = d->workers; w < end_of(d); w++)
        if (w->process.pid > 0)
            waitpid(w->process.pid, NULL, 0);
}
