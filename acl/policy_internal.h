/*
 * What the files of a policy share: policy.c builds it, policy_table.c finds in it, policy_ports.c knows its
 * ports, policy_judge.c gives verdicts.
 *
 *     slot:  hash (32 bits) | rule     open addressing, linear probing, doubled when 2/3 full
 *     rule:  next of the same key, ports, scheme, origin, text, key, request: one run of bytes in one arena
 *
 * The slot keeps the hash that places it: growing never touches rules, and a probe that misses reads one
 * cache line. A hit reads the rule, whose text (with the key in it) lies right behind: that is two misses of
 * the cache for a name out of a million. Beside its text a rule costs 20 bytes, up to 3 of padding, and 12 to
 * 24 of slots.
 */
#pragma once

#include "acl/policy.h"

#include <string.h>

#define LABELS_MAX ((ACL_NAME_MAX + 1) / 2)
#define V4_BITS 32
#define V6_BITS 128
#define NET_KEY_MAX 17 /* prefix length, address */

enum key_kind { KEY_EXACT, KEY_WILDCARD, KEY_NET4, KEY_NET6, KEY_EVERY_NAME, KEY_ANY_ADDRESS };

/* Where a rule is in the arena: its offset in units of RULE_UNIT, plus 1; 0 is none. */
typedef uint32_t rule_ref;
#define RULE_UNIT 4u

struct rule {
    rule_ref next; /* of the same key */
    uint32_t line;
    uint16_t port_low, port_high;
    uint16_t file; /* index of policy.files */
    uint16_t text_length;
    uint16_t key_at; /* in `bytes`: inside the text where it is written in normal form, behind it where not */
    uint8_t key_length;
    uint8_t kind : 3, scheme : 3, deny : 1, limited : 1;
    char bytes[]; /* the text, a NUL, maybe the key, when `limited` a struct rule_request (not aligned) */
};

/* What a rule for some plain HTTP requests says of them. */
struct rule_request {
    uint16_t methods; /* acl_method_bit()s; 0: any */
    uint16_t path_at; /* of the pattern in the text */
    uint16_t path_length; /* 0: any path */
};

struct slot {
    uint32_t hash;
    rule_ref head; /* 0: free */
};

struct segment {
    uint16_t low; /* up to the next segment's */
    uint8_t use;
};

struct acl_policy {
    char *name;
    const struct acl_policy *base; /* the layer below, whose rules count as well; or NULL */
    enum acl_mode mode;
    enum acl_dns dns;
    enum acl_bind bind;
    enum acl_verify verify;
    bool ech_denied, sealed, denies_names, judges_requests, allows_udp, allows_icmp;
    struct acl_limits limits;

    uint64_t hash_key[2];
    struct slot *slots;
    size_t slot_count, slots_used; /* the count is a power of two */

    char *arena;
    size_t arena_used, arena_room, text_bytes;
    char **files;
    size_t file_count;

    rule_ref every_name, any_address;    /* chains without a key */
    bool wildcard_depth[LABELS_MAX + 1]; /* is there a wildcard over a name of so many labels? */
    bool net4_length[V4_BITS + 1], net6_length[V6_BITS + 1];

    struct segment *segments; /* port use, sorted; the first begins at 0 */
    size_t segment_count;
    rule_ref *packet_names; /* allow rules of udp:// and icmp:// by a whole name */
    size_t packet_name_count;
    struct acl_port_range *ports, *udp_ports;
    size_t port_count, udp_port_count;
};

static inline bool policy_rule_by_address(const struct rule *rule)
{
    return rule->kind == KEY_NET4 || rule->kind == KEY_NET6 || rule->kind == KEY_ANY_ADDRESS;
}

static inline struct rule *policy_rule(const struct acl_policy *policy, rule_ref ref)
{
    return (struct rule *)(void *)(policy->arena + (size_t)(ref - 1) * RULE_UNIT);
}

/* The rule behind `ref`, 0 at the end; with 0 the first. In the order added. */
rule_ref policy_rule_after(const struct acl_policy *policy, rule_ref ref);

static inline struct rule_request policy_rule_request(const struct rule *rule)
{
    struct rule_request request = {0};
    size_t behind = rule->key_at > rule->text_length ? rule->key_length : 0;
    if (rule->limited)
        memcpy(&request, rule->bytes + rule->text_length + 1 + behind, sizeof(request));
    return request;
}

/* What people are shown of it. */
struct acl_rule_view policy_view(const struct acl_policy *policy, const struct rule *rule);

/* ---- policy_table.c ---- */

int policy_table_init(struct acl_policy *policy);
/* Room for one more key. 0 or -ENOMEM. */
int policy_table_reserve(struct acl_policy *policy);
/* Hangs a rule in front of the chain of its key; there is room. */
void policy_table_link(struct acl_policy *policy, rule_ref ref);
/* Sorts the chains and drops what repeats. 0 or -ENOMEM. */
int policy_table_tidy(struct acl_policy *policy);

/* Chains in order of how closely they name what is asked for. */
struct chains {
    size_t count;
    rule_ref heads[V6_BITS + 2];
};
_Static_assert(V6_BITS + 2 >= LABELS_MAX + 1, "an exact name, its parents, every name");

/* The chains of everything that names this name: itself, its parents' wildcards from near to far, "*". False
 * when it is no name in normal form. */
bool policy_table_find_name(const struct acl_policy *policy, const char *name, size_t length,
                            struct chains *ret);
/* The chains of every network that holds the address, from small to large, prefixes down to `shortest` bits.
 */
void policy_table_find_networks(const struct acl_policy *policy, const struct addr *a, unsigned shortest,
                                struct chains *ret);

/* ---- policy_ports.c ---- */

/* Works out the use of every port. 0 or -ENOMEM. */
int policy_ports_survey(struct acl_policy *policy);
