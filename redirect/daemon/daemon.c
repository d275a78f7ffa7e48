/*
 * The life of `sallyport gateway`.
 *
 * Start: configuration (by the caller), state folder, control socket, workers; the containers of the state folder are captured
 * again; when the workers have answered and all of them are served, READY is said to the service manager.
 *
 * A worker that dies (workers.c) is started anew, a fork with the current snapshot in its memory, and is handed every socket of its own again: what
 * came meanwhile waits in their queues. When the daemon itself dies, the workers end with their channels: the rules in the namespaces
 * stay and refuse everything, until the next daemon captures them again.
 *
 * A new configuration is loaded here first, whole or not at all. Each worker gets the very same bytes (a bundle), loads them
 * beside its loop and judges every flow anew; one that cannot is killed, and its successor has it by the fork. Then the
 * rulesets of the containers whose captured ports changed are replaced.
 *
 * Signals: SIGHUP reload, SIGUSR1 open the audit file anew, SIGTERM and SIGINT drain and end (the second one at once).
 */
#include "redirect/daemon/daemon.h"
#include "redirect/daemon/daemon_internal.h"

#include "base/fds.h"
#include "base/log.h"
#include "redirect/daemon/network.h"
#include "redirect/monitor/notify.h"
#include "redirect/monitor/privileges.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>

#define DRAIN_MARGIN_MS 5000 /* beyond the drain: to write what is queued */

static void reload(struct daemon *d, struct client *client, bool woken);

uint32_t daemon_next_serial(struct daemon *d)
{
    if (++d->serial == 0)
        d->serial = 1;
    return d->serial;
}

static void each_enrolment(struct daemon *d, void (*call)(struct enrolment *enrolment))
{
    for (struct list *link = d->enrolments.next, *next; link != &d->enrolments; link = next) {
        next = link->next;
        call(list_entry(link, struct enrolment, link));
    }
}

void daemon_elder_gone(struct daemon *d)
{
    if (list_empty(&d->elders))
        metrics_elders_gone(d->options->metrics);
    if (d->draining && !workers_are_there(d) && list_empty(&d->elders))
        daemon_stop(d, 0);
}

void daemon_stop(struct daemon *d, int status)
{
    d->exit_status = status;
    d->loop.stopped = true;
}

/* ---- a new configuration ---- */

static bool same_ranges(const struct acl_port_range *a, size_t a_count, const struct acl_port_range *b, size_t b_count)
{
    return a_count == b_count && (a_count == 0 || !memcmp(a, b, a_count * sizeof(*a)));
}

static bool same_ports(const struct acl_policy *a, const struct acl_policy *b)
{
    size_t a_count, b_count;
    const struct acl_port_range *a_ports = acl_policy_ports(a, &a_count), *b_ports = acl_policy_ports(b, &b_count);
    if (acl_policy_mode(a) != acl_policy_mode(b) || acl_policy_allows_icmp(a) != acl_policy_allows_icmp(b) ||
        !same_ranges(a_ports, a_count, b_ports, b_count))
        return false;
    a_ports = acl_policy_udp_ports(a, &a_count);
    b_ports = acl_policy_udp_ports(b, &b_count);
    return same_ranges(a_ports, a_count, b_ports, b_count);
}

static void update_ports(struct daemon *d, const struct config_snapshot *old)
{
    for (struct list *link = d->enrolments.next, *next; link != &d->enrolments; link = next) {
        struct enrolment *e = list_entry(link, struct enrolment, link);
        next = link->next;
        if (!same_ports(config_container_policy(old, e->record.id, e->record.name, e->record.policy), enrolment_policy(e)))
            enrolment_update(e);
    }
}

bool daemon_updates_left(const struct daemon *d)
{
    for (struct list *link = d->enrolments.next; link != &d->enrolments; link = link->next) {
        const struct enrolment *e = list_entry(link, struct enrolment, link);
        if (e->update_wanted || (e->has_job && e->job == ENROL_UPDATE))
            return true;
    }
    return false;
}

