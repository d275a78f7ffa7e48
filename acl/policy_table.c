/*
 * From names and networks to rules: one hash table.
 *
 * Names are keyed by suffix. The hash runs from the right end of a name, label by label, so one pass over
 * "a.b.example.com" yields the hashes of "com", "example.com", "b.example.com" (asked for as wildcards) and
 * of the whole (asked for as exact): a look-up costs the labels of the name, whatever the number of rules.
 * Which depths have wildcards at all is remembered, so a policy without "*.com" never asks for "com".
 *
 * Networks live in the same table, keyed by prefix length and masked address: one question for each prefix
 * length that occurs (at most 33 or 129), longest first. "*" and ":port" rules have no key; each kind has a
 * chain of its own.
 *
 * Several rules of one key hang in a chain. Sealing drops repeated ones from it, so a name listed a thousand
 * times costs a look-up no more than one. What is left in a chain differs in scheme or ports; it is walked.
 *
 * The hash is keyed at random for each policy: names come from clients and block lists from strangers, and
 * neither may choose who shares a probe sequence.
 */
#include "acl/policy_internal.h"
#include "acl/huge.h"
#include "base/sip.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define SLOTS_MIN 16

/* sip_label() reads whole words. */
struct padded_name {
    char text[ACL_NAME_MAX + 1 + 8];
};

static void pad_name(const char *name, size_t length, struct padded_name *ret)
{
    memcpy(ret->text, name, length);
    memset(ret->text + length, 0, 8);
}

/* The start of the last label of name[0..end). */
static size_t label_start(const char *name, size_t end)
{
    while (end > 0 && name[end - 1] != '.')
        end--;
    return end;
}

static uint32_t hash_name(const struct acl_policy *policy, enum key_kind kind, const char *name,
                          size_t length)
{
    struct padded_name padded;
    struct sip s = sip_begin(policy->hash_key);
    pad_name(name, length, &padded);
    for (size_t end = length, start;; end = start - 1) {
        start = label_start(padded.text, end);
        sip_label(&s, padded.text + start, end - start);
        if (start == 0)
            return sip_end(s, kind);
    }
}

static uint32_t hash_net(const struct acl_policy *policy, enum key_kind kind, const uint8_t *key,
                         size_t length)
{
    char padded[NET_KEY_MAX + 8] = {0};
    struct sip s = sip_begin(policy->hash_key);
    memcpy(padded, key, length);
    sip_label(&s, padded, length);
    return sip_end(s, kind);
}

/* ---- the table ---- */

static bool key_is(const struct acl_policy *policy, rule_ref head, enum key_kind kind, const void *key,
                   size_t length)
{
    const struct rule *rule = policy_rule(policy, head);
    return rule->kind == kind && rule->key_length == length &&
           memcmp(rule->bytes + rule->key_at, key, length) == 0;
}

/* The slot that holds this key, or the free one where it would go. The table is never full. */
static struct slot *find_slot(const struct acl_policy *policy, uint32_t hash, enum key_kind kind,
                              const void *key, size_t length)
{
    size_t mask = policy->slot_count - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct slot *slot = &policy->slots[i];
        if (slot->head == 0 || (slot->hash == hash && key_is(policy, slot->head, kind, key, length)))
            return slot;
    }
}

static size_t home_slot(const struct acl_policy *policy, uint32_t hash)
{
    return hash & (policy->slot_count - 1);
}

int policy_table_init(struct acl_policy *policy)
{
    policy->slots = calloc(SLOTS_MIN, sizeof(*policy->slots));
    policy->slot_count = SLOTS_MIN;
    ssize_t n = getrandom(policy->hash_key, sizeof(policy->hash_key), 0);
    return policy->slots && n == (ssize_t)sizeof(policy->hash_key) ? 0 : -ENOMEM;
}

