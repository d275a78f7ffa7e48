/*
 * A gateway takes the place of another one that is running, with everything it has, and nobody outside notices: `sallyport upgrade`,
 * or `sallyport gateway --take-over`.
 *
 *   the new one (heir)                                     the old one
 *     loads its configuration
 *     {"do": "take-over"}                  ─────────►        stops listening to the control socket (who calls waits), ends what it is
 *                                                            at; from now on nothing changes
 *     starts its workers                   ◄─────────        {"ok": true, …}, then each descriptor with its name (inherit.h), "."
 *     "commit", when they are ready        ─────────►        has its workers stop accepting
 *     gives the sockets to its workers     ◄─────────        "yours"
 *     "done", when all are served          ─────────►        says who the main process is now, ends
 *     READY                                ◄─────────        end of file
 *
 * If the heir fails before "done", whatever it dies of, the old one starts workers and goes on; the heir goes on if the old one dies
 * after "yours". Between "commit" and the new workers' first accept, connections wait in the queue.
 *
 * An old worker has its flows still: it lives on as an elder of the new monitor, which has its channel and tells it of new
 * configurations, changes, withdrawals and the audit file, so every flow stays under the policy in force, whoever relays it. An
 * elder whose messages have another form (another version) cannot be told: its flows end when it would have to be.
 */
#pragma once

#include "redirect/monitor/loop.h"

#include <stdint.h>
#include <sys/types.h>

struct client;
struct daemon;
struct daemon_worker;
struct error;

enum heir_step {
    HEIR_NONE,
    HEIR_SPAWNED, /* by us; it has not called yet */
    HEIR_WAITS,   /* for us to end what we are at */
    HEIR_HAS_ALL, /* until it says "commit" */
    HEIR_DRAIN,   /* until our workers have stopped accepting */
    HEIR_SERVES,  /* until it says "done" */
};

struct heir {
    enum heir_step step;
    int fd;
    pid_t child; /* started by us; -1: not, or reaped */
    struct watch watch;
    struct loop_timer timer;
    uint64_t patience; /* monotonic_ms(): until when it waits for us */
    uint32_t serial;   /* of the workers' last message */
    struct client *asker; /* of `upgrade`, or NULL */
};

enum predecessor_step { PREDECESSOR_NONE, PREDECESSOR_ASKED, PREDECESSOR_COMMITTED, PREDECESSOR_YIELDED, PREDECESSOR_DONE };

struct predecessor {
    enum predecessor_step step;
    int fd;
    bool same_form; /* of its worker's messages */
    int bundle;     /* our configuration, for its worker */
    struct watch watch;
};

/* ---- the old one ---- */

void heir_init(struct daemon *daemon);
void heir_calls(struct client *client);         /* {"do": "take-over"} */
void heir_spawn(struct client *client);         /* {"do": "upgrade"} */
void heir_reaped(struct daemon *daemon, pid_t pid, int status);
bool heir_worker_answered(struct daemon_worker *worker, uint32_t serial);
bool heir_worker_ended(struct daemon_worker *worker, int status); /* reaped: because it had nothing left to do? */
/* Not any more, if it was about to: we go on. */
void heir_give_up(struct daemon *daemon, const char *why);
void heir_client_gone(struct client *client);
void heir_finish(struct daemon *daemon);

/* ---- the new one ---- */

/* Everything that the gateway at the control socket has, into `inherited`. */
int predecessor_ask(struct daemon *daemon, struct error *err);
void predecessor_commit(struct daemon *daemon); /* our workers are ready */
void predecessor_done(struct daemon *daemon);   /* all are served */
void predecessor_finish(struct daemon *daemon);

/* ---- workers that have flows, and no sockets any more ---- */

void elder_add(struct daemon *daemon, int channel, bool same_form);
/* While another monitor listens to them, ours must not: their answers are its. */
void elders_listen(struct daemon *daemon, bool on);
void elders_tell_config(struct daemon *daemon, int bundle);
void elders_tell_changes(struct daemon *daemon, int bundle);
void elders_tell_audit(struct daemon *daemon);
/* Returns how many will answer (enrolment_elder_answered()). */
unsigned elders_tell_withdraw(struct daemon *daemon, uint32_t serial, const char *id, bool it_lives);
void elders_drain(struct daemon *daemon, unsigned for_ms);
void elders_finish(struct daemon *daemon); /* their flows end, unless somebody else has their channels */