static void answer_reload(const struct daemon *d, struct client *client)
{
    char text[128];
    json_t *answer = json_pack("{s:s}", "policy_version", config_version(d->snapshot));
    if (!workers_are_as_wanted(d, text, sizeof(text)))
        json_object_set_new(answer, "warning", json_string(text));
    client_answer(client, answer);
}

/* Answers when the workers have it and every ruleset is as it should be. */
void daemon_reload_finished(struct daemon *d)
{
    struct client *client = d->reload_client;
    runtime_settle(d);
    if (d->loading.running || !workers_have_config(d) || daemon_updates_left(d) || (client && !networks_settled(d)))
        return;
    d->reload_client = NULL;
    if (client)
        answer_reload(d, client);
    if (d->announced && !d->draining && !d->told_error)
        notify("%sSTATUS=policy %s, %u containers", notify_reload_over() ? "READY=1\n" : "", config_version(d->snapshot), d->count);
    daemon_reload_if_wanted(d);
}

void daemon_reload_if_wanted(struct daemon *d)
{
    if (d->reload_wanted) {
        bool woken = d->woken_wanted;
        struct client *next = d->reload_next;
        d->reload_wanted = d->woken_wanted = false;
        d->reload_next = NULL;
        reload(d, next, woken);
    }
}

static const char *audit_path(const struct daemon *d, const struct config_snapshot *snapshot)
{
    return d->options->audit_path ? d->options->audit_path : config_audit_file(snapshot);
}

static void take_audit(struct daemon *d, int audit)
{
    fd_close(&d->audit);
    d->audit = audit;
    workers_tell_audit(d);
    elders_tell_audit(d);
}

/* `why` it was not taken, or NULL. */
static void note_reload(struct daemon *d, const char *why)
{
    const bool taken = !why;
    notes_add(d, &(struct channel_note){.kind = NOTE_POLICY_LOADED,
                                        .failed = !taken,
                                        .user = d->reload_user,
                                        .text = why ? why : d->reload_user == NOTE_NOBODY ? "a file of it has changed" : NULL});
    struct metrics *m = d->options->metrics;
    metric_add(taken ? &m->reloads : &m->reloads_failed, 1);
    metric_set(&m->reload_failed_last, !taken);
    if (taken)
        metric_set(&m->reload_s, (uint64_t)time(NULL));
}

void daemon_take_snapshot(struct daemon *d, struct config_snapshot *snapshot)
{
    struct config_snapshot *old = d->snapshot;
    d->snapshot = snapshot;
    *d->options->worker_snapshot = snapshot;
    update_ports(d, old);
    config_unref_aside(old);
}

/* A broken file that is watched is broken for a while, and looked at again and again: it is told once. */
static bool told_already(struct daemon *d, const struct config_errors *errors)
{
    const char *first = errors->count ? errors->lines[0] : "out of memory";
    bool same = d->told_error && !strcmp(d->told_error, first);
    free(d->told_error);
    d->told_error = strdup(first);
    return same;
}

static void refuse_reload(struct daemon *d, struct client *client, struct config_errors *errors)
{
    if (told_already(d, errors) && !client && d->woken)
        return;
    note_reload(d, errors->count ? errors->lines[0] : "out of memory");
    for (size_t i = 0; i < errors->count; i++)
        log_error("%s", errors->lines[i]);
    log_error("the configuration has errors; the one in force stays");
    client_refuse(client, "failed", "%s%s", errors->count ? errors->lines[0] : "out of memory",
                  errors->count > 1 ? " (and more: see the log)" : "");
    if (d->announced)
        notify("%sSTATUS=the configuration has errors; policy %s stays in force", notify_reload_over() ? "READY=1\n" : "",
               config_version(d->snapshot));
}

