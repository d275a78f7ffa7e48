/*
 * The worker as a process: started by a fork without exec, so that it finds the snapshot in its memory; its end noticed by
 * the caller (SIGCHLD) and answered by a pause that doubles, so that a worker that dies at once does not eat the machine.
 * What `sallyport exec` and `sallyport gateway` share.
 */
#pragma once

#include "base/error.h"

#include <signal.h>
#include <stdint.h>
#include <sys/types.h>

/* Runs in a forked child that is to become the worker: confine, serve, return the exit status. Owns both descriptors. */
typedef int (*monitor_worker_fn)(int channel, int audit_fd, void *arg);

/* Which of a gateway's workers it is. */
struct metrics_worker;
struct worker_seat {
    unsigned index, count;          /* from 0; 0 of 0: the only one */
    struct metrics_worker *metrics; /* where it counts; NULL: nobody asks */
};

struct worker_process {
    pid_t pid;         /* -1: none */
    int channel;       /* SOCK_SEQPACKET, -1: none */
    uint64_t started;  /* ms, monotonic */
    uint64_t start_at; /* when there is none: start the next one then */
    unsigned pause_ms;
    char which[32]; /* for the log: "", or " (worker 2 of 3)" */
};
#define WORKER_PROCESS_NONE {.pid = -1, .channel = -1}

#define WORKER_READY_WAIT_MS 10000 /* from its start to its first answer */
#define WORKER_PAUSE_LONGEST_MS 10000

uint64_t monotonic_ms(void);

/* The audit file, appended to; -1 in *ret when `path` is NULL. */
int audit_file_open(const char *path, int *ret, struct error *err);

/* Fork it. It gets standard error, the channel and `audit` (-1: none; the caller keeps it), and `mask` as its signal mask. */
int worker_process_start(struct worker_process *worker, monitor_worker_fn run, void *arg, int audit, const sigset_t *mask,
                         struct error *err);
/* SIGKILL, whatever user it is by now; SIGCHLD follows. */
void worker_process_kill(const struct worker_process *worker);
/* It was reaped: note when to start the next one. */
void worker_process_died(struct worker_process *worker);
/* Tell the operator, after worker_process_died(). */
void worker_process_log_death(const struct worker_process *worker, int status);
/* Milliseconds until the next one is due: -1 while one runs. */
int worker_process_due(const struct worker_process *worker);
