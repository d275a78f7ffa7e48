/*
 * One captured container. What happens to it, and where it can go from each state:
 *
 *   BUILDING   a child captures the namespace; then the state file is written; then the worker is told      SERVED, LEAVING
 *   SERVED     the worker has (or gets) its sockets; verified and updated at will                           LEAVING
 *   FAILED     after a restart only: it could not be captured again. No service, but no way out either      LEAVING
 *   LEAVING    sockets and state file are gone at once; the rules go by a child when the namespace lives on, the worker's sockets
 *              when it says so; then nothing is left, and whoever asked is answered
 *
 * Whatever fails on the way to SERVED goes to LEAVING with the reason, so a half-done enrolment is undone by the same code. A
 * child that failed has cleaned up behind itself; one that was killed may have got anywhere, so the rules are removed after it.
 */
#include "redirect/daemon_internal.h"

#include "base/fds.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define JOB_WAIT_MS 10000

static void leave(struct enrolment *enrolment, bool remove_rules);
static void leave_next(struct enrolment *enrolment);

const struct acl_policy *enrolment_policy(const struct enrolment *enrolment)
{
    return config_policy_for(enrolment->daemon->snapshot, enrolment->record.policy, enrolment->record.name);
}

struct enrolment *enrolment_find(const struct daemon *d, const char *id)
{
    for (struct list *link = d->enrolments.next; link != &d->enrolments; link = link->next) {
        struct enrolment *enrolment = list_entry(link, struct enrolment, link);
        if (enrolment->state != ENROLMENT_LEAVING && !strcmp(enrolment->record.id, id))
            return enrolment;
    }
    return NULL;
}

struct enrolment *enrolment_find_namespace(const struct daemon *d, const struct namespace_id *id)
{
    for (struct list *link = d->enrolments.next; link != &d->enrolments; link = link->next) {
        struct enrolment *enrolment = list_entry(link, struct enrolment, link);
        if (enrolment->state != ENROLMENT_LEAVING && namespace_equal(&enrolment->record.netns, id))
            return enrolment;
    }
    return NULL;
}

bool enrolment_ended(const struct enrolment *enrolment)
{
    return enrolment->pidfd >= 0 && pidfd_ended(enrolment->pidfd);
}

json_t *enrolment_describe(const struct enrolment *e)
{
    static const char *const names[] = {[ENROLMENT_BUILDING] = "building",
                                        [ENROLMENT_SERVED] = "served",
                                        [ENROLMENT_FAILED] = "failed",
                                        [ENROLMENT_LEAVING] = "leaving"};
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I}", "id", e->record.id, "name", e->record.name, "image",
                          e->record.image, "policy", acl_policy_name(enrolment_policy(e)), "capture",
                          e->record.attached ? "attached" : "sealed", "state", names[e->state], "pid", (int)e->record.pid, "netns",
                          (json_int_t)e->record.netns.inode, "since", (json_int_t)e->record.since);
    if (*e->record.path)
        json_object_set_new(o, "path", json_string(e->record.path));
    if (*e->failure)
        json_object_set_new(o, "failure", json_string(e->failure));
    return o;
}

/* ---- memory ---- */

void enrolment_destroy(struct enrolment *e)
{
    struct daemon *d = e->daemon;
    watch_stop(&d->loop, &e->pidfd_watch);
    watch_stop(&d->loop, &e->passage_watch);
    loop_timer_stop(&e->job_timer);
    list_remove(&e->unsent_link);
    list_remove(&e->job_link);
    list_remove(&e->link);
    capture_sockets_close(&e->sockets);
    fd_close(&e->passage);
    fd_close(&e->pidfd);
    fd_close(&e->netns);
    metric_set(&d->options->metrics->containers, --d->count);
    free(e);
}

static void job_expired(struct loop_timer *timer)
{
    struct enrolment *e = list_entry(timer, struct enrolment, job_timer);
    log_error("%s: the process in its namespace does not come to an end; killed", e->record.id);
    if (e->child > 0)
        kill(e->child, SIGKILL);
}