/* Takes over `file` and `bundle`. */
static void take_loaded(struct daemon *d, struct client *client, struct config_snapshot *file, int bundle)
{
    _cleanup_fd_ int unused = bundle;
    struct config_snapshot *derived = NULL;
    struct error err;
    char text[128];
    int audit = -1, admin = -1;
    int r = daemon_admin_prepare(d, file, &admin, &err);
    if (r == 0)
        r = audit_file_open(audit_path(d, file), &audit, &err);
    if (r == 0 && (r = runtime_derive(d, file, &derived)) < 0)
        error_set(&err, -r, "out of memory");
    if (r == 0)
        r = networks_apply(d, derived, &err);
    config_unref_aside(file);
    if (r < 0) {
        note_reload(d, err.text);
        log_error("%s; the configuration in force stays", err.text);
        client_refuse(client, "failed", "%s", err.text);
        config_unref(derived);
        fd_close(&audit);
        fd_close(&admin);
        return;
    }
    fd_close(&d->bundle);
    d->bundle = fd_steal(&unused);
    elders_tell_config(d, d->bundle);
    d->reload_client = client;
    take_audit(d, audit);
    if (!workers_tell_config(d))
        fd_close(&d->bundle); /* the next workers have it anyway */
    daemon_take_snapshot(d, derived);
    daemon_admin_take(d, d->snapshot, admin);
    daemon_feed(d);
    note_reload(d, NULL);
    log_info("policy %s is loaded", config_version(d->snapshot));
    if (!workers_are_as_wanted(d, text, sizeof(text)))
        log_warning("%s", text);
}

static bool same_files(const struct config_files *a, const struct config_files *b)
{
    bool same = a->count == b->count;
    for (size_t i = 0; i < a->count && same; i++)
        same = !strcmp(a->paths[i], b->paths[i]);
    return same;
}

static bool watches(const struct daemon *d)
{
    return d->options->watch || config_watch(d->snapshot);
}

/* The files that were looked for are watched from now on. Those that were not before may have changed since they were read. */
static void watch_files(struct daemon *d, struct config_files *files)
{
    bool new_ones = !same_files(&d->files, files);
    config_files_finish(&d->files);
    d->files = *files;
    *files = (struct config_files){0};
    if (!watches(d)) {
        file_watch_finish(&d->file_watch);
    } else if (new_ones || d->file_watch.inotify < 0) {
        if (file_watch_set(&d->file_watch, &d->files) < 0)
            log_error("the policy file cannot be watched: out of inotify instances or memory");
        d->reload_wanted = d->woken_wanted = true;
    }
}

static void loaded(struct loading *loading)
{
    struct daemon *d = list_entry(loading, struct daemon, loading);
    struct client *client = d->reload_client;
    bool unchanged = loading->status == 0 && d->woken &&
                     !strcmp(config_file_version(loading->snapshot), config_file_version(d->snapshot));
    d->reload_client = NULL;
    if (loading->status < 0) {
        refuse_reload(d, client, &loading->errors);
    } else if (unchanged && !client) {
        config_unref_aside(loading->snapshot);
        fd_close(&loading->bundle);
    } else {
        take_loaded(d, client, loading->snapshot, loading->bundle);
    }
    if (loading->status == 0) {
        free(d->told_error);
        d->told_error = NULL;
    }
    config_errors_finish(&loading->errors);
    watch_files(d, &loading->files);
    daemon_reload_finished(d);
}

