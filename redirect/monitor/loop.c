#include "redirect/monitor/loop.h"

#include "base/fds.h"
#include "redirect/monitor/supervisor.h"

#include <errno.h>
#include <limits.h>

int loop_init(struct loop *loop)
{
    list_init(&loop->timers);
    loop->stopped = false;
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    return loop->epoll < 0 ? -errno : 0;
}

void loop_finish(struct loop *loop)
{
    fd_close(&loop->epoll);
}

int watch_start(struct loop *loop, struct watch *watch, int fd, uint32_t events,
                void (*ready)(struct watch *watch, uint32_t events))
{
    struct epoll_event event = {.events = events, .data.ptr = watch};
    watch->fd = -1;
    if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        return -errno;
    watch->fd = fd;
    watch->ready = ready;
    return 0;
}

void watch_change(struct loop *loop, const struct watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = (void *)watch};
    if (watch->fd >= 0)
        epoll_ctl(loop->epoll, EPOLL_CTL_MOD, watch->fd, &event);
}

void watch_stop(struct loop *loop, struct watch *watch)
{
    if (watch->fd >= 0)
        epoll_ctl(loop->epoll, EPOLL_CTL_DEL, watch->fd, NULL);
    watch->fd = -1;
}

void loop_timer_init(struct loop_timer *timer, void (*expired)(struct loop_timer *timer))
{
    list_init(&timer->link);
    timer->expired = expired;
}

void loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t after_ms)
{
    struct list *before;
    list_remove(&timer->link);
    timer->at = monotonic_ms() + after_ms;
    for (before = loop->timers.prev; before != &loop->timers; before = before->prev)
        if (list_entry(before, struct loop_timer, link)->at <= timer->at)
            break;
    timer->link.prev = before;
    timer->link.next = before->next;
    before->next->prev = &timer->link;
    before->next = &timer->link;
}

void loop_timer_stop(struct loop_timer *timer)
{
    list_remove(&timer->link);
}

/* Milliseconds until the first timer, -1 for none. */
static int until_first(const struct loop *loop)
{
    if (list_empty(&loop->timers))
        return -1;
    uint64_t at = list_entry(loop->timers.next, struct loop_timer, link)->at, now = monotonic_ms();
    return at <= now ? 0 : at - now > INT_MAX ? INT_MAX : (int)(at - now);
}

static void run_timers(struct loop *loop)
{
    while (until_first(loop) == 0) {
        struct loop_timer *first = list_entry(loop->timers.next, struct loop_timer, link);
        list_remove(&first->link);
        first->expired(first);
    }
}

int loop_run(struct loop *loop)
{
    while (!loop->stopped) {
        struct epoll_event event;
        int got = epoll_wait(loop->epoll, &event, 1, until_first(loop));
        if (got < 0 && errno != EINTR)
            return -errno;
        if (got == 1) {
            struct watch *watch = event.data.ptr;
            watch->ready(watch, event.events);
        }
        run_timers(loop);
    }
    return 0;
}
