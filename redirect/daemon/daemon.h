/*
 * `sallyport gateway`: the monitor as a daemon. It captures containers and gives them back, supervises the workers, and loads
 * the configuration; it never reads a byte that a container sent.
 */
#pragma once

#include "config/snapshot.h"
#include "redirect/monitor/metrics.h"
#include "redirect/monitor/supervisor.h"

struct daemon_options {
    const char *config_path;
    const char *audit_path;   /* instead of the configuration's; NULL: that */
    const char *control_path;
    const char *api_path; /* NULL: no HTTP API */
    const char *state_path;
    bool watch;               /* the policy file and its files, whatever the file says */
    unsigned drain_ms;        /* for flows that are up at SIGTERM */
    bool take_over;           /* from the gateway at control_path */
    const char *program;      /* this one, to be started again by `upgrade` (whatever file is there then) */
    char *const *arguments;   /* of this command line, NULL at the end */
    monitor_worker_fn worker;
    void *worker_arg;
    /* Is what the snapshot says of TLS usable? 0 or a negative errno with a sentence. */
    int (*check)(const struct config_snapshot *snapshot, struct error *err);
    struct metrics *metrics; /* the workers count there as well */
    struct config_snapshot **worker_snapshot; /* where worker_arg has the snapshot: kept current for the next worker */
    struct worker_seat *worker_seat;          /* likewise */
};

/* Takes over the snapshot and its bundle (config_load_file_bundled). Returns the exit status; what fails is on the log. */
int daemon_run(const struct daemon_options *options, struct config_snapshot *snapshot, int bundle);