static void reload(struct daemon *d, struct client *client, bool woken)
{
    bool soon = d->loading.running || !workers_have_config(d) || d->reload_client; /* else nobody knows when */
    if (soon || d->draining || d->borrowed || d->heir.step > HEIR_SPAWNED) {
        if (!d->draining && !(client && (d->reload_next || !soon))) {
            d->woken_wanted = woken && (d->woken_wanted || !d->reload_wanted);
            d->reload_wanted = true;
            d->reload_next = client ? client : d->reload_next;
            return;
        }
        client_refuse(client, "busy", "the gateway is loading a configuration already, or about to end: try again");
        return;
    }
    if (!woken)
        notify_reloading();
    if (d->file_watch.inotify >= 0)
        file_watch_set(&d->file_watch, &d->files); /* before they are read: so what comes later is seen */
    d->woken = woken;
    d->reload_user = client ? client_user(client) : woken ? NOTE_NOBODY : d->signal_user;
    int r = loading_start(&d->loading, &d->loop, d->options->config_path, loaded);
    if (r < 0) {
        log_error("the configuration cannot be loaded: %s", strerror(-r));
        if (notify_reload_over() && d->announced)
            notify("READY=1");
        client_refuse(client, "failed", "the configuration cannot be loaded: %s", strerror(-r));
        return;
    }
    d->reload_client = client;
}

void daemon_reload(struct daemon *d, struct client *client)
{
    reload(d, client, false);
}

static void files_changed(struct file_watch *watch)
{
    reload(list_entry(watch, struct daemon, file_watch), NULL, true);
}

static void start_watching(struct daemon *d)
{
    if (watches(d))
        reload(d, NULL, true);
}

static void reopen_audit(struct daemon *d)
{
    struct error err;
    int audit = -1;
    if (audit_file_open(audit_path(d, d->snapshot), &audit, &err) < 0) {
        log_error("%s; the old one stays in use", err.text);
        return;
    }
    take_audit(d, audit);
    daemon_feed(d);
}

/* ---- signals ---- */

static void drain_expired(struct loop_timer *timer)
{
    struct daemon *d = list_entry(timer, struct daemon, drain_timer);
    if (!workers_are_there(d)) {
        daemon_stop(d, 0); /* only elders are left, who end with us */
        return;
    }
    log_error("the worker does not finish; killed");
    workers_kill(d);
}

/* A service manager that keeps the socket keeps it for whoever is started next: who asks meanwhile waits. */
static void close_control(struct daemon *d)
{
    watch_stop(&d->loop, &d->listener_watch);
    if (d->listener >= 0 && !notify_keeps() && !d->borrowed) {
        notify_forget(INHERITED_CONTROL);
        unlink(d->options->control_path);
    }
    fd_close(&d->listener);
}

static void close_sockets(struct enrolment *e)
{
    publishing_end(e);
    capture_sockets_close(&e->sockets);
}

/* No new flows; those that are up may end by themselves for a while. Containers stay enrolled: the state folder keeps them for the
 * next start. */
static void drain(struct daemon *d)
{
    heir_give_up(d, "the old gateway was told to end");
    if (d->draining || !workers_are_there(d)) {
        workers_kill(d);
        daemon_stop(d, 0);
        return;
    }
    notes_add(d, &(struct channel_note){.kind = NOTE_STOPPED, .user = d->signal_user});
    d->draining = true;
    notify("STOPPING=1");
    close_control(d);
    api_close(d);
    each_enrolment(d, close_sockets);
    networks_close(d);
    elders_drain(d, d->options->drain_ms ? d->options->drain_ms : 1);
    workers_end(d, d->options->drain_ms);
    loop_timer_start(&d->loop, &d->drain_timer, d->options->drain_ms + DRAIN_MARGIN_MS);
}

static void reap(struct daemon *d)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        struct daemon_worker *worker = workers_with_pid(d, pid);
        if (worker)
            workers_died(worker, status);
        else {
            visit_reaped(d, pid);
            heir_reaped(d, pid, status);
        }
    }
}

static void signal_ready(struct watch *watch, uint32_t events)
{
    struct daemon *d = list_entry(watch, struct daemon, signal_watch);
    struct signalfd_siginfo info;
    (void)events;
    if (read(watch->fd, &info, sizeof(info)) != sizeof(info))
        return;
    d->signal_user = info.ssi_uid;
    switch (info.ssi_signo) {
    case SIGCHLD:
        reap(d);
        break;
    case SIGHUP:
        daemon_reload(d, NULL);
        break;
    case SIGUSR1:
        reopen_audit(d);
        break;
    case SIGTERM:
    case SIGINT:
        drain(d);
        break;
    }
}

