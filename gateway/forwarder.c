/*
 * Two hash tables with the same key, (type, name): what is kept, and what is on its way. An answer that has
 * expired is found out when it is asked for, or when it is the least recently used; there are no timers.
 * Hashes are seeded: names come from clients.
 */
#include "gateway/forwarder.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define FIRST_BUCKETS 256
#define MESSAGE_MAX 65535
#define HOST_MESSAGE_MAX 2560 /* a header, a name, and DNS_ADDRESSES_MAX short records */

/* ---- the table ---- */

struct key {
    struct key *next;
    uint32_t hash;
    uint16_t type;
    uint16_t length;
    const char *name;
};

struct table {
    struct key **buckets;
    size_t bucket_count, used; /* the count is a power of two */
    uint64_t seed;
};

static int table_init(struct table *t)
{
    if (getrandom(&t->seed, sizeof(t->seed), 0) < 0)
        return -errno;
    t->buckets = calloc(FIRST_BUCKETS, sizeof(*t->buckets));
    t->bucket_count = FIRST_BUCKETS;
    return t->buckets ? 0 : -ENOMEM;
}

static uint32_t hash_key(const struct table *t, const char *name, size_t length, uint16_t type)
{
    uint64_t h = t->seed ^ type;
    for (size_t i = 0; i < length; i++)
        h = (h ^ (uint8_t)name[i]) * 0x100000001b3u;
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32);
}

static struct key *table_find(const struct table *t, const char *name, size_t length, uint16_t type)
{
    uint32_t hash = hash_key(t, name, length, type);
    struct key *key = t->buckets[hash & (t->bucket_count - 1)];
    while (key && (key->hash != hash || key->type != type || key->length != length ||
                   memcmp(key->name, name, length)))
        key = key->next;
    return key;
}

static void table_grow(struct table *t)
{
    size_t count = t->bucket_count * 2;
    struct key **buckets = calloc(count, sizeof(*buckets));
    if (!buckets)
        return; /* chains get longer, that is all */
    for (size_t i = 0; i < t->bucket_count; i++)
        for (struct key *key = t->buckets[i], *next; key; key = next) {
            next = key->next;
            key->next = buckets[key->hash & (count - 1)];
            buckets[key->hash & (count - 1)] = key;
        }
    free(t->buckets);
    t->buckets = buckets;
    t->bucket_count = count;
}

/* `name` must live as long as the key. */
static void table_add(struct table *t, struct key *key, const char *name, size_t length, uint16_t type)
{
    if (t->used++ >= t->bucket_count)
        table_grow(t);
    *key = (struct key){
        .hash = hash_key(t, name, length, type), .type = type, .length = (uint16_t)length, .name = name};
    struct key **bucket = &t->buckets[key->hash & (t->bucket_count - 1)];
    key->next = *bucket;
    *bucket = key;
}

static void table_remove(struct table *t, struct key *key)
{
    struct key **at = &t->buckets[key->hash & (t->bucket_count - 1)];
    while (*at != key)
        at = &(*at)->next;
    *at = key->next;
    t->used--;
}

/* ---- what is kept ---- */

struct kept {
    struct key key;
    struct list by_use;
    uint64_t came_ms, expires_ms, remembered_ms;
    size_t size, length; /* of all this; of the message */
    uint32_t ttl;
    int status;
    bool lies;
    uint8_t rcode, address_count;
    struct addr addresses[]; /* then the name, then the message */
};

struct pending {
    struct key key;
    struct list waiters;
    struct forwarder *forwarder;
    struct resolver_exchange *exchange;
    char name[ACL_NAME_MAX + 1];
};

struct forwarder {
    uv_loop_t *loop;
    struct poller *poller;
    struct resolver *resolver;
    struct config_snapshot *const *snapshot; /* the current one */
    struct deadline_queue patience;
    struct table kept, pending;
    struct list by_use; /* longest unused first */
    size_t kept_bytes;
    /* Apart from `scratch`: who is given an answer may ask again before the next is given the same. */
    struct addr host_addresses[DNS_ADDRESSES_MAX];
    uint8_t host_message[HOST_MESSAGE_MAX];
    uint8_t scratch[MESSAGE_MAX];
};

static char *kept_name(struct kept *k)
{
    return (char *)(k->addresses + k->address_count);
}

static uint8_t *kept_message(struct kept *k)
{
    return (uint8_t *)kept_name(k) + k->key.length;
}

static void kept_drop(struct forwarder *f, struct kept *k)
{
    table_remove(&f->kept, &k->key);
    list_remove(&k->by_use);
    f->kept_bytes -= k->size;
    free(k);
}

