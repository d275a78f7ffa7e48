/*
 * Confinement of the worker (DESIGN section 2): after confine() the process has no capability, no way to gain one, no
 * file system, and only the system calls a relay needs. Each step is fatal if it fails.
 */
#pragma once

#include "base/error.h"

/* Call in the worker before the first hostile byte and before other threads parse anything (threads started earlier, the
 * audit writer, are covered too: seccomp with TSYNC). As root it changes to the user "sallyport" where there is one, else
 * to "nobody". 0 or a negative errno. */
int confine(struct error *err);
