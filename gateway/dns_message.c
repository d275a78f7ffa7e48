/*
 * DNS messages: the reader and the small writer behind gateway/dns_message.h.
 *
 *   header(12)  id flags qdcount ancount nscount arcount          RFC 1035 section 4.1.1
 *   question    name type class                                   4.1.2
 *   record      name type class ttl rdlength rdata                4.1.3
 *   name        (length label)* 0, or a pointer 11xxxxxx xxxxxxxx to an earlier name        4.1.4
 *
 * Everything reads through a cursor that cannot leave the message. A compression pointer must lead to before
 * the name segment it ends, so it can never loop; and a name takes at most as many jumps as it can have
 * labels.
 *
 * Names are kept in wire form with ASCII capitals folded (length bytes are at most 63, below 'A', so the fold
 * cannot touch them): two names are equal exactly when their bytes are, whatever dots or control bytes a
 * label holds.
 *
 * From clients we take what a stub resolver sends, one question and perhaps an OPT record; a message that
 * says more than it needs (answers, bytes behind the last record) is FORMERR. From resolvers we take
 * addresses only for names that the CNAME chain reaches from the question.
 */
#include "gateway/dns_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { OUR_UDP_SIZE = 1232 }; /* what we say we take: never a fragment on any link (RFC 9715) */

static uint8_t fold(uint8_t byte)
{
    return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte | 0x20) : byte;
}

bool dns_name_equal(const struct wire_name *a, const struct wire_name *b)
{
    return a->length == b->length && !memcmp(a->bytes, b->bytes, a->length);
}

struct header dns_read_header(struct message *m)
{
    struct header h;
    h.id = cursor_u16(&m->at);
    h.flags = cursor_u16(&m->at);
    for (int i = 0; i < 4; i++)
        h.counts[i] = cursor_u16(&m->at);
    return h;
}

/* One label, its length byte already read. False when it does not fit the message or the name. */
static bool read_label(struct cursor *c, size_t length, struct wire_name *name)
{
    const uint8_t *label = cursor_take(c, length);
    if (!label || name->length + 1 + length > WIRE_NAME_MAX - 1) /* the root's zero must still fit */
        return false;
    name->bytes[name->length++] = (uint8_t)length;
    for (size_t i = 0; i < length; i++)
        name->bytes[name->length++] = fold(label[i]);
    return true;
}

void dns_read_name(const struct message *m, struct cursor *c, struct wire_name *ret)
{
    struct cursor here = *c;
    size_t segment = (size_t)(c->at - m->bytes); /* where the labels now read began: pointers go below it */
    unsigned jumps = 0;
    ret->length = 0;
    for (;;) {
        uint8_t length = cursor_u8(&here);
        if (length >= 0xc0) {
            size_t target = (size_t)(length & 0x3f) << 8 | cursor_u8(&here);
            if (!jumps++)
                *c = here;
            if (!cursor_ok(&here) || target < HEADER || target >= segment || jumps > JUMPS_MAX)
                break;
            segment = target;
            here = cursor_over(m->bytes + target, m->length - target);
        } else if (length > LABEL_MAX || !cursor_ok(&here)) {
            break;
        } else if (length == 0) {
            ret->bytes[ret->length++] = 0;
            if (!jumps)
                *c = here;
            return;
        } else if (!read_label(&here, length, ret)) {
            break;
        }
    }
    c->failed = true;
}

void dns_read_record(struct message *m, struct record *ret)
{
    dns_read_name(m, &m->at, &ret->owner);
    ret->type = cursor_u16(&m->at);
    ret->class = cursor_u16(&m->at);
    ret->ttl = cursor_u32(&m->at);
    ret->rdata = cursor_sub(&m->at, cursor_u16(&m->at));
}

/* --- queries
 * -------------------------------------------------------------------------------------------------- */

/* Master-file form (RFC 1035 section 5.1), lower case, without the last dot: every byte that a host name does
 * not have becomes \DDD, so a log line cannot be mistaken for another name. */
