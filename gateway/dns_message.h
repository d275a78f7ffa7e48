/*
 * DNS messages (RFC 1035, 6891 EDNS, 8914 extended errors): bytes in, facts out; and the few messages we write.
 * Pure: no I/O, no allocation, no clock. All lengths are checked; compression pointers only ever go backwards.
 */
#pragma once

#include "acl/name.h"
#include "base/addr.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define DNS_UDP_MAX 4096 /* largest UDP message read, or sent to a client */
#define DNS_KEEP_MAX_S 86400u /* longest an answer is kept, whatever its TTL */
#define DNS_KEEP_NEGATIVE_MAX_S 10800u /* RFC 2308 section 5: one to three hours */

enum { DNS_TYPE_A = 1, DNS_TYPE_CNAME = 5, DNS_TYPE_SOA = 6, DNS_TYPE_AAAA = 28, DNS_TYPE_OPT = 41, DNS_TYPE_SVCB = 64,
       DNS_TYPE_HTTPS = 65, DNS_TYPE_IXFR = 251, DNS_TYPE_AXFR = 252, DNS_TYPE_ANY = 255 };
enum { DNS_NOERROR = 0, DNS_FORMERR = 1, DNS_SERVFAIL = 2, DNS_NXDOMAIN = 3, DNS_NOTIMP = 4, DNS_REFUSED = 5,
       DNS_BADVERS = 16 /* only with EDNS */ };
enum { DNS_EDE_BLOCKED = 15, DNS_EDE_FILTERED = 17, DNS_EDE_NETWORK_ERROR = 23, DNS_EDE_NONE = -1 }; /* RFC 8914 */

struct dns_query {
    uint16_t id;
    uint16_t type, class;
    uint8_t opcode;
    bool recursion_desired, checking_disabled;
    bool edns;              /* an OPT record came */
    uint8_t edns_version;   /* the answer to more than 0 is DNS_BADVERS */
    bool dnssec_ok;         /* its DO bit */
    uint16_t udp_size;      /* what the client takes over UDP; 512 without EDNS */
    enum acl_name_kind name_kind; /* how the name reads as a host name; `name` is filled when ACL_NAME_OK */
    char name[ACL_NAME_MAX + 1];  /* normal form */
    size_t name_length;
    char shown[4 * ACL_NAME_MAX + 1]; /* the name for people and the audit log: master-file form, lower case, every byte
                                         outside letters, digits, '-', '_' as \DDD; "." for the root */
    size_t question_length; /* bytes of the question section (name, type, class), right behind the 12-byte header */
};

/* 0; -EINVAL when nothing can be answered (shorter than a header, or a response); -EBADMSG when FORMERR is the answer
 * (then id, opcode and recursion_desired are set). Exactly one question is taken, and of the sections behind it only an OPT
 * record is read. For another opcode than QUERY only the question is: answer it with NOTIMP. */
int dns_query_parse(const uint8_t *bytes, size_t length, struct dns_query *ret);

/* Write an answer without records: `rcode`, and with EDNS an OPT carrying extended error `ede` and its text (ede < 0:
 * none). The question of `query_bytes` is copied. `size` caps it: a text that does not fit is left out. Returns its length
 * or -ENOSPC. Also for a query that was -EBADMSG (then without question and OPT). */
ssize_t dns_refusal_write(const uint8_t *query_bytes, const struct dns_query *query, int rcode, int ede,
                          const char *text, uint8_t *ret, size_t size);

#define DNS_ADDRESSES_MAX 64

struct dns_answer {
    int rcode;
    bool truncated;
    size_t address_count; /* A and AAAA records of the answer section whose owner is reached from the question through
                             the CNAME chain; records for other owners are not counted */
    struct addr addresses[DNS_ADDRESSES_MAX];
    uint32_t ttl; /* smallest TTL along the chain, seconds; 0 without records */
    uint32_t keep_s; /* by dns_answer_distil: how long the answer may be kept; 0: not at all */
    bool foreign_addresses; /* there are A/AAAA records for owners outside the chain: a lying answer */
};

/* Is `bytes` a well-formed response to the question (name in normal form, type)? 0 or -EBADMSG. The whole message is
 * walked: every record of every section must fit. More than DNS_ADDRESSES_MAX addresses: the rest is ignored (and must
 * not be relayed: -E2BIG). */
int dns_answer_parse(const uint8_t *bytes, size_t length, const char *name, uint16_t type, struct dns_answer *ret);

/* Is there a rule for records of this type (dns_answer.c)? Questions for others are not sent on. */
bool dns_type_passes(uint16_t type);

/* What of an upstream answer, which has been through dns_answer_parse into `facts`, may reach a client: written anew into
 * `ret`, with id 0 and without OPT. Adds to `facts` the addresses that HTTPS and SVCB records hint at, and `keep_s`. An
 * rcode other than NOERROR and NXDOMAIN becomes SERVFAIL. Returns the length; -EBADMSG for a malformed record; -ENOSPC. */
ssize_t dns_answer_distil(const uint8_t *bytes, size_t length, const char *name, uint16_t type,
                          struct dns_answer *facts, uint8_t *ret, size_t size);

/* The same form for addresses of our own: those of the family that `type` asks for. -EINVAL: no name in normal form. */
ssize_t dns_answer_compose(const char *name, uint16_t type, const struct addr *addresses, size_t count, uint32_t ttl,
                           uint8_t *ret, size_t size);

/* A kept answer (of distil or compose) for this client: its id, flags and spelling of the question, TTLs less `age` seconds,
 * an OPT record when it sent one. Too long for what the client takes over UDP, or for `size`: only header and question, with
 * TC. Returns the length, or -ENOSPC when not even that fits. */
ssize_t dns_answer_serve(const uint8_t *kept, size_t length, uint32_t age, const uint8_t *query_bytes,
                         const struct dns_query *query, bool udp, uint8_t *ret, size_t size);

/* "A", "AAAA", "HTTPS", … or "TYPE123" into `ret`; returns ret. */
const char *dns_type_name(uint16_t type, char ret[12]);

/* A query of our own, with an OPT record when `edns` (DNS_OPT_LENGTH bytes at its end): returns length, -ENOSPC, or -EINVAL for what is no name in normal form. */
ssize_t dns_query_write(uint16_t id, const char *name, uint16_t type, bool edns, uint8_t *ret, size_t size);
#define DNS_OPT_LENGTH 11
/* Pads such a query, whose OPT record is at its end, with zeros to a multiple of `block` (RFC 7830; 128 by RFC 8467), so that
 * its length tells less of the name. Returns the new length, or the old one when that is more than `size`. */
size_t dns_query_pad(uint8_t *query, size_t length, size_t block, size_t size);
