/*
 * The schema of a policy file (DESIGN section 8): one table of keys a map, one reader a key. A reader checks
 * its value by itself; what it means together with the rest of the file is resolve.c's.
 */
#include "acl/guard.h"
#include "config/hash.h"
#include "config/names_file.h"
#include "config/read_rule.h"
#include "config/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))
#define FIELDS(table) table, COUNT(table)
#define POLICY_NAME_MAX 64
#define CA_FILE_MAX_BYTES ((size_t)16 << 20)
#define ADMIN_PEM_MAX_BYTES ((size_t)1 << 20)
#define PEM_BEGIN "-----BEGIN CERTIFICATE-----"

/* ---- gateway ---- */

static void read_resolver(struct load *load, const struct node *node, void *object)
{
    struct config_snapshot *snapshot = object;
    struct config_resolver resolver;
    const char *text = schema_text(load, node, "a resolver");
    if (!text)
        return;
    if (!config_resolver_parse(text, &resolver))
        report(load, node->mark, "a resolver cannot be \"%s\": %s", text, config_resolver_advice(text));
    else if (snapshot->resolver_count == RESOLVERS_MAX)
        report(load, node->mark, "too many resolvers: write at most %d", RESOLVERS_MAX);
    else
        snapshot->resolvers[snapshot->resolver_count++] = resolver;
}

static void read_resolvers(struct load *load, const struct node *node, void *object)
{
    if (node->kind == NODE_LIST && !node->first)
        report(load, node->mark, "resolvers is empty: name one, or remove the key to use the host's");
    schema_list(load, node, "resolvers", read_resolver, object);
    const struct config_snapshot *snapshot = object;
    if (config_resolvers_mixed(snapshot->resolvers, snapshot->resolver_count))
        report(load, node->mark,
               "resolvers has servers with and without tls://: write it before all of them or none, for whoever "
               "blocks the encrypted ones would have the others asked");
}

static void read_host_address(struct load *load, const struct node *node, void *object)
{
    struct host *host = object;
    const char *text = schema_text(load, node, "an address");
    if (!text)
        return;
    if (host->count == HOST_ADDRESSES_MAX)
        report(load, node->mark, "too many addresses of one host: write at most %d", HOST_ADDRESSES_MAX);
    else if (addr_parse(text, strlen(text), &host->addresses[host->count]))
        host->count++;
    else
        report(load, node->mark, "a host's address cannot be \"%s\": write an IPv4 or IPv6 address", text);
}

static bool host_is_new(struct load *load, const struct config_snapshot *snapshot, const struct node *key,
                        const char *name)
{
    for (size_t i = 0; i < snapshot->host_count; i++)
        if (!strcmp(snapshot->hosts[i].name, name)) {
            report(load, key->mark, "host \"%s\" was already given: keep one of them", name);
            return false;
        }
    return true;
}

/* Room for one more; NULL after a report. */
static struct host *add_host(struct load *load, struct config_snapshot *snapshot, const struct node *key)
{
    char name[ACL_NAME_MAX + 1];
    size_t length;
    enum acl_name_kind kind = acl_name_normalise(key->text, key->length, name, &length);
    if (kind != ACL_NAME_OK) {
        report(load, key->mark, "a host cannot be named \"%.80s\": it is %s", key->text,
               acl_name_kind_text(kind));
        return NULL;
    }
    if (!host_is_new(load, snapshot, key, name))
        return NULL;
    if (snapshot->host_count == HOSTS_MAX) {
        report(load, key->mark, "too many hosts: write at most %d", HOSTS_MAX);
        return NULL;
    }
    struct host *grown = realloc(snapshot->hosts, (snapshot->host_count + 1) * sizeof(*grown));
    struct addr *addresses = calloc(HOST_ADDRESSES_MAX, sizeof(*addresses));
    if (grown)
        snapshot->hosts = grown;
    if (!grown || !addresses) {
        load->out_of_memory = true;
        free(addresses);
        return NULL;
    }
    struct host *host = &grown[snapshot->host_count++];
    *host = (struct host){.addresses = addresses};
    memcpy(host->name, name, length + 1);
    return host;
}