static int take_signals(struct daemon *d, struct error *err)
{
    static const int taken[] = {SIGCHLD, SIGHUP, SIGUSR1, SIGTERM, SIGINT};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(taken) / sizeof(*taken); i++)
        sigaddset(&set, taken[i]);
    signal(SIGCHLD, SIG_DFL); /* an inherited SIG_IGN would reap for us */
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, &d->mask_before) < 0)
        return error_errno(err, errno, "cannot block signals");
    d->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    int r = d->signals < 0 ? -errno : watch_start(&d->loop, &d->signal_watch, d->signals, EPOLLIN, signal_ready);
    return r < 0 ? error_errno(err, -r, "cannot watch signals") : 0;
}

/* ---- start and end ---- */

/* Who has the sockets of a namespace that others share comes first. */
static void adopt_captured(const struct state_record *record, void *daemon)
{
    if (record->past.plan)
        enrolment_adopt(record, daemon);
}

static void adopt_others(const struct state_record *record, void *daemon)
{
    if (!record->past.plan)
        enrolment_adopt(record, daemon);
}

void daemon_adopt(struct daemon *d)
{
    struct error err;
    if (d->borrowed && networks_apply(d, d->snapshot, &err) < 0) {
        log_error("%s", err.text);
        daemon_stop(d, 1);
        return;
    }
    d->borrowed = false;
    state_each(d->state, adopt_captured, d);
    state_each(d->state, adopt_others, d);
    inherited_each_left(&d->inherited, notify_forget);
    inherited_finish(&d->inherited);
    daemon_feed(d); /* the networks */
    if (d->reload_wanted)
        daemon_reload_finished(d); /* it could not be loaded while everything was the predecessor's */
}

static void watchdog_due(struct loop_timer *timer)
{
    struct daemon *d = list_entry(timer, struct daemon, watchdog_timer);
    notify("WATCHDOG=1");
    loop_timer_start(&d->loop, timer, notify_watchdog_ms());
}

/* The socket of the one before, if clients still find it where they look; else a new one. */
static int open_control(struct daemon *d, struct error *err)
{
    const char *path = d->options->control_path;
    int r = 0;
    d->listener = inherited_take(&d->inherited, INHERITED_CONTROL);
    if (d->listener >= 0 && !control_is_at(d->listener, path))
        fd_close(&d->listener);
    if (d->listener < 0 && d->borrowed)
        r = error_set(err, EINVAL, "the gateway at %s is reached by another path, too: name that", path);
    else if (d->listener < 0)
        r = control_listen(path, &d->listener, err);
    if (r == 0 && !d->borrowed)
        notify_keep(INHERITED_CONTROL, &d->listener, 1);
    return r;
}

void daemon_maybe_announce(struct daemon *d)
{
    bool settled = d->adopting == 0 && networks_settled(d);
    if (d->predecessor.step == PREDECESSOR_NONE) /* until then it is the predecessor's word */
        metric_set(&d->options->metrics->worker_ready, workers_are_ready(d) && (d->announced || settled));
    if (d->announced || !workers_are_ready(d) || !settled)
        return;
    if (d->predecessor.step != PREDECESSOR_NONE) {
        predecessor_done(d); /* announced when it has let go */
        return;
    }
    d->announced = true;
    log_info("ready: policy %s, %u containers", config_version(d->snapshot), d->count);
    notes_add(d, &(struct channel_note){.kind = d->options->take_over ? NOTE_TOOK_OVER : NOTE_STARTED, .user = NOTE_NOBODY});
    notify_reload_over();
    notify("READY=1\nMAINPID=%d\nSTATUS=policy %s, %u containers", (int)getpid(), config_version(d->snapshot), d->count);
}

