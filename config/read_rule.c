/*
 * Rules written as maps, for those who like to see the parts:
 *
 *   - {name: api.example.com, protocol: http, ports: [80, 8000-8010], methods: [GET, HEAD], paths: [/v1/x]}
 *   - {network: 10.20.0.0/16, ports: 5432}
 *
 * A map is only another way to write rule strings: it becomes one for each of its ports and paths, and those
 * are what is checked, shown and matched. So there is one grammar (acl/rule.h), and the origin of each is the
 * map's line.
 */
#include "config/read_rule.h"
#include "config/schema.h"

#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))
#define RULES_MAX 1024 /* of one map */

struct word {
    struct word *next;
    struct mark mark;
    const char *text;
};

struct rule_map {
    const char *name, *network;
    struct mark name_mark;
    int protocol; /* an index of protocols, or -1 */
    struct word *ports, *methods, *paths;
};

enum { WEB, HTTPS, HTTP, TCP, UDP, ICMP };
static const char *const protocols[] = {
    [WEB] = "web", [HTTPS] = "https", [HTTP] = "http", [TCP] = "tcp", [UDP] = "udp", [ICMP] = "icmp"};

/* ---- reading the map ---- */

static void read_name(struct load *load, const struct node *node, void *object)
{
    struct rule_map *map = object;
    map->name_mark = node->mark;
    map->name = schema_text(load, node, "name");
    if (!map->name || !strpbrk(map->name, ":/ "))
        return;
    report(
        load, node->mark,
        "name cannot be \"%s\": write the name alone, and protocol, ports, methods and paths as keys beside "
        "it; for an address write network",
        map->name);
    map->name = NULL;
}

static void read_network(struct load *load, const struct node *node, void *object)
{
    struct rule_map *map = object;
    struct cidr ignored;
    map->name_mark = node->mark;
    map->network = schema_text(load, node, "network");
    if (!map->network || !strcmp(map->network, "*") ||
        cidr_parse(map->network, strlen(map->network), true, &ignored))
        return;
    report(load, node->mark,
           "network cannot be \"%s\": write ADDR or ADDR/LEN, or \"*\" for every address; ports are a key of "
           "their own",
           map->network);
    map->network = NULL;
}

static void read_protocol(struct load *load, const struct node *node, void *object)
{
    ((struct rule_map *)object)->protocol =
        schema_choice(load, node, "protocol", protocols, COUNT(protocols));
}

struct word_list {
    struct word **tail;
    const char *what;
    const char *bytes; /* that a word must not have: it would become another part of the rule */
    bool path;
};

static void read_word(struct load *load, const struct node *node, void *object)
{
    struct word_list *list = object;
    const char *text = schema_text(load, node, list->what);
    if (!text)
        return;
    if (strpbrk(text, list->bytes) || (list->path && text[0] != '/')) {
        report(load, node->mark, "%s cannot be \"%s\": write %s", list->what, text,
               list->path ? "a path that begins with /" : "one an item");
        return;
    }
    struct word *word = load_alloc(load, sizeof(*word));
    if (!word)
        return;
    *word = (struct word){.mark = node->mark, .text = text};
    *list->tail = word;
    list->tail = &word->next;
}

/* A list of words, or a single one. */
static void read_words(struct load *load, const struct node *node, const char *key, struct word_list *list)
{
    if (node->kind == NODE_SCALAR)
        read_word(load, node, list);
    else
        schema_list(load, node, key, read_word, list);
}

static void read_ports(struct load *load, const struct node *node, void *object)
{
    struct word_list list = {&((struct rule_map *)object)->ports, "a port", ":/, ", false};
    read_words(load, node, "ports", &list);
}

static void read_methods(struct load *load, const struct node *node, void *object)
{
    struct word_list list = {&((struct rule_map *)object)->methods, "a method", ":/, ", false};
    read_words(load, node, "methods", &list);
}

static void read_paths(struct load *load, const struct node *node, void *object)
{
    struct word_list list = {&((struct rule_map *)object)->paths, "a path", " ", true};
    read_words(load, node, "paths", &list);
}

/* ---- writing the rules ---- */

