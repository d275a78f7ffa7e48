/*
 * A policy: one hash table from names and networks to rules.
 *
 * Names are keyed by suffix. The hash runs from the right end of a name, label by label, so one pass over
 * "a.b.example.com" yields the hash of "com", "example.com", "b.example.com" (asked for as wildcards) and of
 * the whole (asked for as exact): a look-up costs the labels of the name, whatever the number of rules. Which
 * depths have wildcards at all is remembered, so a policy without "*.com" never asks for "com".
 *
 *     slot:  hash (32 bits) | rule          open addressing, linear probing, at most 2/3 full, doubled when
 * it is rule:  text, key (offsets into one arena), next rule of the same key, ports, scheme, …    28 bytes
 *
 * The slot keeps the hash that places it, so growing never touches names, and a probe that misses reads one
 * cache line. With 12 to 24 bytes of slots a rule costs 40 to 52 bytes beside its text.
 *
 * Networks live in the same table, keyed by prefix length and masked address: one question for each prefix
 * length that occurs (at most 33 or 129), longest first. "*" and ":port" rules have no key; each kind has a
 * chain of its own.
 *
 * Several rules of one key hang in a chain. Sealing drops repeated rules from it, so a name listed a thousand
 * times costs a look-up no more than one. What is left in a chain differs in scheme or ports; it is walked.
 *
 * The hash is SipHash-1-3 (Aumasson, Bernstein: "SipHash: a fast short-input PRF") under a random key for
 * each policy: names come from clients and block lists from strangers, and neither may choose who shares a
 * probe sequence.
 *
 * Limit: 4 GiB of text, 2^31 rules.
 */
#include "acl/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define LABELS_MAX ((ACL_NAME_MAX + 1) / 2)
#define SLOTS_MIN 16
#define V4_BITS 32
#define V6_BITS 128

enum key_kind { KEY_EXACT, KEY_WILDCARD, KEY_NET4, KEY_NET6, KEY_EVERY_NAME, KEY_ANY_ADDRESS };

struct rule {
    uint32_t text; /* arena offset, NUL-terminated */
    uint32_t key;  /* arena offset; a name, or a prefix length and 4 or 16 bytes of address */
    uint32_t next; /* of the same key: index + 1, 0 at the end */
    uint32_t line;
    uint16_t port_low, port_high;
    uint16_t file; /* index of policy.files */
    uint8_t key_length;
    unsigned kind : 3, scheme : 3, deny : 1;
};
_Static_assert(sizeof(struct rule) <= 28, "a million of them");

struct slot {
    uint32_t hash;
    uint32_t head; /* rule index + 1; 0: free */
};

struct segment {
    uint16_t low; /* up to the next segment's */
    uint8_t use;
};

struct acl_policy {
    char *name;
    enum acl_mode mode;
    enum acl_dns dns;
    enum acl_bind bind;
    bool ech_denied, sealed, denies_names;

    uint64_t hash_key[2];
    struct slot *slots;
    size_t slot_count, slots_used; /* the count is a power of two */

    struct rule *rules;
    size_t rule_count, rule_room;
    char *arena;
    size_t arena_used, arena_room;
    char **files;
    size_t file_count;

    uint32_t every_name, any_address;    /* chains without a key */
    bool wildcard_depth[LABELS_MAX + 1]; /* is there a wildcard over a name of so many labels? */
    bool net4_length[V4_BITS + 1], net6_length[V6_BITS + 1];

    struct segment *segments; /* port use, sorted; the first begins at 0 */
    size_t segment_count;
    struct acl_port_range *ports;
    size_t port_count;
};

/* ---- SipHash-1-3, taking labels from the right ---- */

