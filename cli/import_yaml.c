/*
 * Formats that are YAML or JSON: Smokescreen's ACL, Cilium's network policies, and the settings of the
 * sandbox runtime (srt). Read with the same strict parser as policies: anchors and tags are refused, not
 * guessed at.
 */
#include "cli/import.h"

#include <stdlib.h>
#include <string.h>

/* ---- the tree ---- */

static const struct node *get(const struct node *map, const char *key)
{
    if (!map || map->kind != NODE_MAP)
        return NULL;
    for (const struct node *n = map->first; n; n = n->next)
        if (n->kind == NODE_SCALAR && !strcmp(n->text, key))
            return n->value;
    return NULL;
}

static const char *text_of(const struct node *node)
{
    return node && node->kind == NODE_SCALAR ? node->text : NULL;
}

static const struct node *items_of(const struct node *node)
{
    return node && node->kind == NODE_LIST ? node->first : NULL;
}

/* Notes every key of a map that `known` (a list that ends with NULL) does not have. */
static void note_others(struct import *in, const struct node *map, const char *const *known, const char *what)
{
    if (!map || map->kind != NODE_MAP)
        return;
    for (const struct node *n = map->first; n; n = n->next) {
        const char *const *k = known;
        while (*k && n->kind == NODE_SCALAR && strcmp(*k, n->text))
            k++;
        if (!*k && n->kind == NODE_SCALAR)
            import_note(in, n->mark.line, "%s \"%.80s\"", what, n->text);
    }
}

static void each_host(struct import *in, const struct node *list, struct import_list *to)
{
    for (const struct node *n = items_of(list); n; n = n->next) {
        if (text_of(n))
            import_host(in, to, n->mark.line, n->text, n->length);
        else
            import_note(in, n->mark.line, "a name was expected");
    }
}

/* ---- Smokescreen ---- */

static void smokescreen_action(struct import *in, struct import_policy *policy, const struct node *service)
{
    const struct node *node = get(service, "action");
    const char *action = text_of(node);
    unsigned line = node ? node->mark.line : service->mark.line;
    if (action && !strcmp(action, "report")) {
        policy->audit = true;
    } else if (action && !strcmp(action, "open")) {
        import_rule(in, &policy->allow, line, "*");
        import_rule(in, &policy->allow, line, "*:*");
    } else if (!action || strcmp(action, "enforce")) {
        import_note(in, line, "the action is none of open, report and enforce: taken for enforce");
    }
}

static void smokescreen_service(struct import *in, const struct node *service, const char *name,
                                const char *extends, bool assign)
{
    static const char *const known[] = {"name", "project", "action", "allowed_domains", NULL};
    struct import_policy *policy = import_policy_add(in, name);
    if (!policy)
        return;
    policy->extends = extends;
    policy->assign = assign;
    smokescreen_action(in, policy, service);
    each_host(in, get(service, "allowed_domains"), &policy->allow);
    note_others(in, service, known, "of a service is not carried over:");
}

/* What holds for every service is a policy that all extend. */
static const char *smokescreen_global(struct import *in, const struct node *root)
{
    const struct node *allow = get(root, "global_allow_list"), *deny = get(root, "global_deny_list");
    if (!items_of(allow) && !items_of(deny))
        return NULL;
    struct import_policy *policy = import_policy_add(in, "global");
    if (!policy)
        return NULL;
    each_host(in, allow, &policy->allow);
    each_host(in, deny, &policy->deny);
    return policy->name;
}

bool import_smokescreen(struct import *in)
{
    static const char *const known[] = {"version",           "services",         "default",
                                        "global_allow_list", "global_deny_list", NULL};
    const struct node *root = tree_read(&in->load, in->text, in->length);
    if (!root)
        return false;
    const char *global = smokescreen_global(in, root);
    for (const struct node *service = items_of(get(root, "services")); service; service = service->next) {
        const char *name = text_of(get(service, "name"));
        if (name) {
            smokescreen_service(in, service, name, global, true);
        } else {
            import_note(in, service->mark.line, "a service without a name");
        }
    }
    const struct node *rest = get(root, "default");
    if (rest && rest->kind == NODE_MAP) {
        smokescreen_service(in, rest, "default-service", global, false);
        in->fallback = "default-service";
    }
    note_others(in, root, known, "not carried over:");
    import_note(in, 0,
                "Smokescreen lets a name through on every port; here a name is 80 and 443, write "
                "tcp://NAME:PORT for more");
    return true;
}

