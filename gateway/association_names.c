/*
 * A destination that no rule names, and whose name nobody looked up here lately: may it be a name's of the policy? An NTP client
 * looks its servers up when it starts, and uses the addresses for weeks; a worker that took another one's place has no memory. So
 * the names that rules for this port name are looked up (those without a wildcard, which nobody can look up), mostly from what is
 * kept, and the association is judged again. What the container sends meanwhile is lost but for its first packet.
 */
#include "gateway/association_internal.h"

#include <stdlib.h>
#include <string.h>

#define NAMES_MAX 8
#define HELD_MAX 2048 /* of the first packet's payload */

struct name_lookup {
    struct name_search *search;
    struct lookup *lookup; /* NULL: done */
    char name[ACL_NAME_MAX + 1];
};

struct name_search {
    struct association *association;
    unsigned open;
    struct name_lookup lookups[NAMES_MAX];
    bool holds;
    struct datagram first;
    uint8_t held[HELD_MAX];
};

void association_search_cancel(struct association *a)
{
    for (size_t i = 0; a->search && i < NAMES_MAX; i++)
        lookup_cancel(a->search->lookups[i].lookup);
    free(a->search);
    a->search = NULL;
}

void association_hold(struct association *a, const struct datagram *d)
{
    struct name_search *search = a->search;
    if (search->holds || d->length > HELD_MAX)
        return;
    search->first = *d;
    search->first.payload = search->held;
    if (d->length)
        memcpy(search->held, d->payload, d->length);
    search->holds = true;
}

static void decide(struct association *a)
{
    struct name_search *search = a->search;
    a->search = NULL;
    if (association_open(a))
        association_keep(a);
    if (search->holds)
        association_take(a, &search->first);
    free(search);
}

static void on_found(void *arg, int status, const struct lookup_addresses *found)
{
    struct name_lookup *lookup = arg;
    struct name_search *search = lookup->search;
    struct association *a = search->association;
    struct worker *w = association_worker(a);
    lookup->lookup = NULL;
    for (size_t i = 0; status == 0 && i < found->count; i++)
        if (addr_equal_ip(&found->addresses[i], &a->destination))
            namebook_learn(w->names, lookup->name, strlen(lookup->name), &found->addresses[i], found->ttl,
                           uv_now(&w->loop));
    if (--search->open == 0)
        decide(a);
}

bool association_search(struct association *a)
{
    char names[NAMES_MAX][ACL_NAME_MAX + 1];
    size_t count = acl_policy_packet_names(a->policy, a->protocol, a->destination.port, names, NAMES_MAX);
    struct name_search *search = count ? calloc(1, sizeof(*search)) : NULL;
    if (!search)
        return false;
    search->association = a;
    for (size_t i = 0; i < count; i++) {
        struct name_lookup *lookup = &search->lookups[i];
        lookup->search = search;
        memcpy(lookup->name, names[i], sizeof(lookup->name));
        lookup->lookup = lookup_start(association_worker(a)->forwarder, lookup->name, on_found, lookup);
        search->open += lookup->lookup != NULL;
    }
    if (search->open == 0) {
        free(search);
        return false;
    }
    a->search = search;
    return true;
}
