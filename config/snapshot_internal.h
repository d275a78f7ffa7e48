/*
 * What a snapshot is made of; filled by a load, read-only once that is over.
 */
#pragma once

#include "config/snapshot.h"

#include <stdatomic.h>

#define RESOLVERS_MAX 8
#define HOSTS_MAX 10000
#define HOST_ADDRESSES_MAX 16
#define DESTINATIONS_MAX 1024 /* each flow looks through them */

struct assignment {
    char *container; /* glob, or NULL: any */
    bool has_subnet;
    struct cidr subnet;
    const struct acl_policy *policy;
};

/* An entry of gateway.hosts. */
struct host {
    char name[ACL_NAME_MAX + 1]; /* normal form */
    struct addr *addresses;
    size_t count;
};

struct config_snapshot {
    atomic_uint references;
    struct derivation *derivation; /* run-time changes (derive.c): the rest is shared, all but policies, own, assignments; or NULL */
    struct acl_policy **policies; /* sorted by name: own, built-in, and "deny" */
    size_t policy_count;
    const struct acl_policy **own; /* the file's, in the order written */
    const struct acl_policy **parents; /* beside them: what each extends, or NULL */
    size_t own_count;
    struct assignment *assignments;
    size_t assignment_count;
    const struct acl_policy *fallback;

    struct config_network *networks;
    size_t network_count;

    struct config_resolver resolvers[RESOLVERS_MAX];
    size_t resolver_count;
    struct host *hosts; /* sorted by name */
    size_t host_count;
    struct config_upstream upstream;
    char *authorities; /* PEM */
    size_t authorities_length;
    enum config_ocsp ocsp;
    struct config_admin admin;
    char *audit_file;
    enum config_on_full on_full;
    bool watch;
    unsigned workers; /* 0: auto */
    struct config_limits limits;
    struct cidr *destinations;
    size_t destination_count;

    uint64_t hash; /* of all that was read; the version is made from it */
    char version[13];
    char **warnings;
    size_t warning_count;
};

/* Empty, with every default; one reference. NULL when out of memory. */
struct config_snapshot *snapshot_create(void);
/* The end of a derived one. */
void derivation_finish(struct config_snapshot *snapshot);
/* A derived one whose file somebody else uses as well: freeing it costs nothing worth mentioning. */
bool derivation_is_light(const struct config_snapshot *snapshot);
