/*
 * Answers: what of an upstream message may reach a client, written anew, kept, and served.
 *
 * Nothing is passed on because it happened to be in the message. Of the answer section: the CNAME records of
 * the chain from the question, and the records of the type that was asked for whose owner is in the chain. Of
 * the authority section: the SOA that makes a negative answer one (RFC 2308), when its zone holds the name.
 * Of the additional section: nothing. Names inside RDATA are expanded and compressed again, against names
 * that are in our own message; so only types whose RDATA is known can pass (RFC 3597), and those are the
 * table below.
 *
 *   record      owner TYPE class ttl rdlength RDATA
 *   SVCB RDATA  priority(2) target(name, never compressed) { key(2) length(2) value }…, keys rising    RFC
 * 9460
 *
 * In HTTPS and SVCB records `ech` goes (the gateway judges the outer name, so an honest client shall not hide
 * the inner one) and so do `h3` and its drafts in `alpn` (UDP 443 is closed: it would only cost the client a
 * timeout). A record that cannot do without what is cut (`mandatory` names it, or there was no other protocol
 * and no default) is left out. Address hints are addresses: they are guarded and remembered as A and AAAA
 * are.
 */
#include "gateway/dns_internal.h"

#include <errno.h>
#include <string.h>

enum { SECTIONS_TTL_MAX = DNS_KEEP_MAX_S };
enum {
    SVCB_MANDATORY = 0,
    SVCB_ALPN = 1,
    SVCB_NO_DEFAULT_ALPN = 2,
    SVCB_IPV4HINT = 4,
    SVCB_ECH = 5,
    SVCB_IPV6HINT = 6
};
#define SVCB_VALUE_MAX 1024 /* of an alpn list that is written anew */

/* What RDATA is made of: 2 two bytes, n a name, s a string with its length before it, * all the rest, v SVCB.
 */
static const struct {
    uint16_t type;
    const char *layout;
} passed_types[] = {
    {DNS_TYPE_A, "*"},     {2, "n" /* NS */},      {DNS_TYPE_CNAME, "n"},      {DNS_TYPE_SOA, "nn*"},
    {12, "n" /* PTR */},   {15, "2n" /* MX */},    {16, "*" /* TXT */},        {DNS_TYPE_AAAA, "*"},
    {29, "*" /* LOC */},   {33, "222n" /* SRV */}, {35, "22sssn" /* NAPTR */}, {43, "*" /* DS */},
    {44, "*" /* SSHFP */}, {48, "*" /* DNSKEY */}, {52, "*" /* TLSA */},       {DNS_TYPE_SVCB, "v"},
    {DNS_TYPE_HTTPS, "v"}, {99, "*" /* SPF */},    {256, "*" /* URI */},       {257, "*" /* CAA */},
};

static const char *layout_of(uint16_t type)
{
    for (size_t i = 0; i < sizeof(passed_types) / sizeof(*passed_types); i++)
        if (passed_types[i].type == type)
            return passed_types[i].layout;
    return NULL;
}

bool dns_type_passes(uint16_t type)
{
    return layout_of(type) != NULL;
}

/* ---- names, compressed against those that were written before ---- */

#define PLACES_MAX (CNAMES_MAX + 2)

struct distiller {
    const struct message *from;
    struct writer to;
    struct chain chain;
    uint16_t type;
    struct {
        struct wire_name name;
        size_t offset;
    } places[PLACES_MAX]; /* names that stand uncompressed, or begin so, at an offset that a pointer can hold
                           */
    size_t place_count;
    struct dns_answer *facts;
    uint32_t keep;
    uint16_t answers, authorities;
    bool malformed;
};

/* Where in a place `suffix` (to the end of `name`) stands; 0: nowhere. */
static size_t find_suffix(const struct distiller *d, const uint8_t *suffix, size_t length)
{
    for (size_t i = 0; i < d->place_count; i++) {
        const struct wire_name *name = &d->places[i].name;
        for (size_t at = 0; at + length <= name->length; at += 1u + name->bytes[at])
            if (at + length == name->length && !memcmp(name->bytes + at, suffix, length))
                return d->places[i].offset + at;
    }
    return 0;
}

