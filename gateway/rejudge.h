/*
 * A new snapshot for a worker that serves: put in force in one step, every live flow judged anew by itself (DESIGN section 4).
 */
#pragma once

#include "gateway/worker_internal.h"

int rejudge_init(struct worker *worker);
/* Takes over `snapshot`. The channel gets READY with `serial` (0: nobody asked) when the last flow has been judged by it. */
void rejudge_by(struct worker *worker, struct config_snapshot *snapshot, uint32_t serial);
/* The worker ends; it has no flows any more. */
void rejudge_finish(struct worker *worker);