static struct enrolment *create(struct daemon *d, const struct state_record *record, int netns, int pidfd)
{
    struct enrolment *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->daemon = d;
    e->record = *record;
    e->netns = netns;
    e->pidfd = pidfd;
    e->sockets = (struct capture_sockets)CAPTURE_SOCKETS_NONE;
    e->group = e->passage = -1;
    e->child = -1;
    e->pidfd_watch.fd = e->passage_watch.fd = -1;
    loop_timer_init(&e->job_timer, job_expired);
    list_init(&e->unsent_link);
    list_init(&e->job_link);
    list_append(&d->enrolments, &e->link);
    metric_set(&d->options->metrics->containers, ++d->count);
    return e;
}

/* ---- children ---- */

static void every_port_or(const struct acl_policy *policy, struct sealed_plan *plan)
{
    static const struct acl_port_range every_port = {1, 65535};
    plan->ports = acl_policy_ports(policy, &plan->port_count);
    if (acl_policy_mode(policy) == ACL_MODE_AUDIT) {
        plan->ports = &every_port;
        plan->port_count = 1;
    }
}

static void want_job(struct enrolment *e, enum enrol_job job)
{
    e->has_job = true;
    e->started = false;
    e->job = job;
    list_append(&e->daemon->jobs, &e->job_link);
    loop_timer_start(&e->daemon->loop, &e->daemon->jobs_timer, 0); /* not here: a failed one may be freed at once */
}

/* One that had to wait for another child. */
static void update_if_wanted(struct enrolment *e)
{
    if (!e->update_wanted || e->has_job)
        return;
    e->update_wanted = false;
    want_job(e, ENROL_UPDATE);
}

static void built(struct enrolment *e, const struct enrol_result *result)
{
    struct error err;
    e->group = result->group;
    e->fingerprint = result->fingerprint;
    if (state_write(e->daemon->state, &e->record, &err) < 0) {
        snprintf(e->failure, sizeof(e->failure), "%s", err.text);
        e->outcome = err.code;
        leave(e, true);
        return;
    }
    fd_close(&e->netns);
    e->state = ENROLMENT_SERVED;
    enrolment_tell(e);
    update_if_wanted(e);
}

static void not_built(struct enrolment *e, const struct enrol_result *result)
{
    snprintf(e->failure, sizeof(e->failure), "%s", result->text);
    e->outcome = result->code;
    if (!e->adopted) {
        leave(e, result->code == ECHILD);
        return;
    }
    log_error("%s is not captured again: %s; it stays closed and is not served", e->record.id, result->text);
    fd_close(&e->netns);
    e->state = ENROLMENT_FAILED;
    e->adopted = false;
    e->daemon->adopting--;
    daemon_maybe_announce(e->daemon);
}

static void verified(struct enrolment *e, const struct enrol_result *result)
{
    struct client *client = e->client;
    e->client = NULL;
    if (result->code)
        client_refuse(client, "failed", "%s", result->text);
    else if (!e->told || !e->daemon->worker_ready)
        client_refuse(client, "failed", "the rules are in force, but no worker serves it at the moment");
    else
        client_answer(client, NULL);
    update_if_wanted(e);
}

static void updated(struct enrolment *e, const struct enrol_result *result)
{
    if (result->code)
        log_error("%s: its captured ports stay as they were: %s", e->record.id, result->text);
    else
        e->fingerprint = result->fingerprint;
    update_if_wanted(e);
    daemon_update_finished(e->daemon);
}

static void job_done(struct enrolment *e, const struct enrol_result *result)
{
    e->has_job = e->started = false;
    e->daemon->running--;
    if (e->state == ENROLMENT_LEAVING) {
        if (e->job == ENROL_REMOVE && result->code)
            log_warning("%s: what was put into its namespace may still be there: %s", e->record.id, result->text);
        leave_next(e);
        return;
    }
    if (e->job == ENROL_BUILD && result->code == 0)
        built(e, result);
    else if (e->job == ENROL_BUILD)
        not_built(e, result);
    else if (e->job == ENROL_VERIFY)
        verified(e, result);
    else
        updated(e, result);
}