struct sip {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t rotate(uint64_t x, unsigned by)
{
    return x << by | x >> (64 - by);
}

static inline void sip_round(struct sip *s)
{
    s->v0 += s->v1;
    s->v2 += s->v3;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 = rotate(s->v0, 32);
    s->v2 += s->v1;
    s->v0 += s->v3;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 = rotate(s->v2, 32);
}

static inline void sip_word(struct sip *s, uint64_t word)
{
    s->v3 ^= word;
    sip_round(s);
    s->v0 ^= word;
}

static struct sip sip_begin(const uint64_t key[2])
{
    return (struct sip){key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d, key[0] ^ 0x6c7967656e657261,
                        key[1] ^ 0x7465646279746573};
}

/* The last word of a label carries its length, so no two sequences of labels give the same words. */
static void sip_label(struct sip *s, const char *label, size_t length)
{
    uint64_t word;
    size_t left = length;
    for (; left >= 8; left -= 8, label += 8) {
        memcpy(&word, label, 8);
        sip_word(s, word);
    }
    word = (uint64_t)length << 56;
    for (size_t i = 0; i < left; i++)
        word |= (uint64_t)(uint8_t)label[i] << (8 * i);
    sip_word(s, word);
}

/* The hash of what went in so far, as a key of this kind; the state may take more labels afterwards. */
static uint32_t sip_end(struct sip s, enum key_kind kind)
{
    sip_word(&s, (uint64_t)kind);
    s.v2 ^= 0xff;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    uint64_t h = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    return (uint32_t)h;
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
    struct sip s = sip_begin(policy->hash_key);
    for (size_t end = length, start;; end = start - 1) {
        start = label_start(name, end);
        sip_label(&s, name + start, end - start);
        if (start == 0)
            return sip_end(s, kind);
    }
}

static uint32_t hash_key(const struct acl_policy *policy, enum key_kind kind, const char *key, size_t length)
{
    if (kind == KEY_EXACT || kind == KEY_WILDCARD)
        return hash_name(policy, kind, key, length);
    struct sip s = sip_begin(policy->hash_key);
    sip_label(&s, key, length);
    return sip_end(s, kind);
}

/* ---- the table ---- */

static bool key_is(const struct acl_policy *policy, uint32_t head, enum key_kind kind, const char *key,
                   size_t length)
{
    const struct rule *rule = &policy->rules[head - 1];
    return rule->kind == kind && rule->key_length == length &&
           memcmp(policy->arena + rule->key, key, length) == 0;
}

/* The slot that holds this key, or the free one where it would go. The table is never full. */
static struct slot *find_slot(const struct acl_policy *policy, uint32_t hash, enum key_kind kind,
                              const char *key, size_t length)
{
    size_t mask = policy->slot_count - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct slot *slot = &policy->slots[i];
        if (slot->head == 0 || (slot->hash == hash && key_is(policy, slot->head, kind, key, length)))
            return slot;
    }
}

