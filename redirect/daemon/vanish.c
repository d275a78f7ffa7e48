/*
 * Namespaces that were enrolled by path have no process whose end is told. They are gone when the path is, or names another one:
 * what is mounted there was unmounted (ip netns delete, a CNI runtime), or the process of a /proc/N/ns/net has ended.
 *
 * The kernel tells of every mount and unmount in our mount namespace (proc(5), mountinfo: POLLPRI); then all paths are looked at.
 * Also every few seconds, as long as there are any: not every mount is made where we see it. Without this the sockets would keep
 * the namespace alive for ever.
 *
 * What is in the namespace stays: should anything run there still, it is closed.
 */
#include "redirect/daemon/daemon_internal.h"

#include "base/fds.h"
#include "base/log.h"

#include <fcntl.h>
#include <sys/stat.h>

#define SOON_MS 20 /* unmount and unlink are two steps, and mounts come in crowds */
#define PERIOD_MS 5000

bool vanish_path_is(const char *path, const struct namespace_id *id)
{
    struct stat status;
    return stat(path, &status) == 0 &&
           namespace_equal(&(struct namespace_id){status.st_dev, status.st_ino}, id);
}

static void look(struct loop_timer *timer)
{
    struct daemon *d = list_entry(timer, struct daemon, vanish_timer);
    bool some_left = false;
    d->vanish_soon = false;
    for (struct list *link = d->enrolments.next, *next; link != &d->enrolments; link = next) {
        struct enrolment *e = list_entry(link, struct enrolment, link);
        next = link->next;
        if (!*e->record.path || e->ended || e->state == ENROLMENT_LEAVING)
            continue;
        if (vanish_path_is(e->record.path, &e->record.netns))
            some_left = true;
        else
            enrolment_vanished(e);
    }
    if (some_left)
        loop_timer_start(&d->loop, timer, PERIOD_MS);
}

static void mounts_changed(struct watch *watch, uint32_t events)
{
    struct daemon *d = list_entry(watch, struct daemon, mounts_watch);
    (void)events;
    if (d->vanish_soon || list_empty(&d->vanish_timer.link)) /* on its way, or nothing to look at */
        return;
    d->vanish_soon = true;
    loop_timer_start(&d->loop, &d->vanish_timer, SOON_MS);
}

void vanish_start(struct daemon *d)
{
    loop_timer_init(&d->vanish_timer, look);
    d->mounts = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    if (d->mounts < 0 || watch_start(&d->loop, &d->mounts_watch, d->mounts, EPOLLPRI, mounts_changed) < 0)
        log_warning("mounts cannot be watched: the end of namespaces enrolled by path is noticed late");
}

void vanish_expect(struct daemon *d)
{
    if (list_empty(&d->vanish_timer.link))
        loop_timer_start(&d->loop, &d->vanish_timer, PERIOD_MS);
}