static void passage_ready(struct watch *watch, uint32_t events)
{
    struct enrolment *e = list_entry(watch, struct enrolment, passage_watch);
    struct daemon *d = e->daemon;
    struct enrol_result result;
    struct capture_sockets sockets;
    (void)events;
    enrol_receive(watch->fd, &result, &sockets);
    watch_stop(&d->loop, watch);
    fd_close(&e->passage);
    loop_timer_stop(&e->job_timer);
    if (e->job == ENROL_BUILD && e->state == ENROLMENT_BUILDING)
        e->sockets = sockets;
    else
        capture_sockets_close(&sockets);
    job_done(e, &result);
    if (!list_empty(&d->jobs))
        loop_timer_start(&d->loop, &d->jobs_timer, 0);
}

static int start_job(struct enrolment *e, struct error *err)
{
    struct enrol_plan plan = {.job = e->job,
                              .sealed = {.attached = e->record.attached, .link = SEALED_LINK_AUTO},
                              .sockets = &e->sockets,
                              .group = e->group,
                              .fingerprint = e->fingerprint};
    _cleanup_fd_ int opened = e->netns < 0 ? namespace_of_socket(e->sockets.tcp[0], err) : -1;
    if (e->netns < 0 && opened < 0)
        return opened;
    plan.netns = e->netns < 0 ? opened : e->netns;
    every_port_or(enrolment_policy(e), &plan.sealed);
    int r = enrol_start(&plan, &e->child, &e->passage, err);
    if (r < 0)
        return r;
    r = watch_start(&e->daemon->loop, &e->passage_watch, e->passage, EPOLLIN, passage_ready);
    if (r < 0)
        return error_errno(err, -r, "cannot watch a child");
    loop_timer_start(&e->daemon->loop, &e->job_timer, JOB_WAIT_MS);
    return 0;
}

void enrolment_run_jobs(struct loop_timer *timer)
{
    struct daemon *d = list_entry(timer, struct daemon, jobs_timer);
    while (d->running < JOBS_MAX && !list_empty(&d->jobs)) {
        struct enrolment *e = list_entry(d->jobs.next, struct enrolment, job_link);
        struct error err = {0};
        list_remove(&e->job_link);
        e->started = true;
        d->running++;
        if (start_job(e, &err) == 0)
            continue;
        struct enrol_result result = {.code = err.code ? err.code : EIO};
        snprintf(result.text, sizeof(result.text), "%s", err.text);
        job_done(e, &result);
    }
}

void enrolment_reaped(struct enrolment *e)
{
    e->child = -1;
}

/* ---- coming ---- */

static void pidfd_ready(struct watch *watch, uint32_t events)
{
    struct enrolment *e = list_entry(watch, struct enrolment, pidfd_watch);
    (void)events;
    log_info("%s has ended", e->record.id);
    snprintf(e->failure, sizeof(e->failure), "the container's first process has ended");
    e->outcome = ESRCH;
    leave(e, false);
}

static int watch_process(struct enrolment *e)
{
    return e->pidfd < 0 ? 0 : watch_start(&e->daemon->loop, &e->pidfd_watch, e->pidfd, EPOLLIN, pidfd_ready);
}

void enrolment_start(struct daemon *d, const struct state_record *record, int netns, int pidfd, struct client *client)
{
    struct enrolment *e = create(d, record, netns, pidfd);
    if (!e || watch_process(e) < 0) {
        client_refuse(client, "failed", "out of memory");
        if (e)
            enrolment_destroy(e);
        return;
    }
    e->record.since = (int64_t)time(NULL);
    e->client = client;
    e->coming = true;
    want_job(e, ENROL_BUILD);
}