static int grow_slots(struct acl_policy *policy)
{
    size_t count = policy->slot_count * 2;
    struct slot *slots = calloc(count, sizeof(*slots));
    if (!slots)
        return -ENOMEM;
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

/* Hangs rule `index` in front of the chain of its key. There is room for one more slot. */
static void link_rule(struct acl_policy *policy, uint32_t index)
{
    struct rule *rule = &policy->rules[index];
    uint32_t *head = &policy->every_name;
    if (rule->kind == KEY_ANY_ADDRESS) {
        head = &policy->any_address;
    } else if (rule->kind != KEY_EVERY_NAME) {
        const char *key = policy->arena + rule->key;
        uint32_t hash = hash_key(policy, rule->kind, key, rule->key_length);
        struct slot *slot = find_slot(policy, hash, rule->kind, key, rule->key_length);
        policy->slots_used += slot->head == 0;
        slot->hash = hash;
        head = &slot->head;
    }
    rule->next = *head;
    *head = index + 1;
}

/* ---- building ---- */

struct acl_policy *acl_policy_create(const char *name)
{
    struct acl_policy *policy = calloc(1, sizeof(*policy));
    if (!policy)
        return NULL;
    policy->name = strdup(name);
    policy->slots = calloc(SLOTS_MIN, sizeof(*policy->slots));
    policy->slot_count = SLOTS_MIN;
    ssize_t n = getrandom(policy->hash_key, sizeof(policy->hash_key), 0);
    if (!policy->name || !policy->slots || n != (ssize_t)sizeof(policy->hash_key)) {
        acl_policy_destroy(policy);
        return NULL;
    }
    return policy;
}

void acl_policy_destroy(struct acl_policy *policy)
{
    if (!policy)
        return;
    for (size_t i = 0; i < policy->file_count; i++)
        free(policy->files[i]);
    free(policy->files);
    free(policy->segments);
    free(policy->ports);
    free(policy->rules);
    free(policy->arena);
    free(policy->slots);
    free(policy->name);
    free(policy);
}

/* Makes room for `more` bytes at the arena's end. Growth by half keeps adding linear. */
static int reserve_arena(struct acl_policy *policy, size_t more)
{
    size_t need = policy->arena_used + more;
    if (need <= policy->arena_room)
        return 0;
    if (need > UINT32_MAX)
        return -ENOMEM;
    size_t room = policy->arena_room + policy->arena_room / 2 + 256;
    room = room < need ? need : room;
    char *arena = realloc(policy->arena, room);
    if (!arena)
        return -ENOMEM;
    policy->arena = arena;
    policy->arena_room = room;
    return 0;
}

static int reserve_rule(struct acl_policy *policy)
{
    if (policy->rule_count < policy->rule_room)
        return 0;
    if (policy->rule_count >= INT32_MAX)
        return -ENOMEM;
    size_t room = policy->rule_room + policy->rule_room / 2 + 16;
    struct rule *rules = realloc(policy->rules, room * sizeof(*rules));
    if (!rules)
        return -ENOMEM;
    policy->rules = rules;
    policy->rule_room = room;
    return 0;
}

/* The index of `file` among the policy's; rules come file by file, so the last one is tried first. */
static int intern_file(struct acl_policy *policy, const char *file, uint16_t *ret)
{
    file = file ? file : "";
    for (size_t i = policy->file_count; i-- > 0;) {
        if (strcmp(policy->files[i], file) == 0) {
            *ret = (uint16_t)i;
            return 0;
        }
    }
    if (policy->file_count > UINT16_MAX)
        return -ENOMEM;
    char **files = realloc(policy->files, (policy->file_count + 1) * sizeof(*files));
    if (!files)
        return -ENOMEM;
    policy->files = files;
    files[policy->file_count] = strdup(file);
    if (!files[policy->file_count])
        return -ENOMEM;
    *ret = (uint16_t)policy->file_count++;
    return 0;
}

/* Copies `bytes` to the arena (room is reserved) and returns their offset. */
static uint32_t store(struct acl_policy *policy, const void *bytes, size_t length)
{
    uint32_t at = (uint32_t)policy->arena_used;
    memcpy(policy->arena + at, bytes, length);
    policy->arena_used += length;
    return at;
}

/* A name is mostly written in its normal form already: then its key is a part of the text. */
static void store_name_key(struct acl_policy *policy, const char *name, size_t text_length, struct rule *rule)
{
    size_t length = strlen(name);
    const char *text = policy->arena + rule->text;
    const char *found = memmem(text, text_length, name, length);
    rule->key_length = (uint8_t)length;
    rule->key = found ? rule->text + (uint32_t)(found - text) : store(policy, name, length);
}

static void store_net_key(struct acl_policy *policy, const struct cidr *net, struct rule *rule)
{
    uint8_t key[17] = {net->length};
    size_t size = net->base.family == AF_INET ? 4 : 16;
    memcpy(key + 1, net->base.bytes, size);
    rule->key_length = (uint8_t)(1 + size);
    rule->key = store(policy, key, 1 + size);
}

static enum key_kind kind_of(const struct acl_rule *parsed)
{
    if (parsed->scheme != ACL_SCHEME_ADDRESS)
        return !parsed->wildcard ? KEY_EXACT : parsed->name[0] ? KEY_WILDCARD : KEY_EVERY_NAME;
    if (parsed->net.base.family == AF_UNSPEC)
        return KEY_ANY_ADDRESS;
    return parsed->net.base.family == AF_INET ? KEY_NET4 : KEY_NET6;
}

static size_t count_labels(const char *name)
{
    size_t labels = 1;
    for (; *name; name++)
        labels += *name == '.';
    return labels;
}

/* What look-ups are told of the rules as a whole. */
static void note_rule(struct acl_policy *policy, const struct acl_rule *parsed, enum key_kind kind)
{
    if (kind == KEY_WILDCARD)
        policy->wildcard_depth[count_labels(parsed->name)] = true;
    else if (kind == KEY_NET4)
        policy->net4_length[parsed->net.length] = true;
    else if (kind == KEY_NET6)
        policy->net6_length[parsed->net.length] = true;
    if (parsed->deny && parsed->scheme != ACL_SCHEME_ADDRESS)
        policy->denies_names = true;
}

/* All that can fail, before anything changes. */
static int reserve(struct acl_policy *policy, size_t text_length)
{
    int r = reserve_arena(policy, text_length + 1 + ACL_NAME_MAX);
    if (r == 0)
        r = reserve_rule(policy);
    if (r == 0 && (policy->slots_used + 1) * 3 > policy->slot_count * 2)
        r = grow_slots(policy);
    return r;
}

int acl_policy_add(struct acl_policy *policy, const char *text, size_t length, bool deny,
                   struct acl_origin origin, struct error *err)
{
    struct acl_rule parsed;
    struct rule rule = {.line = origin.line};
    if (policy->sealed)
        return error_set(err, EINVAL, "policy \"%s\" is in use and takes no more rules; load a new one",
                         policy->name);
    int r = acl_rule_parse(text, length, deny, &parsed, err);
    if (r < 0)
        return r;
    r = reserve(policy, length);
    if (r == 0)
        r = intern_file(policy, origin.file, &rule.file);
    if (r < 0)
        return error_set(err, ENOMEM, "out of memory after %zu rules", policy->rule_count);
    enum key_kind kind = kind_of(&parsed);
    rule.kind = (unsigned char)(kind & 7);
    rule.scheme = (unsigned char)(parsed.scheme & 7);
    rule.deny = deny;
    rule.port_low = parsed.port_low;
    rule.port_high = parsed.port_high;
    rule.text = store(policy, text, length);
    store(policy, "", 1);
    if (kind == KEY_EXACT || kind == KEY_WILDCARD)
        store_name_key(policy, parsed.name, length, &rule);
    else if (kind == KEY_NET4 || kind == KEY_NET6)
        store_net_key(policy, &parsed.net, &rule);
    note_rule(policy, &parsed, kind);
    policy->rules[policy->rule_count] = rule;
    link_rule(policy, (uint32_t)policy->rule_count++);
    return 0;
}

/* ---- sealing ---- */

/* Indices into the rules, with the rules beside them for the comparison. */
struct link {
    const struct rule *rule;
    uint32_t index;
};

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
    return x->index < y->index ? -1 : x->index > y->index;
}

