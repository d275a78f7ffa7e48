/*
 * Which ports a policy speaks of, and how. Worked out once, at sealing: the start of every stretch of equal
 * use, sorted, so asking is a binary search. A difference array over the ports, of which only the entries that
 * rules have touched are looked at, makes the work linear in rules however wide their ranges are; and small for
 * a small policy, since every start of `sallyport exec` seals all profiles.
 *
 * Only allow rules count. A port that nothing allows is refused by the kernel's rules without help from the
 * gateway.
 */
#include "acl/policy_internal.h"

#include <errno.h>
#include <stdlib.h>

/* How many ranges of each use begin (+) or have ended (-) at a port. */
#define USE_BITS 4
#define STEPS 65537
#define WORD_BITS 64
struct port_steps {
    uint64_t touched[STEPS / WORD_BITS + 1]; /* a bit an entry of `at` */
    int32_t at[STEPS][USE_BITS];
};

static void touch(struct port_steps *steps, unsigned entry)
{
    steps->touched[entry / WORD_BITS] |= UINT64_C(1) << entry % WORD_BITS;
}

/* The first touched entry from `entry` on; STEPS when there is none. */
static unsigned next_touched(const struct port_steps *steps, unsigned entry)
{
    for (unsigned word = entry / WORD_BITS; word <= STEPS / WORD_BITS; word++) {
        uint64_t left = steps->touched[word];
        if (word == entry / WORD_BITS)
            left &= ~UINT64_C(0) << entry % WORD_BITS;
        if (left)
            return word * WORD_BITS + (unsigned)__builtin_ctzll(left);
    }
    return STEPS;
}

static void step_port(struct port_steps *steps, unsigned bit, uint16_t low, uint16_t high)
{
    steps->at[low][bit]++;
    steps->at[high + 1][bit]--;
    touch(steps, low);
    touch(steps, high + 1u);
}

/* What the layer below has worked out for itself. */
static void step_base(const struct acl_policy *base, struct port_steps *steps)
{
    for (size_t i = 0; i < base->segment_count; i++) {
        uint16_t high = i + 1 < base->segment_count ? (uint16_t)(base->segments[i + 1].low - 1) : 65535;
        for (unsigned bit = 0; bit < USE_BITS; bit++)
            if (base->segments[i].use & 1u << bit)
                step_port(steps, bit, base->segments[i].low, high);
    }
}

static void step_rules(const struct acl_policy *policy, struct port_steps *steps)
{
    static const uint8_t bits[] = {
        [ACL_SCHEME_HTTPS] = 0, [ACL_SCHEME_HTTP] = 1, [ACL_SCHEME_TCP] = 2, [ACL_SCHEME_ADDRESS] = 3};
    step_port(steps, 0, 443, 443);
    step_port(steps, 1, 80, 80);
    if (policy->base)
        step_base(policy->base, steps);
    for (rule_ref at = policy_rule_after(policy, 0); at; at = policy_rule_after(policy, at)) {
        const struct rule *rule = policy_rule(policy, at);
        if (rule->deny || rule->scheme == ACL_SCHEME_WEB || rule->scheme == ACL_SCHEME_UDP ||
            rule->scheme == ACL_SCHEME_ICMP)
            continue;
        unsigned bit = policy_rule_by_address(rule) ? bits[ACL_SCHEME_ADDRESS] : bits[rule->scheme];
        step_port(steps, bit, rule->port_low, rule->port_high);
    }
}

static void step_udp_rules(const struct acl_policy *policy, struct port_steps *steps)
{
    for (rule_ref at = policy_rule_after(policy, 0); at; at = policy_rule_after(policy, at)) {
        const struct rule *rule = policy_rule(policy, at);
        if (!rule->deny && rule->scheme == ACL_SCHEME_UDP)
            step_port(steps, 0, rule->port_low, rule->port_high);
    }
}

/* The segments of equal use, into `ret` (or only counted when it is NULL). */
static size_t sweep_ports(const struct port_steps *steps, struct segment *ret)
{
    int32_t depth[USE_BITS] = {0};
    size_t count = 0;
    int last = -1;
    for (unsigned port = 0; port <= 65535; port = next_touched(steps, port + 1)) {
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

/* The ports in use, of `count` segments; there is room for as many ranges. */
static size_t merge_ports(const struct segment *segments, size_t count, struct acl_port_range *ret)
{
    size_t merged = 0;
    for (size_t i = 0; i < count; i++) {
        if (!segments[i].use)
            continue;
        uint16_t high = i + 1 < count ? (uint16_t)(segments[i + 1].low - 1) : 65535;
        if (i > 0 && segments[i - 1].use)
            ret[merged - 1].high = high;
        else
            ret[merged++] = (struct acl_port_range){segments[i].low, high};
    }
    return merged;
}

static int survey_udp(struct acl_policy *policy)
{
    struct port_steps *steps = calloc(1, sizeof(*steps));
    struct segment *segments = NULL;
    free(policy->udp_ports);
    policy->udp_ports = NULL;
    policy->udp_port_count = 0;
    if (steps) {
        step_udp_rules(policy, steps);
        size_t count = sweep_ports(steps, NULL);
        segments = calloc(count, sizeof(*segments));
        policy->udp_ports = calloc(count, sizeof(*policy->udp_ports));
        if (segments && policy->udp_ports) {
            sweep_ports(steps, segments);
            policy->udp_port_count = merge_ports(segments, count, policy->udp_ports);
        }
    }
    bool good = segments && policy->udp_ports;
    free(segments);
    free(steps);
    return good ? 0 : -ENOMEM;
}

int policy_ports_survey(struct acl_policy *policy)
{
    struct port_steps *steps = calloc(1, sizeof(*steps));
    if (!steps)
        return -ENOMEM;
    step_rules(policy, steps);
    free(policy->segments); /* of a sealing that ran out of memory */
    free(policy->ports);
    policy->port_count = 0;
    policy->segment_count = sweep_ports(steps, NULL);
    policy->segments = calloc(policy->segment_count, sizeof(*policy->segments));
    policy->ports = calloc(policy->segment_count, sizeof(*policy->ports));
    if (policy->segments && policy->ports) {
        sweep_ports(steps, policy->segments);
        policy->port_count = merge_ports(policy->segments, policy->segment_count, policy->ports);
    }
    free(steps);
    if (!policy->segments || !policy->ports)
        return -ENOMEM;
    return policy->allows_udp ? survey_udp(policy) : 0;
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

const struct acl_port_range *acl_policy_udp_ports(const struct acl_policy *policy, size_t *ret_count)
{
    *ret_count = policy->udp_port_count;
    return policy->udp_ports;
}
