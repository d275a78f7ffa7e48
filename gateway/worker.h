/*
 * The worker: every byte a container sends is parsed here, in a process that holds nothing.
 */
#pragma once

#include "config/snapshot.h"
#include "redirect/monitor/metrics.h"
#include "redirect/monitor/supervisor.h"

struct worker_options {
    struct config_snapshot *snapshot; /* borrowed from the parent's memory (fork) */
    bool audit_only;                  /* treat every policy as mode audit */
    struct metrics *metrics;          /* shared with the parent; NULL: nobody asks */
    struct worker_seat seat;          /* which one it is */
    bool confine;                     /* drop privileges, seccomp, Landlock; false only in tests */
};

/* monitor_worker_fn: serves the captures that come over `channel` until FINISH or end of file. Returns an exit status. */
int worker_main(int channel, int audit_fd, void *options);