/* Remembers where the part of `name` before a pointer (or all of it) was written. */
static void note_place(struct distiller *d, const struct wire_name *name, size_t offset)
{
    if (d->place_count == PLACES_MAX || offset + name->length > 0x3fff || d->to.failed)
        return;
    d->places[d->place_count].name = *name;
    d->places[d->place_count++].offset = offset;
}

static void put_name(struct distiller *d, const struct wire_name *name)
{
    size_t start = d->to.used;
    for (size_t at = 0; name->bytes[at]; at += 1u + name->bytes[at]) {
        size_t known = find_suffix(d, name->bytes + at, name->length - at);
        if (known) {
            dns_put_u16(&d->to, 0xc000u | (unsigned)known);
            return; /* a place must be whole: what is behind a pointer stands elsewhere */
        }
        dns_put(&d->to, name->bytes + at, 1u + name->bytes[at]);
    }
    dns_put(&d->to, "", 1);
    note_place(d, name, start);
}

/* ---- SVCB and HTTPS ---- */

static bool is_h3(const uint8_t *id, size_t length)
{
    return length >= 2 && id[0] == 'h' && id[1] == '3' && (length == 2 || id[2] == '-');
}

struct svcb {
    bool cut_ech, cut_alpn, needs_cut, no_default, any_alpn;
};

/* The protocols but h3, into `ret`. False when the list is malformed, or longer than anybody's. */
static bool cut_alpn(struct cursor value, struct svcb *svcb, uint8_t *ret, size_t *ret_length)
{
    *ret_length = 0;
    if (value.left == 0 || value.left > SVCB_VALUE_MAX)
        return false;
    while (value.left) {
        uint8_t length = cursor_u8(&value);
        const uint8_t *id = cursor_take(&value, length);
        if (!id || length == 0)
            return false;
        if (is_h3(id, length)) {
            svcb->cut_alpn = true;
            continue;
        }
        ret[(*ret_length)++] = length;
        memcpy(ret + *ret_length, id, length);
        *ret_length += length;
    }
    svcb->any_alpn = *ret_length > 0;
    return true;
}

static bool take_hints(struct distiller *d, struct cursor value, uint8_t family)
{
    size_t size = family == AF_INET ? 4 : 16;
    struct dns_answer *facts = d->facts;
    if (value.left == 0 || value.left % size)
        return false;
    while (value.left) {
        if (facts->address_count == DNS_ADDRESSES_MAX)
            return false;
        struct addr *a = &facts->addresses[facts->address_count++];
        *a = (struct addr){.family = family};
        memcpy(a->bytes, cursor_take(&value, size), size);
    }
    return true;
}

/* Looks at every parameter: is the record whole, and what will be cut? The new alpn list goes to `alpn`. */
static bool examine_params(struct distiller *d, struct cursor params, struct svcb *svcb,
                           struct cursor *ret_mandatory, uint8_t *alpn, size_t *ret_alpn)
{
    int last = -1;
    *ret_alpn = 0;
    while (params.left) {
        int key = cursor_u16(&params);
        struct cursor value = cursor_sub(&params, cursor_u16(&params));
        bool good = cursor_ok(&params) && key > last;
        last = key;
        switch (good ? key : -1) {
        case SVCB_MANDATORY:
            good = value.left && value.left % 2 == 0;
            *ret_mandatory = value;
            break;
        case SVCB_ALPN:
            good = cut_alpn(value, svcb, alpn, ret_alpn);
            break;
        case SVCB_NO_DEFAULT_ALPN:
            good = value.left == 0;
            svcb->no_default = true;
            break;
        case SVCB_ECH:
            svcb->cut_ech = true;
            break;
        case SVCB_IPV4HINT:
            good = take_hints(d, value, AF_INET);
            break;
        case SVCB_IPV6HINT:
            good = take_hints(d, value, AF_INET6);
            break;
        default:
            break;
        }
        if (!good)
            return false;
    }
    return true;
}