/* ---- Cilium ---- */

/* Ports of a rule: NULL in `low` for none written. */
#define PORTS_MAX 64
struct ports {
    struct {
        char text[16];
        const struct node *http; /* rules.http */
    } at[PORTS_MAX];
    size_t count;
    bool any;      /* none was written: every port */
    bool dns_only; /* what was written is only for DNS */
};

static void cilium_port(struct import *in, const struct node *port, const struct node *http,
                        struct ports *ret)
{
    const char *number = text_of(get(port, "port")), *protocol = text_of(get(port, "protocol")),
               *end = text_of(get(port, "endPort"));
    if (!number || strspn(number, "0123456789") != strlen(number) || strlen(number) > 5) {
        import_note(in, port->mark.line, "a port that is no number (\"%.40s\")", number ? number : "");
    } else if (!strcmp(number, "53")) {
        return; /* the gateway answers DNS itself */
    } else if (protocol && strcmp(protocol, "TCP") && strcmp(protocol, "ANY")) {
        import_note(in, port->mark.line, "port %s of %.20s: only TCP is let through", number, protocol);
    } else if (ret->count == PORTS_MAX) {
        import_note(in, port->mark.line, "more than %d ports in a rule", PORTS_MAX);
    } else if (!end || (strspn(end, "0123456789") == strlen(end) && strlen(end) <= 5)) {
        ret->at[ret->count].http = http;
        snprintf(ret->at[ret->count++].text, sizeof(ret->at[0].text), "%s%s%s",
                 strcmp(number, "0") ? number : "*", end ? "-" : "", end ? end : "");
    }
}

static void cilium_ports(struct import *in, const struct node *rule, struct ports *ret)
{
    const struct node *to = items_of(get(rule, "toPorts"));
    *ret = (struct ports){.any = !to};
    for (; to; to = to->next) {
        const struct node *http = get(get(to, "rules"), "http");
        for (const struct node *port = items_of(get(to, "ports")); port; port = port->next)
            cilium_port(in, port, http, ret);
    }
    ret->dns_only = !ret->any && ret->count == 0;
}

/* path: a regular expression in Cilium; what is one path, or all below one, can be said here. */
static void cilium_request(struct import *in, struct import_list *to, const char *name, const char *port,
                           const struct node *request)
{
    static const char *const known[] = {"method", "path", NULL};
    const char *method = text_of(get(request, "method")), *path = text_of(get(request, "path"));
    char pattern[1024] = "", methods[128];
    unsigned line = request->mark.line;
    size_t length = path ? strlen(path) : 0;
    bool below = length >= 2 && !strcmp(path + length - 2, ".*");
    if (path)
        snprintf(pattern, sizeof(pattern), "%.*s%s", (int)(below ? length - 2 : length), path,
                 below ? "*" : "");
    if (strpbrk(pattern, "[](){}|\\^$+?") || (strchr(pattern, '*') && !below)) {
        import_note(in, line, "the path \"%.80s\" is a regular expression that cannot be said here", path);
        return;
    }
    note_others(in, request, known, "of an HTTP rule is not carried over:");
    snprintf(methods, sizeof(methods), "%s%s", method ? method : "", method ? " " : "");
    for (char *c = methods; *c; c++)
        if (*c == '|') /* GET|HEAD */
            *c = ',';
    bool usual = !strcmp(port, "80");
    import_rule(in, to, line, "%shttp://%s%s%s%s", methods, name, usual ? "" : ":", usual ? "" : port,
                pattern);
}

static void cilium_name_port(struct import *in, struct import_list *to, unsigned line, const char *name,
                             const struct ports *ports, size_t i)
{
    const char *port = ports->at[i].text;
    if (items_of(ports->at[i].http)) {
        for (const struct node *r = items_of(ports->at[i].http); r; r = r->next)
            cilium_request(in, to, name, port, r);
    } else {
        const char *scheme = !strcmp(port, "443") ? "https" : !strcmp(port, "80") ? "http" : "tcp";
        bool usual = *scheme != 't';
        import_rule(in, to, line, "%s://%s%s%s", scheme, name, usual ? "" : ":", usual ? "" : port);
    }
}

