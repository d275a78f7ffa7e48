#include "redirect/rules/nft.h"

#include "redirect/rules/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define TYPE_INET_SERVICE 13 /* nft's number for a port; only its listings read it */
#define TYPE_IPADDR 7          /* likewise */
#define TYPE_IP6ADDR 8
#define SNAPLEN 128
#define ADDRESSES_MAX 4096 /* of one set */

/* A message is below 64 KiB, which is what a netlink attribute may have: CHUNK ranges take two elements of 28 bytes each. */
#define MESSAGE_MAX 69632
#define BATCH_FIRST ((size_t)2 * MESSAGE_MAX)
#define CHUNK 512

/* ---- messages ---- */

/* Room for one more message. Without memory the batch, which is not going to be sent, begins anew. */
static void make_room(struct nft_batch *b)
{
    size_t size = b->size * 2;
    if (b->size - b->used >= MESSAGE_MAX)
        return;
    char *larger = realloc(b->bytes, size);
    if (!larger) {
        b->out_of_memory = true;
        b->used = 0;
        return;
    }
    b->bytes = larger;
    b->size = size;
}

struct nlmsghdr *nft_message(struct nft_batch *b, uint16_t type, uint16_t flags, const char *step)
{
    make_room(b);
    struct nlmsghdr *m = nftnl_nlmsg_build_hdr(b->bytes + b->used, type, NFPROTO_INET, flags, b->sequence);
    if (b->sequence < NFT_STEPS_MAX)
        b->steps[b->sequence] = step;
    b->sequence++;
    return m;
}

void nft_message_done(struct nft_batch *b, const struct nlmsghdr *m)
{
    b->last = b->used;
    b->used += MNL_ALIGN(m->nlmsg_len);
}

void nft_table(struct nft_batch *b, uint16_t type, uint16_t flags, const char *step)
{
    struct nftnl_table *table = nftnl_table_alloc();
    if (!table) {
        b->out_of_memory = true;
        return;
    }
    nftnl_table_set_str(table, NFTNL_TABLE_NAME, b->table);
    struct nlmsghdr *m = nft_message(b, type, flags, step);
    nftnl_table_nlmsg_build_payload(m, table);
    nft_message_done(b, m);
    nftnl_table_free(table);
}

void nft_chain(struct nft_batch *b, const char *name, const char *type, int hook, int32_t priority, uint32_t policy)
{
    struct nftnl_chain *chain = nftnl_chain_alloc();
    if (!chain) {
        b->out_of_memory = true;
        return;
    }
    nftnl_chain_set_str(chain, NFTNL_CHAIN_TABLE, b->table);
    nftnl_chain_set_str(chain, NFTNL_CHAIN_NAME, name);
    if (hook >= 0) {
        nftnl_chain_set_str(chain, NFTNL_CHAIN_TYPE, type);
        nftnl_chain_set_u32(chain, NFTNL_CHAIN_HOOKNUM, (uint32_t)hook);
        nftnl_chain_set_s32(chain, NFTNL_CHAIN_PRIO, priority);
        nftnl_chain_set_u32(chain, NFTNL_CHAIN_POLICY, policy);
    }
    struct nlmsghdr *m = nft_message(b, NFT_MSG_NEWCHAIN, NLM_F_CREATE, hook < 0 ? "adding a chain" : name);
    nftnl_chain_nlmsg_build_payload(m, chain);
    nft_message_done(b, m);
    nftnl_chain_free(chain);
}

/* ---- sets of ports ---- */

static struct nftnl_set *port_set(struct nft_batch *b, const char *name)
{
    struct nftnl_set *set = nftnl_set_alloc();
    if (!set) {
        b->out_of_memory = true;
        return NULL;
    }
    nftnl_set_set_str(set, NFTNL_SET_TABLE, b->table);
    nftnl_set_set_str(set, NFTNL_SET_NAME, name);
    nftnl_set_set_u32(set, NFTNL_SET_ID, b->sets);
    nftnl_set_set_u32(set, NFTNL_SET_FAMILY, NFPROTO_INET);
    nftnl_set_set_u32(set, NFTNL_SET_FLAGS, NFT_SET_INTERVAL);
    nftnl_set_set_u32(set, NFTNL_SET_KEY_TYPE, TYPE_INET_SERVICE);
    nftnl_set_set_u32(set, NFTNL_SET_KEY_LEN, sizeof(uint16_t));
    return set;
}

