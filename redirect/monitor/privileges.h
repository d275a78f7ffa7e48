/*
 * What is left to the monitor of root's capabilities: those that entering network namespaces, writing their rules and giving up a
 * worker's rights need. Everything it starts (builders, workers) can have no more than that.
 */
#pragma once

#include "base/error.h"

/* Once, at the start. What the process does not have is not asked for; a missing one that nothing works without is an error. */
int privileges_cut(struct error *err);
