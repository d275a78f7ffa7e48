/*
 * Proof that a capture works, by packets rather than by having configured it. Internal to redirect/.
 */
#pragma once

#include "redirect/rules/sealed.h"

/* Runs inside the namespace. 0, or an error that names the step that failed. What it put into the sockets is
 * taken out again. Where attached, families without a route are passed over. */
int selftest_run(const struct capture_sockets *sockets, const struct sealed_plan *plan, struct error *err);
