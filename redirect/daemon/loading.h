/*
 * Loading the configuration beside the loop: a million names take a second, in which the daemon has other things to do. A thread
 * of its own reads the files; the loop is told by an eventfd.
 */
#pragma once

#include "config/snapshot.h"
#include "redirect/monitor/loop.h"

#include <pthread.h>

struct loading {
    bool running, joined;
    struct loop *loop;
    const char *path;
    pthread_t thread;
    int event;
    struct watch watch;
    void (*done)(struct loading *loading); /* in the loop, when the results are there; takes them */

    int status; /* 0, and the next two; or a negative errno and errors */
    struct config_snapshot *snapshot;
    int bundle;
    struct config_errors errors;
    struct config_files files; /* all that were looked for */
};

void loading_init(struct loading *loading);
/* 0, or a negative errno when nothing was started. `path` must outlive it. */
int loading_start(struct loading *loading, struct loop *loop, const char *path,
                  void (*done)(struct loading *loading));
/* Before a fork. In sanitized builds alone it waits until no thread runs: their allocator, unlike the C library's, does not survive
 * a fork while another thread is in it. */
void loading_before_fork(struct loading *loading);
/* Waits for one that runs, and drops what came of it. */
void loading_abandon(struct loading *loading);