static void show_name(const struct wire_name *name, char *ret)
{
    char *out = ret;
    if (name->length == 1)
        *out++ = '.';
    for (size_t at = 0; name->bytes[at]; at += 1u + name->bytes[at]) {
        if (at)
            *out++ = '.';
        for (size_t i = 1; i <= name->bytes[at]; i++) {
            uint8_t byte = name->bytes[at + i];
            bool plain =
                (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '-' || byte == '_';
            if (plain)
                *out++ = (char)byte;
            else
                out += sprintf(out, "\\%03u", byte);
        }
    }
    *out = '\0';
}

/* The name as text for acl_name_normalise(). A dot inside a label would read as a label's end: no host name
 * has it. */
static enum acl_name_kind judge_name(const struct wire_name *name, struct dns_query *query)
{
    char text[WIRE_NAME_MAX];
    size_t length = 0;
    for (size_t at = 0; name->bytes[at]; at += 1u + name->bytes[at]) {
        if (memchr(name->bytes + at + 1, '.', name->bytes[at]))
            return ACL_NAME_BAD_BYTE;
        if (at)
            text[length++] = '.';
        memcpy(text + length, name->bytes + at + 1, name->bytes[at]);
        length += name->bytes[at];
    }
    return acl_name_normalise(text, length, query->name, &query->name_length);
}

static bool read_question(struct message *m, struct wire_name *name, struct dns_query *ret)
{
    dns_read_name(m, &m->at, name);
    ret->type = cursor_u16(&m->at);
    ret->class = cursor_u16(&m->at);
    if (!cursor_ok(&m->at))
        return false;
    ret->question_length = (size_t)(m->at.at - m->bytes) - HEADER;
    show_name(name, ret->shown);
    ret->name_kind = judge_name(name, ret);
    return true;
}

/* RFC 6891 section 6.1.2: { code(2) length(2) data } filling the RDATA. */
static bool options_are_whole(struct cursor options)
{
    while (options.left && cursor_ok(&options)) {
        cursor_u16(&options);
        cursor_take(&options, cursor_u16(&options));
    }
    return cursor_done(&options);
}

static bool read_opt(const struct record *opt, struct dns_query *ret)
{
    if (ret->edns || opt->owner.length != 1 || !options_are_whole(opt->rdata))
        return false;
    ret->edns = true;
    ret->edns_version = (uint8_t)(opt->ttl >> 16);
    ret->dnssec_ok = opt->ttl & 0x8000;
    ret->udp_size = opt->class < 512 ? 512 : opt->class;
    return true;
}

/* The records behind the question: only the additional section (and the SOA of an IXFR) may have any. */
static bool read_query_records(struct message *m, const struct header *h, struct dns_query *ret)
{
    if (h->counts[1] || (h->counts[2] && ret->type != DNS_TYPE_IXFR))
        return false;
    size_t opt_from = h->counts[2];
    for (size_t i = 0; i < opt_from + h->counts[3]; i++) {
        struct record record;
        dns_read_record(m, &record);
        if (!cursor_ok(&m->at))
            return false;
        if (record.type == DNS_TYPE_OPT && (i < opt_from || !read_opt(&record, ret)))
            return false;
    }
    return cursor_done(&m->at);
}

int dns_query_parse(const uint8_t *bytes, size_t length, struct dns_query *ret)
{
    struct message m = dns_message_over(bytes, length);
    struct header h = dns_read_header(&m);
    if (!cursor_ok(&m.at) || h.flags & QR)
        return -EINVAL;
    *ret = (struct dns_query){
        .id = h.id,
        .opcode = h.flags >> 11 & 15,
        .recursion_desired = h.flags & RD,
        .checking_disabled = h.flags & CD,
        .name_kind = ACL_NAME_EMPTY,
        .udp_size = 512,
    };
    struct wire_name name;
    struct dns_query query = *ret;
    if (h.counts[0] != 1 || !read_question(&m, &name, &query))
        return -EBADMSG;
    /* What follows the question of another opcode (UPDATE, NOTIFY) is not ours to read: the answer is NOTIMP.
     */
    if (query.opcode == OPCODE_QUERY && !read_query_records(&m, &h, &query))
        return -EBADMSG;
    *ret = query;
    return 0;
}

/* --- answers
 * -------------------------------------------------------------------------------------------------- */

bool dns_name_from_text(const char *text, struct wire_name *ret)
{
    size_t length = strlen(text);
    ret->length = 0;
    for (size_t at = 0; at < length;) {
        const char *dot = strchrnul(text + at, '.');
        size_t label = (size_t)(dot - text) - at;
        struct cursor c = cursor_over(text + at, label);
        if (!label || label > LABEL_MAX || !read_label(&c, label, ret))
            return false;
        at += label + 1;
        if (at == length)
            return false; /* a trailing dot */
    }
    ret->bytes[ret->length++] = 0;
    return length > 0;
}

void dns_lower_ttl(uint32_t *ttl, uint32_t record_ttl)
{
    record_ttl = record_ttl > INT32_MAX ? 0 : record_ttl;
    *ttl = record_ttl < *ttl ? record_ttl : *ttl;
}

bool dns_chain_has(const struct chain *chain, const struct wire_name *name)
{
    for (size_t i = 0; i < chain->count; i++)
        if (dns_name_equal(&chain->names[i], name))
            return true;
    return false;
}

/* One pass over the answer section, from `m`: each CNAME of the chain's last name makes it longer.
 * *ret_grown: another pass may find more (records may come in any order). */
static bool follow_cnames(struct message m, size_t records, struct chain *chain, bool *ret_grown)
{
    *ret_grown = false;
    for (size_t i = 0; i < records && chain->count <= CNAMES_MAX; i++) {
        struct record record;
        dns_read_record(&m, &record);
        if (record.type != DNS_TYPE_CNAME || record.class != CLASS_IN ||
            !dns_name_equal(&record.owner, &chain->names[chain->count - 1]))
            continue;
        struct wire_name *target = &chain->names[chain->count];
        dns_read_name(&m, &record.rdata, target);
        if (!cursor_done(&record.rdata) || dns_chain_has(chain, target))
            return false;
        chain->ttls[chain->count - 1] = record.ttl;
        chain->count++;
        *ret_grown = true;
    }
    return true;
}

bool dns_chain_read(struct message m, size_t records, const struct wire_name *first, struct chain *ret)
{
    bool grown;
    ret->names[0] = *first;
    ret->count = 1;
    do
        if (!follow_cnames(m, records, ret, &grown))
            return false;
    while (grown);
    return true;
}

/* Length of the RDATA that an address record must have; 0 for other records. */
static size_t address_size(const struct record *record)
{
    if (record->class != CLASS_IN)
        return 0;
    return record->type == DNS_TYPE_A ? 4 : record->type == DNS_TYPE_AAAA ? 16 : 0;
}

/* Every record of every section, to the last byte of the message. *ret_rcode gets the upper bits from an OPT
 * record. */
static bool walk_records(struct message m, const struct header *h, int *ret_rcode)
{
    size_t count = (size_t)h->counts[1] + h->counts[2] + h->counts[3];
    for (size_t i = 0; i < count; i++) {
        struct record record;
        dns_read_record(&m, &record);
        size_t size = address_size(&record);
        if (!cursor_ok(&m.at) || (size && size != record.rdata.left))
            return false;
        if (record.type == DNS_TYPE_OPT)
            *ret_rcode |= (int)(record.ttl >> 24) << 4;
    }
    return cursor_done(&m.at);
}

static void collect_addresses(struct message m, size_t records, const struct chain *chain, uint32_t *ttl,
                              struct dns_answer *ret, bool *ret_overflow)
{
    for (size_t i = 0; i < records; i++) {
        struct record record;
        dns_read_record(&m, &record);
        size_t size = address_size(&record);
        if (!size)
            continue;
        if (!dns_chain_has(chain, &record.owner)) {
            ret->foreign_addresses = true;
        } else if (ret->address_count == DNS_ADDRESSES_MAX) {
            *ret_overflow = true;
        } else {
            struct addr *a = &ret->addresses[ret->address_count++];
            *a = (struct addr){.family = size == 4 ? AF_INET : AF_INET6};
            memcpy(a->bytes, record.rdata.at, size);
            dns_lower_ttl(ttl, record.ttl);
        }
    }
}

bool dns_question_is(struct message *m, const struct wire_name *name, uint16_t type)
{
    struct wire_name asked;
    dns_read_name(m, &m->at, &asked);
    bool same = cursor_ok(&m->at) && dns_name_equal(&asked, name);
    same = cursor_u16(&m->at) == type && same;
    same = cursor_u16(&m->at) == CLASS_IN && same;
    return same && cursor_ok(&m->at);
}

int dns_answer_parse(const uint8_t *bytes, size_t length, const char *name, uint16_t type,
                     struct dns_answer *ret)
{
    struct message m = dns_message_over(bytes, length);
    struct header h = dns_read_header(&m);
    struct wire_name asked;
    struct chain chain;
    if (!cursor_ok(&m.at) || !(h.flags & QR) || h.flags >> 11 & 15 || h.counts[0] != 1 ||
        !dns_name_from_text(name, &asked) || !dns_question_is(&m, &asked, type))
        return -EBADMSG;

    int rcode = h.flags & 15;
    uint32_t ttl = UINT32_MAX;
    bool overflow = false;
    if (!walk_records(m, &h, &rcode) || !dns_chain_read(m, h.counts[1], &asked, &chain))
        return -EBADMSG;
    for (size_t i = 0; i + 1 < chain.count; i++)
        dns_lower_ttl(&ttl, chain.ttls[i]);

    *ret = (struct dns_answer){.rcode = rcode, .truncated = h.flags & TC};
    collect_addresses(m, h.counts[1], &chain, &ttl, ret, &overflow);
    ret->ttl = ttl == UINT32_MAX ? 0 : ttl;
    return overflow ? -E2BIG : 0;
}

/* --- writing
 * -------------------------------------------------------------------------------------------------- */

void dns_put(struct writer *w, const void *bytes, size_t length)
{
    if (w->failed || length > w->size - w->used) {
        w->failed = true;
        return;
    }
    memcpy(w->bytes + w->used, bytes, length);
    w->used += length;
}

void dns_put_u16(struct writer *w, unsigned value)
{
    dns_put(w, (uint8_t[]){(uint8_t)(value >> 8), (uint8_t)value}, 2);
}

void dns_put_u32(struct writer *w, uint32_t value)
{
    dns_put_u16(w, value >> 16);
    dns_put_u16(w, value & 0xffff);
}

void dns_put_header(struct writer *w, unsigned id, unsigned flags, bool question, bool additional)
{
    dns_put_u16(w, id);
    dns_put_u16(w, flags);
    dns_put_u16(w, question);
    dns_put_u16(w, 0);
    dns_put_u16(w, 0);
    dns_put_u16(w, additional);
}

/* RFC 6891 section 6.1.2, up to the length of the options. The record's TTL is rcode's upper bits, version 0,
 * flags. */
void dns_put_opt(struct writer *w, unsigned rcode, bool dnssec_ok, size_t options)
{
    dns_put(w, "", 1);
    dns_put_u16(w, DNS_TYPE_OPT);
    dns_put_u16(w, OUR_UDP_SIZE);
    dns_put_u16(w, rcode >> 4 << 8);
    dns_put_u16(w, dnssec_ok ? 0x8000 : 0);
    dns_put_u16(w, (unsigned)options);
}

static ssize_t written(const struct writer *w)
{
    return w->failed ? -ENOSPC : (ssize_t)w->used;
}

ssize_t dns_refusal_write(const uint8_t *query_bytes, const struct dns_query *query, int rcode, int ede,
                          const char *text, uint8_t *ret, size_t size)
{
    struct writer w = {.bytes = ret, .size = size};
    unsigned flags = QR | RA | (unsigned)query->opcode << 11 | (query->recursion_desired ? RD : 0) |
                     (query->checking_disabled ? CD : 0) | ((unsigned)rcode & 15);
    dns_put_header(&w, query->id, flags, query->question_length > 0, query->edns);
    dns_put(&w, query_bytes + HEADER, query->question_length);
    if (!query->edns)
        return written(&w);
    enum { OPT_HEAD = 11, EDE_HEAD = 6 };
    size_t text_length = text && ede >= 0 ? strlen(text) : 0;
    if (w.used + OPT_HEAD + EDE_HEAD + text_length > size)
        text_length = 0; /* the code says enough */
    dns_put_opt(&w, (unsigned)rcode, query->dnssec_ok, ede < 0 ? 0 : EDE_HEAD + text_length);
    if (ede >= 0) { /* RFC 8914 section 2: code, length, info-code, text */
        dns_put_u16(&w, OPTION_EDE);
        dns_put_u16(&w, (unsigned)(2 + text_length));
        dns_put_u16(&w, (unsigned)ede);
        dns_put(&w, text, text_length);
    }
    return written(&w);
}

ssize_t dns_query_write(uint16_t id, const char *name, uint16_t type, bool edns, uint8_t *ret, size_t size)
{
    struct wire_name wire;
    struct writer w = {.bytes = ret, .size = size};
    if (!dns_name_from_text(name, &wire))
        return -EINVAL;
    dns_put_header(&w, id, RD, true, edns);
    dns_put(&w, wire.bytes, wire.length);
    dns_put_u16(&w, type);
    dns_put_u16(&w, CLASS_IN);
    if (edns)
        dns_put_opt(&w, 0, false, 0);
    return written(&w);
}

size_t dns_query_pad(uint8_t *query, size_t length, size_t block, size_t size)
{
    enum { OPTION_HEAD = 4 };
    size_t padded = (length + OPTION_HEAD + block - 1) / block * block;
    if (padded > size)
        return length;
    memset(query + length, 0, padded - length);
    dns_set_u16(query + length - 2, (unsigned)(padded - length)); /* of OPT's options */
    dns_set_u16(query + length, OPTION_PADDING);
    dns_set_u16(query + length + 2, (unsigned)(padded - length - OPTION_HEAD));
    return padded;
}

const char *dns_type_name(uint16_t type, char ret[12])
{
    static const struct {
        uint16_t type;
        const char *name;
    } known[] = {
        {DNS_TYPE_A, "A"},
        {2, "NS"},
        {DNS_TYPE_CNAME, "CNAME"},
        {6, "SOA"},
        {10, "NULL"},
        {12, "PTR"},
        {13, "HINFO"},
        {15, "MX"},
        {16, "TXT"},
        {DNS_TYPE_AAAA, "AAAA"},
        {29, "LOC"},
        {33, "SRV"},
        {35, "NAPTR"},
        {39, "DNAME"},
        {DNS_TYPE_OPT, "OPT"},
        {43, "DS"},
        {44, "SSHFP"},
        {46, "RRSIG"},
        {47, "NSEC"},
        {48, "DNSKEY"},
        {52, "TLSA"},
        {DNS_TYPE_SVCB, "SVCB"},
        {DNS_TYPE_HTTPS, "HTTPS"},
        {99, "SPF"},
        {DNS_TYPE_IXFR, "IXFR"},
        {DNS_TYPE_AXFR, "AXFR"},
        {DNS_TYPE_ANY, "ANY"},
        {256, "URI"},
        {257, "CAA"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (known[i].type == type)
            return strcpy(ret, known[i].name);
    sprintf(ret, "TYPE%u", type);
    return ret;
}
