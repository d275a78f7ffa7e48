/*
 * Readiness of many sockets behind one libuv handle.
 *
 * Relayed sockets are registered once, edge-triggered, for reading and writing, in an epoll set of our own;
 * that set is itself one descriptor, watched by a single uv_poll_t. So a socket costs one epoll_ctl from
 * accept to close, whatever states its flow goes through. The price: a handler must read (write) until
 * EAGAIN, or remember that it stopped early and ask to be called again with poller_again().
 *
 * Source: epoll(7), "Level-triggered and edge-triggered"; libuv docs/src/poll.rst.
 */
#pragma once

#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <uv.h>

struct poll_handle {
    int fd; /* -1 when not registered; the owner closes it after poller_remove() */
    /* `events` are epoll bits; 0 when called for poller_again(). */
    void (*ready)(struct poll_handle *handle, uint32_t events);
    struct list again;
};

#define POLLER_BATCH 128

struct poller {
    int epoll_fd;
    uv_poll_t watch;
    uv_idle_t again_idle;
    struct list again;
    struct epoll_event batch[POLLER_BATCH];
    int batch_count; /* events of the batch being handled */
};

/* 0 or a negative errno. The poller must not move afterwards. */
int poller_init(struct poller *poller, uv_loop_t *loop);
/* Stops watching; the loop must run once more for the handles' close callbacks. */
void poller_finish(struct poller *poller);

/* A handle that is not registered yet. */
void poll_handle_init(struct poll_handle *handle, void (*ready)(struct poll_handle *handle, uint32_t events));
/* Register `fd`; a first event follows for whatever is ready already. 0 or a negative errno. */
int poller_add(struct poller *poller, struct poll_handle *handle, int fd);
/* Safe on an unregistered handle, and inside any handler. Does not close. */
void poller_remove(struct poller *poller, struct poll_handle *handle);
/* poller_remove() and close in one: the kernel takes a descriptor that nobody else holds out of the set by itself, so this
 * costs one system call less. Not for listeners, which the monitor holds as well. */
void poller_close(struct poller *poller, struct poll_handle *handle);
/* Call handle->ready(handle, 0) in the next turn of the loop. */
void poller_again(struct poller *poller, struct poll_handle *handle);