static bool same_meaning(const struct rule *a, const struct rule *b)
{
    return a->deny == b->deny && a->scheme == b->scheme && a->port_low == b->port_low &&
           a->port_high == b->port_high;
}

/* Sorts a chain and leaves repetitions out (they are still listed by acl_policy_each). */
static int tidy_chain(struct acl_policy *policy, uint32_t *head)
{
    size_t count = 0, kept = 0;
    for (uint32_t at = *head; at; at = policy->rules[at - 1].next)
        count++;
    if (count < 2)
        return 0;
    struct link *links = calloc(count, sizeof(*links));
    if (!links)
        return -ENOMEM;
    for (uint32_t at = *head; at; at = policy->rules[at - 1].next)
        links[kept++] = (struct link){&policy->rules[at - 1], at - 1};
    qsort(links, count, sizeof(*links), compare_links);
    uint32_t *tail = head;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && same_meaning(links[i].rule, links[i - 1].rule))
            continue;
        *tail = links[i].index + 1;
        tail = &policy->rules[links[i].index].next;
    }
    *tail = 0;
    free(links);
    return 0;
}

static int tidy_chains(struct acl_policy *policy)
{
    int r = tidy_chain(policy, &policy->every_name);
    if (r == 0)
        r = tidy_chain(policy, &policy->any_address);
    for (size_t i = 0; r == 0 && i < policy->slot_count; i++)
        r = tidy_chain(policy, &policy->slots[i].head);
    return r;
}

