/*
 * A policy being built, sealed and described. How it is laid out: policy_internal.h; how it finds:
 * policy_table.c. Adding is linear: the arena grows by half, the table doubles, and neither ever looks at a
 * name again.
 *
 * Limit: 16 GiB of rules, 65536 files of origin.
 */
#include "acl/policy_internal.h"
#include "acl/huge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RULE_REF_MAX UINT32_MAX
#define PACKET_NAMES_MAX 64

static size_t rule_size(size_t text_length, size_t behind)
{
    size_t size = sizeof(struct rule) + text_length + 1 + behind;
    return (size + RULE_UNIT - 1) / RULE_UNIT * RULE_UNIT;
}

/* Bytes behind the text: the key, unless it is in the text, and what the rule says of requests. */
static size_t behind_text(const struct rule *rule)
{
    size_t key = rule->key_at > rule->text_length ? rule->key_length : 0;
    return key + (rule->limited ? sizeof(struct rule_request) : 0);
}

rule_ref policy_rule_after(const struct acl_policy *policy, rule_ref ref)
{
    size_t at = 0;
    if (ref) {
        const struct rule *rule = policy_rule(policy, ref);
        at = (size_t)(ref - 1) * RULE_UNIT + rule_size(rule->text_length, behind_text(rule));
    }
    return at < policy->arena_used ? (rule_ref)(at / RULE_UNIT + 1) : 0;
}

struct acl_policy *acl_policy_create(const char *name)
{
    struct acl_policy *policy = calloc(1, sizeof(*policy));
    if (!policy)
        return NULL;
    policy->name = strdup(name);
    if (!policy->name || policy_table_init(policy) < 0) {
        acl_policy_destroy(policy);
        return NULL;
    }
    return policy;
}

struct acl_policy *acl_policy_create_over(const struct acl_policy *base, const char *name)
{
    struct acl_policy *policy = acl_policy_create(name);
    if (!policy)
        return NULL;
    policy->base = base;
    policy->mode = base->mode;
    policy->dns = base->dns;
    policy->bind = base->bind;
    policy->verify = base->verify;
    policy->ech_denied = base->ech_denied;
    policy->denies_names = base->denies_names;
    policy->judges_requests = base->judges_requests;
    policy->limits = base->limits;
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
    free(policy->udp_ports);
    free(policy->packet_names);
    free(policy->arena);
    free(policy->slots);
    free(policy->name);
    free(policy);
}