/* Can a client that heeds the record do with what is left of it? */
static bool serves_without(const struct svcb *svcb, struct cursor mandatory)
{
    bool alpn_gone = svcb->cut_alpn && !svcb->any_alpn;
    while (mandatory.left) {
        unsigned key = cursor_u16(&mandatory);
        if ((key == SVCB_ECH && svcb->cut_ech) || (key == SVCB_ALPN && alpn_gone))
            return false;
    }
    return !(alpn_gone && svcb->no_default);
}

static void put_params(struct distiller *d, struct cursor params, const uint8_t *alpn, size_t alpn_length)
{
    while (params.left) {
        unsigned key = cursor_u16(&params);
        struct cursor value = cursor_sub(&params, cursor_u16(&params));
        if (key == SVCB_ECH || (key == SVCB_ALPN && alpn_length == 0))
            continue;
        dns_put_u16(&d->to, key);
        dns_put_u16(&d->to, (unsigned)(key == SVCB_ALPN ? alpn_length : value.left));
        dns_put(&d->to, key == SVCB_ALPN ? alpn : value.at, key == SVCB_ALPN ? alpn_length : value.left);
    }
}

enum outcome { WRITTEN, LEFT_OUT, MALFORMED };

static enum outcome put_svcb(struct distiller *d, struct cursor rdata)
{
    struct svcb svcb = {0};
    struct cursor mandatory = {0};
    struct wire_name target;
    uint8_t alpn[SVCB_VALUE_MAX];
    size_t alpn_length;
    unsigned priority = cursor_u16(&rdata);
    dns_read_name(d->from, &rdata, &target);
    if (!cursor_ok(&rdata) || !examine_params(d, rdata, &svcb, &mandatory, alpn, &alpn_length))
        return MALFORMED;
    if (!serves_without(&svcb, mandatory))
        return LEFT_OUT;
    dns_put_u16(&d->to, priority);
    dns_put(&d->to, target.bytes, target.length);
    put_params(d, rdata, alpn, alpn_length);
    return WRITTEN;
}

/* ---- records ---- */

static bool put_field(struct distiller *d, struct cursor *rdata, char field)
{
    struct wire_name name;
    struct cursor string = *rdata;
    size_t length = 2;
    switch (field) {
    case 'n':
        dns_read_name(d->from, rdata, &name);
        if (cursor_ok(rdata))
            put_name(d, &name);
        return cursor_ok(rdata);
    case 's':
        length = 1u + cursor_u8(&string);
        break;
    case '*':
        length = rdata->left;
        break;
    default:
        break;
    }
    const uint8_t *bytes = cursor_take(rdata, length);
    if (bytes)
        dns_put(&d->to, bytes, length);
    return bytes != NULL;
}

static enum outcome put_rdata(struct distiller *d, struct cursor rdata, const char *layout)
{
    if (*layout == 'v')
        return put_svcb(d, rdata);
    for (; *layout; layout++)
        if (!put_field(d, &rdata, *layout))
            return MALFORMED;
    return cursor_done(&rdata) ? WRITTEN : MALFORMED;
}

static uint32_t sane_ttl(uint32_t ttl, uint32_t most)
{
    uint32_t least = most;
    dns_lower_ttl(&least, ttl);
    return least;
}

/* Owner to RDLENGTH; returns where the RDATA begins. */
static size_t put_record_head(struct distiller *d, const struct wire_name *owner, uint16_t type, uint32_t ttl)
{
    put_name(d, owner);
    dns_put_u16(&d->to, type);
    dns_put_u16(&d->to, CLASS_IN);
    dns_put_u32(&d->to, ttl);
    dns_put_u16(&d->to, 0);
    return d->to.used;
}

static void end_record(struct distiller *d, size_t rdata)
{
    if (!d->to.failed)
        dns_set_u16(d->to.bytes + rdata - 2, (unsigned)(d->to.used - rdata));
}

