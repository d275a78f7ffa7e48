#include "config/snapshot_internal.h"
#include "config/profiles.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct config_snapshot *snapshot_create(void)
{
    struct config_snapshot *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    atomic_init(&s->references, 1);
    s->workers = 1;
    s->limits = (struct config_limits){
        .hello_timeout_ms = 10000,
        .connect_timeout_ms = 15000,
        .idle_timeout_ms = 3600000,
        .udp_idle_timeout_ms = 180000,
        .half_close_timeout_ms = 300000,
        .flows_per_container = 2048,
        .flows_total = 8192,
        .flows_per_second = 1000,
        .dns_queries_per_second = 200,
    };
    return s;
}

static void destroy(struct config_snapshot *s)
{
    if (s->derivation) {
        derivation_finish(s);
        return;
    }
    for (size_t i = 0; i < s->policy_count; i++)
        acl_policy_destroy(s->policies[i]);
    for (size_t i = 0; i < s->assignment_count; i++)
        free(s->assignments[i].container);
    for (size_t i = 0; i < s->warning_count; i++)
        free(s->warnings[i]);
    for (size_t i = 0; i < s->host_count; i++)
        free(s->hosts[i].addresses);
    free(s->hosts);
    for (size_t i = 0; i < s->network_count; i++)
        free(s->networks[i].subnets);
    free(s->networks);
    free(s->policies);
    free(s->own);
    free(s->parents);
    free(s->assignments);
    free(s->warnings);
    free(s->authorities);
    free(s->admin.certificate);
    if (s->admin.key)
        explicit_bzero(s->admin.key, s->admin.key_length);
    free(s->admin.key);
    free(s->admin.client_authorities);
    free(s->audit_file);
    free(s->destinations);
    free(s);
}

struct config_snapshot *config_ref(struct config_snapshot *snapshot)
{
    atomic_fetch_add_explicit(&snapshot->references, 1, memory_order_relaxed);
    return snapshot;
}

void config_unref(struct config_snapshot *snapshot)
{
    if (snapshot && atomic_fetch_sub_explicit(&snapshot->references, 1, memory_order_acq_rel) == 1)
        destroy(snapshot);
}

static void *unref(void *snapshot)
{
    config_unref(snapshot);
    return NULL;
}

/* The address sanitizer's allocator, unlike the C library's, does not survive a fork while another thread is in it. */
#ifdef SALLYPORT_SANITIZED
#define FREE_ASIDE false
#else
#define FREE_ASIDE true
#endif

void config_unref_aside(struct config_snapshot *snapshot)
{
    pthread_t thread;
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    if (!FREE_ASIDE || !snapshot || derivation_is_light(snapshot) || pthread_create(&thread, &detached, unref, snapshot) != 0)
        config_unref(snapshot);
    pthread_attr_destroy(&detached);
}

static int compare_name(const void *name, const void *policy)
{
    return strcmp(name, acl_policy_name(*(struct acl_policy *const *)policy));
}

const struct acl_policy *config_policy(const struct config_snapshot *snapshot, const char *name)
{
    const struct profile *profile = profile_find(name);
    struct acl_policy **found = bsearch(profile ? profile->name : name, snapshot->policies,
                                        snapshot->policy_count, sizeof(*snapshot->policies), compare_name);
    return found ? *found : NULL;
}

/* "*" is any run of characters, "?" any one. Goes back only to the last star: the cost is bounded by the
 * product of the lengths, whatever the pattern. */