/* Ten descriptors a container, two more where there are rules for UDP. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int start(struct daemon *d, struct error *err)
{
    const struct daemon_options *o = d->options;
    raise_descriptor_limit();
    int r = privileges_cut(err);
    if (r < 0)
        return r;
    r = loop_init(&d->loop);
    if (r < 0)
        return error_errno(err, -r, "cannot start the loop");
    if ((r = take_signals(d, err)) < 0)
        return r;
    d->borrowed = o->take_over;
    r = o->take_over ? predecessor_ask(d, err) : (d->state = state_open(o->state_path, err));
    if (r >= 0)
        r = runtime_load(d, err);
    if (r >= 0)
        r = audit_file_open(audit_path(d, d->snapshot), &d->audit, err);
    if (r >= 0)
        r = open_control(d, err);
    if (r >= 0 && !d->borrowed)
        r = networks_apply(d, d->snapshot, err);
    if (r >= 0)
        r = daemon_admin_prepare(d, d->snapshot, &d->admin, err);
    if (r >= 0)
        r = api_start(d, err);
    if (r < 0)
        return r;
    if (!d->borrowed)
        r = watch_start(&d->loop, &d->listener_watch, d->listener, EPOLLIN, client_accept);
    if (r < 0)
        return error_errno(err, -r, "cannot watch the control socket");
    vanish_start(d);
    d->admin_address = config_admin(d->snapshot)->listen;
    workers_start(d);
    start_watching(d);
    if (!d->borrowed)
        daemon_adopt(d);
    if (notify_watchdog_ms() > 0)
        loop_timer_start(&d->loop, &d->watchdog_timer, 0);
    return 0;
}

static void finish(struct daemon *d)
{
    api_finish(d);
    client_close_all(d);
    loading_abandon(&d->loading);
    file_watch_finish(&d->file_watch);
    config_files_finish(&d->files);
    free(d->told_error);
    heir_finish(d);
    predecessor_finish(d);
    runtime_finish(d);
    notes_finish(d);
    visits_destroy(d);
    each_enrolment(d, enrolment_destroy);
    networks_destroy(d);
    close_control(d);
    inherited_finish(&d->inherited);
    workers_finish(d);
    fd_close(&d->signals);
    fd_close(&d->audit);
    fd_close(&d->admin);
    fd_close(&d->bundle);
    fd_close(&d->state);
    fd_close(&d->mounts);
    loop_finish(&d->loop);
    config_unref(d->snapshot);
}

int daemon_run(const struct daemon_options *options, struct config_snapshot *snapshot, int bundle)
{
    struct daemon d = {.options = options,
                       .loop = {.epoll = -1},
                       .signals = -1,
                       .audit = -1,
                       .state = -1,
                       .listener = -1,
                       .admin = -1,
                       .api = -1,
                       .api_watch = WATCH_NONE,
                       .bundle = -1,
                       .mounts = -1,
                       .mounts_watch = WATCH_NONE,
                       .snapshot = snapshot,
                       .signal_watch = WATCH_NONE,
                       .listener_watch = WATCH_NONE};
    struct error err = {0};
    workers_init(&d);
    enrolments_init(&d);
    heir_init(&d);
    if (options->take_over)
        d.predecessor.bundle = bundle; /* for the worker that is there already */
    else
        close(bundle); /* the first worker has the snapshot by the fork */
    visits_init(&d);
    notes_init(&d);
    list_init(&d.changes);
    file_watch_init(&d.file_watch, &d.loop, files_changed);
    loading_init(&d.loading);
    list_init(&d.clients);
    list_init(&d.networks);
    list_init(&d.api_connections);
    loop_timer_init(&d.drain_timer, drain_expired);
    loop_timer_init(&d.watchdog_timer, watchdog_due);
    inherited_from_environment(&d.inherited);
    if (start(&d, &err) < 0) {
        log_error("%s", err.text);
        d.exit_status = 1;
    } else if (loop_run(&d.loop) < 0) {
        log_error("the loop failed");
        d.exit_status = 1;
    }
    finish(&d);
    return d.exit_status;
}
