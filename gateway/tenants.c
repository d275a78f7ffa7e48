/*
 * Hashes are seeded: a container chooses its source address, as far as the network lets it.
 */
#include "gateway/tenants.h"

#include "base/secret_hash.h"

#include <stdlib.h>
#include <string.h>

struct tenant {
    struct capture capture;
    struct tenants *in;
    struct list by_use; /* the one used last is at the end */
    struct deadline idle;
    UT_hash_handle hh;
};

struct tenants {
    struct capture *network;
    struct tenant *by_address;
    struct list by_use;
    unsigned count;
};

struct tenants *tenants_create(struct capture *network)
{
    struct tenants *tenants = calloc(1, sizeof(*tenants));
    if (!tenants)
        return NULL;
    tenants->network = network;
    list_init(&tenants->by_use);
    return tenants;
}

static bool is_busy(const struct tenant *tenant)
{
    return tenant->capture.flows || tenant->capture.dns_connections || tenant->capture.dns_waiting;
}

static void tenant_destroy(struct tenant *tenant)
{
    struct tenants *tenants = tenant->in;
    capture_tell_left_out(&tenant->capture);
    HASH_DELETE(hh, tenants->by_address, tenant);
    list_remove(&tenant->by_use);
    deadline_stop(&tenant->idle);
    tenants->count--;
    free(tenant);
}

void tenants_destroy(struct tenants *tenants)
{
    while (tenants && !list_empty(&tenants->by_use))
        tenant_destroy(list_entry(tenants->by_use.next, struct tenant, by_use));
    free(tenants);
}

/* The port is no part of the key. */
static struct tenant *find(const struct tenants *tenants, const struct addr *source)
{
    struct addr key = *source;
    struct tenant *tenant;
    key.port = 0;
    HASH_FIND(hh, tenants->by_address, &key, sizeof(key), tenant);
    return tenant;
}

struct capture *tenants_find(const struct tenants *tenants, const struct addr *source)
{
    struct tenant *tenant = find(tenants, source);
    return tenant ? &tenant->capture : NULL;
}

/* The busy ones on the way are put behind: they are in use. */
static bool make_room(struct tenants *tenants)
{
    for (unsigned tries = tenants->count; tenants->count >= TENANTS_MAX && tries > 0; tries--) {
        struct tenant *oldest = list_entry(tenants->by_use.next, struct tenant, by_use);
        if (!is_busy(oldest)) {
            tenant_destroy(oldest);
            continue;
        }
        list_remove(&oldest->by_use);
        list_append(&tenants->by_use, &oldest->by_use);
    }
    return tenants->count < TENANTS_MAX;
}

static struct tenant *create(struct tenants *tenants, const struct addr *source)
{
    struct capture *network = tenants->network;
    struct worker *w = network->worker;
    struct tenant *tenant = make_room(tenants) ? calloc(1, sizeof(*tenant)) : NULL;
    if (!tenant)
        return NULL;
    tenant->in = tenants;
    tenant->capture.worker = w;
    tenant->capture.network = network;
    tenant->capture.source = *source;
    tenant->capture.source.port = 0;
    memcpy(tenant->capture.name, network->name, sizeof(tenant->capture.name));
    tenant->capture.policy = config_network_policy(w->snapshot, network->name, &tenant->capture.source);
    list_init(&tenant->capture.link);
    list_init(&tenant->by_use);
    deadline_init(&tenant->idle);
    HASH_ADD(hh, tenants->by_address, capture.source, sizeof(struct addr), tenant);
    if (!tenant->hh.tbl) { /* uthash could not grow */
        free(tenant);
        return NULL;
    }
    tenants->count++;
    return tenant;
}

struct capture *tenants_get(struct tenants *tenants, const struct addr *source)
{
    struct tenant *tenant = find(tenants, source);
    if (!tenant)
        tenant = create(tenants, source);
    if (!tenant)
        return NULL;
    list_remove(&tenant->by_use);
    list_append(&tenants->by_use, &tenant->by_use);
    deadline_start(&tenants->network->worker->tenant_timeouts, &tenant->idle);
    return &tenant->capture;
}

void tenants_each(struct tenants *tenants, void (*each)(struct capture *tenant))
{
    for (struct list *link = tenants->by_use.next, *next; link != &tenants->by_use; link = next) {
        next = link->next;
        each(&list_entry(link, struct tenant, by_use)->capture);
    }
}

void tenants_expired(struct deadline *deadline)
{
    struct tenant *tenant = list_entry(deadline, struct tenant, idle);
    if (is_busy(tenant))
        deadline_start(&tenant->capture.worker->tenant_timeouts, &tenant->idle);
    else
        tenant_destroy(tenant);
}
