#include "gateway/poller.h"

#include <errno.h>
#include <unistd.h>

int poller_init(struct poller *poller, uv_loop_t *loop)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = poller};
    *poller = (struct poller){.epoll_fd = epoll_create1(EPOLL_CLOEXEC), .loop = loop, .loop_due = true};
    if (poller->epoll_fd < 0)
        return -errno;
    list_init(&poller->again);
    if (epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, uv_backend_fd(loop), &event) == 0)
        return 0;
    int r = -errno;
    close(poller->epoll_fd);
    return r;
}

void poller_finish(struct poller *poller)
{
    close(poller->epoll_fd);
    poller->epoll_fd = -1;
}

/* What its callbacks registered reaches its epoll set with the next run only: hence the second one. */
static void run_loop(struct poller *p)
{
    uv_run(p->loop, UV_RUN_NOWAIT);
    uv_run(p->loop, UV_RUN_NOWAIT);
}

static void call_again(struct poller *p)
{
    struct list turn;
    list_init(&turn);
    while (!list_empty(&p->again)) { /* who asks meanwhile is called in the next turn */
        struct list *link = p->again.next;
        list_remove(link);
        list_append(&turn, link);
    }
    while (!list_empty(&turn)) {
        struct poll_handle *handle = list_entry(turn.next, struct poll_handle, again);
        list_remove(&handle->again);
        handle->ready(handle, 0);
    }
}

static void handle_batch(struct poller *p)
{
    for (int i = 0; i < p->batch_count; i++) {
        struct poll_handle *handle = p->batch[i].data.ptr;
        if ((void *)handle == p)
            p->loop_due = true;
        else if (handle) /* NULL: removed by a handler earlier in this batch */
            handle->ready(handle, p->batch[i].events);
    }
    p->batch_count = 0;
}

static void turn(struct poller *p)
{
    int timeout = list_empty(&p->again) && !p->loop_due ? uv_backend_timeout(p->loop) : 0;
    p->batch_count = epoll_wait(p->epoll_fd, p->batch, POLLER_BATCH, timeout);
    uv_update_time(p->loop);
    p->woke_ms = uv_now(p->loop);
    handle_batch(p);
    if (!list_empty(&p->again))
        call_again(p);
    if (p->loop_due || uv_backend_timeout(p->loop) == 0) {
        p->loop_due = false;
        run_loop(p);
    }
    if (p->turned)
        p->turned(p->arg);
}

void poller_run(struct poller *poller)
{
    poller->stopped = false;
    uv_update_time(poller->loop);
    while (!poller->stopped)
        turn(poller);
}

void poller_stop(struct poller *poller)
{
    poller->stopped = true;
}

void poll_handle_init(struct poll_handle *handle, void (*ready)(struct poll_handle *handle, uint32_t events))
{
    handle->fd = -1;
    handle->ready = ready;
    list_init(&handle->again);
}

int poller_add(struct poller *poller, struct poll_handle *handle, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET, .data.ptr = handle};
    if (epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        return -errno;
    handle->fd = fd;
    return 0;
}

/* No event of this batch reaches it any more. Returns its descriptor, or -1. */
static int forget(struct poller *poller, struct poll_handle *handle)
{
    int fd = handle->fd;
    list_remove(&handle->again);
    for (int i = 0; fd >= 0 && i < poller->batch_count; i++)
        if (poller->batch[i].data.ptr == handle)
            poller->batch[i].data.ptr = NULL;
    handle->fd = -1;
    return fd;
}

void poller_remove(struct poller *poller, struct poll_handle *handle)
{
    int fd = forget(poller, handle);
    if (fd >= 0)
        epoll_ctl(poller->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void poller_close(struct poller *poller, struct poll_handle *handle)
{
    int fd = forget(poller, handle);
    if (fd >= 0)
        close(fd);
}

void poller_again(struct poller *poller, struct poll_handle *handle)
{
    if (list_empty(&handle->again))
        list_append(&poller->again, &handle->again);
}