static void add_element(struct nft_batch *b, struct nftnl_set *set, uint16_t port, uint32_t flags)
{
    uint16_t key = htons(port);
    struct nftnl_set_elem *element = nftnl_set_elem_alloc();
    if (!element) {
        b->out_of_memory = true;
        return;
    }
    nftnl_set_elem_set(element, NFTNL_SET_ELEM_KEY, &key, sizeof(key));
    if (flags)
        nftnl_set_elem_set_u32(element, NFTNL_SET_ELEM_FLAGS, flags);
    nftnl_set_elem_add(set, element);
}

/* An interval is two elements: where it begins, and where what follows it begins. One that reaches the top
 * has no end. */
static void put_elements(struct nft_batch *b, const char *name, const struct acl_port_range *ranges, size_t count)
{
    struct nftnl_set *set = port_set(b, name);
    if (!set)
        return;
    for (size_t i = 0; i < count; i++) {
        add_element(b, set, ranges[i].low, 0);
        if (ranges[i].high < UINT16_MAX)
            add_element(b, set, (uint16_t)(ranges[i].high + 1), NFT_SET_ELEM_INTERVAL_END);
    }
    struct nlmsghdr *m = nft_message(b, NFT_MSG_NEWSETELEM, NLM_F_CREATE, "filling the set of ports");
    nftnl_set_elems_nlmsg_build_payload(m, set);
    nft_message_done(b, m);
    nftnl_set_free(set);
}

void nft_port_set(struct nft_batch *b, const char *name, const struct acl_port_range *ranges, size_t count)
{
    b->sets++;
    struct nftnl_set *set = port_set(b, name);
    if (!set)
        return;
    struct nlmsghdr *m = nft_message(b, NFT_MSG_NEWSET, NLM_F_CREATE, "adding the set of ports");
    nftnl_set_nlmsg_build_payload(m, set);
    nft_message_done(b, m);
    nftnl_set_free(set);
    for (size_t at = 0; at < count; at += CHUNK)
        put_elements(b, name, ranges + at, count - at < CHUNK ? count - at : CHUNK);
}

/* ---- sets of addresses ---- */

static uint32_t size_of(int family)
{
    return family == AF_INET ? 4 : 16;
}

static struct nftnl_set *address_set(struct nft_batch *b, const char *name, int family, uint32_t flags)
{
    struct nftnl_set *set = nftnl_set_alloc();
    if (!set) {
        b->out_of_memory = true;
        return NULL;
    }
    nftnl_set_set_str(set, NFTNL_SET_TABLE, b->table);
    nftnl_set_set_str(set, NFTNL_SET_NAME, name);
    nftnl_set_set_u32(set, NFTNL_SET_FAMILY, NFPROTO_INET);
    if (flags) {
        nftnl_set_set_u32(set, NFTNL_SET_ID, ++b->sets);
        nftnl_set_set_u32(set, NFTNL_SET_FLAGS, flags);
        nftnl_set_set_u32(set, NFTNL_SET_KEY_TYPE, family == AF_INET ? TYPE_IPADDR : TYPE_IP6ADDR);
        nftnl_set_set_u32(set, NFTNL_SET_KEY_LEN, size_of(family));
    }
    return set;
}

static struct nftnl_set_elem *address_element(struct nft_batch *b, struct nftnl_set *set, const uint8_t *key, uint32_t size)
{
    struct nftnl_set_elem *element = nftnl_set_elem_alloc();
    if (!element) {
        b->out_of_memory = true;
        return NULL;
    }
    nftnl_set_elem_set(element, NFTNL_SET_ELEM_KEY, key, size);
    nftnl_set_elem_add(set, element);
    return element;
}

/* Frees the set. */
static void put_set(struct nft_batch *b, uint16_t type, struct nftnl_set *set, const char *step)
{
    struct nlmsghdr *m = nft_message(b, type, NLM_F_CREATE, step);
    if (type == NFT_MSG_NEWSET)
        nftnl_set_nlmsg_build_payload(m, set);
    else
        nftnl_set_elems_nlmsg_build_payload(m, set);
    nft_message_done(b, m);
    nftnl_set_free(set);
}

struct range {
    uint8_t first[16], behind[16]; /* `behind` may have gone round to zero: then it has no end */
};