static const char *methods_text(struct load *load, const struct word *methods)
{
    const char *text = "";
    for (const struct word *w = methods; w && text; w = w->next)
        text = arena_format(&load->arena, "%s%s%s", text, w->text, w->next ? "," : " ");
    return text;
}

/* The network as it stands in front of ports. */
static const char *network_text(struct load *load, const char *network, bool has_ports)
{
    size_t base = strcspn(network, "/");
    if (!strcmp(network, "*") && !has_ports)
        return "*:*";
    if (!has_ports || !strchr(network, ':'))
        return network;
    return arena_format(&load->arena, "[%.*s]%s", (int)base, network, network + base);
}

static const char *scheme_text(const struct rule_map *map)
{
    static const char *const texts[] = {[WEB] = "",       [HTTPS] = "https://", [HTTP] = "http://",
                                        [TCP] = "tcp://", [UDP] = "udp://",     [ICMP] = "icmp://"};
    int protocol = map->protocol;
    if (protocol < 0)
        protocol = map->methods || map->paths ? HTTP : WEB;
    if (map->network && protocol == TCP)
        return ""; /* what an address rule is by itself */
    return texts[protocol];
}

static void write_rules(struct load *load, struct mark mark, const struct rule_map *map, rule_taker *take,
                        void *arg)
{
    static const struct word none = {.text = ""};
    const char *methods = methods_text(load, map->methods), *host = map->name;
    size_t count = 0;
    if (map->network)
        host = network_text(load, map->network, map->ports != NULL);
    for (const struct word *port = map->ports ? map->ports : &none; port; port = port->next) {
        for (const struct word *path = map->paths ? map->paths : &none; path; path = path->next) {
            if (++count > RULES_MAX) {
                report(load, mark, "too many ports and paths: one map may stand for %d rules", RULES_MAX);
                return;
            }
            const char *text = methods && host
                                   ? arena_format(&load->arena, "%s%s%s%s%s%s", methods, scheme_text(map),
                                                  host, map->ports ? ":" : "", port->text, path->text)
                                   : NULL;
            if (text)
                take(load, path->text[0] ? path->mark : port->text[0] ? port->mark : mark, text, arg);
            else
                load->out_of_memory = true;
        }
    }
}

/* What the grammar would say less clearly of the rule that comes out. */
static const char *contradiction(const struct rule_map *map)
{
    bool limited = map->methods || map->paths;
    if (map->name && map->ports && !limited && (map->protocol < 0 || map->protocol == WEB))
        return "ports need a protocol: write protocol: https, http, tcp or udp";
    if (limited && map->network)
        return "methods and paths need a name: an address rule lets every request through";
    if (limited && map->protocol >= 0 && map->protocol != HTTP)
        return map->protocol == HTTPS
                   ? "inside TLS nobody sees methods and paths: remove them, or write protocol: http"
                   : "methods and paths are seen in plain HTTP only: write protocol: http";
    if (map->network && (map->protocol == HTTP || map->protocol == HTTPS || map->protocol == WEB))
        return "a network has no names in it: remove the protocol, or write tcp, udp or icmp";
    if (map->network && !strcmp(map->network, "*") && (map->protocol == UDP || map->protocol == ICMP))
        return "with udp and icmp write every address as a network of each family: 0.0.0.0/0 and \"::/0\"";
    return NULL;
}

void read_rule_map(struct load *load, const struct node *node, rule_taker *take, void *arg)
{
    static const struct field fields[] = {{"name", read_name},         {"network", read_network},
                                          {"protocol", read_protocol}, {"ports", read_ports},
                                          {"methods", read_methods},   {"paths", read_paths}};
    struct rule_map map = {.protocol = -1};
    size_t reported = load->reported;
    schema_map(load, node, "a rule", fields, COUNT(fields), &map);
    if (load->reported != reported)
        return;
    const char *why = contradiction(&map);
    if (!map.name == !map.network)
        report(load, node->mark, "a rule needs a name or a network%s", map.name ? ", not both" : "");
    else if (why)
        report(load, node->mark, "%s", why);
    else
        write_rules(load, map.name_mark, &map, take, arg);
}