static void cilium_name(struct import *in, struct import_list *to, unsigned line, const char *name,
                        const struct ports *ports)
{
    if (ports->any)
        import_rule(in, to, line, "tcp://%s:*", name);
    for (size_t i = 0; i < ports->count; i++)
        cilium_name_port(in, to, line, name, ports, i);
}

static void cilium_fqdn(struct import *in, struct import_list *to, const struct node *fqdn,
                        const struct ports *ports)
{
    const char *name = text_of(get(fqdn, "matchName")), *pattern = text_of(get(fqdn, "matchPattern"));
    unsigned line = fqdn->mark.line;
    if (name) {
        cilium_name(in, to, line, name, ports);
    } else if (pattern && (!strcmp(pattern, "*") || !strncmp(pattern, "**.", 3) ||
                           (!strncmp(pattern, "*.", 2) && !strchr(pattern + 1, '*')))) {
        if (!strncmp(pattern, "*.", 2))
            import_note(in, line, "\"%.200s\" is one label in Cilium, one or more here", pattern);
        cilium_name(in, to, line, pattern, ports);
    } else if (pattern && !strchr(pattern, '*')) {
        cilium_name(in, to, line, pattern, ports);
    } else {
        import_note(in, line,
                    "the pattern \"%.200s\" cannot be said here: a * stands in front, with a dot behind",
                    pattern ? pattern : "");
    }
}

static void cilium_net(struct import *in, struct import_list *to, unsigned line, const char *net,
                       const struct ports *ports)
{
    size_t base = strcspn(net, "/");
    bool v6 = strchr(net, ':') != NULL;
    if (ports->any)
        import_rule(in, to, line, "%s", net);
    for (size_t i = 0; i < ports->count; i++)
        import_rule(in, to, line, "%s%.*s%s%s:%s", v6 ? "[" : "", (int)base, net, v6 ? "]" : "", net + base,
                    ports->at[i].text);
}

static void cilium_nets(struct import *in, struct import_policy *policy, struct import_list *to,
                        const struct node *rule, const struct ports *ports)
{
    for (const struct node *n = items_of(get(rule, "toCIDR")); n; n = n->next)
        if (text_of(n))
            cilium_net(in, to, n->mark.line, n->text, ports);
    for (const struct node *n = items_of(get(rule, "toCIDRSet")); n; n = n->next) {
        const char *net = text_of(get(n, "cidr"));
        if (net)
            cilium_net(in, to, n->mark.line, net, ports);
        else
            import_note(in, n->mark.line, "a CIDR set without cidr");
        for (const struct node *e = items_of(get(n, "except")); e; e = e->next) {
            if (!text_of(e))
                continue;
            import_note(in, e->mark.line, "except %.60s became a deny rule, which holds for the whole policy",
                        e->text);
            cilium_net(in, &policy->deny, e->mark.line, e->text, ports);
        }
    }
}

static void cilium_entities(struct import *in, struct import_list *to, const struct node *rule,
                            const struct ports *ports)
{
    for (const struct node *n = items_of(get(rule, "toEntities")); n; n = n->next) {
        const char *entity = text_of(n);
        if (!entity || (strcmp(entity, "world") && strcmp(entity, "all"))) {
            import_note(in, n->mark.line, "the entity \"%.40s\" is Cilium's own", entity ? entity : "");
            continue;
        }
        if (ports->any)
            import_rule(in, to, n->mark.line, "*:*");
        for (size_t i = 0; i < ports->count; i++)
            import_rule(in, to, n->mark.line, ":%s", ports->at[i].text);
    }
}

static void cilium_rule(struct import *in, struct import_policy *policy, struct import_list *to,
                        const struct node *rule)
{
    static const char *const known[] = {"toFQDNs", "toCIDR", "toCIDRSet", "toEntities", "toPorts", NULL};
    struct ports ports;
    cilium_ports(in, rule, &ports);
    if (ports.dns_only)
        return; /* all of it was for DNS, or was noted */
    for (const struct node *n = items_of(get(rule, "toFQDNs")); n; n = n->next)
        cilium_fqdn(in, to, n, &ports);
    cilium_nets(in, policy, to, rule, &ports);
    cilium_entities(in, to, rule, &ports);
    note_others(in, rule, known, "of a rule is Cilium's own:");
}

