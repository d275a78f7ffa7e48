/*
 * The address guard: tables of what is not the public Internet.
 *
 * Two tables. `ranges` is the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190, with
 * what came since) plus multicast and the addresses at which clouds answer for the machine's own credentials;
 * the longest prefix that holds an address decides. `embeddings` are the IPv6 forms that carry an IPv4
 * address a translator or a tunnel would deliver to: the worst of the outer range, "private", and each IPv4
 * address inside counts. An IPv4 address embeds nothing, so that is one step and no recursion.
 *
 * Registry entries marked "globally reachable" (AS112, AMT, anycast under 192.0.0.0/24 and 2001:1::) are
 * private here: no web server lives there. What lies outside 2000::/3 is not handed out (RFC 4291
 * section 2.4), so not public either. Limit: an operator's own NAT64 prefix cannot be told from any other
 * network.
 */
#include "acl/guard.h"

#include <string.h>

struct prefix {
    uint8_t size;   /* 4 or 16 bytes: the family */
    uint8_t length; /* bits */
    uint8_t bytes[16];
};

/* clang-format off */
#define V4(a, b, c, d, bits) {4, bits, {a, b, c, d}}
#define V6_GROUP(g) (uint8_t)((g) >> 8), (uint8_t)((g) & 0xff)
#define V6(a, b, c, d, e, f, g, h, bits) \
    {16, bits, {V6_GROUP(a), V6_GROUP(b), V6_GROUP(c), V6_GROUP(d), V6_GROUP(e), V6_GROUP(f), V6_GROUP(g), V6_GROUP(h)}}
/* clang-format on */

