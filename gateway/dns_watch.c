#include "gateway/dns_watch.h"

#include <string.h>

/* The bytes of the name that the rule leaves to who asks; 0 for a rule without a wildcard in its host. */
static size_t below_wildcard(const char *rule, size_t length)
{
    const char *scheme = strstr(rule, "://"), *host = scheme ? scheme + 3 : rule;
    size_t stars = strspn(host, "*"), fixed = strcspn(host + stars, ":/"); /* ".example.com" */
    return stars && length > fixed ? length - fixed : 0;
}

static struct dns_watch_rule *find_rule(struct dns_watch *watch, const char *rule, uint64_t now_ms)
{
    struct dns_watch_rule *oldest = &watch->rules[0];
    for (size_t i = 0; i < DNS_WATCH_RULES; i++) {
        struct dns_watch_rule *r = &watch->rules[i];
        if (r->rule == rule && now_ms - r->since_ms < DNS_WATCH_WINDOW_MS)
            return r;
        if (r->rule == rule || !r->rule || (oldest->rule && r->since_ms < oldest->since_ms))
            oldest = r;
        if (r->rule == rule)
            break;
    }
    *oldest = (struct dns_watch_rule){.rule = rule, .since_ms = now_ms};
    return oldest;
}

static bool is_new(struct dns_watch_rule *r, const char *name, size_t length)
{
    uint32_t hash = 0x811c9dc5u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)name[i]) * 0x01000193u;
    hash = (hash ^ hash >> 15) % DNS_WATCH_BITS;
    bool seen = r->seen[hash / 8] & 1u << hash % 8;
    r->seen[hash / 8] |= (uint8_t)(1u << hash % 8);
    return !seen;
}

bool dns_watch_note(struct dns_watch *watch, const char *rule, const char *name, size_t length,
                    uint64_t now_ms)
{
    if (below_wildcard(rule, length) < DNS_WATCH_LONG)
        return false;
    struct dns_watch_rule *r = find_rule(watch, rule, now_ms);
    if (r->told || !is_new(r, name, length) || ++r->names < DNS_WATCH_NAMES)
        return false;
    r->told = true;
    return true;
}