static void cilium_spec(struct import *in, struct import_policy *policy, const struct node *spec)
{
    static const char *const known[] = {"endpointSelector", "egress", "egressDeny", "description", NULL};
    const struct node *selector = get(spec, "endpointSelector");
    if (selector)
        import_note(in, selector->mark.line,
                    "who gets the policy %s is not carried over: write it under assign", policy->name);
    for (const struct node *n = items_of(get(spec, "egress")); n; n = n->next)
        cilium_rule(in, policy, &policy->allow, n);
    for (const struct node *n = items_of(get(spec, "egressDeny")); n; n = n->next)
        cilium_rule(in, policy, &policy->deny, n);
    note_others(in, spec, known, "not carried over:");
}

static void cilium_document(struct import *in, const struct node *root)
{
    const struct node *kind = get(root, "kind");
    if (!text_of(kind) || strncmp(kind->text, "Cilium", 6)) {
        import_note(in, root->mark.line, "a document that is no network policy of Cilium's");
        return;
    }
    const char *name = text_of(get(get(root, "metadata"), "name"));
    struct import_policy *policy = import_policy_add(in, name ? name : in->name);
    if (!policy)
        return;
    if (get(root, "spec"))
        cilium_spec(in, policy, get(root, "spec"));
    for (const struct node *n = items_of(get(root, "specs")); n; n = n->next)
        cilium_spec(in, policy, n);
}

/* Where the next "---" line is; the end when there is none. */
static size_t document_end(const char *text, size_t length)
{
    for (const char *at = text; at && at < text + length;) {
        const char *newline = memchr(at, '\n', (size_t)(text + length - at));
        if (!strncmp(at, "---", 3) && at != text && strchr(" \t\r\n", at[3]))
            return (size_t)(at - text);
        at = newline ? newline + 1 : NULL;
    }
    return length;
}

/* Manifests hold several documents; the parser wants one. Blank lines in front keep the line numbers right.
 */
bool import_cilium(struct import *in)
{
    size_t done = 0;
    while (done < in->length) {
        size_t length = document_end(in->text + done, in->length - done);
        char *document = load_copy(&in->load, in->text, done + length);
        if (!document)
            return false;
        for (size_t i = 0; i < done; i++)
            if (document[i] != '\n')
                document[i] = ' ';
        if (!strncmp(document + done, "---", 3))
            memset(document + done, ' ', 3);
        done += length;
        if (strspn(document, " \t\r\n") == done)
            continue;
        const struct node *root = tree_read(&in->load, document, done);
        if (!root)
            return false;
        cilium_document(in, root);
    }
    return true;
}

/* ---- srt ---- */

static void srt_network(struct import *in, struct import_policy *policy, const struct node *network)
{
    static const char *const known[] = {"allowedDomains", "deniedDomains", NULL};
    each_host(in, get(network, "allowedDomains"), &policy->allow);
    each_host(in, get(network, "deniedDomains"), &policy->deny);
    for (const struct node *n = items_of(get(network, "allowUnixSockets")); n; n = n->next)
        if (text_of(n))
            import_note(in, n->mark.line, "the socket %.200s: write sallyport exec --keep %.200s", n->text,
                        n->text);
    for (const struct node *n = network->kind == NODE_MAP ? network->first : NULL; n; n = n->next)
        if (n->kind == NODE_SCALAR && strcmp(n->text, known[0]) && strcmp(n->text, known[1]) &&
            strcmp(n->text, "allowUnixSockets"))
            import_note(in, n->mark.line, "\"%.80s\" has no meaning here", n->text);
}

bool import_srt(struct import *in)
{
    static const char *const known[] = {"network", "sandbox", NULL};
    const struct node *root = tree_read(&in->load, in->text, in->length), *network = get(root, "network");
    struct import_policy *policy = root ? import_policy_add(in, in->name) : NULL;
    if (!policy)
        return false;
    if (!network)
        network = get(get(root, "sandbox"), "network");
    if (network)
        srt_network(in, policy, network);
    else
        import_note(in, root->mark.line, "there is no network in it: nothing is allowed");
    note_others(in, root, known, "not about the network:");
    import_note(
        in, 0,
        "srt lets a name through on every port; here a name is 80 and 443, write tcp://NAME:PORT for more");
    return true;
}