static void read_host(struct load *load, const struct node *key, struct config_snapshot *snapshot)
{
    struct host *host = add_host(load, snapshot, key);
    if (!host || key->value->kind == NODE_BAD)
        return;
    if (key->value->kind == NODE_SCALAR)
        read_host_address(load, key->value, host);
    else if (key->value->kind == NODE_LIST && !key->value->first)
        report(load, key->value->mark, "a host without an address: write one, or remove the name");
    else
        schema_list(load, key->value, "a host's addresses", read_host_address, host);
}

static int compare_hosts(const void *left, const void *right)
{
    return strcmp(((const struct host *)left)->name, ((const struct host *)right)->name);
}

static void read_hosts(struct load *load, const struct node *node, void *object)
{
    struct config_snapshot *snapshot = object;
    if (node->kind != NODE_MAP) {
        report(load, node->mark,
               "hosts has to be a map: write \"NAME: ADDRESS\" or \"NAME: [ADDRESS, ADDRESS]\"");
        return;
    }
    for (const struct node *key = node->first; key; key = key->next)
        if (key->kind == NODE_SCALAR)
            read_host(load, key, snapshot);
    if (snapshot->host_count)
        qsort(snapshot->hosts, snapshot->host_count, sizeof(*snapshot->hosts), compare_hosts);
}

/* PEM text; what is in it is looked at by certs/, which knows certificates. */
static void read_ca_file(struct load *load, const struct node *node, void *object)
{
    struct config_snapshot *snapshot = object;
    struct error err;
    const char *path = schema_text(load, node, "ca_file");
    const char *full = path ? load_path(load, path) : NULL;
    if (!full)
        return;
    if (load_file_read(load, full, CA_FILE_MAX_BYTES, &snapshot->authorities, &snapshot->authorities_length,
                       &err) < 0) {
        report(load, node->mark, "%s: %s", full, err.text);
        return;
    }
    load->hash = hash_bytes(load->hash, snapshot->authorities, snapshot->authorities_length);
    if (!memmem(snapshot->authorities, snapshot->authorities_length, PEM_BEGIN, strlen(PEM_BEGIN)))
        report(load, node->mark,
               "%s has no certificate in it: write a file of PEM certificates (\"" PEM_BEGIN "\")", full);
}

static void read_upstream(struct load *load, const struct node *node, void *object)
{
    struct config_upstream *upstream = &((struct config_snapshot *)object)->upstream;
    const char *text = schema_text(load, node, "upstream");
    if (!text)
        return;
    bool http = !strncmp(text, "http://", 7), socks = !strncmp(text, "socks5://", 9);
    if ((http || socks) && addr_parse_with_port(text + (http ? 7 : 9), 0, &upstream->address) &&
        upstream->address.port)
        upstream->kind = http ? CONFIG_UPSTREAM_HTTP : CONFIG_UPSTREAM_SOCKS5;
    else
        report(
            load, node->mark,
            "upstream cannot be \"%s\": write http://ADDR:PORT or socks5://ADDR:PORT, with [ADDR] for IPv6",
            text);
}

static void read_ocsp(struct load *load, const struct node *node, void *object)
{
    static const char *const words[] = {
        [CONFIG_OCSP_STAPLE] = "staple", [CONFIG_OCSP_OFF] = "off", [CONFIG_OCSP_REQUIRE] = "require"};
    int choice = schema_choice(load, node, "ocsp", words, COUNT(words));
    if (choice >= 0)
        ((struct config_snapshot *)object)->ocsp = (enum config_ocsp)choice;
}

/* ---- gateway.admin ---- */

#define ADMIN_DEFAULT_PORT 9464

static void read_admin_listen(struct load *load, const struct node *node, void *object)
{
    struct config_admin *admin = object;
    const char *text = schema_text(load, node, "listen");
    if (text && !addr_parse_with_port(text, ADMIN_DEFAULT_PORT, &admin->listen))
        report(load, node->mark, "listen cannot be \"%s\": write ADDR:PORT ([ADDR]:PORT for IPv6), as 127.0.0.1:%d", text,
               ADMIN_DEFAULT_PORT);
}