static int grow_slots(struct acl_policy *policy)
{
    size_t count = policy->slot_count * 2;
    struct slot *slots = calloc(count, sizeof(*slots));
    if (!slots)
        return -ENOMEM;
    advise_huge(slots, count * sizeof(*slots));
    for (size_t i = 0; i < policy->slot_count; i++) {
        const struct slot *old = &policy->slots[i];
        size_t to = old->hash & (count - 1);
        while (old->head && slots[to].head)
            to = (to + 1) & (count - 1);
        if (old->head)
            slots[to] = *old;
    }
    free(policy->slots);
    policy->slots = slots;
    policy->slot_count = count;
    return 0;
}

int policy_table_reserve(struct acl_policy *policy)
{
    return (policy->slots_used + 1) * 3 > policy->slot_count * 2 ? grow_slots(policy) : 0;
}

static rule_ref *keyed_head(struct acl_policy *policy, const struct rule *rule)
{
    const char *key = rule->bytes + rule->key_at;
    bool is_name = rule->kind == KEY_EXACT || rule->kind == KEY_WILDCARD;
    uint32_t hash = is_name ? hash_name(policy, rule->kind, key, rule->key_length)
                            : hash_net(policy, rule->kind, (const uint8_t *)key, rule->key_length);
    struct slot *slot = find_slot(policy, hash, rule->kind, key, rule->key_length);
    policy->slots_used += slot->head == 0;
    slot->hash = hash;
    return &slot->head;
}

void policy_table_link(struct acl_policy *policy, rule_ref ref)
{
    struct rule *rule = policy_rule(policy, ref);
    rule_ref *head;
    if (rule->kind == KEY_EVERY_NAME)
        head = &policy->every_name;
    else if (rule->kind == KEY_ANY_ADDRESS)
        head = &policy->any_address;
    else
        head = keyed_head(policy, rule);
    rule->next = *head;
    *head = ref;
}

/* ---- tidying chains ---- */

/* A rule of a chain, with the rule beside its place for the comparison. */
struct link {
    const struct rule *rule;
    rule_ref ref;
};

/* Rules for every request before those for some; these in any order that puts equals together. */
static int compare_requests(const struct rule *l, const struct rule *r)
{
    const struct rule_request a = policy_rule_request(l), b = policy_rule_request(r);
    if (l->limited != r->limited)
        return l->limited ? 1 : -1;
    if (a.methods != b.methods)
        return a.methods < b.methods ? -1 : 1;
    if (a.path_length != b.path_length)
        return a.path_length < b.path_length ? -1 : 1;
    return memcmp(l->bytes + a.path_at, r->bytes + b.path_at, a.path_length);
}

/* Deny first, then by scheme and ports, then as written. */
static int compare_links(const void *a, const void *b)
{
    const struct link *x = a, *y = b;
    const struct rule *l = x->rule, *r = y->rule;
    if (l->deny != r->deny)
        return l->deny ? -1 : 1;
    if (l->scheme != r->scheme)
        return l->scheme < r->scheme ? -1 : 1;
    if (l->port_low != r->port_low)
        return l->port_low < r->port_low ? -1 : 1;
    if (l->port_high != r->port_high)
        return l->port_high < r->port_high ? -1 : 1;
    int order = compare_requests(l, r);
    if (order)
        return order;
    return x->ref < y->ref ? -1 : x->ref > y->ref;
}

static bool same_meaning(const struct rule *a, const struct rule *b)
{
    return a->deny == b->deny && a->scheme == b->scheme && a->port_low == b->port_low &&
           a->port_high == b->port_high && compare_requests(a, b) == 0;
}

/* Links the sorted rules anew, without those that say what the one before says. */
static void relink(struct acl_policy *policy, const struct link *links, size_t count, rule_ref *head)
{
    rule_ref *tail = head;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && same_meaning(links[i].rule, links[i - 1].rule))
            continue;
        *tail = links[i].ref;
        tail = &policy_rule(policy, links[i].ref)->next;
    }
    *tail = 0;
}

