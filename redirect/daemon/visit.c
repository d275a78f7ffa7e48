/*
 * Who waits for a child in its namespace, and the children that are there (enrol.h).
 *
 * One job, one child, when there is little to do. After a restart a thousand containers wait at once: then each child takes a
 * handful along, since a fork of the monitor (its descriptors, its configuration) costs more than what is done in a namespace.
 * Results come one by one, so each container is served as soon as it is ready.
 */
#include "redirect/daemon/daemon_internal.h"

#include "base/fds.h"
#include "base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define MEMBERS_MAX 32
#define JOB_WAIT_MS 10000 /* for the next result */

struct visit {
    struct list link;
    struct daemon *daemon;
    pid_t pid; /* -1: reaped */
    int passage;
    struct watch watch;
    struct loop_timer timer;
    size_t count, done;
    struct enrolment *members[MEMBERS_MAX];
};

static void visit_destroy(struct visit *v)
{
    watch_stop(&v->daemon->loop, &v->watch);
    loop_timer_stop(&v->timer);
    list_remove(&v->link);
    fd_close(&v->passage);
    v->daemon->running--;
    free(v);
}

static void job_expired(struct loop_timer *timer)
{
    struct visit *v = list_entry(timer, struct visit, timer);
    log_error("%s: the process in its namespace does not come to an end; killed",
              v->members[v->done]->record.id);
    if (v->pid > 0)
        kill(v->pid, SIGKILL);
}

static void deliver(struct visit *v, const struct enrol_result *result, struct capture_sockets *sockets)
{
    struct enrolment *e = v->members[v->done++];
    e->visit = NULL;
    enrolment_job_done(e, result, sockets);
}

static void passage_ready(struct watch *watch, uint32_t events)
{
    struct visit *v = list_entry(watch, struct visit, watch);
    struct daemon *d = v->daemon;
    struct enrol_result result;
    struct capture_sockets sockets;
    (void)events;
    bool alive = enrol_receive(watch->fd, &result, &sockets);
    deliver(v, &result, &sockets);
    while (!alive && v->done < v->count)
        deliver(v, &result, &sockets);
    if (v->done < v->count) {
        loop_timer_start(&d->loop, &v->timer, JOB_WAIT_MS);
        return;
    }
    visit_destroy(v);
    if (!list_empty(&d->jobs))
        loop_timer_start(&d->loop, &d->jobs_timer, 0);
}

static void refuse(struct enrolment *e, const struct error *err)
{
    struct capture_sockets none = CAPTURE_SOCKETS_NONE;
    struct enrol_result result = {.code = err->code ? err->code : EIO};
    snprintf(result.text, sizeof(result.text), "%s", err->text);
    e->visit = NULL;
    enrolment_job_done(e, &result, &none);
}

/* Takes jobs off the queue. Those that cannot be planned are over at once. */
static void gather(struct visit *v, size_t size, struct enrol_plan *plans, int *opened)
{
    struct daemon *d = v->daemon;
    while (v->count < size && !list_empty(&d->jobs)) {
        struct enrolment *e = list_entry(d->jobs.next, struct enrolment, job_link);
        struct error err = {0};
        list_remove(&e->job_link);
        d->waiting--;
        e->visit = v;
        if (enrolment_plan(e, &plans[v->count], &opened[v->count], &err) < 0)
            refuse(e, &err);
        else
            v->members[v->count++] = e;
    }
}

static int depart(struct visit *v, const struct enrol_plan *plans, struct error *err)
{
    struct loop *loop = &v->daemon->loop;
    loading_before_fork(&v->daemon->loading);
    int r = enrol_start(plans, v->count, &v->pid, &v->passage, err);
    if (r == 0 && (r = watch_start(loop, &v->watch, v->passage, EPOLLIN, passage_ready)) < 0) {
        error_errno(err, -r, "cannot watch a child");
        kill(v->pid, SIGKILL);
    }
    if (r == 0)
        loop_timer_start(loop, &v->timer, JOB_WAIT_MS);
    return r;
}

static void start_visit(struct daemon *d)
{
    struct enrol_plan plans[MEMBERS_MAX];
    int opened[MEMBERS_MAX];
    struct error err = {0};
    size_t size = d->waiting / VISITS_MAX + 1;
    struct visit *v = calloc(1, sizeof(*v));
    if (!v) {
        loop_timer_start(&d->loop, &d->jobs_timer, 1000);
        return;
    }
    v->daemon = d;
    v->pid = v->passage = v->watch.fd = -1;
    loop_timer_init(&v->timer, job_expired);
    list_append(&d->visits, &v->link);
    d->running++;
    gather(v, size < MEMBERS_MAX ? size : MEMBERS_MAX, plans, opened);
    int r = v->count ? depart(v, plans, &err) : 0;
    for (size_t i = 0; i < v->count; i++)
        fd_close(&opened[i]);
    while (r < 0 && v->done < v->count)
        refuse(v->members[v->done++], &err);
    if (r < 0 || !v->count)
        visit_destroy(v);
}

static void run(struct loop_timer *timer)
{
    struct daemon *d = list_entry(timer, struct daemon, jobs_timer);
    while (d->running < VISITS_MAX && !list_empty(&d->jobs) && list_empty(&d->jobs_timer.link))
        start_visit(d);
}

void visits_init(struct daemon *d)
{
    list_init(&d->jobs);
    list_init(&d->visits);
    loop_timer_init(&d->jobs_timer, run);
}

void visit_want(struct enrolment *e)
{
    struct daemon *d = e->daemon;
    list_append(&d->jobs, &e->job_link);
    d->waiting++;
    loop_timer_start(&d->loop, &d->jobs_timer, 0); /* not here: a failed one may be freed at once */
}

bool visit_forget(struct enrolment *e)
{
    struct visit *v = e->visit;
    if (!v) {
        list_remove(&e->job_link);
        e->daemon->waiting--;
        return true;
    }
    if (v->pid > 0 && v->count - v->done == 1)
        kill(v->pid, SIGKILL); /* what it has done until then is undone when it is dead */
    return false;
}

void visit_reaped(struct daemon *d, pid_t pid)
{
    for (struct list *link = d->visits.next; link != &d->visits; link = link->next)
        if (list_entry(link, struct visit, link)->pid == pid)
            list_entry(link, struct visit, link)->pid = -1;
}

void visits_destroy(struct daemon *d)
{
    while (!list_empty(&d->visits))
        visit_destroy(list_entry(d->visits.next, struct visit, link));
}