/* A file of PEM; `begins` is what it has to have in it. */
static void read_pem(struct load *load, const struct node *node, const char *what, const char *begins, char **ret,
                     size_t *ret_length)
{
    struct error err;
    const char *path = schema_text(load, node, what);
    const char *full = path ? load_path(load, path) : NULL;
    if (!full)
        return;
    if (load_file_read(load, full, ADMIN_PEM_MAX_BYTES, ret, ret_length, &err) < 0)
        report(load, node->mark, "%s: %s", full, err.text);
    else if (!memmem(*ret, *ret_length, begins, strlen(begins)))
        report(load, node->mark, "%s holds no %s: write a file of PEM with a line \"-----BEGIN …%s-----\"", full, what, begins);
}

static void read_tls_certificate(struct load *load, const struct node *node, void *object)
{
    struct config_admin *admin = object;
    read_pem(load, node, "certificate", "CERTIFICATE", &admin->certificate, &admin->certificate_length);
    if (admin->certificate)
        load->hash = hash_bytes(load->hash, admin->certificate, admin->certificate_length);
}

/* It goes into no hash: the version is public. */
static void read_tls_key(struct load *load, const struct node *node, void *object)
{
    struct config_admin *admin = object;
    struct stat status;
    read_pem(load, node, "key", "PRIVATE KEY", &admin->key, &admin->key_length);
    const char *path = admin->key && !load->bundle ? load_path(load, node->text) : NULL;
    if (path && stat(path, &status) == 0 && status.st_mode & S_IROTH)
        report_warning(load, node->mark, "%s can be read by everybody: chmod o= it", path);
}

static void read_tls_client_ca(struct load *load, const struct node *node, void *object)
{
    struct config_admin *admin = object;
    read_pem(load, node, "client_ca", "CERTIFICATE", &admin->client_authorities, &admin->client_authorities_length);
    if (admin->client_authorities)
        load->hash = hash_bytes(load->hash, admin->client_authorities, admin->client_authorities_length);
}

static void read_admin_tls(struct load *load, const struct node *node, void *object)
{
    static const struct field fields[] = {
        {"certificate", read_tls_certificate}, {"key", read_tls_key}, {"client_ca", read_tls_client_ca}};
    struct config_admin *admin = object;
    size_t before = load->reported;
    schema_map(load, node, "admin.tls", FIELDS(fields), object);
    admin->line = node->mark.line;
    admin->column = node->mark.column;
    if (load->reported == before && (!admin->certificate || !admin->key))
        report(load, node->mark, "admin.tls has no %s: write \"%s: FILE\"", admin->certificate ? "key" : "certificate",
               admin->certificate ? "key" : "certificate");
}

static bool is_loopback(const struct addr *a)
{
    return !strncmp(acl_guard_range_name(a), "loopback", strlen("loopback"));
}

static void read_admin(struct load *load, const struct node *node, void *object)
{
    static const struct field fields[] = {{"listen", read_admin_listen}, {"tls", read_admin_tls}};
    struct config_admin *admin = &((struct config_snapshot *)object)->admin;
    size_t before = load->reported;
    schema_map(load, node, "admin", FIELDS(fields), admin);
    if (load->reported != before)
        return;
    if (admin->listen.family == 0)
        report(load, node->mark, "admin has no address: write \"listen: 127.0.0.1:%d\"", ADMIN_DEFAULT_PORT);
    else if (!is_loopback(&admin->listen) && !admin->certificate)
        report_warning(load, node->mark, "metrics are told in the clear to whoever reaches the address: write 127.0.0.1, or give "
                       "the endpoint \"tls: {certificate: FILE, key: FILE}\"");
}

static void read_audit_file(struct load *load, const struct node *node, void *object)
{
    struct config_snapshot *snapshot = object;
    const char *path = schema_text(load, node, "the audit file");
    if (!path)
        return;
    if (path[0] != '/')
        report(load, node->mark, "the audit file cannot be \"%s\": write a path that begins with /", path);
    else if (!(snapshot->audit_file = strdup(path)))
        load->out_of_memory = true;
}

