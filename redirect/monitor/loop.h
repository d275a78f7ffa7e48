/*
 * The daemon's event loop: one epoll set, one timer list. The monitor needs a handful of descriptors and a timer or two, so
 * it does without a library: it should stay small enough to be read in one sitting.
 *
 * One event is taken at a time: a handler may remove any watch and free its owner, and nothing stale is ever called.
 */
#pragma once

#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct watch {
    int fd; /* -1: not watched */
    void (*ready)(struct watch *watch, uint32_t events);
};
#define WATCH_NONE {.fd = -1}

struct loop_timer {
    struct list link;
    uint64_t at; /* monotonic_ms() */
    void (*expired)(struct loop_timer *timer);
};

struct loop {
    int epoll;
    struct list timers; /* in order */
    bool stopped;
};

int loop_init(struct loop *loop);
void loop_finish(struct loop *loop);
/* Runs until `stopped`. 0 or a negative errno. */
int loop_run(struct loop *loop);

/* The watch does not own `fd`. 0 or a negative errno. */
int watch_start(struct loop *loop, struct watch *watch, int fd, uint32_t events,
                void (*ready)(struct watch *watch, uint32_t events));
void watch_change(struct loop *loop, const struct watch *watch, uint32_t events);
void watch_stop(struct loop *loop, struct watch *watch); /* before `fd` is closed */

void loop_timer_init(struct loop_timer *timer, void (*expired)(struct loop_timer *timer));
void loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t after_ms);
void loop_timer_stop(struct loop_timer *timer);