/* A record as it came, if its RDATA is whole and serves without what is cut. */
static void put_record(struct distiller *d, const struct record *record, uint16_t *counter)
{
    size_t before = d->to.used, places = d->place_count;
    uint32_t ttl = sane_ttl(record->ttl, SECTIONS_TTL_MAX);
    size_t rdata = put_record_head(d, &record->owner, record->type, ttl);
    switch (put_rdata(d, record->rdata, layout_of(record->type))) {
    case WRITTEN:
        end_record(d, rdata);
        (*counter)++;
        dns_lower_ttl(&d->keep, ttl);
        break;
    case LEFT_OUT:
        dns_lower_ttl(&d->keep, ttl);
        d->to.used = before;
        d->place_count = places;
        break;
    case MALFORMED:
        d->malformed = true;
        break;
    }
}

static void put_chain(struct distiller *d)
{
    for (size_t i = 0; i + 1 < d->chain.count; i++) {
        uint32_t ttl = sane_ttl(d->chain.ttls[i], SECTIONS_TTL_MAX);
        size_t rdata = put_record_head(d, &d->chain.names[i], DNS_TYPE_CNAME, ttl);
        put_name(d, &d->chain.names[i + 1]);
        end_record(d, rdata);
        d->answers++;
        dns_lower_ttl(&d->keep, ttl);
    }
}

static size_t put_asked(struct distiller *d, struct message *m, size_t records)
{
    size_t found = d->type == DNS_TYPE_CNAME ? d->chain.count - 1 : 0;
    for (size_t i = 0; i < records; i++) {
        struct record record;
        dns_read_record(m, &record);
        if (record.type != d->type || record.class != CLASS_IN || d->type == DNS_TYPE_CNAME ||
            !dns_chain_has(&d->chain, &record.owner))
            continue;
        put_record(d, &record, &d->answers);
        found++;
    }
    return found;
}

static bool is_within(const struct wire_name *name, const struct wire_name *zone)
{
    for (size_t at = 0; at < name->length; at += 1u + name->bytes[at])
        if (name->length - at == zone->length)
            return !memcmp(name->bytes + at, zone->bytes, zone->length);
    return false;
}

/* RFC 2308 section 5: "no such thing" is kept for the lesser of the SOA's TTL and its last field; without
 * one, not. */
static void put_soa(struct distiller *d, struct message *m, size_t records)
{
    const struct wire_name *last = &d->chain.names[d->chain.count - 1];
    for (size_t i = 0; i < records; i++) {
        struct record soa;
        dns_read_record(m, &soa);
        if (soa.type != DNS_TYPE_SOA || soa.class != CLASS_IN || soa.rdata.left < 20 ||
            !is_within(last, &soa.owner))
            continue;
        struct cursor minimum = cursor_over(soa.rdata.at + soa.rdata.left - 4, 4);
        uint32_t ttl = sane_ttl(cursor_u32(&minimum), DNS_KEEP_NEGATIVE_MAX_S);
        soa.ttl = sane_ttl(soa.ttl, ttl);
        put_record(d, &soa, &d->authorities);
        return;
    }
    d->keep = 0;
}

ssize_t dns_answer_distil(const uint8_t *bytes, size_t length, const char *name, uint16_t type,
                          struct dns_answer *facts, uint8_t *ret, size_t size)
{
    struct message m = dns_message_over(bytes, length);
    struct header h = dns_read_header(&m);
    struct distiller d = {.from = &m,
                          .to = {.bytes = ret, .size = size},
                          .type = type,
                          .facts = facts,
                          .keep = SECTIONS_TTL_MAX};
    struct wire_name asked;
    if (!dns_name_from_text(name, &asked) || !dns_question_is(&m, &asked, type) ||
        !dns_chain_read(m, h.counts[1], &asked, &d.chain))
        return -EBADMSG;
    bool answered = facts->rcode == DNS_NOERROR || facts->rcode == DNS_NXDOMAIN;
    dns_put_header(&d.to, 0, QR | RA | (answered ? (unsigned)facts->rcode : DNS_SERVFAIL), true, false);
    put_name(&d, &asked);
    dns_put_u16(&d.to, type);
    dns_put_u16(&d.to, CLASS_IN);
    if (answered && layout_of(type)) {
        put_chain(&d);
        if (put_asked(&d, &m, h.counts[1]) == 0)
            put_soa(&d, &m, h.counts[2]);
    } else {
        d.keep = 0;
    }
    if (d.malformed)
        return -EBADMSG;
    if (d.to.failed)
        return -ENOSPC;
    dns_set_u16(ret + 6, d.answers);
    dns_set_u16(ret + 8, d.authorities);
    facts->keep_s = d.keep;
    return (ssize_t)d.to.used;
}

