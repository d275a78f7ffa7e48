/*
 * What a container has published (publish.h), in the daemon. The listeners are there before anything else is done for the container, so
 * that a port in use is told at once and nothing has to be undone. When the worker serves it, a child makes the door; then the
 * worker gets both. Whoever wanted it enrolled is answered when all of that works.
 *
 * A new monitor listens anew: while the old one still holds the port, it tries again.
 */
#include "redirect/daemon/daemon_internal.h"
#include "redirect/daemon/publish.h"

#include "base/fds.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_MS 250

struct publishing {
    struct enrolment *enrolment;
    struct publish_port ports[PUBLISH_MAX];
    int listeners[PUBLISH_MAX];
    size_t count;
    struct capture_sockets door;
    bool has_door, door_wanted; /* it is there; a child has to make it when no other is at work */
    bool sent, told;            /* the worker gets it, has it */
    bool complained;
    struct loop_timer retry;
};

static int listen_to_all(struct publishing *p, struct error *err)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->listeners[i] >= 0)
            continue;
        int fd = inherited_take_listener(&p->enrolment->daemon->inherited, &p->ports[i].host);
        if (fd < 0)
            fd = publish_listen(&p->ports[i], err);
        if (fd < 0)
            return fd;
        p->listeners[i] = fd;
    }
    return 0;
}

static bool listens(const struct publishing *p)
{
    return p->listeners[p->count - 1] >= 0; /* they come in order */
}

static void try_again(struct loop_timer *timer)
{
    struct publishing *p = list_entry(timer, struct publishing, retry);
    struct error err;
    if (listen_to_all(p, &err) == 0) {
        publishing_continue(p->enrolment);
        return;
    }
    if (!p->complained)
        log_error("%s: %s; trying on", p->enrolment->record.id, err.text);
    p->complained = true;
    loop_timer_start(&p->enrolment->daemon->loop, timer, RETRY_MS);
}

int publishing_begin(struct enrolment *e, bool patient, struct error *err)
{
    if (!*e->record.publish)
        return 0;
    if (e->record.attached)
        return error_set(
            err, EINVAL,
            "only what is sealed can publish ports: an attached container keeps its own network");
    struct publishing *p = calloc(1, sizeof(*p));
    int r = p ? publish_parse(e->record.publish, p->ports, &p->count, err)
              : error_set(err, ENOMEM, "out of memory");
    if (r < 0 || p->count == 0) {
        free(p);
        return r;
    }
    p->enrolment = e;
    p->door = (struct capture_sockets)CAPTURE_SOCKETS_NONE;
    for (size_t i = 0; i < PUBLISH_MAX; i++)
        p->listeners[i] = -1;
    loop_timer_init(&p->retry, try_again);
    e->publishing = p;
    if (patient)
        try_again(&p->retry);
    else if ((r = listen_to_all(p, err)) < 0)
        publishing_end(e);
    return r;
}

static void want_door(struct enrolment *e)
{
    struct publishing *p = e->publishing;
    p->door_wanted = e->has_job;
    if (!e->has_job)
        enrolment_want_job(e, ENROL_DOOR);
}

bool publishing_continue(struct enrolment *e)
{
    struct publishing *p = e->publishing;
    if (!p || p->told)
        return true;
    if (e->state != ENROLMENT_SERVED || !e->told || !listens(p))
        return false;
    if (p->has_door)
        enrolment_tell(e);
    else if (!(e->has_job && e->job == ENROL_DOOR))
        want_door(e);
    return false;
}

void publishing_job_over(struct enrolment *e)
{
    if (e->publishing && e->publishing->door_wanted)
        want_door(e);
}

void publishing_take_door(struct enrolment *e, const struct enrol_result *result,
                          struct capture_sockets *sockets)
{
    struct publishing *p = e->publishing;
    if (!p || result->code) {
        capture_sockets_close(sockets);
        if (result->code)
            log_error("%s: its ports are not published: %s", e->record.id, result->text);
        return;
    }
    capture_sockets_close(&p->door);
    p->door = *sockets;
    p->has_door = true;
    publishing_continue(e);
}

bool publishing_is_next(const struct enrolment *e)
{
    const struct publishing *p = e->publishing;
    return p && !p->told && p->has_door && listens(p);
}

int publishing_send(struct enrolment *e, int channel, uint32_t serial)
{
    struct publishing *p = e->publishing;
    int r = channel_send_door(channel, e->record.id, &p->door);
    for (size_t i = 0; r == 0 && i < p->count; i++)
        r = channel_send_publish(channel, i + 1 == p->count ? serial : 0, e->record.id, p->ports[i].inside,
                                 p->listeners[i]);
    p->sent = r == 0;
    return r;
}

void publishing_answered(struct enrolment *e)
{
    struct publishing *p = e->publishing;
    if (!p || !p->sent)
        return;
    p->sent = false;
    p->told = true;
}

void publishing_worker_died(struct enrolment *e)
{
    if (e->publishing)
        e->publishing->sent = e->publishing->told = false;
}

void publishing_end(struct enrolment *e)
{
    struct publishing *p = e->publishing;
    if (!p)
        return;
    loop_timer_stop(&p->retry);
    for (size_t i = 0; i < p->count; i++)
        fd_close(&p->listeners[i]);
    capture_sockets_close(&p->door);
    free(p);
    e->publishing = NULL;
}

int publishing_each_listener(const struct enrolment *e, int (*each)(int listener, void *arg), void *arg)
{
    const struct publishing *p = e->publishing;
    int r = 0;
    for (size_t i = 0; p && r == 0 && i < p->count; i++)
        r = p->listeners[i] < 0 ? 0 : each(p->listeners[i], arg);
    return r;
}

void publishing_describe(const struct enrolment *e, json_t *object)
{
    const struct publishing *p = e->publishing;
    char text[ADDR_TEXT_MAX + 8];
    if (!p)
        return;
    json_t *all = json_array();
    for (size_t i = 0; i < p->count; i++) {
        publish_format(&p->ports[i], text);
        json_array_append_new(all, json_string(text));
    }
    json_object_set_new(object, "publish", all);
}