/* Makes room for `more` bytes at the arena's end. */
static int reserve_arena(struct acl_policy *policy, size_t more)
{
    size_t need = policy->arena_used + more;
    if (need <= policy->arena_room)
        return 0;
    if (need / RULE_UNIT >= RULE_REF_MAX)
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

static enum key_kind kind_of(const struct acl_rule *parsed)
{
    if (!parsed->by_address)
        return !parsed->wildcard ? KEY_EXACT : parsed->name[0] ? KEY_WILDCARD : KEY_EVERY_NAME;
    if (parsed->net.base.family == AF_UNSPEC)
        return KEY_ANY_ADDRESS;
    return parsed->net.base.family == AF_INET ? KEY_NET4 : KEY_NET6;
}

/* The key of a rule: a name, or prefix length and address. `ret` has room for either. */
static size_t make_key(const struct acl_rule *parsed, char ret[ACL_NAME_MAX + 1])
{
    const struct cidr *net = &parsed->net;
    if (!parsed->by_address) {
        size_t length = strlen(parsed->name);
        memcpy(ret, parsed->name, length);
        return length;
    }
    if (net->base.family == AF_UNSPEC)
        return 0;
    size_t size = net->base.family == AF_INET ? 4 : 16;
    ret[0] = (char)net->length;
    memcpy(ret + 1, net->base.bytes, size);
    return 1 + size;
}

/* Writes the rule to the arena's end. A name is mostly written in normal form already: then its key is part
 * of the text. There is room. */
static rule_ref store_rule(struct acl_policy *policy, const struct acl_rule *parsed, const char *text,
                           size_t length, uint32_t line, uint16_t file)
{
    char key[ACL_NAME_MAX + 1];
    size_t key_length = make_key(parsed, key);
    const char *found = memmem(text, length, key, key_length);
    bool limited = parsed->methods || parsed->path_length;
    const struct rule_request request = {parsed->methods, parsed->path_at, parsed->path_length};
    size_t key_behind = found ? 0 : key_length, behind = key_behind + (limited ? sizeof(request) : 0);
    rule_ref ref = (rule_ref)(policy->arena_used / RULE_UNIT + 1);
    struct rule *rule = policy_rule(policy, ref);
    memset(rule, 0, rule_size(length, behind));
    rule->line = line;
    rule->file = file;
    rule->kind = (uint8_t)(kind_of(parsed) & 7);
    rule->scheme = (uint8_t)(parsed->scheme & 7);
    rule->deny = parsed->deny;
    rule->limited = limited;
    rule->port_low = parsed->port_low;
    rule->port_high = parsed->port_high;
    rule->text_length = (uint16_t)length;
    rule->key_length = (uint8_t)key_length;
    rule->key_at = (uint16_t)(found ? (size_t)(found - text) : length + 1);
    memcpy(rule->bytes, text, length);
    memcpy(rule->bytes + length + 1, key, key_behind);
    memcpy(rule->bytes + length + 1 + key_behind, &request, behind - key_behind);
    policy->arena_used += rule_size(length, behind);
    policy->text_bytes += length + 1 + behind;
    return ref;
}

static size_t count_labels(const char *name)
{
    size_t labels = 1;
    for (; *name; name++)
        labels += *name == '.';
    return labels;
}

/* What look-ups are told of the rules as a whole. */
static void note_rule(struct acl_policy *policy, const struct acl_rule *parsed)
{
    enum key_kind kind = kind_of(parsed);
    if (kind == KEY_WILDCARD)
        policy->wildcard_depth[count_labels(parsed->name)] = true;
    else if (kind == KEY_NET4)
        policy->net4_length[parsed->net.length] = true;
    else if (kind == KEY_NET6)
        policy->net6_length[parsed->net.length] = true;
    bool packets = parsed->scheme == ACL_SCHEME_UDP || parsed->scheme == ACL_SCHEME_ICMP;
    if (parsed->deny && !parsed->by_address && !packets)
        policy->denies_names = true;
    policy->allows_udp |= !parsed->deny && parsed->scheme == ACL_SCHEME_UDP;
    policy->allows_icmp |= !parsed->deny && parsed->scheme == ACL_SCHEME_ICMP;
    if (parsed->methods || parsed->path_length)
        policy->judges_requests = true;
}

int acl_policy_add(struct acl_policy *policy, const char *text, size_t length, bool deny,
                   struct acl_origin origin, struct error *err)
{
    struct acl_rule parsed;
    uint16_t file = 0;
    if (policy->sealed)
        return error_set(err, EINVAL, "policy \"%s\" is in use and takes no more rules; load a new one",
                         policy->name);
    int r = acl_rule_parse(text, length, deny, &parsed, err);
    if (r < 0)
        return r;
    r = reserve_arena(policy, rule_size(length, ACL_NAME_MAX + sizeof(struct rule_request)));
    if (r == 0)
        r = policy_table_reserve(policy);
    if (r == 0)
        r = intern_file(policy, origin.file, &file);
    if (r < 0)
        return error_set(err, ENOMEM, "out of memory for the rules of policy \"%s\"", policy->name);
    note_rule(policy, &parsed);
    policy_table_link(policy, store_rule(policy, &parsed, text, length, origin.line, file));
    return 0;
}

/* Moves the rules to memory of their own size, and gives back what growing reserved beyond need. Failing to is no
 * failure. */
static void settle(struct acl_policy *policy)
{
    char *arena = policy->arena_used ? malloc(policy->arena_used) : NULL;
    if (!arena)
        return;
    advise_huge(arena, policy->arena_used);
    memcpy(arena, policy->arena, policy->arena_used);
    free(policy->arena);
    policy->arena = arena;
    policy->arena_room = policy->arena_used;
}

static int collect_packet_names(struct acl_policy *policy)
{
    if (!policy->allows_udp && !policy->allows_icmp)
        return 0;
    free(policy->packet_names); /* of a sealing that ran out of memory */
    policy->packet_name_count = 0;
    policy->packet_names = calloc(PACKET_NAMES_MAX, sizeof(*policy->packet_names));
    if (!policy->packet_names)
        return -ENOMEM;
    for (rule_ref at = policy_rule_after(policy, 0); at && policy->packet_name_count < PACKET_NAMES_MAX;
         at = policy_rule_after(policy, at)) {
        const struct rule *rule = policy_rule(policy, at);
        if (!rule->deny && rule->kind == KEY_EXACT &&
            (rule->scheme == ACL_SCHEME_UDP || rule->scheme == ACL_SCHEME_ICMP))
            policy->packet_names[policy->packet_name_count++] = at;
    }
    return 0;
}

size_t acl_policy_packet_names(const struct acl_policy *policy, enum acl_protocol protocol, uint16_t port,
                               char ret[][ACL_NAME_MAX + 1], size_t size)
{
    enum acl_scheme scheme = protocol == ACL_UDP ? ACL_SCHEME_UDP : ACL_SCHEME_ICMP;
    size_t count = 0;
    for (size_t i = 0; i < policy->packet_name_count && count < size; i++) {
        const struct rule *rule = policy_rule(policy, policy->packet_names[i]);
        if (rule->scheme != scheme || port < rule->port_low || port > rule->port_high)
            continue;
        memcpy(ret[count], rule->bytes + rule->key_at, rule->key_length);
        ret[count++][rule->key_length] = 0;
    }
    return count;
}

int acl_policy_seal(struct acl_policy *policy)
{
    if (policy->sealed)
        return 0;
    int r = policy_table_tidy(policy);
    if (r == 0)
        r = policy_ports_survey(policy);
    if (r == 0)
        r = collect_packet_names(policy);
    if (r < 0)
        return r;
    settle(policy);
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

void acl_policy_set_verify(struct acl_policy *policy, enum acl_verify verify)
{
    policy->verify = verify;
}

void acl_policy_set_ech_denied(struct acl_policy *policy, bool denied)
{
    policy->ech_denied = denied;
}

void acl_policy_set_limits(struct acl_policy *policy, const struct acl_limits *limits)
{
    policy->limits = *limits;
}

const struct acl_limits *acl_policy_limits(const struct acl_policy *policy)
{
    return &policy->limits;
}

bool acl_policy_judges_requests(const struct acl_policy *policy)
{
    return policy->judges_requests;
}

const struct acl_policy *acl_policy_base(const struct acl_policy *policy)
{
    return policy->base;
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

enum acl_verify acl_policy_verify(const struct acl_policy *policy)
{
    return policy->verify;
}

bool acl_policy_ech_denied(const struct acl_policy *policy)
{
    return policy->ech_denied;
}

bool acl_policy_denies_names(const struct acl_policy *policy)
{
    return policy->denies_names;
}

struct acl_rule_view policy_view(const struct acl_policy *policy, const struct rule *rule)
{
    return (struct acl_rule_view){
        .text = rule->bytes, .origin = {policy->files[rule->file], rule->line}, .deny = rule->deny};
}

/* The lowest layer first. */
static bool each_rule(const struct acl_policy *policy, bool (*each)(const struct acl_rule_view *rule, void *arg), void *arg)
{
    if (policy->base && !each_rule(policy->base, each, arg))
        return false;
    for (rule_ref at = policy_rule_after(policy, 0); at; at = policy_rule_after(policy, at)) {
        struct acl_rule_view view = policy_view(policy, policy_rule(policy, at));
        if (!each(&view, arg))
            return false;
    }
    return true;
}

void acl_policy_each(const struct acl_policy *policy,
                     bool (*each)(const struct acl_rule_view *rule, void *arg), void *arg)
{
    each_rule(policy, each, arg);
}

bool acl_policy_allows_icmp(const struct acl_policy *policy)
{
    return policy->allows_icmp || (policy->base && acl_policy_allows_icmp(policy->base));
}

static bool speaks_of_packets(const struct rule *rule)
{
    return rule->scheme == ACL_SCHEME_UDP || rule->scheme == ACL_SCHEME_ICMP ||
           (rule->deny && rule->scheme == ACL_SCHEME_ADDRESS);
}

static bool each_packet_rule(const struct acl_policy *policy,
                             bool (*each)(const struct acl_rule *rule, const char *text, void *arg), void *arg)
{
    if (policy->base && !each_packet_rule(policy->base, each, arg))
        return false;
    for (rule_ref at = policy_rule_after(policy, 0); at; at = policy_rule_after(policy, at)) {
        const struct rule *rule = policy_rule(policy, at);
        struct acl_rule parsed;
        if (speaks_of_packets(rule) &&
            acl_rule_parse(rule->bytes, rule->text_length, rule->deny, &parsed, NULL) == 0 &&
            !each(&parsed, rule->bytes, arg))
            return false;
    }
    return true;
}

void acl_policy_each_packet_rule(const struct acl_policy *policy,
                                 bool (*each)(const struct acl_rule *rule, const char *text, void *arg), void *arg)
{
    each_packet_rule(policy, each, arg);
}

size_t acl_policy_memory(const struct acl_policy *policy, size_t *ret_text)
{
    size_t bytes = sizeof(*policy) + strlen(policy->name) + 1;
    bytes += policy->slot_count * sizeof(*policy->slots) + policy->arena_room;
    bytes += policy->file_count * sizeof(*policy->files);
    for (size_t i = 0; i < policy->file_count; i++)
        bytes += strlen(policy->files[i]) + 1;
    bytes += policy->segment_count * (sizeof(*policy->segments) + sizeof(*policy->ports));
    bytes += policy->udp_port_count * sizeof(*policy->udp_ports);
    bytes += policy->packet_names ? PACKET_NAMES_MAX * sizeof(*policy->packet_names) : 0;
    *ret_text = policy->text_bytes;
    return bytes;
}