/* ---- answers of our own: gateway.hosts ---- */

ssize_t dns_answer_compose(const char *name, uint16_t type, const struct addr *addresses, size_t count,
                           uint32_t ttl, uint8_t *ret, size_t size)
{
    struct distiller d = {.to = {.bytes = ret, .size = size}};
    struct wire_name asked;
    uint8_t family = type == DNS_TYPE_A ? AF_INET : type == DNS_TYPE_AAAA ? AF_INET6 : AF_UNSPEC;
    if (!dns_name_from_text(name, &asked))
        return -EINVAL;
    dns_put_header(&d.to, 0, QR | RA | DNS_NOERROR, true, false);
    put_name(&d, &asked);
    dns_put_u16(&d.to, type);
    dns_put_u16(&d.to, CLASS_IN);
    for (size_t i = 0; i < count; i++) {
        if (addresses[i].family != family)
            continue;
        size_t rdata = put_record_head(&d, &asked, type, ttl);
        dns_put(&d.to, addresses[i].bytes, family == AF_INET ? 4 : 16);
        end_record(&d, rdata);
        d.answers++;
    }
    if (d.to.failed)
        return -ENOSPC;
    dns_set_u16(ret + 6, d.answers);
    return (ssize_t)d.to.used;
}

/* ---- serving ---- */

/* Behind a name that we wrote: labels to a zero or a pointer. */
static void skip_name(struct cursor *c)
{
    for (uint8_t length = cursor_u8(c); length && cursor_ok(c); length = cursor_u8(c)) {
        cursor_take(c, length >= 0xc0 ? 1 : length);
        if (length >= 0xc0)
            return;
    }
}

static void age_records(uint8_t *bytes, size_t length, size_t question, size_t records, uint32_t age)
{
    struct cursor c = cursor_over(bytes + HEADER + question, length - HEADER - question);
    while (records-- && cursor_ok(&c)) {
        skip_name(&c);
        cursor_take(&c, 4);
        size_t at = (size_t)(c.at - bytes);
        uint32_t ttl = cursor_u32(&c);
        cursor_take(&c, cursor_u16(&c));
        if (!cursor_ok(&c))
            return;
        ttl = ttl > age ? ttl - age : 0;
        dns_set_u16(bytes + at, ttl >> 16);
        dns_set_u16(bytes + at + 2, ttl & 0xffff);
    }
}

ssize_t dns_answer_serve(const uint8_t *kept, size_t length, uint32_t age, const uint8_t *query_bytes,
                         const struct dns_query *query, bool udp, uint8_t *ret, size_t size)
{
    size_t opt = query->edns ? DNS_OPT_LENGTH : 0;
    size_t room = udp && query->udp_size < size ? query->udp_size : size;
    bool cut = length + opt > room;
    struct writer w = {.bytes = ret, .size = size};
    size_t question = query->question_length;
    if (length < HEADER + question || query->question_length == 0)
        return -EINVAL;
    dns_put(&w, kept, cut ? HEADER + question : length);
    if (query->edns)
        dns_put_opt(&w, 0, query->dnssec_ok, 0);
    if (w.failed)
        return -ENOSPC;
    dns_set_u16(ret, query->id);
    unsigned flags = (unsigned)ret[2] << 8 | ret[3];
    flags |= (query->recursion_desired ? RD : 0) | (query->checking_disabled ? CD : 0) | (cut ? TC : 0);
    dns_set_u16(ret + 2, flags);
    memcpy(ret + HEADER, query_bytes + HEADER, question);
    if (cut)
        memset(ret + 6, 0, 4);
    else if (age)
        age_records(ret, length, question, (size_t)(ret[7] | ret[6] << 8) + (size_t)(ret[9] | ret[8] << 8),
                    age);
    dns_set_u16(ret + 10, query->edns);
    return (ssize_t)w.used;
}