static struct kept *kept_find(struct forwarder *f, const char *name, size_t length, uint16_t type)
{
    struct key *key = table_find(&f->kept, name, length, type);
    struct kept *k = key ? list_entry(key, struct kept, key) : NULL;
    if (!k || k->expires_ms > uv_now(f->loop))
        return k;
    kept_drop(f, k);
    return NULL;
}

static void keep(struct forwarder *f, const char *name, size_t length, uint16_t type,
                 const struct forwarder_answer *a, uint64_t for_ms)
{
    size_t addresses = a->address_count * sizeof(*a->addresses);
    size_t size = sizeof(struct kept) + addresses + length + a->length;
    struct kept *k = kept_find(f, name, length, type);
    if (k)
        kept_drop(f, k);
    while (f->kept_bytes + size > FORWARDER_KEPT_BYTES && !list_empty(&f->by_use))
        kept_drop(f, list_entry(f->by_use.next, struct kept, by_use));
    if (!(k = malloc(size)))
        return;
    *k = (struct kept){.size = size,
                       .length = a->length,
                       .ttl = a->ttl,
                       .status = a->status,
                       .lies = a->lies,
                       .rcode = (uint8_t)a->rcode,
                       .address_count = (uint8_t)a->address_count,
                       .came_ms = uv_now(f->loop)};
    k->expires_ms = k->came_ms + for_ms;
    if (addresses)
        memcpy(k->addresses, a->addresses, addresses);
    memcpy(kept_name(k), name, length);
    table_add(&f->kept, &k->key, kept_name(k), length, type);
    if (a->length)
        memcpy(kept_message(k), a->message, a->length);
    list_append(&f->by_use, &k->by_use);
    f->kept_bytes += size;
}

static void kept_use(struct forwarder *f, struct kept *k, struct forwarder_answer *ret)
{
    uint32_t age = (uint32_t)((uv_now(f->loop) - k->came_ms) / 1000);
    list_remove(&k->by_use);
    list_append(&f->by_use, &k->by_use);
    *ret = (struct forwarder_answer){.status = k->status,
                                     .lies = k->lies,
                                     .rcode = k->rcode,
                                     .message = kept_message(k),
                                     .length = k->length,
                                     .age = age,
                                     .ttl = k->ttl > age ? k->ttl - age : 0,
                                     .addresses = k->addresses,
                                     .address_count = k->address_count,
                                     .remembered_ms = &k->remembered_ms};
}

/* ---- what is on its way ---- */

static struct pending *pending_find(struct forwarder *f, const char *name, size_t length, uint16_t type)
{
    struct key *key = table_find(&f->pending, name, length, type);
    return key ? list_entry(key, struct pending, key) : NULL;
}

/* Everybody who waits gets the answer; a callback may ask again, or cancel others. */
static void pending_end(struct pending *p, const struct forwarder_answer *answer)
{
    struct list waiters;
    table_remove(&p->forwarder->pending, &p->key);
    list_init(&waiters);
    while (!list_empty(&p->waiters)) {
        struct list *link = p->waiters.next;
        list_remove(link);
        list_append(&waiters, link);
    }
    while (!list_empty(&waiters)) {
        struct forwarder_waiter *waiter = list_entry(waiters.next, struct forwarder_waiter, link);
        list_remove(&waiter->link);
        waiter->answered(waiter, answer);
    }
    free(p);
}

static void answer_judge(const struct pending *p, int status, const uint8_t *bytes, size_t length,
                         struct dns_answer *facts, struct forwarder_answer *ret)
{
    struct forwarder *f = p->forwarder;
    *ret = (struct forwarder_answer){.status = status};
    if (status < 0)
        return;
    ssize_t distilled =
        dns_answer_distil(bytes, length, p->name, p->key.type, facts, f->scratch, sizeof(f->scratch));
    ret->lies = facts->foreign_addresses;
    ret->status = ret->lies || distilled < 0 ? -EBADMSG : 0;
    if (ret->status < 0)
        return;
    ret->rcode = facts->rcode;
    ret->message = f->scratch;
    ret->length = (size_t)distilled;
    ret->ttl = facts->ttl;
    ret->addresses = facts->addresses;
    ret->address_count = facts->address_count;
}