static const struct range {
    struct prefix prefix;
    enum acl_guard_class class;
    const char *name;
} ranges[] = {
    /* Cloud metadata first for the reader: the longest prefix wins wherever it stands. */
    {V4(169, 254, 169, 254, 32), ACL_GUARD_NEVER, "cloud metadata (AWS, GCP, Azure and others)"},
    {V4(169, 254, 170, 2, 32), ACL_GUARD_NEVER, "cloud metadata (AWS ECS task credentials)"},
    {V4(169, 254, 170, 23, 32), ACL_GUARD_NEVER, "cloud metadata (AWS EKS pod identity)"},
    {V4(168, 63, 129, 16, 32), ACL_GUARD_NEVER, "cloud metadata (Azure host agent)"},
    {V4(100, 100, 100, 200, 32), ACL_GUARD_NEVER, "cloud metadata (Alibaba Cloud)"},
    {V4(192, 0, 0, 192, 32), ACL_GUARD_NEVER, "cloud metadata (Oracle Cloud classic)"},
    {V6(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254, 128), ACL_GUARD_NEVER, "cloud metadata (AWS)"},
    {V6(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23, 128), ACL_GUARD_NEVER, "cloud metadata (AWS EKS pod identity)"},
    {V6(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254, 128), ACL_GUARD_NEVER, "cloud metadata (GCP)"},
    {V6(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42, 128), ACL_GUARD_NEVER, "cloud metadata (Scaleway)"},

    {V4(0, 0, 0, 0, 8), ACL_GUARD_NEVER, "this network, unspecified (RFC 791)"},
    {V4(10, 0, 0, 0, 8), ACL_GUARD_PRIVATE, "private (RFC 1918)"},
    {V4(100, 64, 0, 0, 10), ACL_GUARD_PRIVATE, "carrier-grade NAT (RFC 6598)"},
    {V4(127, 0, 0, 0, 8), ACL_GUARD_NEVER, "loopback (RFC 1122)"},
    {V4(169, 254, 0, 0, 16), ACL_GUARD_NEVER, "link-local (RFC 3927)"},
    {V4(172, 16, 0, 0, 12), ACL_GUARD_PRIVATE, "private (RFC 1918)"},
    {V4(192, 0, 0, 0, 24), ACL_GUARD_PRIVATE, "IETF protocol assignments (RFC 6890)"},
    {V4(192, 0, 2, 0, 24), ACL_GUARD_PRIVATE, "documentation (RFC 5737)"},
    {V4(192, 31, 196, 0, 24), ACL_GUARD_PRIVATE, "AS112 (RFC 7535)"},
    {V4(192, 52, 193, 0, 24), ACL_GUARD_PRIVATE, "AMT (RFC 7450)"},
    {V4(192, 88, 99, 0, 24), ACL_GUARD_PRIVATE, "6to4 relay anycast (RFC 7526)"},
    {V4(192, 168, 0, 0, 16), ACL_GUARD_PRIVATE, "private (RFC 1918)"},
    {V4(192, 175, 48, 0, 24), ACL_GUARD_PRIVATE, "AS112 (RFC 7534)"},
    {V4(198, 18, 0, 0, 15), ACL_GUARD_PRIVATE, "benchmarking (RFC 2544)"},
    {V4(198, 51, 100, 0, 24), ACL_GUARD_PRIVATE, "documentation (RFC 5737)"},
    {V4(203, 0, 113, 0, 24), ACL_GUARD_PRIVATE, "documentation (RFC 5737)"},
    {V4(224, 0, 0, 0, 4), ACL_GUARD_NEVER, "multicast (RFC 1112)"},
    {V4(240, 0, 0, 0, 4), ACL_GUARD_PRIVATE, "reserved (RFC 1112)"},
    {V4(255, 255, 255, 255, 32), ACL_GUARD_NEVER, "broadcast (RFC 919)"},
    {V4(0, 0, 0, 0, 0), ACL_GUARD_PUBLIC, "public"},

    {V6(0, 0, 0, 0, 0, 0, 0, 0, 128), ACL_GUARD_NEVER, "unspecified (RFC 4291)"},
    {V6(0, 0, 0, 0, 0, 0, 0, 1, 128), ACL_GUARD_NEVER, "loopback (RFC 4291)"},
    {V6(0x100, 0, 0, 0, 0, 0, 0, 0, 64), ACL_GUARD_PRIVATE, "discard-only (RFC 6666)"},
    {V6(0x100, 0, 0, 1, 0, 0, 0, 0, 64), ACL_GUARD_PRIVATE, "dummy prefix (RFC 9780)"},
    {V6(0x2001, 0, 0, 0, 0, 0, 0, 0, 23), ACL_GUARD_PRIVATE, "IETF protocol assignments (RFC 2928)"},
    {V6(0x2001, 2, 0, 0, 0, 0, 0, 0, 48), ACL_GUARD_PRIVATE, "benchmarking (RFC 5180)"},
    {V6(0x2001, 3, 0, 0, 0, 0, 0, 0, 32), ACL_GUARD_PRIVATE, "AMT (RFC 7450)"},
    {V6(0x2001, 4, 0x112, 0, 0, 0, 0, 0, 48), ACL_GUARD_PRIVATE, "AS112 (RFC 7535)"},
    {V6(0x2001, 0x10, 0, 0, 0, 0, 0, 0, 28), ACL_GUARD_PRIVATE, "ORCHID, deprecated (RFC 4843)"},
    {V6(0x2001, 0x20, 0, 0, 0, 0, 0, 0, 28), ACL_GUARD_PRIVATE, "ORCHIDv2 (RFC 7343)"},
    {V6(0x2001, 0x30, 0, 0, 0, 0, 0, 0, 28), ACL_GUARD_PRIVATE, "drone remote ID (RFC 9374)"},
    {V6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0, 32), ACL_GUARD_PRIVATE, "documentation (RFC 3849)"},
    {V6(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0, 48), ACL_GUARD_PRIVATE, "AS112 (RFC 7534)"},
    {V6(0x3fff, 0, 0, 0, 0, 0, 0, 0, 20), ACL_GUARD_PRIVATE, "documentation (RFC 9637)"},
    {V6(0x5f00, 0, 0, 0, 0, 0, 0, 0, 16), ACL_GUARD_PRIVATE, "segment routing SIDs (RFC 9602)"},
    {V6(0xfc00, 0, 0, 0, 0, 0, 0, 0, 7), ACL_GUARD_PRIVATE, "unique local (RFC 4193)"},
    {V6(0xfe80, 0, 0, 0, 0, 0, 0, 0, 10), ACL_GUARD_NEVER, "link-local (RFC 4291)"},
    {V6(0xfec0, 0, 0, 0, 0, 0, 0, 0, 10), ACL_GUARD_PRIVATE, "site-local, deprecated (RFC 3879)"},
    {V6(0xff00, 0, 0, 0, 0, 0, 0, 0, 8), ACL_GUARD_NEVER, "multicast (RFC 4291)"},
    {V6(0x2000, 0, 0, 0, 0, 0, 0, 0, 3), ACL_GUARD_PUBLIC, "public"},
    {V6(0, 0, 0, 0, 0, 0, 0, 0, 0), ACL_GUARD_PRIVATE, "not global unicast (RFC 4291)"},
};