/* Where port use begins and ends, for each of its bits: a sweep over the ports then costs the ports, not the
 * rules. */
#define USE_BITS 4
struct port_steps {
    int32_t at[65537][USE_BITS];
};

static void step_port(struct port_steps *steps, unsigned bit, uint16_t low, uint16_t high)
{
    steps->at[low][bit]++;
    steps->at[high + 1][bit]--;
}

static void step_rules(const struct acl_policy *policy, struct port_steps *steps)
{
    static const uint8_t bits[] = {
        [ACL_SCHEME_HTTPS] = 0, [ACL_SCHEME_HTTP] = 1, [ACL_SCHEME_TCP] = 2, [ACL_SCHEME_ADDRESS] = 3};
    step_port(steps, 0, 443, 443);
    step_port(steps, 1, 80, 80);
    for (size_t i = 0; i < policy->rule_count; i++) {
        const struct rule *rule = &policy->rules[i];
        if (!rule->deny && rule->scheme != ACL_SCHEME_WEB)
            step_port(steps, bits[rule->scheme], rule->port_low, rule->port_high);
    }
}

/* The segments of equal use, into `ret` (or only counted when it is NULL). */
static size_t sweep_ports(const struct port_steps *steps, struct segment *ret)
{
    int32_t depth[USE_BITS] = {0};
    size_t count = 0;
    int last = -1;
    for (unsigned port = 0; port <= 65535; port++) {
        int use = 0;
        for (unsigned bit = 0; bit < USE_BITS; bit++) {
            depth[bit] += steps->at[port][bit];
            use |= depth[bit] > 0 ? 1 << bit : 0;
        }
        if (use == last)
            continue;
        if (ret)
            ret[count] = (struct segment){(uint16_t)port, (uint8_t)use};
        count++;
        last = use;
    }
    return count;
}

static void merge_ports(struct acl_policy *policy)
{
    for (size_t i = 0; i < policy->segment_count; i++) {
        if (!policy->segments[i].use)
            continue;
        uint16_t high = i + 1 < policy->segment_count ? (uint16_t)(policy->segments[i + 1].low - 1) : 65535;
        if (i > 0 && policy->segments[i - 1].use)
            policy->ports[policy->port_count - 1].high = high;
        else
            policy->ports[policy->port_count++] = (struct acl_port_range){policy->segments[i].low, high};
    }
}

static int survey_ports(struct acl_policy *policy)
{
    struct port_steps *steps = calloc(1, sizeof(*steps));
    if (!steps)
        return -ENOMEM;
    step_rules(policy, steps);
    policy->segment_count = sweep_ports(steps, NULL);
    policy->segments = calloc(policy->segment_count, sizeof(*policy->segments));
    policy->ports = calloc(policy->segment_count, sizeof(*policy->ports));
    if (policy->segments && policy->ports) {
        sweep_ports(steps, policy->segments);
        merge_ports(policy);
    }
    free(steps);
    return policy->segments && policy->ports ? 0 : -ENOMEM;
}

/* Gives back what growing reserved beyond need. Failing to shrink is no failure. */
static void shrink(struct acl_policy *policy)
{
    struct rule *rules =
        policy->rule_count ? realloc(policy->rules, policy->rule_count * sizeof(*rules)) : NULL;
    char *arena = policy->arena_used ? realloc(policy->arena, policy->arena_used) : NULL;
    if (rules) {
        policy->rules = rules;
        policy->rule_room = policy->rule_count;
    }
    if (arena) {
        policy->arena = arena;
        policy->arena_room = policy->arena_used;
    }
}

int acl_policy_seal(struct acl_policy *policy)
{
    if (policy->sealed)
        return 0;
    int r = tidy_chains(policy);
    if (r == 0)
        r = survey_ports(policy);
    if (r < 0)
        return r;
    shrink(policy);
    policy->sealed = true;
    return 0;
}

/* ---- options and listings ---- */