static void on_answered(void *arg, int status, uint8_t *bytes, size_t length, const struct dns_answer *parsed)
{
    struct pending *p = arg;
    struct forwarder *f = p->forwarder;
    struct dns_answer facts = {0};
    struct forwarder_answer answer;
    if (parsed)
        facts = *parsed;
    answer_judge(p, status, bytes, length, &facts, &answer);
    bool failed = answer.status < 0 || (facts.rcode != DNS_NOERROR && facts.rcode != DNS_NXDOMAIN);
    uint64_t for_ms = failed ? FORWARDER_FAILURE_MS : facts.keep_s * 1000ull;
    if (for_ms)
        keep(f, p->name, p->key.length, p->key.type, &answer, for_ms);
    pending_end(p, &answer);
}

static struct pending *pending_start(struct forwarder *f, const char *name, size_t length, uint16_t type)
{
    struct pending *p = length <= ACL_NAME_MAX ? calloc(1, sizeof(*p)) : NULL;
    if (!p)
        return NULL;
    p->forwarder = f;
    list_init(&p->waiters);
    memcpy(p->name, name, length);
    p->exchange = resolver_ask(f->resolver, p->name, type, true, on_answered, p);
    if (!p->exchange) {
        free(p);
        return NULL;
    }
    table_add(&f->pending, &p->key, p->name, length, type);
    return p;
}

/* ---- asking ---- */

void forwarder_waiter_init(struct forwarder_waiter *waiter,
                           void (*answered)(struct forwarder_waiter *waiter,
                                            const struct forwarder_answer *answer))
{
    list_init(&waiter->link);
    waiter->answered = answered;
}

void forwarder_cancel(struct forwarder_waiter *waiter)
{
    list_remove(&waiter->link);
}

static bool ask_hosts(struct forwarder *f, const char *name, size_t length, uint16_t type,
                      struct forwarder_answer *ret)
{
    size_t count, matching = 0;
    const struct addr *addresses = config_host(*f->snapshot, name, length, &count);
    uint8_t family = type == DNS_TYPE_A ? AF_INET : type == DNS_TYPE_AAAA ? AF_INET6 : AF_UNSPEC;
    if (!addresses)
        return false;
    for (size_t i = 0; i < count && matching < DNS_ADDRESSES_MAX; i++)
        if (addresses[i].family == family)
            f->host_addresses[matching++] = addresses[i];
    char text[ACL_NAME_MAX + 1];
    memcpy(text, name, length);
    text[length] = 0;
    ssize_t written = dns_answer_compose(text, type, f->host_addresses, matching, FORWARDER_HOSTS_TTL_S,
                                         f->host_message, sizeof(f->host_message));
    *ret = (struct forwarder_answer){.status = written < 0 ? (int)written : 0,
                                     .message = f->host_message,
                                     .length = written < 0 ? 0 : (size_t)written,
                                     .ttl = FORWARDER_HOSTS_TTL_S,
                                     .addresses = f->host_addresses,
                                     .address_count = matching};
    return true;
}

bool forwarder_find(struct forwarder *f, const char *name, size_t length, uint16_t type,
                    struct forwarder_answer *ret)
{
    if (ask_hosts(f, name, length, type, ret))
        return true;
    struct kept *k = kept_find(f, name, length, type);
    if (k)
        kept_use(f, k, ret);
    return k != NULL;
}

int forwarder_wait(struct forwarder *f, const char *name, size_t length, uint16_t type,
                   struct forwarder_waiter *waiter)
{
    struct pending *p = pending_find(f, name, length, type);
    bool sent = !p;
    if (!p)
        p = pending_start(f, name, length, type);
    if (!p)
        return -ENOBUFS;
    list_append(&p->waiters, &waiter->link);
    return sent;
}

size_t forwarder_kept(const struct forwarder *f, size_t *ret_count)
{
    *ret_count = f->kept.used;
    return f->kept_bytes + f->kept.bucket_count * sizeof(*f->kept.buckets);
}

/* ---- A and AAAA together ---- */

struct lookup {
    struct forwarder *forwarder;
    lookup_fn done;
    void *arg;
    struct forwarder_waiter waiters[2]; /* A, AAAA */
    bool answered[2];
    int status[2];
    struct deadline patience;
    struct poll_handle later; /* an answer that was there at once is given in the next turn */
    struct lookup_addresses found;
};

static void lookup_end(struct lookup *lookup)
{
    int status = 0;
    if (lookup->found.count == 0)
        status = lookup->status[0] ? lookup->status[0] : lookup->status[1] ? lookup->status[1] : -ENOENT;
    lookup->done(lookup->arg, status, &lookup->found);
    lookup_cancel(lookup);
}