static bool glob_matches(const char *pattern, const char *text)
{
    const char *star = NULL, *resume = NULL;
    while (*text) {
        if (*pattern == '*') {
            star = ++pattern;
            resume = text;
        } else if (*pattern == '?' || *pattern == *text) {
            pattern++;
            text++;
        } else if (star) {
            pattern = star;
            text = ++resume;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == 0;
}

static bool assignment_matches(const struct assignment *a, const char *container_name,
                               const struct addr *source)
{
    if (a->container && (!container_name || !glob_matches(a->container, container_name)))
        return false;
    return !a->has_subnet || (source && cidr_contains(&a->subnet, source));
}

const struct acl_policy *config_assign(const struct config_snapshot *snapshot, const char *container_name,
                                       const struct addr *source)
{
    for (size_t i = 0; i < snapshot->assignment_count; i++)
        if (assignment_matches(&snapshot->assignments[i], container_name, source))
            return snapshot->assignments[i].policy;
    return snapshot->fallback;
}

const struct acl_policy *config_policy_for(const struct config_snapshot *snapshot, const char *asked,
                                           const char *container_name)
{
    const struct acl_policy *policy;
    if (!*asked)
        return config_assign(snapshot, container_name, NULL);
    policy = config_policy(snapshot, asked);
    return policy ? policy : config_policy(snapshot, "deny");
}

const struct config_network *config_networks(const struct config_snapshot *snapshot, size_t *ret_count)
{
    *ret_count = snapshot->network_count;
    return snapshot->networks;
}

const struct config_network *config_network(const struct config_snapshot *snapshot, const char *name)
{
    for (size_t i = 0; i < snapshot->network_count; i++)
        if (!strcmp(snapshot->networks[i].name, name))
            return &snapshot->networks[i];
    return NULL;
}

const struct acl_policy *config_network_policy(const struct config_snapshot *snapshot, const char *name,
                                               const struct addr *source)
{
    const struct config_network *network = config_network(snapshot, name);
    if (!network)
        return config_policy(snapshot, "deny");
    if (!network->policy)
        return config_assign(snapshot, NULL, source);
    return config_policy(snapshot, acl_policy_name(network->policy)); /* in this snapshot it may have changes of its own */
}

const char *config_only_policy(const struct config_snapshot *snapshot)
{
    return snapshot->own_count == 1 ? acl_policy_name(snapshot->own[0]) : NULL;
}

void config_each_policy(const struct config_snapshot *snapshot,
                        void (*each)(const struct acl_policy *policy, void *arg), void *arg)
{
    for (size_t i = 0; i < snapshot->own_count; i++)
        each(snapshot->own[i], arg);
}

const struct config_resolver *config_resolvers(const struct config_snapshot *snapshot, size_t *ret_count)
{
    *ret_count = snapshot->resolver_count;
    return snapshot->resolvers;
}

struct host_key {
    const char *name;
    size_t length;
};

static int compare_host(const void *wanted, const void *host)
{
    const struct host_key *key = wanted;
    const struct host *h = host;
    int order = strncmp(key->name, h->name, key->length);
    return order ? order : h->name[key->length] ? -1 : 0;
}

const struct addr *config_host(const struct config_snapshot *snapshot, const char *name, size_t length,
                               size_t *ret_count)
{
    const struct host_key key = {name, length};
    const struct host *found = snapshot->host_count ? bsearch(&key, snapshot->hosts, snapshot->host_count,
                                                              sizeof(*snapshot->hosts), compare_host)
                                                    : NULL;
    *ret_count = found ? found->count : 0;
    return found ? found->addresses : NULL;
}

const struct config_upstream *config_upstream(const struct config_snapshot *snapshot)
{
    return &snapshot->upstream;
}

const struct config_admin *config_admin(const struct config_snapshot *snapshot)
{
    return &snapshot->admin;
}

const char *config_authorities(const struct config_snapshot *snapshot, size_t *ret_length)
{
    *ret_length = snapshot->authorities_length;
    return snapshot->authorities;
}

enum config_ocsp config_ocsp(const struct config_snapshot *snapshot)
{
    return snapshot->ocsp;
}

const char *config_audit_file(const struct config_snapshot *snapshot)
{
    return snapshot->audit_file;
}

unsigned config_workers(const struct config_snapshot *snapshot)
{
    return snapshot->workers;
}

bool config_watch(const struct config_snapshot *snapshot)
{
    return snapshot->watch;
}

enum config_on_full config_on_full(const struct config_snapshot *snapshot)
{
    return snapshot->on_full;
}

const struct config_limits *config_limits(const struct config_snapshot *snapshot)
{
    return &snapshot->limits;
}

void config_each_assignment(const struct config_snapshot *snapshot,
                            void (*each)(const char *container, const struct cidr *subnet,
                                         const struct acl_policy *policy, void *arg),
                            void *arg)
{
    for (size_t i = 0; i < snapshot->assignment_count; i++) {
        const struct assignment *a = &snapshot->assignments[i];
        each(a->container, a->has_subnet ? &a->subnet : NULL, a->policy, arg);
    }
}

const struct cidr *config_destinations(const struct config_snapshot *snapshot, size_t *ret_count)
{
    *ret_count = snapshot->destination_count;
    return snapshot->destinations;
}

bool config_destination_allowed(const struct config_snapshot *snapshot, const struct addr *a)
{
    for (size_t i = 0; i < snapshot->destination_count; i++)
        if (cidr_contains(&snapshot->destinations[i], a))
            return true;
    return false;
}

bool config_destination_named(const struct config_snapshot *snapshot, const struct addr *a)
{
    for (size_t i = 0; i < snapshot->destination_count; i++)
        if (addr_equal_ip(&snapshot->destinations[i].base, a) && snapshot->destinations[i].length == (a->family == AF_INET ? 32 : 128))
            return true;
    return false;
}

const char *config_version(const struct config_snapshot *snapshot)
{
    return snapshot->version;
}

const char *const *config_warnings(const struct config_snapshot *snapshot, size_t *ret_count)
{
    *ret_count = snapshot->warning_count;
    return (const char *const *)snapshot->warnings;
}
