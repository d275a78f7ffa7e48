/*
 * What the command line adds to a snapshot. Only before the snapshot is shared: nothing here is atomic.
 */
#include "config/snapshot_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int config_set_resolvers(struct config_snapshot *snapshot, const struct config_resolver *resolvers, size_t count)
{
    if (count > RESOLVERS_MAX)
        return -E2BIG;
    memcpy(snapshot->resolvers, resolvers, count * sizeof(*resolvers));
    snapshot->resolver_count = count;
    return 0;
}

int config_allow_destination(struct config_snapshot *snapshot, const struct cidr *network)
{
    if (snapshot->destination_count >= DESTINATIONS_MAX)
        return -E2BIG;
    struct cidr *larger =
        realloc(snapshot->destinations, (snapshot->destination_count + 1) * sizeof(*larger));
    if (!larger)
        return -ENOMEM;
    larger[snapshot->destination_count++] = *network;
    snapshot->destinations = larger;
    return 0;
}