void acl_policy_set_mode(struct acl_policy *policy, enum acl_mode mode)
{
    policy->mode = mode;
}

void acl_policy_set_dns(struct acl_policy *policy, enum acl_dns dns)
{
    policy->dns = dns;
}

void acl_policy_set_bind(struct acl_policy *policy, enum acl_bind bind)
{
    policy->bind = bind;
}

void acl_policy_set_ech_denied(struct acl_policy *policy, bool denied)
{
    policy->ech_denied = denied;
}

const char *acl_policy_name(const struct acl_policy *policy)
{
    return policy->name;
}

enum acl_mode acl_policy_mode(const struct acl_policy *policy)
{
    return policy->mode;
}

enum acl_dns acl_policy_dns(const struct acl_policy *policy)
{
    return policy->dns;
}

enum acl_bind acl_policy_bind(const struct acl_policy *policy)
{
    return policy->bind;
}

bool acl_policy_ech_denied(const struct acl_policy *policy)
{
    return policy->ech_denied;
}

bool acl_policy_denies_names(const struct acl_policy *policy)
{
    return policy->denies_names;
}

static struct acl_rule_view view_of(const struct acl_policy *policy, const struct rule *rule)
{
    return (struct acl_rule_view){.text = policy->arena + rule->text,
                                  .origin = {policy->files[rule->file], rule->line},
                                  .deny = rule->deny};
}

void acl_policy_each(const struct acl_policy *policy,
                     bool (*each)(const struct acl_rule_view *rule, void *arg), void *arg)
{
    for (size_t i = 0; i < policy->rule_count; i++) {
        struct acl_rule_view view = view_of(policy, &policy->rules[i]);
        if (!each(&view, arg))
            return;
    }
}

size_t acl_policy_memory(const struct acl_policy *policy, size_t *ret_text)
{
    size_t bytes = sizeof(*policy) + strlen(policy->name) + 1;
    bytes += policy->slot_count * sizeof(*policy->slots) + policy->rule_room * sizeof(*policy->rules);
    bytes += policy->arena_room + policy->file_count * sizeof(*policy->files);
    for (size_t i = 0; i < policy->file_count; i++)
        bytes += strlen(policy->files[i]) + 1;
    bytes += policy->segment_count * (sizeof(*policy->segments) + sizeof(*policy->ports));
    *ret_text = policy->arena_used;
    return bytes;
}

/* ---- judging ---- */

/* What is asked of each rule of the chains that a name or an address leads to. */
enum question { ASK_FLOW, ASK_DNS, ASK_ADDRESS, ASK_NETWORK };
struct query {
    enum question question;
    enum acl_protocol protocol;
    uint16_t port; /* 0 with ASK_NETWORK: any */
};

/* Chains in order of how closely they name what is asked for. */
struct chains {
    size_t count;
    uint32_t heads[V6_BITS + 2 > LABELS_MAX + 2 ? V6_BITS + 2 : LABELS_MAX + 2];
};

static bool in_ports(const struct rule *rule, uint16_t port)
{
    return port >= rule->port_low && port <= rule->port_high;
}

static bool speaks_of_flow(const struct rule *rule, const struct query *q)
{
    switch ((enum acl_scheme)rule->scheme) {
    case ACL_SCHEME_WEB: /* as a deny rule: whatever goes to that name */
        return rule->deny || (q->protocol == ACL_TLS && q->port == 443) ||
               (q->protocol == ACL_HTTP && q->port == 80);
    case ACL_SCHEME_HTTPS:
        return q->protocol == ACL_TLS && in_ports(rule, q->port);
    case ACL_SCHEME_HTTP:
        return q->protocol == ACL_HTTP && in_ports(rule, q->port);
    case ACL_SCHEME_TCP:
        return in_ports(rule, q->port);
    case ACL_SCHEME_ADDRESS:
        break;
    }
    return false;
}

static bool speaks_of(const struct rule *rule, const struct query *q)
{
    switch (q->question) {
    case ASK_FLOW:
        return speaks_of_flow(rule, q);
    case ASK_DNS:
        return !rule->deny || rule->scheme == ACL_SCHEME_WEB;
    case ASK_ADDRESS:
        return in_ports(rule, q->port);
    case ASK_NETWORK:
        return !rule->deny && (q->port == 0 || in_ports(rule, q->port));
    }
    return false;
}