static int compare_ranges(const void *left, const void *right)
{
    return memcmp(((const struct range *)left)->first, ((const struct range *)right)->first, 16);
}

static struct range range_of(const struct cidr *network)
{
    struct range range = {0};
    uint32_t size = size_of(network->base.family);
    memcpy(range.first, network->base.bytes, size);
    memcpy(range.behind, network->base.bytes, size);
    int byte = network->length ? (network->length - 1) / 8 : -1;
    for (unsigned carry = byte < 0 ? 0 : 1u << (7 - (network->length - 1) % 8); byte >= 0 && carry; byte--) {
        unsigned sum = range.behind[byte] + carry;
        range.behind[byte] = (uint8_t)sum;
        carry = sum >> 8;
    }
    return range;
}

static bool is_zero(const uint8_t *bytes)
{
    static const uint8_t zero[16];
    return !memcmp(bytes, zero, 16);
}

/* Sorted ranges as an interval set wants them: those that overlap or meet are one. */
static size_t merge_ranges(struct range *ranges, size_t count)
{
    size_t kept = 0;
    qsort(ranges, count, sizeof(*ranges), compare_ranges);
    for (size_t i = 1; i < count; i++) {
        struct range *last = &ranges[kept];
        if (!is_zero(last->behind) && memcmp(ranges[i].first, last->behind, 16) > 0)
            ranges[++kept] = ranges[i];
        else if (!is_zero(last->behind) && (is_zero(ranges[i].behind) || memcmp(ranges[i].behind, last->behind, 16) > 0))
            memcpy(last->behind, ranges[i].behind, 16);
    }
    return count ? kept + 1 : 0;
}

