#include "gateway/learned.h"

#include "gateway/worker_internal.h"
#include "redirect/monitor/channel.h"

#include <string.h>

#define TOLD_MS 60000 /* the kernel keeps what it was told for an hour */

struct noting {
    struct worker *worker;
    const struct capture *capture;
    const char *name;
    size_t length;
    const struct addr *addresses;
    size_t count;
    uint32_t ttl, rule, serial;
};

static bool rule_names(const struct acl_rule *rule, const char *name, size_t length)
{
    size_t own = strlen(rule->name);
    if (!rule->wildcard)
        return own == length && !memcmp(rule->name, name, length);
    if (own == 0)
        return true;
    return length > own + 1 && name[length - own - 1] == '.' && !memcmp(name + length - own, rule->name, own);
}

/* Deny rules by name hold for the whole of a rule, or not at all: its first port stands for the others. */
static bool is_denied(const struct noting *n, const struct acl_rule *rule)
{
    enum acl_protocol protocol = rule->scheme == ACL_SCHEME_ICMP ? ACL_ICMP : ACL_UDP;
    return !acl_policy_judge_name(n->capture->policy, protocol, n->name, n->length, rule->port_low).allowed;
}

static struct learned_slot *slot_of(const struct noting *n, const struct addr *address)
{
    struct learned *learned = &n->worker->learned;
    const char *policy = acl_policy_name(n->capture->policy);
    uint64_t key = 0xcbf29ce484222325u ^ n->rule;
    for (const char *at = policy; *at; at++)
        key = (key ^ (uint8_t)*at) * 0x100000001b3u;
    for (size_t i = 0; i < sizeof(address->bytes); i++)
        key = (key ^ address->bytes[i]) * 0x100000001b3u;
    for (const char *at = config_version(n->worker->snapshot); *at; at++) /* after a change the rule may be another one */
        key = (key ^ (uint8_t)*at) * 0x100000001b3u;
    struct learned_slot *slot = &learned->slots[(key >> 32) % LEARNED_SLOTS];
    if (slot->key != key)
        *slot = (struct learned_slot){.key = key};
    return slot;
}

/* A message that finds no room is sent with the next question. */
static void tell(struct noting *n, const struct addr *address)
{
    struct worker *w = n->worker;
    struct learned_slot *slot = slot_of(n, address);
    if (slot->until_ms > uv_now(&w->loop))
        return;
    uint32_t serial = w->learned.sent + 1 ? w->learned.sent + 1 : 1;
    if (channel_send_learned(w->channel, serial, acl_policy_name(n->capture->policy), config_version(w->snapshot), n->rule,
                             address, n->ttl) < 0)
        return;
    w->learned.sent = n->serial = serial;
    slot->until_ms = uv_now(&w->loop) + TOLD_MS;
}

static bool look_at_rule(const struct acl_rule *rule, const char *text, void *arg)
{
    struct noting *n = arg;
    (void)text;
    if (!rule->deny && !rule->by_address && rule_names(rule, n->name, n->length) && !is_denied(n, rule))
        for (size_t i = 0; i < n->count; i++)
            tell(n, &n->addresses[i]);
    n->rule++;
    return true;
}

uint32_t learned_note(struct capture *capture, const char *name, size_t length, const struct addr *addresses, size_t count,
                      uint32_t ttl)
{
    struct noting n = {.worker = capture->worker, .capture = capture, .name = name, .length = length,
                       .addresses = addresses, .count = count, .ttl = ttl};
    size_t ports;
    acl_policy_udp_ports(capture->policy, &ports);
    if (!capture->network || count == 0 || (ports == 0 && !acl_policy_allows_icmp(capture->policy)))
        return 0;
    acl_policy_each_packet_rule(capture->policy, look_at_rule, &n);
    return n.serial;
}

void learned_done(struct worker *worker, uint32_t serial)
{
    worker->learned.done = serial;
}

bool learned_is_done(const struct worker *worker, uint32_t serial)
{
    return (int32_t)(worker->learned.done - serial) >= 0;
}