/* Deny beats allow wherever it stands; among equals the closest chain speaks. */
static const struct rule *decide(const struct acl_policy *policy, const struct chains *chains,
                                 const struct query *q)
{
    const struct rule *allow = NULL;
    for (size_t i = 0; i < chains->count; i++) {
        for (uint32_t at = chains->heads[i]; at; at = policy->rules[at - 1].next) {
            const struct rule *rule = &policy->rules[at - 1];
            if ((allow && !rule->deny) || !speaks_of(rule, q))
                continue;
            if (rule->deny)
                return rule;
            allow = rule;
        }
    }
    return allow;
}

static struct acl_verdict verdict_of(const struct acl_policy *policy, const struct rule *rule)
{
    struct acl_verdict verdict = {.reason = ACL_NO_RULE};
    if (rule) {
        verdict.allowed = !rule->deny;
        verdict.reason = rule->deny ? ACL_RULE_DENY : ACL_RULE_ALLOW;
        verdict.has_rule = true;
        verdict.rule = view_of(policy, rule);
    }
    return verdict;
}

static void add_chain(struct chains *chains, uint32_t head)
{
    if (head)
        chains->heads[chains->count++] = head;
}

/* One place to look at in the table, fetched early and read late. */
struct probe {
    uint32_t hash;
    uint8_t start; /* of the suffix in the name */
};

/* Hashes of the suffixes of `name` that may have a wildcard, shortest first, and of the whole. False: not a
 * name. */
static bool hash_suffixes(const struct acl_policy *policy, const char *name, size_t length,
                          struct probe *probes, size_t *ret_count, uint32_t *ret_exact)
{
    struct sip s = sip_begin(policy->hash_key);
    size_t count = 0, depth = 0;
    for (size_t end = length, start;; end = start - 1) {
        start = label_start(name, end);
        if (start == end || ++depth > LABELS_MAX)
            return false;
        sip_label(&s, name + start, end - start);
        if (start == 0)
            break;
        if (policy->wildcard_depth[depth]) {
            probes[count] = (struct probe){sip_end(s, KEY_WILDCARD), (uint8_t)start};
            __builtin_prefetch(&policy->slots[probes[count++].hash & (policy->slot_count - 1)]);
        }
    }
    *ret_exact = sip_end(s, KEY_EXACT);
    *ret_count = count;
    return true;
}

/* The chains of everything that names this name: itself, its parents' wildcards from near to far, "*". */
static bool find_name(const struct acl_policy *policy, const char *name, size_t length, struct chains *ret)
{
    struct probe probes[LABELS_MAX];
    size_t count;
    uint32_t exact;
    ret->count = 0;
    if (length == 0 || length > ACL_NAME_MAX || !hash_suffixes(policy, name, length, probes, &count, &exact))
        return false;
    add_chain(ret, find_slot(policy, exact, KEY_EXACT, name, length)->head);
    while (count-- > 0) {
        size_t start = probes[count].start;
        add_chain(ret,
                  find_slot(policy, probes[count].hash, KEY_WILDCARD, name + start, length - start)->head);
    }
    add_chain(ret, policy->every_name);
    return true;
}

static struct acl_verdict judge_name(const struct acl_policy *policy, const char *name, size_t length,
                                     const struct query *q)
{
    struct chains chains;
    struct acl_verdict verdict = {.reason = ACL_IP_LITERAL};
    if (length <= ACL_NAME_MAX && acl_name_ends_in_number(name, length))
        return verdict; /* acl_name_normalise() lets none through; here not even "*" allows it */
    if (!find_name(policy, name, length, &chains))
        return verdict_of(policy, NULL);
    return verdict_of(policy, decide(policy, &chains, q));
}

struct acl_verdict acl_policy_judge_name(const struct acl_policy *policy, enum acl_protocol protocol,
                                         const char *name, size_t length, uint16_t port)
{
    const struct query q = {.question = ASK_FLOW, .protocol = protocol, .port = port};
    return judge_name(policy, name, length, &q);
}

