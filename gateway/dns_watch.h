/*
 * Looks for tunnels: DNS carries data out as names, so a tunnel asks for very many long names, each only
 * once, below one wildcard that a policy allows. No limit can tell such names from honest ones for sure; this
 * tells people.
 *
 * Counted by wildcard rule, in windows of a minute: names that had to be asked for (not kept, so most likely
 * new), whose part below the wildcard is long, each once as far as a small bitmap can tell.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DNS_WATCH_RULES 4   /* watched at a time, of one container */
#define DNS_WATCH_BITS 1024 /* of the bitmap */
#define DNS_WATCH_LONG 24   /* bytes below the wildcard: hashes and ids of CDNs are shorter mostly */
#define DNS_WATCH_NAMES 100 /* of them in a window: then it is told */
#define DNS_WATCH_WINDOW_MS 60000

struct dns_watch_rule {
    const char *rule; /* its text in the policy; NULL: free */
    uint64_t since_ms;
    unsigned names;
    bool told;
    uint8_t seen[DNS_WATCH_BITS / 8];
};

struct dns_watch {
    struct dns_watch_rule rules[DNS_WATCH_RULES];
};

/* A name was asked for that `rule` allows. True once a window and rule: it looks like a tunnel. */
bool dns_watch_note(struct dns_watch *watch, const char *rule, const char *name, size_t length,
                    uint64_t now_ms);
