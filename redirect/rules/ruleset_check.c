/*
 * Is the ruleset in force still ours? Everything in the table is read back (chains, rules without their counters, elements of
 * the set) and hashed; what was read right after it was put there is what it must stay.
 *
 * Compared are the kernel's own words, not ours with the kernel's: their order and form are the kernel's business.
 */
#include "redirect/rules/ruleset.h"

#include "base/fds.h"
#include "redirect/rules/netlink.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdalign.h>
#include <stdio.h>
#include <string.h>

#define TEXT_SIZE 4096
#define HASH_START 14695981039346656037u /* FNV-1a, 64 bits: told apart are accidents and changes, not forgeries */
#define HASH_PRIME 1099511628211u

struct reading {
    uint64_t hash;
    char text[TEXT_SIZE];
};

static void add_bytes(struct reading *reading, const void *bytes, size_t length)
{
    for (const uint8_t *at = bytes; length > 0; length--)
        reading->hash = (reading->hash ^ *at++) * HASH_PRIME;
}

static void add_text(struct reading *reading, const char *text)
{
    add_bytes(reading, text ? text : "", text ? strlen(text) + 1 : 1);
}

static int read_chain(const struct nlmsghdr *answer, void *data)
{
    static const uint16_t numbers[] = {NFTNL_CHAIN_HOOKNUM, NFTNL_CHAIN_PRIO, NFTNL_CHAIN_POLICY};
    struct reading *reading = data;
    struct nftnl_chain *chain = nftnl_chain_alloc();
    if (!chain || nftnl_chain_nlmsg_parse(answer, chain) < 0) {
        nftnl_chain_free(chain);
        return MNL_CB_ERROR;
    }
    const char *table = nftnl_chain_get_str(chain, NFTNL_CHAIN_TABLE);
    if (table && !strcmp(table, RULESET_TABLE)) { /* the kernel does not filter chains by table */
        add_text(reading, nftnl_chain_get_str(chain, NFTNL_CHAIN_NAME));
        add_text(reading, nftnl_chain_get_str(chain, NFTNL_CHAIN_TYPE));
        for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
            uint32_t value = nftnl_chain_get_u32(chain, numbers[i]);
            add_bytes(reading, &value, sizeof(value));
        }
    }
    nftnl_chain_free(chain);
    return MNL_CB_OK;
}

static int read_expression(struct nftnl_expr *expression, void *data)
{
    struct reading *reading = data;
    const char *name = nftnl_expr_get_str(expression, NFTNL_EXPR_NAME);
    if (!strcmp(name, "counter"))
        return 0;
    add_text(reading, name);
    memset(reading->text, 0, sizeof(reading->text));
    if (nftnl_expr_snprintf(reading->text, sizeof(reading->text), expression, NFTNL_OUTPUT_DEFAULT, 0) < 0)
        return -1;
    add_text(reading, reading->text);
    return 0;
}

static int read_rule(const struct nlmsghdr *answer, void *data)
{
    struct reading *reading = data;
    struct nftnl_rule *rule = nftnl_rule_alloc();
    if (!rule || nftnl_rule_nlmsg_parse(answer, rule) < 0) {
        nftnl_rule_free(rule);
        return MNL_CB_ERROR;
    }
    add_text(reading, nftnl_rule_get_str(rule, NFTNL_RULE_CHAIN));
    int r = nftnl_expr_foreach(rule, read_expression, reading);
    nftnl_rule_free(rule);
    return r < 0 ? MNL_CB_ERROR : MNL_CB_OK;
}

static int read_element(struct nftnl_set_elem *element, void *data)
{
    struct reading *reading = data;
    uint32_t length = 0, flags = 0;
    if (nftnl_set_elem_is_set(element, NFTNL_SET_ELEM_FLAGS))
        flags = nftnl_set_elem_get_u32(element, NFTNL_SET_ELEM_FLAGS);
    const void *key = nftnl_set_elem_get(element, NFTNL_SET_ELEM_KEY, &length);
    add_bytes(reading, key, key ? length : 0);
    add_bytes(reading, &flags, sizeof(flags));
    return 0;
}

static int read_elements(const struct nlmsghdr *answer, void *data)
{
    struct nftnl_set *set = nftnl_set_alloc();
    if (!set || nftnl_set_elems_nlmsg_parse(answer, set) < 0) {
        nftnl_set_free(set);
        return MNL_CB_ERROR;
    }
    nftnl_set_elem_foreach(set, read_element, data);
    nftnl_set_free(set);
    return MNL_CB_OK;
}

static int dump_table(int fd, uint16_t type, mnl_cb_t each, struct reading *reading, struct error *err)
{
    alignas(struct nlmsghdr) char buffer[NETLINK_REQUEST_MAX];
    struct nlmsghdr *request = nftnl_nlmsg_build_hdr(buffer, type, NFPROTO_INET, NLM_F_DUMP, 0);
    if (type == NFT_MSG_GETRULE)
        mnl_attr_put_strz(request, NFTA_RULE_TABLE, RULESET_TABLE);
    if (type == NFT_MSG_GETSETELEM) {
        mnl_attr_put_strz(request, NFTA_SET_ELEM_LIST_TABLE, RULESET_TABLE);
        mnl_attr_put_strz(request, NFTA_SET_ELEM_LIST_SET, RULESET_PORTS);
    }
    int r = netlink_list(fd, request, "nftables: reading the ruleset", each, reading, err);
    return r == MNL_CB_ERROR ? error_set(err, EBADMSG, "nftables: the ruleset cannot be read") : r;
}

static int read_table(int fd, struct reading *reading, struct error *err)
{
    int r = dump_table(fd, NFT_MSG_GETCHAIN, read_chain, reading, err);
    if (r == 0)
        r = dump_table(fd, NFT_MSG_GETRULE, read_rule, reading, err);
    if (r == 0 && reading->hash != HASH_START)
        r = dump_table(fd, NFT_MSG_GETSETELEM, read_elements, reading, err);
    return r;
}

int ruleset_fingerprint(uint64_t *ret, struct error *err)
{
    struct reading reading = {.hash = HASH_START};
    _cleanup_fd_ int fd = netlink_open(NETLINK_NETFILTER, err);
    int r = fd < 0 ? fd : -ESTALE;
    for (int i = 0; i < NETLINK_LIST_TRIES && r == -ESTALE; i++) {
        reading.hash = HASH_START;
        r = read_table(fd, &reading, err);
    }
    if (r < 0)
        return r;
    *ret = reading.hash == HASH_START ? 0 : reading.hash;
    return 0;
}