struct acl_verdict acl_policy_judge_dns(const struct acl_policy *policy, const char *name, size_t length)
{
    const struct query q = {.question = ASK_DNS};
    struct acl_verdict verdict = judge_name(policy, name, length, &q);
    if (verdict.reason == ACL_RULE_DENY || verdict.reason == ACL_IP_LITERAL)
        return verdict;
    if (policy->dns == ACL_DNS_OFF)
        return verdict_of(policy, NULL);
    if (policy->dns == ACL_DNS_ANY && !verdict.allowed) {
        verdict.allowed = true;
        verdict.reason = ACL_RULE_ALLOW;
    }
    return verdict;
}

static void clear_bits(uint8_t *bytes, size_t size, unsigned length)
{
    size_t whole = length / 8;
    if (length % 8)
        bytes[whole] &= (uint8_t)(0xff00u >> length % 8), whole++;
    if (whole < size)
        memset(bytes + whole, 0, size - whole);
}

/* The chains of every network that holds the address, from small to large. `shortest`: the shortest prefix
 * asked for. */
static void find_networks(const struct acl_policy *policy, const struct addr *a, unsigned shortest,
                          struct chains *ret)
{
    bool v4 = a->family == AF_INET;
    enum key_kind kind = v4 ? KEY_NET4 : KEY_NET6;
    const bool *lengths = v4 ? policy->net4_length : policy->net6_length;
    size_t size = v4 ? 4 : 16;
    uint8_t key[17];
    memcpy(key + 1, a->bytes, size);
    for (unsigned length = v4 ? V4_BITS : V6_BITS; length + 1 > shortest; length--) {
        if (lengths[length]) {
            clear_bits(key + 1, size, length);
            key[0] = (uint8_t)length;
            uint32_t hash = hash_key(policy, kind, (const char *)key, 1 + size);
            add_chain(ret, find_slot(policy, hash, kind, (const char *)key, 1 + size)->head);
        }
        if (length == 0)
            break;
    }
}

/* Rules are written for IPv4, not for IPv4 in IPv6 clothes. */
static struct addr unmapped(const struct addr *a)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    struct addr plain = *a;
    if (a->family == AF_INET6 && memcmp(a->bytes, mapped, sizeof(mapped)) == 0) {
        plain = (struct addr){.family = AF_INET, .port = a->port};
        memcpy(plain.bytes, a->bytes + 12, 4);
    }
    return plain;
}

struct acl_verdict acl_policy_judge_address(const struct acl_policy *policy, const struct addr *destination)
{
    const struct addr a = unmapped(destination);
    const struct query q = {.question = ASK_ADDRESS, .port = a.port};
    struct chains chains = {0};
    if (a.family != AF_INET && a.family != AF_INET6)
        return verdict_of(policy, NULL);
    find_networks(policy, &a, 0, &chains);
    add_chain(&chains, policy->any_address);
    return verdict_of(policy, decide(policy, &chains, &q));
}

bool acl_policy_names_network(const struct acl_policy *policy, const struct addr *destination)
{
    const struct addr a = unmapped(destination);
    const struct query q = {.question = ASK_NETWORK, .port = a.port};
    struct chains chains = {0};
    if (a.family != AF_INET && a.family != AF_INET6)
        return false;
    find_networks(policy, &a, 1, &chains);
    return decide(policy, &chains, &q) != NULL;
}

unsigned acl_policy_port_use(const struct acl_policy *policy, uint16_t port)
{
    size_t low = 0, high = policy->segment_count;
    while (high - low > 1) { /* segments[low] begins at or before the port, segments[high] behind it */
        size_t middle = low + (high - low) / 2;
        if (policy->segments[middle].low <= port)
            low = middle;
        else
            high = middle;
    }
    return policy->segment_count ? policy->segments[low].use : 0;
}

const struct acl_port_range *acl_policy_ports(const struct acl_policy *policy, size_t *ret_count)
{
    *ret_count = policy->port_count;
    return policy->ports;
}