static void lookup_take(struct lookup *lookup, int which, const struct forwarder_answer *a)
{
    struct lookup_addresses *found = &lookup->found;
    lookup->answered[which] = true;
    lookup->status[which] = a->status;
    if (a->status == 0 && a->rcode != DNS_NOERROR && a->rcode != DNS_NXDOMAIN)
        lookup->status[which] = -EREMOTEIO;
    if (lookup->status[which] < 0 || a->rcode == DNS_NXDOMAIN)
        return;
    if (a->address_count && (found->count == 0 || a->ttl < found->ttl))
        found->ttl = a->ttl;
    if (a->address_count)
        memcpy(found->addresses + found->count, a->addresses, a->address_count * sizeof(*a->addresses));
    found->count += a->address_count;
}

static void lookup_answered(struct lookup *lookup, int which, const struct forwarder_answer *answer)
{
    lookup_take(lookup, which, answer);
    if (lookup->answered[0] && lookup->answered[1])
        lookup_end(lookup);
    else if (lookup->found.count)
        deadline_start(&lookup->forwarder->patience, &lookup->patience);
}

static void on_a(struct forwarder_waiter *waiter, const struct forwarder_answer *answer)
{
    lookup_answered(list_entry(waiter, struct lookup, waiters[0]), 0, answer);
}

static void on_aaaa(struct forwarder_waiter *waiter, const struct forwarder_answer *answer)
{
    lookup_answered(list_entry(waiter, struct lookup, waiters[1]), 1, answer);
}

static void on_patience_over(struct deadline *deadline)
{
    lookup_end(list_entry(deadline, struct lookup, patience));
}

static void on_later(struct poll_handle *handle, uint32_t events)
{
    (void)events;
    lookup_end(list_entry(handle, struct lookup, later));
}

struct lookup *lookup_start(struct forwarder *f, const char *name, lookup_fn done, void *arg)
{
    static const uint16_t types[2] = {DNS_TYPE_A, DNS_TYPE_AAAA};
    struct lookup *lookup = calloc(1, sizeof(*lookup));
    if (!lookup)
        return NULL;
    lookup->forwarder = f;
    lookup->done = done;
    lookup->arg = arg;
    deadline_init(&lookup->patience);
    poll_handle_init(&lookup->later, on_later);
    forwarder_waiter_init(&lookup->waiters[0], on_a);
    forwarder_waiter_init(&lookup->waiters[1], on_aaaa);
    for (int i = 0; i < 2; i++) {
        struct forwarder_answer answer;
        if (forwarder_find(f, name, strlen(name), types[i], &answer)) {
            lookup_take(lookup, i, &answer);
        } else if (forwarder_wait(f, name, strlen(name), types[i], &lookup->waiters[i]) < 0) {
            lookup_cancel(lookup);
            return NULL;
        }
    }
    if (lookup->answered[0] && lookup->answered[1])
        poller_again(f->poller, &lookup->later);
    else if (lookup->found.count)
        deadline_start(&f->patience, &lookup->patience);
    return lookup;
}

void lookup_cancel(struct lookup *lookup)
{
    if (!lookup)
        return;
    forwarder_cancel(&lookup->waiters[0]);
    forwarder_cancel(&lookup->waiters[1]);
    deadline_stop(&lookup->patience);
    poller_remove(lookup->forwarder->poller, &lookup->later);
    free(lookup);
}

/* ---- life ---- */

struct forwarder *forwarder_create(uv_loop_t *loop, struct poller *poller, struct resolver *resolver,
                                   struct config_snapshot *const *snapshot)
{
    struct forwarder *f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    if (table_init(&f->kept) < 0 || table_init(&f->pending) < 0) {
        free(f->kept.buckets);
        free(f->pending.buckets);
        free(f);
        return NULL;
    }
    f->loop = loop;
    f->poller = poller;
    f->resolver = resolver;
    f->snapshot = snapshot;
    list_init(&f->by_use);
    deadline_queue_init(&f->patience, loop, LOOKUP_PATIENCE_MS, on_patience_over);
    return f;
}

static void on_closed(uv_handle_t *timer)
{
    free(timer->data);
}

void forwarder_destroy(struct forwarder *f)
{
    if (!f)
        return;
    while (!list_empty(&f->by_use))
        kept_drop(f, list_entry(f->by_use.next, struct kept, by_use));
    for (size_t i = 0; i < f->pending.bucket_count; i++)
        while (f->pending.buckets[i]) {
            struct pending *p = list_entry(f->pending.buckets[i], struct pending, key);
            resolver_cancel(p->exchange);
            table_remove(&f->pending, &p->key);
            free(p);
        }
    free(f->kept.buckets);
    free(f->pending.buckets);
    f->patience.timer.data = f;
    uv_close((uv_handle_t *)&f->patience.timer, on_closed);
}
