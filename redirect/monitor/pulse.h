/*
 * Is a worker alive? It is asked (PING) every other second, and answers from its loop. One that does not for ten seconds is stuck or
 * stopped: it is killed, with the reason in the log, and its successor serves what it had.
 *
 * Time is counted in the questioner's own turns, not by the clock: while the machine is suspended, or so busy that the monitor does not
 * run either, none pass. A worker that a debugger holds is left alone.
 */
#pragma once

#include "redirect/monitor/supervisor.h"

#include <stdbool.h>
#include <stdint.h>

#define PULSE_MS 2000
#define PULSE_TURNS 5 /* unanswered, before it is given up */

struct pulse {
    uint32_t serial; /* of the question that it has not answered; 0: none */
    unsigned turns;  /* since */
    bool held;       /* by a debugger, and the log says so */
};

/* Every PULSE_MS while it should be able to answer. `serial` is for the next question, if it is time for one. */
void pulse_turn(struct pulse *pulse, const struct worker_process *worker, uint32_t serial);
/* An answer with this number is there: was it to the question? */
bool pulse_answered(struct pulse *pulse, uint32_t serial);
