/*
 * A new configuration for a worker that serves: loaded beside the loop, put in force in one step, every live flow judged
 * anew by itself (DESIGN section 4).
 */
#pragma once

#include "gateway/worker_internal.h"

struct reload;

/* Load the bundle (owned from now on) in a thread of its own; the channel gets the answer with `serial` when it is in force, or
 * why not. 0, or a negative errno when nothing was started: -EBUSY while another one is being loaded. */
int reload_start(struct worker *worker, int bundle, uint32_t serial);
/* Run-time changes instead of those that are in force: at once, over the snapshot that is there. 0, and the channel gets the answer
 * when they are in force; or a negative errno. */
int reload_changes(struct worker *worker, int bundle, uint32_t serial);
/* Wait for a load under way, and drop what came of it. */
void reload_abandon(struct worker *worker);