static int tidy_chain(struct acl_policy *policy, rule_ref *head)
{
    size_t count = 0, n = 0;
    if (*head == 0 || policy_rule(policy, *head)->next == 0)
        return 0;
    for (rule_ref at = *head; at; at = policy_rule(policy, at)->next)
        count++;
    struct link *links = calloc(count, sizeof(*links));
    if (!links)
        return -ENOMEM;
    for (rule_ref at = *head; at; at = policy_rule(policy, at)->next)
        links[n++] = (struct link){policy_rule(policy, at), at};
    qsort(links, count, sizeof(*links), compare_links);
    relink(policy, links, count, head);
    free(links);
    return 0;
}

int policy_table_tidy(struct acl_policy *policy)
{
    int r = tidy_chain(policy, &policy->every_name);
    if (r == 0)
        r = tidy_chain(policy, &policy->any_address);
    for (size_t i = 0; r == 0 && i < policy->slot_count; i++)
        r = tidy_chain(policy, &policy->slots[i].head);
    return r;
}

/* ---- finding ---- */

static void add_chain(struct chains *chains, rule_ref head)
{
    if (head)
        chains->heads[chains->count++] = head;
}

/* A suffix that may have a wildcard: its slot is fetched early and read late. */
struct probe {
    uint32_t hash;
    uint8_t start; /* of the suffix in the name */
};

struct probes {
    size_t count;
    uint32_t exact; /* hash of the whole */
    struct probe at[LABELS_MAX];
};

/* False: a label is empty, or there are too many. */
static bool hash_suffixes(const struct acl_policy *policy, const struct padded_name *name, size_t length,
                          struct probes *ret)
{
    struct sip s = sip_begin(policy->hash_key);
    size_t depth = 0;
    ret->count = 0;
    for (size_t end = length, start;; end = start - 1) {
        start = label_start(name->text, end);
        if (start == end || ++depth > LABELS_MAX)
            return false;
        sip_label(&s, name->text + start, end - start);
        if (start == 0)
            break;
        if (policy->wildcard_depth[depth]) {
            uint32_t hash = sip_end(s, KEY_WILDCARD);
            ret->at[ret->count++] = (struct probe){hash, (uint8_t)start};
            __builtin_prefetch(&policy->slots[home_slot(policy, hash)]);
        }
    }
    ret->exact = sip_end(s, KEY_EXACT);
    return true;
}

bool policy_table_find_name(const struct acl_policy *policy, const char *name, size_t length,
                            struct chains *ret)
{
    struct padded_name padded;
    struct probes probes;
    ret->count = 0;
    if (length == 0 || length > ACL_NAME_MAX)
        return false;
    pad_name(name, length, &padded);
    if (!hash_suffixes(policy, &padded, length, &probes))
        return false;
    add_chain(ret, find_slot(policy, probes.exact, KEY_EXACT, name, length)->head);
    while (probes.count-- > 0) {
        const struct probe *p = &probes.at[probes.count];
        add_chain(ret, find_slot(policy, p->hash, KEY_WILDCARD, name + p->start, length - p->start)->head);
    }
    add_chain(ret, policy->every_name);
    return true;
}

static void clear_bits(uint8_t *bytes, size_t size, unsigned length)
{
    size_t whole = length / 8;
    if (length % 8) {
        bytes[whole] &= (uint8_t)(0xff00u >> length % 8);
        whole++;
    }
    if (whole < size)
        memset(bytes + whole, 0, size - whole);
}

void policy_table_find_networks(const struct acl_policy *policy, const struct addr *a, unsigned shortest,
                                struct chains *ret)
{
    bool v4 = a->family == AF_INET;
    enum key_kind kind = v4 ? KEY_NET4 : KEY_NET6;
    const bool *lengths = v4 ? policy->net4_length : policy->net6_length;
    size_t size = v4 ? 4 : 16;
    uint8_t key[NET_KEY_MAX];
    memcpy(key + 1, a->bytes, size);
    ret->count = 0;
    for (unsigned length = v4 ? V4_BITS : V6_BITS;; length--) {
        if (lengths[length]) {
            clear_bits(key + 1, size, length);
            key[0] = (uint8_t)length;
            add_chain(ret,
                      find_slot(policy, hash_net(policy, kind, key, 1 + size), kind, key, 1 + size)->head);
        }
        if (length <= shortest)
            return;
    }
}
