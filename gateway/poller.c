#include "gateway/poller.h"

#include <errno.h>
#include <unistd.h>

static void on_set_ready(uv_poll_t *watch, int status, int events)
{
    struct poller *p = watch->data;
    (void)status;
    (void)events;
    p->batch_count = epoll_wait(p->epoll_fd, p->batch, POLLER_BATCH, 0);
    for (int i = 0; i < p->batch_count; i++) {
        struct poll_handle *handle = p->batch[i].data.ptr;
        if (handle) /* NULL: removed by a handler earlier in this batch */
            handle->ready(handle, p->batch[i].events);
    }
    p->batch_count = 0;
}

static void on_again(uv_idle_t *idle)
{
    struct poller *p = idle->data;
    struct list turn;
    list_init(&turn);
    while (!list_empty(&p->again)) {
        struct list *link = p->again.next;
        list_remove(link);
        list_append(&turn, link);
    }
    uv_idle_stop(idle);
    while (!list_empty(&turn)) {
        struct poll_handle *handle = list_entry(turn.next, struct poll_handle, again);
        list_remove(&handle->again);
        handle->ready(handle, 0);
    }
}

int poller_init(struct poller *poller, uv_loop_t *loop)
{
    *poller = (struct poller){.epoll_fd = epoll_create1(EPOLL_CLOEXEC)};
    if (poller->epoll_fd < 0)
        return -errno;
    list_init(&poller->again);
    int r = uv_poll_init(loop, &poller->watch, poller->epoll_fd);
    if (r < 0) {
        close(poller->epoll_fd);
        return r;
    }
    poller->watch.data = poller;
    uv_idle_init(loop, &poller->again_idle);
    poller->again_idle.data = poller;
    return uv_poll_start(&poller->watch, UV_READABLE, on_set_ready);
}

static void on_watch_closed(uv_handle_t *handle)
{
    struct poller *p = handle->data;
    close(p->epoll_fd);
    p->epoll_fd = -1;
}

void poller_finish(struct poller *poller)
{
    uv_close((uv_handle_t *)&poller->again_idle, NULL);
    uv_close((uv_handle_t *)&poller->watch, on_watch_closed);
}

void poll_handle_init(struct poll_handle *handle, void (*ready)(struct poll_handle *handle, uint32_t events))
{
    handle->fd = -1;
    handle->ready = ready;
    list_init(&handle->again);
}

int poller_add(struct poller *poller, struct poll_handle *handle, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = handle};
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
    uv_idle_start(&poller->again_idle, on_again);
}
