/*
 * The tenants of a captured network: one for each source address that has something here, with a policy, limits and counts of
 * its own. To the rest of the worker a tenant is a capture; it has no listeners, the network has those.
 *
 * A tenant begins with what comes from its address, stays while it has flows or questions, and is forgotten a while
 * after. Their number is bounded: when it is reached, the one that has been idle longest makes room.
 */
#pragma once

#include "gateway/worker_internal.h"

#define TENANTS_MAX 16384 /* of one network */

struct tenants;

/* NULL when out of memory. */
struct tenants *tenants_create(struct capture *network);
void tenants_destroy(struct tenants *tenants); /* accepts NULL; their flows must have ended before */
/* Made when it is not there. NULL: none is idle and there are too many, or there is no memory. */
struct capture *tenants_get(struct tenants *tenants, const struct addr *source);
/* NULL when it is not there. */
struct capture *tenants_find(const struct tenants *tenants, const struct addr *source);
void tenants_each(struct tenants *tenants, void (*each)(struct capture *tenant));
/* worker->tenant_timeouts */
void tenants_expired(struct deadline *deadline);
