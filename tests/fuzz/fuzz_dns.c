/*
 * DNS messages: the input as a query, which we refuse, and as an answer to its own question, which we hand
 * on.
 */
#include "tests/fuzz/fuzz.h"

#include "gateway/dns_message.h"

#include <errno.h>

static void check_shown(const struct dns_query *query)
{
    CHECK(query->shown[0]);
    for (const char *c = query->shown; *c; c++)
        CHECK(*c > 0x20 && *c < 0x7f);
}

/* What we say to a query is a well-formed answer to it. */
static void refuse(const uint8_t *data, const struct dns_query *query)
{
    uint8_t refusal[600];
    struct dns_answer answer;
    ssize_t length =
        dns_refusal_write(data, query, DNS_NXDOMAIN, DNS_EDE_BLOCKED, "no rule", refusal, sizeof(refusal));
    CHECK(length >= 12);
    if (query->name_kind == ACL_NAME_OK && query->class == 1 && query->opcode == 0) {
        CHECK(dns_answer_parse(refusal, (size_t)length, query->name, query->type, &answer) == 0);
        CHECK(answer.rcode == DNS_NXDOMAIN && answer.address_count == 0);
    }
}

static void check_query(const uint8_t *data, size_t size)
{
    struct dns_query query;
    int r = dns_query_parse(data, size, &query);
    if (r == -EINVAL)
        return;
    CHECK(r == 0 || r == -EBADMSG);
    if (r == 0)
        check_shown(&query);
    else
        CHECK(query.question_length == 0);
    refuse(data, &query);
}

/* The question at the beginning of `data`, read as that of an UPDATE: then nothing behind it is looked at. */
static bool own_question(const uint8_t *data, size_t size, uint8_t *copy, struct dns_query *ret)
{
    if (size < 12)
        return false;
    memcpy(copy, data, size);
    copy[2] = 5 << 3;
    copy[3] = 0;
    return dns_query_parse(copy, size, ret) == 0 && ret->name_kind == ACL_NAME_OK;
}

/* What was kept is served to the one who asked: it must read back as the same answer. */
static void check_served(const uint8_t *kept, size_t length, const uint8_t *question, const struct dns_query *query,
                         const struct dns_answer *facts, bool udp)
{
    static uint8_t served[65536];
    struct dns_answer again;
    ssize_t size = dns_answer_serve(kept, length, 7, question, query, udp, served, sizeof(served));
    CHECK(size >= 12);
    CHECK(!udp || size <= query->udp_size + 11);
    int r = dns_answer_parse(served, (size_t)size, query->name, query->type, &again);
    CHECK(r == 0);
    CHECK(!again.foreign_addresses);
    if (again.truncated)
        CHECK(udp && again.address_count == 0);
    else
        CHECK(again.address_count <= facts->address_count);
}

static void check_answer(const uint8_t *data, size_t size)
{
    static uint8_t kept[65535];
    uint8_t *question = malloc(size ? size : 1);
    struct dns_query query;
    struct dns_answer answer;
    if (own_question(data, size, question, &query) &&
        dns_answer_parse(data, size, query.name, query.type, &answer) == 0) {
        CHECK(answer.address_count <= DNS_ADDRESSES_MAX);
        ssize_t length = dns_answer_distil(data, size, query.name, query.type, &answer, kept, sizeof(kept));
        CHECK(length >= 12 || length == -EBADMSG || length == -ENOSPC);
        if (length > 0) {
            CHECK(answer.keep_s <= DNS_KEEP_MAX_S);
            check_served(kept, (size_t)length, question, &query, &answer, size % 2);
        }
    }
    free(question);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_query(data, size);
    check_answer(data, size);
    return 0;
}
