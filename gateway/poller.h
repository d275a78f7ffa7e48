/*
 * The worker's loop: readiness of many sockets, with a libuv loop beside them.
 *
 * Relayed sockets are registered once, edge-triggered, for reading and writing. So a socket costs one epoll_ctl from accept to
 * close, whatever states its flow goes through. The price: a handler must read (write) until EAGAIN, or remember that it stopped
 * early and ask to be called again with poller_again().
 *
 * libuv has what is not about flows (timers, the channel, threads). Its own descriptor is one of ours, and it is run when that is
 * ready or a timer is due: embedded, as its documentation says, not the other way round, since a set nested in libuv's would cost a
 * second epoll_wait for every turn.
 *
 * Source: epoll(7), "Level-triggered and edge-triggered"; libuv docs/src/loop.rst (uv_backend_fd, uv_backend_timeout).
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
    uv_loop_t *loop;
    bool loop_due;             /* libuv has something to do */
    bool stopped;
    uint64_t woke_ms;          /* when it last had something to do: uv_now(); 0 before */
    void (*turned)(void *arg); /* called at the end of every turn; may be NULL */
    void *arg;
    struct list again;
    struct epoll_event batch[POLLER_BATCH];
    int batch_count; /* events of the batch being handled */
};

/* 0 or a negative errno. The poller must not move afterwards. */
int poller_init(struct poller *poller, uv_loop_t *loop);
void poller_finish(struct poller *poller);
/* Turns until poller_stop(), which a handler or `turned` calls: the rest of the turn is finished before. */
void poller_run(struct poller *poller);
void poller_stop(struct poller *poller);

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