void nft_network_set(struct nft_batch *b, const char *name, int family, const struct cidr *networks, size_t count)
{
    struct range *ranges = calloc(count + 1, sizeof(*ranges));
    struct nftnl_set *set = address_set(b, name, family, NFT_SET_INTERVAL);
    size_t used = 0;
    if (set)
        put_set(b, NFT_MSG_NEWSET, set, "adding a set of networks");
    for (size_t i = 0; ranges && i < count; i++)
        if (networks[i].base.family == family)
            ranges[used++] = range_of(&networks[i]);
    used = ranges ? merge_ranges(ranges, used) : 0;
    set = used ? address_set(b, name, family, 0) : NULL;
    for (size_t i = 0; set && i < used; i++) {
        address_element(b, set, ranges[i].first, size_of(family));
        struct nftnl_set_elem *behind =
            is_zero(ranges[i].behind) ? NULL : address_element(b, set, ranges[i].behind, size_of(family));
        if (behind)
            nftnl_set_elem_set_u32(behind, NFTNL_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
    }
    if (set)
        put_set(b, NFT_MSG_NEWSETELEM, set, "filling a set of networks");
    if (!ranges)
        b->out_of_memory = true;
    free(ranges);
}

void nft_address_set(struct nft_batch *b, const char *name, int family, uint64_t timeout_ms)
{
    struct nftnl_set *set = address_set(b, name, family, NFT_SET_TIMEOUT | NFT_SET_EVAL);
    if (!set)
        return;
    nftnl_set_set_u64(set, NFTNL_SET_TIMEOUT, timeout_ms);
    nftnl_set_set_u32(set, NFTNL_SET_DESC_SIZE, ADDRESSES_MAX);
    put_set(b, NFT_MSG_NEWSET, set, "adding a set of addresses");
}

void nft_address_add(struct nft_batch *b, const char *name, const struct addr *address, uint64_t left_ms)
{
    struct nftnl_set *set = address_set(b, name, address->family, 0);
    struct nftnl_set_elem *element = set ? address_element(b, set, address->bytes, size_of(address->family)) : NULL;
    if (!element) {
        nftnl_set_free(set);
        return;
    }
    nftnl_set_elem_set_u64(element, NFTNL_SET_ELEM_TIMEOUT, left_ms);
    put_set(b, NFT_MSG_NEWSETELEM, set, "adding an address");
}

void nft_address_remove(struct nft_batch *b, const char *name, const struct addr *address)
{
    struct nftnl_set *set = address_set(b, name, address->family, 0);
    struct nftnl_set_elem *element = set ? address_element(b, set, address->bytes, size_of(address->family)) : NULL;
    if (!element)
        nftnl_set_free(set);
    else
        put_set(b, NFT_MSG_DELSETELEM, set, "removing an address");
}

struct each_address {
    int family;
    void (*each)(const struct addr *address, uint64_t left_ms, void *arg);
    void *arg;
};

static int tell_address(struct nftnl_set_elem *element, void *data)
{
    const struct each_address *call = data;
    struct addr address = {.family = (uint8_t)call->family};
    uint32_t length = 0;
    const void *key = nftnl_set_elem_get(element, NFTNL_SET_ELEM_KEY, &length);
    if (!key || length != size_of(call->family) || !nftnl_set_elem_is_set(element, NFTNL_SET_ELEM_EXPIRATION))
        return 0;
    memcpy(address.bytes, key, length);
    call->each(&address, nftnl_set_elem_get_u64(element, NFTNL_SET_ELEM_EXPIRATION), call->arg);
    return 0;
}

static int read_addresses(const struct nlmsghdr *answer, void *data)
{
    struct nftnl_set *set = nftnl_set_alloc();
    if (!set || nftnl_set_elems_nlmsg_parse(answer, set) < 0) {
        nftnl_set_free(set);
        return MNL_CB_ERROR;
    }
    nftnl_set_elem_foreach(set, tell_address, data);
    nftnl_set_free(set);
    return MNL_CB_OK;
}

int nft_address_each(int fd, const char *table, const char *set, int family,
                     void (*each)(const struct addr *address, uint64_t left_ms, void *arg), void *arg, struct error *err)
{
    alignas(struct nlmsghdr) char buffer[NETLINK_REQUEST_MAX];
    struct each_address call = {family, each, arg};
    struct nlmsghdr *request = nftnl_nlmsg_build_hdr(buffer, NFT_MSG_GETSETELEM, NFPROTO_INET, NLM_F_DUMP, 0);
    mnl_attr_put_strz(request, NFTA_SET_ELEM_LIST_TABLE, table);
    mnl_attr_put_strz(request, NFTA_SET_ELEM_LIST_SET, set);
    int r = netlink_list(fd, request, "nftables: reading a set", read_addresses, &call, err);
    if (r == MNL_CB_ERROR)
        return error_set(err, EBADMSG, "nftables: a set cannot be read");
    return r == -ENOENT || r == -ESTALE ? 0 : r; /* what came or expired meanwhile is told or not, as if it had done so before */
}

/* ---- rules: nft_rule(), any expressions in order, nft_rule_done() ---- */

void nft_rule(struct nft_batch *b, const char *chain)
{
    b->rule = nftnl_rule_alloc();
    if (!b->rule) {
        b->out_of_memory = true;
        return;
    }
    nftnl_rule_set_str(b->rule, NFTNL_RULE_TABLE, b->table);
    nftnl_rule_set_str(b->rule, NFTNL_RULE_CHAIN, chain);
}

void nft_rule_done(struct nft_batch *b, const char *step)
{
    if (!b->rule)
        return;
    struct nlmsghdr *m = nft_message(b, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, step);
    nftnl_rule_nlmsg_build_payload(m, b->rule);
    nft_message_done(b, m);
    nftnl_rule_free(b->rule);
    b->rule = NULL;
}

struct nftnl_expr *nft_expression(struct nft_batch *b, const char *kind)
{
    struct nftnl_expr *e = b->rule ? nftnl_expr_alloc(kind) : NULL;
    if (e)
        nftnl_rule_add_expr(b->rule, e);
    else
        b->out_of_memory = true;
    return e;
}

void nft_compare(struct nft_batch *b, uint32_t operation, const void *data, uint32_t length)
{
    struct nftnl_expr *e = nft_expression(b, "cmp");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, NFT_REG_1);
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, operation);
    nftnl_expr_set(e, NFTNL_EXPR_CMP_DATA, data, length);
}

/* Register 1 and `mask`. */
static void and_with(struct nft_batch *b, const void *mask, uint32_t length)
{
    static const uint8_t zero[16];
    struct nftnl_expr *bits = nft_expression(b, "bitwise");
    if (!bits)
        return;
    nftnl_expr_set_u32(bits, NFTNL_EXPR_BITWISE_SREG, NFT_REG_1);
    nftnl_expr_set_u32(bits, NFTNL_EXPR_BITWISE_DREG, NFT_REG_1);
    nftnl_expr_set_u32(bits, NFTNL_EXPR_BITWISE_LEN, length);
    nftnl_expr_set(bits, NFTNL_EXPR_BITWISE_MASK, mask, length);
    nftnl_expr_set(bits, NFTNL_EXPR_BITWISE_XOR, zero, length);
}

