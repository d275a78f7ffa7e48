/* The worker's seccomp filter, a part of its confinement (confine.h). */
#pragma once

#include "base/error.h"

/* From now on this process, all its threads, makes the system calls a relay needs, or dies. Needs no_new_privs. 0 or a negative
 * errno. */
int syscalls_confine(struct error *err);