/* Where the IPv4 address stands: its four bytes by index, and from which byte on the rest must be zero to
 * read it so. */
struct place {
    uint8_t at[4];
    uint8_t zero_from; /* 16: nothing must */
    uint8_t mask;      /* XOR-ed onto each byte */
};

static const struct embedding {
    struct prefix prefix;
    const char *name;
    struct place places[4];
    uint8_t count;
    bool unsure; /* the places are guesses: one that reads as 0.0.0.0/8 is none */
} embeddings[] = {
    {V6(0, 0, 0, 0, 0, 0xffff, 0, 0, 96), "IPv4-mapped (RFC 4291)", {{{12, 13, 14, 15}, 16, 0}}, 1, false},
    {V6(0, 0, 0, 0, 0, 0, 0, 0, 96), "IPv4-compatible (RFC 4291)", {{{12, 13, 14, 15}, 16, 0}}, 1, false},
    {V6(0, 0, 0, 0, 0xffff, 0, 0, 0, 96),
     "IPv4-translated (RFC 2765)",
     {{{12, 13, 14, 15}, 16, 0}},
     1,
     false},
    {V6(0x64, 0xff9b, 0, 0, 0, 0, 0, 0, 96), "NAT64 (RFC 6052)", {{{12, 13, 14, 15}, 16, 0}}, 1, false},
    /* A site picks the length of its prefix inside this /48: every layout of RFC 6052 section 2.2 that fits
       is read. */
    {V6(0x64, 0xff9b, 1, 0, 0, 0, 0, 0, 48),
     "local-use NAT64 (RFC 8215)",
     {{{12, 13, 14, 15}, 16, 0}, {{6, 7, 9, 10}, 11, 0}, {{7, 9, 10, 11}, 12, 0}, {{9, 10, 11, 12}, 13, 0}},
     4,
     true},
    {V6(0x2002, 0, 0, 0, 0, 0, 0, 0, 16), "6to4 (RFC 3056)", {{{2, 3, 4, 5}, 16, 0}}, 1, false},
    /* Server in the clear, client with all bits inverted (RFC 4380 section 4). */
    {V6(0x2001, 0, 0, 0, 0, 0, 0, 0, 32),
     "Teredo (RFC 4380)",
     {{{12, 13, 14, 15}, 16, 0xff}, {{4, 5, 6, 7}, 16, 0}},
     2,
     false},
};

/* ISATAP (RFC 5214 section 6.1) is an interface identifier under any /64: 00-00-5E-FE or, universal bit set,
 * 02-… . */
static const struct place isatap_place = {{12, 13, 14, 15}, 16, 0};

struct judgement {
    enum acl_guard_class class;
    const char *name;
};

static bool prefix_holds(const struct prefix *p, const struct addr *a, size_t size)
{
    if (p->size != size)
        return false;
    size_t whole = p->length / 8u;
    if (memcmp(p->bytes, a->bytes, whole) != 0)
        return false;
    unsigned rest = p->length % 8u;
    return rest == 0 || ((p->bytes[whole] ^ a->bytes[whole]) >> (8 - rest)) == 0;
}

/* The longest range that holds `a`: there is always one, as both families end in a default. */
static struct judgement judge_range(const struct addr *a)
{
    size_t size = a->family == AF_INET ? 4 : 16;
    const struct range *best = NULL;
    for (size_t i = 0; i < sizeof(ranges) / sizeof(*ranges); i++) {
        if (prefix_holds(&ranges[i].prefix, a, size) &&
            (!best || ranges[i].prefix.length > best->prefix.length))
            best = &ranges[i];
    }
    return (struct judgement){best->class, best->name};
}

