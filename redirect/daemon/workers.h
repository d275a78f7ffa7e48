/*
 * The workers of a gateway: so many as the configuration says, each a process with a loop of its own, which share nothing.
 *
 * What is captured belongs to one of them for as long as that gateway lives: its flows, its DNS, its limits, what it has looked up. So
 * no path of a flow has a lock, and whatever takes a worker down ends the flows of its own containers alone. Each is started, told,
 * asked and replaced by itself; what is answered to a caller waits for all whom it concerns.
 *
 * The one that has fewest gets the next container. The admin endpoint is the first one's.
 */
#pragma once

#include "base/list.h"
#include "redirect/monitor/loop.h"
#include "redirect/monitor/pulse.h"
#include "redirect/monitor/supervisor.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define WORKERS_MAX 32 /* one bit each, of those that a change waits for */

struct daemon;
struct metrics_worker;

struct daemon_worker {
    struct daemon *daemon;
    unsigned index;
    struct worker_process process;
    struct metrics_worker *metrics; /* its slot */
    struct watch watch;             /* of its channel */
    struct loop_timer timer;        /* to start the next one; while one starts: to give it up */
    bool ready;                     /* it has answered */
    bool yielded;           /* told to stop accepting, it has, or had nothing left and ended (takeover.h) */
    struct pulse pulse;     /* when it is ready; `timer` asks */
    uint32_t ping_serial;   /* of the latest message; 0: none */
    uint32_t config_serial; /* it was told, and has not answered; 0: no */
    bool config_unsent, changes_unsent, audit_unsent, admin_unsent;
    struct list unsent;             /* enrolments of which it is to be told something */
    struct list unanswered;         /* those of which it was told, and has not answered; in order */
    uint32_t learned, learned_told; /* its LEARNED messages: the latest that was done, that it was told of */
    unsigned captures;              /* enrolments that are its own */
};

void workers_init(struct daemon *daemon); /* so many as its snapshot says */
/* Does the configuration want as many as there are? Else, into `text`, what to do. */
bool workers_are_as_wanted(const struct daemon *daemon, char *text, size_t size);
void workers_start(struct daemon *daemon);                                /* those that are not there */
struct daemon_worker *workers_with_pid(struct daemon *daemon, pid_t pid); /* NULL: none of them */
struct daemon_worker *workers_choose(struct daemon *daemon); /* for one more capture, which is counted */
void workers_feed_one(struct daemon_worker *worker);         /* tell it what it has not been told */
void workers_died(struct daemon_worker *worker, int status); /* it was reaped */

json_t *workers_describe(const struct daemon *daemon);
bool workers_are_ready(const struct daemon *daemon);   /* all */
bool workers_are_there(const struct daemon *daemon);   /* any process */
bool workers_have_config(const struct daemon *daemon); /* all have answered that they have the latest */
bool workers_are_quiet(const struct daemon *daemon);   /* all know everything and have answered everything */

/* The configuration of the daemon's bundle is new to all that are there (the others get it by their fork); false: none is. */
bool workers_tell_config(struct daemon *daemon);
uint32_t workers_tell_changes(struct daemon *daemon); /* returns them as bits: who will answer */
void workers_tell_audit(struct daemon *daemon);

/* They serve on, and are not ours any more: calls `take` with each channel, which is its own then. */
void workers_release(struct daemon *daemon, void (*take)(struct daemon *daemon, int channel));
void workers_end(struct daemon *daemon, unsigned drain_ms); /* each may have so long for its flows */
void workers_kill(struct daemon *daemon);
void workers_finish(struct daemon *daemon); /* they end, and are waited for */