static void read_on_full(struct load *load, const struct node *node, void *object)
{
    static const char *const words[] = {[CONFIG_ON_FULL_DENY] = "deny", [CONFIG_ON_FULL_DROP] = "drop"};
    int choice = schema_choice(load, node, "on_full", words, COUNT(words));
    if (choice >= 0)
        ((struct config_snapshot *)object)->on_full = (enum config_on_full)choice;
}

static void read_audit(struct load *load, const struct node *node, void *object)
{
    static const struct field fields[] = {{"file", read_audit_file}, {"on_full", read_on_full}};
    schema_map(load, node, "audit", FIELDS(fields), object);
}

#define DURATION(name, low, high)                                                                    \
    static void read_##name(struct load *load, const struct node *node, void *object)                \
    {                                                                                                \
        schema_duration(load, node, #name, low, high, &((struct config_limits *)object)->name##_ms); \
    }
#define NUMBER(name, low, high)                                                              \
    static void read_##name(struct load *load, const struct node *node, void *object)        \
    {                                                                                        \
        schema_count(load, node, #name, low, high, &((struct config_limits *)object)->name); \
    }
#define SECONDS 1000u
#define HOURS (3600u * SECONDS)

DURATION(hello_timeout, 100, 300 * SECONDS)
DURATION(connect_timeout, 100, 600 * SECONDS)
DURATION(idle_timeout, 1 * SECONDS, 720 * HOURS)
DURATION(udp_idle_timeout, 1 * SECONDS, 24 * HOURS)
DURATION(half_close_timeout, 1 * SECONDS, 24 * HOURS)
NUMBER(flows_per_container, 1, 1000000)
NUMBER(flows_total, 1, 1000000)
NUMBER(flows_per_second, 1, 1000000)
NUMBER(dns_queries_per_second, 1, 1000000)

static void read_limits(struct load *load, const struct node *node, void *object)
{
    static const struct field fields[] = {
        {"hello_timeout", read_hello_timeout},
        {"connect_timeout", read_connect_timeout},
        {"idle_timeout", read_idle_timeout},
        {"udp_idle_timeout", read_udp_idle_timeout},
        {"half_close_timeout", read_half_close_timeout},
        {"flows_per_container", read_flows_per_container},
        {"flows_total", read_flows_total},
        {"flows_per_second", read_flows_per_second},
        {"dns_queries_per_second", read_dns_queries_per_second},
    };
    schema_map(load, node, "limits", FIELDS(fields), &((struct config_snapshot *)object)->limits);
}

static void read_watch(struct load *load, const struct node *node, void *object)
{
    static const char *const words[] = {"false", "true"};
    ((struct config_snapshot *)object)->watch = schema_choice(load, node, "watch", words, COUNT(words)) == 1;
}

#define WORKERS_MOST 32 /* the daemon's array of them */

static void read_workers(struct load *load, const struct node *node, void *object)
{
    struct config_snapshot *snapshot = object;
    char *end = NULL;
    long count = node->kind == NODE_SCALAR && node->plain ? strtol(node->text, &end, 10) : 0;
    if (node->kind == NODE_SCALAR && !strcmp(node->text, "auto"))
        snapshot->workers = 0;
    else if (count >= 1 && count <= WORKERS_MOST && !*end)
        snapshot->workers = (unsigned)count;
    else
        report(load, node->mark, "workers has to be a number from 1 to %d, or auto: as many as there are processors", WORKERS_MOST);
}

static void read_gateway(struct load *load, const struct node *node, void *object)
{
    static const struct field fields[] = {{"resolvers", read_resolvers}, {"hosts", read_hosts},
                                          {"ca_file", read_ca_file},     {"ocsp", read_ocsp},
                                          {"upstream", read_upstream},
                                          {"audit", read_audit},         {"limits", read_limits},
                                          {"watch", read_watch},         {"admin", read_admin},
                                          {"workers", read_workers}};
    schema_map(load, node, "gateway", FIELDS(fields), object);
}

/* ---- destinations ---- */

static void read_destination(struct load *load, const struct node *node, void *object)
{
    struct config_snapshot *snapshot = object;
    struct cidr net;
    if (!schema_network(load, node, "a destination", &net))
        return;
    if (snapshot->destination_count == DESTINATIONS_MAX) {
        report(load, node->mark, "too many destinations: write at most %d, in larger networks",
               DESTINATIONS_MAX);
        return;
    }
    struct cidr *grown = realloc(snapshot->destinations, (snapshot->destination_count + 1) * sizeof(net));
    if (!grown) {
        load->out_of_memory = true;
        return;
    }
    snapshot->destinations = grown;
    grown[snapshot->destination_count++] = net;
}

static void read_destinations_allow(struct load *load, const struct node *node, void *object)
{
    schema_list(load, node, "destinations.allow", read_destination, object);
}

static void read_destinations(struct load *load, const struct node *node, void *object)
{
    static const struct field fields[] = {{"allow", read_destinations_allow}};
    schema_map(load, node, "destinations", FIELDS(fields), object);
}

/* ---- policies ---- */

static bool read_reference(struct load *load, const struct node *node, const char *what,
                           struct reference *ret)
{
    const char *name = schema_text(load, node, what);
    if (name)
        *ret = (struct reference){.mark = node->mark, .name = name};
    return name != NULL;
}

static void read_extends(struct load *load, const struct node *node, void *object)
{
    read_reference(load, node, "extends", &((struct draft *)object)->extends);
}

static void read_preset(struct load *load, const struct node *node, void *object)
{
    struct draft *draft = object;
    struct reference *preset = load_alloc(load, sizeof(*preset)), **tail = &draft->presets;
    if (!preset || !read_reference(load, node, "a preset", preset))
        return;
    while (*tail) {
        if (!strcmp((*tail)->name, preset->name)) {
            report(load, node->mark, "preset \"%s\" was already given in line %u: keep one of them",
                   preset->name, (*tail)->mark.line);
            return;
        }
        tail = &(*tail)->next;
    }
    *tail = preset;
}

static void read_presets(struct load *load, const struct node *node, void *object)
{
    schema_list(load, node, "presets", read_preset, object);
}

/* Lists may be long, and keep their order: the walk carries the end of the list along. */
struct source_list {
    struct source **tail;
    const char *what;
    bool deny;
};

static void add_source(struct load *load, struct source_list *list, const struct source *source)
{
    struct source *added = load_alloc(load, sizeof(*added));
    if (!added)
        return;
    *added = *source;
    *list->tail = added;
    list->tail = &added->next;
}

static void take_rule(struct load *load, struct mark mark, const char *text, void *object)
{
    struct source_list *list = object;
    size_t length = strlen(text);
    if (check_rule(load, load->name, mark, text, length, list->deny))
        add_source(load, list,
                   &(struct source){.mark = mark, .text = text, .length = length, .deny = list->deny});
}

static void read_rule(struct load *load, const struct node *node, void *object)
{
    if (node->kind == NODE_LIST) {
        report(load, node->mark, "a rule is a single value or a map: if it starts with [, quote it");
        return;
    }
    if (node->kind == NODE_MAP && node->first && node->first->kind == NODE_SCALAR &&
        strpbrk(node->first->text, ".:/*")) {
        report(load, node->mark, "a \": \" makes a rule a map: remove the space, or quote the rule");
        return;
    }
    if (node->kind == NODE_MAP) {
        read_rule_map(load, node, take_rule, object);
        return;
    }
    const char *text = schema_text(load, node, "a rule");
    if (text)
        take_rule(load, node->mark, text, object);
}

static void read_names_path(struct load *load, const struct node *node, void *object)
{
    struct source_list *list = object;
    const char *path = schema_text(load, node, "a file of names");
    const struct names_file *file = path ? names_file_load(load, node->mark, path, list->deny) : NULL;
    if (file)
        add_source(load, list, &(struct source){.mark = node->mark, .file = file, .deny = list->deny});
}

static struct source **sources_end(struct draft *draft)
{
    struct source **tail = &draft->sources;
    while (*tail)
        tail = &(*tail)->next;
    return tail;
}

#define SOURCES(name, item, is_deny)                                                  \
    static void read_##name(struct load *load, const struct node *node, void *object) \
    {                                                                                 \
        struct source_list list = {.tail = sources_end(object), .deny = is_deny};     \
        schema_list(load, node, #name, item, &list);                                  \
    }
SOURCES(allow, read_rule, false)
SOURCES(deny, read_rule, true)
SOURCES(allow_files, read_names_path, false)
SOURCES(deny_files, read_names_path, true)

#define OPTION(name, member, ...)                                                     \
    static void read_##name(struct load *load, const struct node *node, void *object) \
    {                                                                                 \
        static const char *const words[] = {__VA_ARGS__};                             \
        int choice = schema_choice(load, node, #name, words, COUNT(words));           \
        if (choice >= 0)                                                              \
            ((struct draft *)object)->member = choice;                                \
    }
OPTION(mode, mode, [ACL_MODE_ENFORCE] = "enforce", [ACL_MODE_AUDIT] = "audit")
OPTION(dns, dns, [ACL_DNS_ALLOWED] = "allowed", [ACL_DNS_ANY] = "any", [ACL_DNS_OFF] = "off")
OPTION(bind, bind, [ACL_BIND_REDIAL] = "redial", [ACL_BIND_STRICT] = "strict", [ACL_BIND_OFF] = "off")
OPTION(verify_origin,
       verify, [ACL_VERIFY_OFF] = "off", [ACL_VERIFY_FALLBACK] = "fallback", [ACL_VERIFY_ALWAYS] = "always")
OPTION(ech, ech_denied, [false] = "record", [true] = "deny")

static void read_flows_of_policy(struct load *load, const struct node *node, void *object)
{
    schema_count(load, node, "flows_per_container", 1, 1000000, &((struct acl_limits *)object)->flows);
}

static void read_flow_rate_of_policy(struct load *load, const struct node *node, void *object)
{
    schema_count(load, node, "flows_per_second", 1, 1000000, &((struct acl_limits *)object)->flows_per_second);
}

static void read_queries_of_policy(struct load *load, const struct node *node, void *object)
{
    schema_count(load, node, "dns_queries_per_second", 1, 1000000,
                 &((struct acl_limits *)object)->dns_queries_per_second);
}

static void read_policy_limits(struct load *load, const struct node *node, void *object)
{
    static const struct field fields[] = {{"flows_per_container", read_flows_of_policy},
                                          {"flows_per_second", read_flow_rate_of_policy},
                                          {"dns_queries_per_second", read_queries_of_policy}};
    schema_map(load, node, "a policy's limits", FIELDS(fields), &((struct draft *)object)->limits);
}

static bool check_policy_name(struct load *load, const struct node *key)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    if (key->length == 0 || key->length > POLICY_NAME_MAX || key->text[0] == '-' ||
        strspn(key->text, good) != key->length) {
        report(load, key->mark,
               "a policy cannot be named \"%.80s\": write 1 to %d letters, digits, \"-\", \"_\" and \".\", "
               "no \"-\" first",
               key->text, POLICY_NAME_MAX);
        return false;
    }
    if (profile_find(key->text) || !strcmp(key->text, "deny")) {
        report(load, key->mark, "a policy cannot be named \"%s\", which is built in: choose another name%s%s",
               key->text, strcmp(key->text, "deny") ? ", and write extends: " : "",
               strcmp(key->text, "deny") ? key->text : "");
        return false;
    }
    return true;
}

static void read_policy(struct load *load, const struct node *key, struct draft ***tail)
{
    static const struct field fields[] = {
        {"extends", read_extends},
        {"mode", read_mode},
        {"presets", read_presets},
        {"allow", read_allow},
        {"deny", read_deny},
        {"allow_files", read_allow_files},
        {"deny_files", read_deny_files},
        {"dns", read_dns},
        {"bind", read_bind},
        {"verify_origin", read_verify_origin},
        {"ech", read_ech},
        {"limits", read_policy_limits},
    };
    struct draft *draft = load_alloc(load, sizeof(*draft));
    if (!draft)
        return;
    *draft = (struct draft){.mark = key->mark,
                            .name = key->text,
                            .mode = INHERIT,
                            .dns = INHERIT,
                            .bind = INHERIT,
                            .verify = INHERIT,
                            .ech_denied = INHERIT};
    check_policy_name(load, key);
    schema_map(load, key->value, "a policy", FIELDS(fields), draft);
    **tail = draft;
    *tail = &draft->next;
}

static void read_policies(struct load *load, const struct node *node, void *object)
{
    struct draft **tail = &load->drafts;
    (void)object;
    if (node->kind != NODE_MAP) {
        report(load, node->mark, "policies has to be a map: write \"NAME:\" and its rules below it");
        return;
    }
    for (const struct node *key = node->first; key; key = key->next)
        if (key->kind == NODE_SCALAR)
            read_policy(load, key, &tail);
}

/* ---- assign, default ---- */

static void read_assign_container(struct load *load, const struct node *node, void *object)
{
    ((struct assign_draft *)object)->container = schema_text(load, node, "container");
}

static void read_assign_subnet(struct load *load, const struct node *node, void *object)
{
    struct assign_draft *assign = object;
    assign->has_subnet = schema_network(load, node, "a subnet", &assign->subnet);
}

static void read_assign_policy(struct load *load, const struct node *node, void *object)
{
    read_reference(load, node, "policy", &((struct assign_draft *)object)->policy);
}

static bool has_key(const struct node *map, const char *key)
{
    for (const struct node *n = map->first; n; n = n->next)
        if (n->kind == NODE_SCALAR && !strcmp(n->text, key))
            return true;
    return false;
}

static void read_assignment(struct load *load, const struct node *node, void *object)
{
    static const struct field fields[] = {
        {"container", read_assign_container}, {"subnet", read_assign_subnet}, {"policy", read_assign_policy}};
    struct assign_draft ***tail = object;
    struct assign_draft *assign = load_alloc(load, sizeof(*assign));
    size_t reported = load->reported;
    if (!assign)
        return;
    schema_map(load, node, "an entry of assign", FIELDS(fields), assign);
    bool whole = load->reported == reported; /* else the missing key may be the misspelt one */
    if (whole && !has_key(node, "container") && !has_key(node, "subnet"))
        report(load, node->mark,
               "an entry of assign needs a container or a subnet; for all others there is \"default\"");
    if (whole && !has_key(node, "policy"))
        report(load, node->mark, "an entry of assign needs a policy: write policy: NAME");
    **tail = assign;
    *tail = &assign->next;
}

static void read_assign(struct load *load, const struct node *node, void *object)
{
    struct assign_draft **tail = &load->assigns;
    (void)object;
    schema_list(load, node, "assign", read_assignment, &tail);
}

static void read_default(struct load *load, const struct node *node, void *object)
{
    (void)object;
    read_reference(load, node, "default", &load->fallback);
}

/* ---- the file ---- */

static void read_version(struct load *load, const struct node *node, void *object)
{
    (void)object;
    const char *text = schema_text(load, node, "version");
    if (!text || (node->plain && !strcmp(text, "1")))
        return;
    if (!node->plain && !strcmp(text, "1"))
        report(load, node->mark, "version is a number: write 1 without quotes");
    else
        report(load, node->mark, "version %.40s is not known to this program: write version: 1", text);
}

void read_file(struct load *load, const struct node *root)
{
    static const struct field fields[] = {
        {"version", read_version},   {"gateway", read_gateway}, {"destinations", read_destinations},
        {"policies", read_policies}, {"assign", read_assign},   {"default", read_default},
        {"networks", read_networks},
    };
    schema_map(load, root, "the file", FIELDS(fields), load->snapshot);
    if (root->kind == NODE_MAP && !has_key(root, "version"))
        report(load, root->mark, "version is missing: write \"version: 1\" in the first line");
}