static bool zero_from(const struct addr *a, size_t first)
{
    for (size_t i = first; i < 16; i++) {
        if (a->bytes[i])
            return false;
    }
    return true;
}

/* Worsens `j` by the IPv4 address at `place` of `a`. */
static void judge_place(const struct addr *a, const struct place *place, bool unsure, struct judgement *j)
{
    if (!zero_from(a, place->zero_from))
        return;
    struct addr inner = {.family = AF_INET};
    for (size_t i = 0; i < 4; i++)
        inner.bytes[i] = a->bytes[place->at[i]] ^ place->mask;
    if (unsure && inner.bytes[0] == 0)
        return;
    struct judgement found = judge_range(&inner);
    if (found.class > j->class)
        *j = found;
}

static void worsen(struct judgement *j, enum acl_guard_class class, const char *name)
{
    if (class > j->class)
        *j = (struct judgement){class, name};
}

static void judge_embedded(const struct addr *a, struct judgement *j)
{
    for (size_t i = 0; i < sizeof(embeddings) / sizeof(*embeddings); i++) {
        const struct embedding *e = &embeddings[i];
        if (!prefix_holds(&e->prefix, a, 16))
            continue;
        if (j->class < ACL_GUARD_NEVER)
            *j = (struct judgement){ACL_GUARD_PRIVATE, e->name};
        for (size_t k = 0; k < e->count; k++)
            judge_place(a, &e->places[k], e->unsure, j);
    }
    static const uint8_t isatap[] = {0x00, 0x00, 0x5e, 0xfe};
    if ((a->bytes[8] & (uint8_t)~0x02u) == 0 && memcmp(a->bytes + 9, isatap + 1, 3) == 0) {
        worsen(j, ACL_GUARD_PRIVATE, "ISATAP (RFC 5214)");
        judge_place(a, &isatap_place, false, j);
    }
}

static struct judgement judge(const struct addr *a)
{
    if (a->family != AF_INET && a->family != AF_INET6)
        return (struct judgement){ACL_GUARD_NEVER, "not an address"};
    struct judgement j = judge_range(a);
    if (a->family == AF_INET6)
        judge_embedded(a, &j);
    return j;
}

enum acl_guard_class acl_guard_classify(const struct addr *a)
{
    return judge(a).class;
}

const char *acl_guard_range_name(const struct addr *a)
{
    return judge(a).name;
}

static void tell_prefix(const struct prefix *p, enum acl_guard_class class,
                        void (*each)(const struct cidr *net, enum acl_guard_class class, void *arg), void *arg)
{
    struct cidr net = {.base.family = p->size == 4 ? AF_INET : AF_INET6, .length = p->length};
    memcpy(net.base.bytes, p->bytes, p->size);
    each(&net, class, arg);
}

void acl_guard_each(void (*each)(const struct cidr *net, enum acl_guard_class class, void *arg), void *arg)
{
    /* What lies outside 2000::/3 is not public (above): by its complement, 0::/3 and 4000::/2 and 8000::/1. */
    static const struct prefix outside[] = {V6(0, 0, 0, 0, 0, 0, 0, 0, 3), V6(0x4000, 0, 0, 0, 0, 0, 0, 0, 2),
                                            V6(0x8000, 0, 0, 0, 0, 0, 0, 0, 1)};
    for (size_t i = 0; i < sizeof(ranges) / sizeof(*ranges); i++)
        if (ranges[i].class != ACL_GUARD_PUBLIC && ranges[i].prefix.length > 0)
            tell_prefix(&ranges[i].prefix, ranges[i].class, each, arg);
    for (size_t i = 0; i < sizeof(embeddings) / sizeof(*embeddings); i++)
        tell_prefix(&embeddings[i].prefix, ACL_GUARD_PRIVATE, each, arg);
    for (size_t i = 0; i < sizeof(outside) / sizeof(*outside); i++)
        tell_prefix(&outside[i], ACL_GUARD_PRIVATE, each, arg);
}