/* The namespace that the record is about, if it is there and still the same. */
static int reopen(const struct state_record *record, int *ret_netns, int *ret_pidfd, struct error *err)
{
    struct namespace_id id;
    uint64_t start_time = 0;
    _cleanup_fd_ int netns = -1;
    _cleanup_fd_ int pidfd = -1;
    int r = 0;
    if (record->pid == 0) {
        netns = open(record->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        r = netns < 0 ? error_errno(err, errno, "%s", record->path) : 0;
    } else if ((r = process_open(record->pid, &netns, &pidfd, err)) == 0 &&
               (process_start_time(record->pid, &start_time) < 0 || start_time != record->start_time)) {
        r = error_set(err, ESRCH, "process %d is another one now", (int)record->pid);
    }
    if (r == 0)
        r = namespace_identify(netns, &id, err);
    if (r == 0 && (!namespace_equal(&id, &record->netns) || namespace_is_host(&id)))
        r = error_set(err, ESTALE, "its network namespace is another one now");
    if (r < 0)
        return r;
    *ret_netns = fd_steal(&netns);
    *ret_pidfd = fd_steal(&pidfd);
    return 0;
}

void enrolment_adopt(const struct state_record *record, void *daemon)
{
    struct daemon *d = daemon;
    struct error err;
    int netns, pidfd;
    if (reopen(record, &netns, &pidfd, &err) < 0) {
        log_info("%s is gone: %s", record->id, err.text);
        state_remove(d->state, record->id);
        return;
    }
    struct enrolment *e = create(d, record, netns, pidfd);
    if (!e || watch_process(e) < 0) {
        log_error("%s is not captured again: out of memory", record->id);
        if (e)
            enrolment_destroy(e);
        return;
    }
    e->adopted = true;
    d->adopting++;
    want_job(e, ENROL_BUILD);
}

/* ---- the worker ---- */

void enrolment_tell(struct enrolment *e)
{
    if (list_empty(&e->unsent_link))
        list_append(&e->daemon->unsent, &e->unsent_link);
    daemon_feed(e->daemon);
}

int enrolment_send(struct enrolment *e, int channel)
{
    uint32_t serial = daemon_next_serial(e->daemon);
    const struct channel_container who = {
        .id = e->record.id, .name = e->record.name, .image = e->record.image, .policy = e->record.policy};
    int r = e->state == ENROLMENT_LEAVING ? channel_send_withdraw(channel, serial, e->record.id)
                                          : channel_send_container(channel, serial, &who, &e->sockets);
    if (r == 0)
        e->serial = serial;
    return r;
}

/* Served: from now on the container has its way out. */
static void served(struct enrolment *e)
{
    struct client *client = e->coming ? e->client : NULL;
    bool warn = (e->coming || e->adopted) && e->record.attached && e->record.pid > 0 && process_may_net_admin(e->record.pid);
    if (e->adopted)
        e->daemon->adopting--;
    e->adopted = false;
    if (e->coming)
        e->client = NULL;
    e->coming = false;
    if (warn)
        log_warning("%s may reconfigure its network (CAP_NET_ADMIN) and has a link of its own: it can leave past the gateway",
                    e->record.id);
    if (client) {
        json_t *answer = json_pack("{s:s}", "policy", acl_policy_name(enrolment_policy(e)));
        if (warn)
            json_object_set_new(answer, "warning",
                                json_string("the container has CAP_NET_ADMIN and a link of its own: it can leave past the "
                                            "gateway; take the capability away"));
        client_answer(client, answer);
    }
    daemon_maybe_announce(e->daemon);
}

void enrolment_answered(struct enrolment *e, int code)
{
    e->serial = 0;
    if (e->state == ENROLMENT_LEAVING) {
        e->told = false;
        leave_next(e);
    } else if (code == 0) {
        e->told = true;
        served(e);
    } else {
        snprintf(e->failure, sizeof(e->failure), "the worker cannot serve it: %s", strerror(code));
        log_error("%s: %s", e->record.id, e->failure);
        e->outcome = code;
        leave(e, true);
    }
}

void enrolment_worker_died(struct enrolment *e)
{
    e->told = false;
    e->serial = 0;
    if (e->state == ENROLMENT_LEAVING) {
        list_remove(&e->unsent_link);
        leave_next(e);
    } else if (e->state == ENROLMENT_SERVED && list_empty(&e->unsent_link)) {
        list_append(&e->daemon->unsent, &e->unsent_link);
    }
}

/* ---- serving ---- */

void enrolment_verify(struct enrolment *e, struct client *client)
{
    if (e->state == ENROLMENT_FAILED)
        client_refuse(client, "failed", "%s", e->failure);
    else if (e->state != ENROLMENT_SERVED || e->has_job || e->client)
        client_refuse(client, "busy", "%s is being worked on: ask again", e->record.id);
    else {
        e->client = client;
        want_job(e, ENROL_VERIFY);
    }
}

void enrolment_update(struct enrolment *e)
{
    if (e->state == ENROLMENT_SERVED && !e->has_job)
        want_job(e, ENROL_UPDATE);
    else if (e->state == ENROLMENT_SERVED || e->state == ENROLMENT_BUILDING)
        e->update_wanted = true;
}

/* ---- leaving ---- */

static void finish_leaving(struct enrolment *e)
{
    struct client *client = e->client;
    if (e->outcome && client)
        client_refuse(client, "failed", "%s: %s", e->record.id, e->failure);
    else if (client)
        client_answer(client, json_pack("{s:b}", "withdrawn", 1));
    enrolment_destroy(e);
}

/* The next thing that is to be taken back, or the end. */
static void leave_next(struct enrolment *e)
{
    if (e->has_job)
        return;
    if (e->remove_wanted) {
        e->remove_wanted = false;
        want_job(e, ENROL_REMOVE);
        return;
    }
    fd_close(&e->netns);
    if (e->told || e->serial || !list_empty(&e->unsent_link))
        return;
    finish_leaving(e);
}

static void leave(struct enrolment *e, bool remove_rules)
{
    struct daemon *d = e->daemon;
    struct error err;
    bool worker_knows = e->told || e->serial;
    if (e->state == ENROLMENT_LEAVING)
        return;
    e->state = ENROLMENT_LEAVING;
    if (e->adopted)
        d->adopting--;
    e->adopted = false;
    watch_stop(&d->loop, &e->pidfd_watch);
    list_remove(&e->unsent_link);
    state_remove(d->state, e->record.id);
    if (remove_rules && e->netns < 0 && e->sockets.tcp[0] >= 0)
        e->netns = namespace_of_socket(e->sockets.tcp[0], &err);
    e->remove_wanted = remove_rules && e->netns >= 0;
    capture_sockets_close(&e->sockets);
    if (e->has_job && !e->started) {
        list_remove(&e->job_link);
        e->has_job = false;
    } else if (e->has_job && e->child > 0) {
        kill(e->child, SIGKILL); /* what it has done until then is undone when it is dead */
    }
    e->serial = 0;
    if (worker_knows)
        enrolment_tell(e);
    leave_next(e);
    daemon_maybe_announce(d);
}

void enrolment_withdraw(struct enrolment *e, struct client *client)
{
    struct client *waiting = e->client;
    e->client = NULL;
    if (waiting)
        client_refuse(waiting, "failed", "%s was withdrawn meanwhile", e->record.id);
    e->client = client;
    e->outcome = 0;
    leave(e, !enrolment_ended(e));
}

/* Who asked for it is gone, so nobody knows that it is enrolled. */
void enrolment_client_gone(struct enrolment *e)
{
    e->client = NULL;
    if (e->coming && e->state != ENROLMENT_LEAVING) {
        log_warning("%s: whoever wanted it enrolled is gone; withdrawn", e->record.id);
        leave(e, true);
    }
}
