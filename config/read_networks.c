/*
 * The entries of `networks`: which interfaces are captured, and how. A packet belongs to one network at most, so no two of
 * their interfaces may be able to have the same name.
 */
#include "config/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

struct reading {
    struct config_network *network;
    struct network_draft *draft;
};

static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

static void read_name(struct load *load, const struct node *node, void *object)
{
    struct config_network *network = ((struct reading *)object)->network;
    const struct config_snapshot *snapshot = load->snapshot;
    const char *text = schema_text(load, node, "a network's name");
    if (!text)
        return;
    if (node->length > CONFIG_NETWORK_NAME_MAX || text[0] == '-' || strspn(text, letters) != node->length) {
        report(load, node->mark,
               "a network cannot be named \"%.80s\": write 1 to %d letters, digits, \"-\", \"_\" and \".\", no \"-\" first", text,
               CONFIG_NETWORK_NAME_MAX);
        return;
    }
    for (size_t i = 0; i < snapshot->network_count; i++)
        if (!strcmp(snapshot->networks[i].name, text))
            report(load, node->mark, "there is a network \"%s\" already: give each a name of its own", text);
    snprintf(network->name, sizeof(network->name), "%s", text);
}

/* ---- interfaces ---- */

static size_t stem_length(const char *pattern)
{
    return strcspn(pattern, "*");
}

/* Can one interface match both? */
static bool patterns_meet(const char *a, const char *b)
{
    size_t a_stem = stem_length(a), b_stem = stem_length(b);
    size_t shorter = a_stem < b_stem ? a_stem : b_stem;
    if (strncmp(a, b, shorter) != 0)
        return false;
    return a_stem == b_stem ? a[a_stem] == '*' || b[b_stem] == '*' || !strcmp(a, b)
           : a_stem < b_stem ? a[a_stem] == '*'
                             : b[b_stem] == '*';
}

static const char *network_with(const struct load *load, const struct config_network *own, const char *pattern)
{
    const struct config_snapshot *snapshot = load->snapshot;
    for (size_t n = 0; n < snapshot->network_count; n++)
        for (size_t i = 0; i < snapshot->networks[n].interface_count; i++)
            if (patterns_meet(snapshot->networks[n].interfaces[i], pattern))
                return snapshot->networks[n].name;
    for (size_t i = 0; i < own->interface_count; i++)
        if (patterns_meet(own->interfaces[i], pattern))
            return own->name;
    return NULL;
}

static bool interface_is_good(struct load *load, const struct node *node, const char *text)
{
    size_t stem = stem_length(text);
    if (node->length >= CONFIG_INTERFACE_SIZE || stem == 0 || (text[stem] && text[stem + 1]) || strpbrk(text, "/ \t") ||
        !strcmp(text, ".") || !strcmp(text, ".."))
        report(load, node->mark,
               "an interface cannot be \"%.80s\": write its name, up to %d bytes, or the beginning of names and a star, as \"br-*\"",
               text, CONFIG_INTERFACE_SIZE - 1);
    else if (patterns_meet(text, "lo"))
        report(load, node->mark, "\"%s\" would be lo, the host itself: name the interface that the containers are behind", text);
    else
        return true;
    return false;
}

static void read_interface(struct load *load, const struct node *node, void *object)
{
    struct config_network *network = ((struct reading *)object)->network;
    const char *text = schema_text(load, node, "an interface"), *other;
    if (!text || !interface_is_good(load, node, text))
        return;
    other = network_with(load, network, text);
    if (other)
        report(load, node->mark, "interface \"%s\" is of the network \"%s\" already: a packet can be of one network only", text,
               *other ? other : "of this entry");
    else if (network->interface_count == CONFIG_INTERFACES_MAX)
        report(load, node->mark, "too many interfaces of one network: write at most %d, or a name with a star",
               CONFIG_INTERFACES_MAX);
    else
        memcpy(network->interfaces[network->interface_count++], text, node->length + 1);
}

static void read_interfaces(struct load *load, const struct node *node, void *object)
{
    if (node->kind == NODE_SCALAR)
        read_interface(load, node, object);
    else if (node->kind == NODE_LIST && !node->first)
        report(load, node->mark, "interface is empty: name the interface that the containers are behind");
    else
        schema_list(load, node, "interface", read_interface, object);
}

/* ---- the rest ---- */

static void read_subnet(struct load *load, const struct node *node, void *object)
{
    struct config_network *network = ((struct reading *)object)->network;
    struct cidr net;
    if (!schema_network(load, node, "a subnet", &net))
        return;
    if (network->subnet_count == CONFIG_SUBNETS_MAX)
        report(load, node->mark, "too many subnets of one network: write at most %d, in larger networks", CONFIG_SUBNETS_MAX);
    else
        network->subnets[network->subnet_count++] = net;
}

static void read_subnets(struct load *load, const struct node *node, void *object)
{
    struct config_network *network = ((struct reading *)object)->network;
    network->subnets = calloc(CONFIG_SUBNETS_MAX, sizeof(*network->subnets));
    if (!network->subnets)
        load->out_of_memory = true;
    else if (node->kind == NODE_LIST && !node->first)
        report(load, node->mark, "subnets is empty: name them, or remove the key to go by the routes");
    else
        schema_list(load, node, "subnets", read_subnet, object);
}

static void read_capture(struct load *load, const struct node *node, void *object)
{
    static const char *const words[] = {"redirect", "tproxy"};
    int choice = schema_choice(load, node, "capture", words, COUNT(words));
    ((struct reading *)object)->network->transparent = choice == 1;
}

static void read_policy(struct load *load, const struct node *node, void *object)
{
    const char *name = schema_text(load, node, "policy");
    if (name)
        ((struct reading *)object)->draft->policy = (struct reference){.mark = node->mark, .name = name};
}

static void read_network(struct load *load, const struct node *node, void *object)
{
    static const struct field fields[] = {{"name", read_name},
                                          {"interface", read_interfaces},
                                          {"subnets", read_subnets},
                                          {"capture", read_capture},
                                          {"policy", read_policy}};
    struct config_snapshot *snapshot = load->snapshot;
    size_t reported = load->reported;
    if (snapshot->network_count == CONFIG_NETWORKS_MAX) {
        report(load, node->mark, "too many networks: write at most %d", CONFIG_NETWORKS_MAX);
        return;
    }
    struct config_network *network = &snapshot->networks[snapshot->network_count];
    struct network_draft *draft = load_alloc(load, sizeof(*draft)), ***tail = object;
    if (!draft)
        return;
    *draft = (struct network_draft){.index = snapshot->network_count};
    schema_map(load, node, "an entry of networks", fields, COUNT(fields), &(struct reading){network, draft});
    snapshot->network_count++;
    bool whole = load->reported == reported; /* else the missing key may be the misspelt one */
    if (whole && !*network->name)
        report(load, node->mark, "an entry of networks needs a name: write name: NAME, which the audit log will show");
    if (whole && network->interface_count == 0)
        report(load, node->mark, "an entry of networks needs an interface: write interface: NAME, as docker0 or \"br-*\"");
    **tail = draft;
    *tail = &draft->next;
}

void read_networks(struct load *load, const struct node *node, void *object)
{
    struct network_draft **tail = &load->networks;
    struct config_snapshot *snapshot = object;
    snapshot->networks = calloc(CONFIG_NETWORKS_MAX, sizeof(*snapshot->networks));
    if (!snapshot->networks)
        load->out_of_memory = true;
    else
        schema_list(load, node, "networks", read_network, &tail);
}