void nft_load_meta(struct nft_batch *b, uint32_t key)
{
    struct nftnl_expr *e = nft_expression(b, "meta");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, key);
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_DREG, NFT_REG_1);
}

void nft_load_payload(struct nft_batch *b, uint32_t base, uint32_t offset, uint32_t length)
{
    struct nftnl_expr *e = nft_expression(b, "payload");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, base);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, offset);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, length);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, NFT_REG_1);
}

void nft_match_family(struct nft_batch *b, int family)
{
    uint8_t protocol = family == AF_INET ? NFPROTO_IPV4 : NFPROTO_IPV6;
    nft_load_meta(b, NFT_META_NFPROTO);
    nft_compare(b, NFT_CMP_EQ, &protocol, sizeof(protocol));
}

void nft_match_protocol(struct nft_batch *b, uint8_t protocol)
{
    nft_load_meta(b, NFT_META_L4PROTO);
    nft_compare(b, NFT_CMP_EQ, &protocol, sizeof(protocol));
}

void nft_load_destination_port(struct nft_batch *b)
{
    nft_load_payload(b, NFT_PAYLOAD_TRANSPORT_HEADER, 2, sizeof(uint16_t));
}

void nft_match_port(struct nft_batch *b, uint16_t port)
{
    uint16_t wire = htons(port);
    nft_load_destination_port(b);
    nft_compare(b, NFT_CMP_EQ, &wire, sizeof(wire));
}

void nft_match_port_set(struct nft_batch *b, const char *set)
{
    nft_load_destination_port(b);
    struct nftnl_expr *e = nft_expression(b, "lookup");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, NFT_REG_1);
    nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, set);
}

void nft_match_no_syn(struct nft_batch *b)
{
    const uint8_t mask = TH_SYN | TH_ACK, syn = TH_SYN;
    nft_load_payload(b, NFT_PAYLOAD_TRANSPORT_HEADER, 13, sizeof(syn));
    and_with(b, &mask, sizeof(mask));
    nft_compare(b, NFT_CMP_NEQ, &syn, sizeof(syn));
}

static void match_bits(struct nft_batch *b, uint32_t key, uint32_t mask)
{
    const uint32_t zero = 0;
    struct nftnl_expr *ct = nft_expression(b, "ct");
    if (!ct)
        return;
    nftnl_expr_set_u32(ct, NFTNL_EXPR_CT_KEY, key);
    nftnl_expr_set_u32(ct, NFTNL_EXPR_CT_DREG, NFT_REG_1);
    and_with(b, &mask, sizeof(mask));
    nft_compare(b, NFT_CMP_NEQ, &zero, sizeof(zero));
}

void nft_match_state(struct nft_batch *b, uint32_t mask)
{
    match_bits(b, NFT_CT_STATE, mask);
}

void nft_match_status(struct nft_batch *b, uint32_t mask)
{
    match_bits(b, NFT_CT_STATUS, mask);
}

static void match_network(struct nft_batch *b, const struct cidr *network, uint32_t offset4, uint32_t offset6)
{
    uint32_t size = network->base.family == AF_INET ? 4 : 16;
    uint8_t mask[16] = {0};
    nft_match_family(b, network->base.family);
    if (network->length == 0)
        return;
    for (unsigned bit = 0; bit < network->length; bit++)
        mask[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
    nft_load_payload(b, NFT_PAYLOAD_NETWORK_HEADER, size == 4 ? offset4 : offset6, size);
    if (network->length < size * 8)
        and_with(b, mask, size);
    nft_compare(b, NFT_CMP_EQ, network->base.bytes, size);
}

void nft_match_source(struct nft_batch *b, const struct cidr *network)
{
    match_network(b, network, 12, 8);
}

void nft_match_destination(struct nft_batch *b, const struct cidr *network)
{
    match_network(b, network, 16, 24);
}

/* ---- the connection's first packet ---- */

static void load_first(struct nft_batch *b, uint32_t key)
{
    struct nftnl_expr *ct = nft_expression(b, "ct");
    if (!ct)
        return;
    nftnl_expr_set_u32(ct, NFTNL_EXPR_CT_KEY, key);
    nftnl_expr_set_u8(ct, NFTNL_EXPR_CT_DIR, 0); /* IP_CT_DIR_ORIGINAL */
    nftnl_expr_set_u32(ct, NFTNL_EXPR_CT_DREG, NFT_REG_1);
}

static void match_first(struct nft_batch *b, const struct cidr *network, uint32_t key4, uint32_t key6)
{
    uint32_t size = size_of(network->base.family);
    uint8_t mask[16] = {0};
    nft_match_family(b, network->base.family);
    if (network->length == 0)
        return;
    for (unsigned bit = 0; bit < network->length; bit++)
        mask[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
    load_first(b, size == 4 ? key4 : key6);
    if (network->length < size * 8)
        and_with(b, mask, size);
    nft_compare(b, NFT_CMP_EQ, network->base.bytes, size);
}

void nft_match_first_source(struct nft_batch *b, const struct cidr *network)
{
    match_first(b, network, NFT_CT_SRC_IP, NFT_CT_SRC_IP6);
}

void nft_match_first_destination(struct nft_batch *b, const struct cidr *network)
{
    match_first(b, network, NFT_CT_DST_IP, NFT_CT_DST_IP6);
}

void nft_match_first_port(struct nft_batch *b, uint16_t low, uint16_t high)
{
    uint16_t first = htons(low), last = htons(high);
    if (low <= 1 && high == UINT16_MAX)
        return;
    load_first(b, NFT_CT_PROTO_DST);
    nft_compare(b, low == high ? NFT_CMP_EQ : NFT_CMP_GTE, &first, sizeof(first));
    if (low != high)
        nft_compare(b, NFT_CMP_LTE, &last, sizeof(last));
}

static void look_up_first(struct nft_batch *b, int family, const char *set, uint32_t flags)
{
    nft_match_family(b, family);
    load_first(b, family == AF_INET ? NFT_CT_DST_IP : NFT_CT_DST_IP6);
    struct nftnl_expr *e = nft_expression(b, "lookup");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, NFT_REG_1);
    nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, set);
    if (flags)
        nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_FLAGS, flags);
}

void nft_match_first_destination_set(struct nft_batch *b, int family, const char *set)
{
    look_up_first(b, family, set, 0);
}

void nft_match_first_not_in(struct nft_batch *b, int family, const char *set)
{
    look_up_first(b, family, set, NFT_LOOKUP_F_INV);
}

void nft_refresh(struct nft_batch *b, const char *set, uint64_t timeout_ms)
{
    struct nftnl_expr *e = nft_expression(b, "dynset");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_DYNSET_SREG_KEY, NFT_REG_1);
    nftnl_expr_set_u32(e, NFTNL_EXPR_DYNSET_OP, NFT_DYNSET_OP_UPDATE);
    nftnl_expr_set_u64(e, NFTNL_EXPR_DYNSET_TIMEOUT, timeout_ms);
    nftnl_expr_set_str(e, NFTNL_EXPR_DYNSET_SET_NAME, set);
}

void nft_match_own_address(struct nft_batch *b)
{
    const uint32_t local = RTN_LOCAL;
    struct nftnl_expr *fib = nft_expression(b, "fib");
    if (!fib)
        return;
    nftnl_expr_set_u32(fib, NFTNL_EXPR_FIB_FLAGS, NFTA_FIB_F_DADDR);
    nftnl_expr_set_u32(fib, NFTNL_EXPR_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
    nftnl_expr_set_u32(fib, NFTNL_EXPR_FIB_DREG, NFT_REG_1);
    nft_compare(b, NFT_CMP_EQ, &local, sizeof(local));
}

void nft_match_route_back(struct nft_batch *b)
{
    const uint8_t none = 0;
    struct nftnl_expr *fib = nft_expression(b, "fib");
    if (!fib)
        return;
    nftnl_expr_set_u32(fib, NFTNL_EXPR_FIB_FLAGS, NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF | NFTA_FIB_F_PRESENT);
    nftnl_expr_set_u32(fib, NFTNL_EXPR_FIB_RESULT, NFT_FIB_RESULT_OIF);
    nftnl_expr_set_u32(fib, NFTNL_EXPR_FIB_DREG, NFT_REG_1);
    nft_compare(b, NFT_CMP_NEQ, &none, sizeof(none));
}

void nft_count(struct nft_batch *b)
{
    (void)nft_expression(b, "counter");
}

void nft_verdict(struct nft_batch *b, uint32_t what)
{
    nft_count(b);
    struct nftnl_expr *e = nft_expression(b, "immediate");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, what);
}

void nft_reject(struct nft_batch *b, uint32_t type, uint8_t code)
{
    nft_count(b);
    struct nftnl_expr *e = nft_expression(b, "reject");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_REJECT_TYPE, type);
    nftnl_expr_set_u8(e, NFTNL_EXPR_REJECT_CODE, code);
}

static void log_to(struct nft_batch *b, uint16_t group, uint32_t snaplen, const char *prefix)
{
    nft_count(b);
    struct nftnl_expr *e = nft_expression(b, "log");
    if (!e)
        return;
    nftnl_expr_set_u16(e, NFTNL_EXPR_LOG_GROUP, group);
    if (snaplen)
        nftnl_expr_set_u32(e, NFTNL_EXPR_LOG_SNAPLEN, snaplen);
    if (prefix)
        nftnl_expr_set_str(e, NFTNL_EXPR_LOG_PREFIX, prefix);
}

void nft_log(struct nft_batch *b, uint16_t group)
{
    log_to(b, group, SNAPLEN, NULL);
}

void nft_log_as(struct nft_batch *b, uint16_t group, const char *prefix)
{
    log_to(b, group, SNAPLEN, prefix);
}

void nft_log_whole(struct nft_batch *b, uint16_t group)
{
    log_to(b, group, 0, NULL);
}

void nft_set_mark(struct nft_batch *b, uint32_t mark)
{
    nft_count(b);
    struct nftnl_expr *load = nft_expression(b, "immediate");
    struct nftnl_expr *set = nft_expression(b, "meta");
    if (!load || !set)
        return;
    nftnl_expr_set_u32(load, NFTNL_EXPR_IMM_DREG, NFT_REG_1);
    nftnl_expr_set(load, NFTNL_EXPR_IMM_DATA, &mark, sizeof(mark));
    nftnl_expr_set_u32(set, NFTNL_EXPR_META_KEY, NFT_META_MARK);
    nftnl_expr_set_u32(set, NFTNL_EXPR_META_SREG, NFT_REG_1);
}

void nft_match_mark(struct nft_batch *b, uint32_t mark)
{
    nft_load_meta(b, NFT_META_MARK);
    nft_compare(b, NFT_CMP_EQ, &mark, sizeof(mark));
}

void nft_match_reply(struct nft_batch *b)
{
    const uint8_t reply = 1; /* IP_CT_DIR_REPLY, in a header that is not for user space */
    struct nftnl_expr *ct = nft_expression(b, "ct");
    if (!ct)
        return;
    nftnl_expr_set_u32(ct, NFTNL_EXPR_CT_KEY, NFT_CT_DIRECTION);
    nftnl_expr_set_u32(ct, NFTNL_EXPR_CT_DREG, NFT_REG_1);
    nft_compare(b, NFT_CMP_EQ, &reply, sizeof(reply));
}

void nft_tproxy(struct nft_batch *b, int family, uint16_t port)
{
    static const uint8_t loopback4[4] = {127, 0, 0, 1}, loopback6[16] = {[15] = 1};
    uint16_t wire = htons(port);
    struct nftnl_expr *address = nft_expression(b, "immediate");
    struct nftnl_expr *number = nft_expression(b, "immediate");
    struct nftnl_expr *proxy = nft_expression(b, "tproxy");
    if (!address || !number || !proxy)
        return;
    nftnl_expr_set_u32(address, NFTNL_EXPR_IMM_DREG, NFT_REG_1);
    if (family == AF_INET)
        nftnl_expr_set(address, NFTNL_EXPR_IMM_DATA, loopback4, sizeof(loopback4));
    else
        nftnl_expr_set(address, NFTNL_EXPR_IMM_DATA, loopback6, sizeof(loopback6));
    nftnl_expr_set_u32(number, NFTNL_EXPR_IMM_DREG, NFT_REG_2);
    nftnl_expr_set(number, NFTNL_EXPR_IMM_DATA, &wire, sizeof(wire));
    nftnl_expr_set_u32(proxy, NFTNL_EXPR_TPROXY_FAMILY, family == AF_INET ? NFPROTO_IPV4 : NFPROTO_IPV6);
    nftnl_expr_set_u32(proxy, NFTNL_EXPR_TPROXY_REG_ADDR, NFT_REG_1);
    nftnl_expr_set_u32(proxy, NFTNL_EXPR_TPROXY_REG_PORT, NFT_REG_2);
}

void nft_untrack(struct nft_batch *b)
{
    nft_count(b);
    (void)nft_expression(b, "notrack");
}

void nft_jump(struct nft_batch *b, const char *chain)
{
    nft_count(b);
    struct nftnl_expr *e = nft_expression(b, "immediate");
    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, NFT_JUMP);
    nftnl_expr_set_str(e, NFTNL_EXPR_IMM_CHAIN, chain);
}

void nft_masquerade(struct nft_batch *b)
{
    nft_count(b);
    (void)nft_expression(b, "masq");
}

void nft_redirect(struct nft_batch *b, uint16_t port)
{
    uint16_t wire = htons(port);
    nft_count(b);
    struct nftnl_expr *load = nft_expression(b, "immediate");
    struct nftnl_expr *redir = nft_expression(b, "redir");
    if (!load || !redir)
        return;
    nftnl_expr_set_u32(load, NFTNL_EXPR_IMM_DREG, NFT_REG_1);
    nftnl_expr_set(load, NFTNL_EXPR_IMM_DATA, &wire, sizeof(wire));
    nftnl_expr_set_u32(redir, NFTNL_EXPR_REDIR_REG_PROTO_MIN, NFT_REG_1);
}

/* ---- the batch ---- */

static void mark(struct nft_batch *b, uint16_t type)
{
    make_room(b);
    struct nlmsghdr *m = type == NFNL_MSG_BATCH_BEGIN ? nftnl_batch_begin(b->bytes + b->used, b->sequence)
                                                      : nftnl_batch_end(b->bytes + b->used, b->sequence);
    b->steps[b->sequence < NFT_STEPS_MAX ? b->sequence : 0] = "opening the batch";
    b->sequence++;
    nft_message_done(b, m);
}

int nft_batch_open(struct nft_batch *b, const char *table, struct error *err)
{
    *b = (struct nft_batch){.table = table, .sequence = 1, .bytes = malloc(BATCH_FIRST), .size = BATCH_FIRST};
    if (!b->bytes)
        return error_errno(err, ENOMEM, "nftables");
    mark(b, NFNL_MSG_BATCH_BEGIN);
    return 0;
}

static int send_batch(int fd, const struct nft_batch *b, uint32_t last, struct error *err)
{
    int room = (int)b->used * 2;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)); /* as much of it as the system allows */
    uint32_t failed = 0;
    int r = netlink_transact(fd, b->bytes, b->used, last, &failed, err);
    if (r < 0 && err)
        error_prefix(err, "nftables: %s", failed < NFT_STEPS_MAX && b->steps[failed] ? b->steps[failed] : "the batch");
    return r;
}

void nft_batch_abandon(struct nft_batch *b)
{
    free(b->bytes);
    b->bytes = NULL;
}

int nft_batch_commit(struct nft_batch *b, int fd, struct error *err)
{
    /* The last message before the end mark asks for the acknowledgement. */
    struct nlmsghdr *last = (struct nlmsghdr *)(void *)(b->bytes + b->last);
    uint32_t sequence = last->nlmsg_seq;
    last->nlmsg_flags |= NLM_F_ACK;
    mark(b, NFNL_MSG_BATCH_END);
    int r = b->out_of_memory ? error_errno(err, ENOMEM, "nftables") : send_batch(fd, b, sequence, err);
    free(b->bytes);
    b->bytes = NULL;
    return r;
}

int nft_find_table(int fd, const char *table, bool *ret, struct error *err)
{
    alignas(struct nlmsghdr) char buffer[NETLINK_REQUEST_MAX];
    struct nlmsghdr *request = nftnl_nlmsg_build_hdr(buffer, NFT_MSG_GETTABLE, NFPROTO_INET, 0, 0);
    mnl_attr_put_strz(request, NFTA_TABLE_NAME, table);
    int r = netlink_request(fd, request, "nftables: looking for the table", err);
    if (r < 0 && r != -ENOENT)
        return r;
    *ret = r == 0;
    return 0;
}
