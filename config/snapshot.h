/*
 * Configuration, loaded whole or not at all, immutable afterwards.
 *
 * A snapshot is counted: every flow keeps the one it began with. It owns its policies.
 */
#pragma once

#include "acl/name.h"
#include "acl/policy.h"
#include "base/addr.h"
#include "base/error.h"

#define CONFIG_MAX_BYTES (4u << 20) /* of YAML text */

enum config_upstream_kind { CONFIG_UPSTREAM_NONE, CONFIG_UPSTREAM_HTTP, CONFIG_UPSTREAM_SOCKS5 };

/* A proxy of the site through which every flow leaves. */
struct config_upstream {
    enum config_upstream_kind kind;
    struct addr address;
};

/* A name server. */
struct config_resolver {
    struct addr address; /* with its port */
    char name[ACL_NAME_MAX + 1]; /* "": plain DNS; else DNS over TLS, and the certificate has to be for this name */
};
#define CONFIG_RESOLVER_TEXT_MAX (ADDR_TEXT_MAX + ACL_NAME_MAX + 8)
/* ADDR, ADDR:PORT, tls://ADDR#NAME or tls://ADDR:PORT#NAME. False, and *ret as it was, on anything else; then
 * config_resolver_advice() says what to write. */
bool config_resolver_parse(const char *text, struct config_resolver *ret);
const char *config_resolver_advice(const char *text);
const char *config_resolver_format(const struct config_resolver *resolver, char text[CONFIG_RESOLVER_TEXT_MAX]);
/* Are there servers with TLS beside others? Who blocks the former would have the latter asked, so it is refused. */
bool config_resolvers_mixed(const struct config_resolver *resolvers, size_t count);
/* Where metrics and health are told over TCP. Texts are PEM. */
struct config_admin {
    struct addr listen;     /* family 0: nowhere */
    unsigned line, column;  /* of `tls`; 0: there is none */
    char *certificate, *key, *client_authorities; /* NULL: no TLS; clients need no certificate */
    size_t certificate_length, key_length, client_authorities_length;
};

/* Of origins that are verified: certs/staple.h. */
enum config_ocsp { CONFIG_OCSP_STAPLE, CONFIG_OCSP_OFF, CONFIG_OCSP_REQUIRE };

enum config_on_full { CONFIG_ON_FULL_DENY, CONFIG_ON_FULL_DROP };

/* Times are milliseconds. */
struct config_limits {
    unsigned hello_timeout_ms;       /* accept to verdict; default 10 000 */
    unsigned connect_timeout_ms;     /* verdict to upstream established, all attempts; default 15 000 */
    unsigned idle_timeout_ms;        /* no byte either way; default 3 600 000 */
    unsigned udp_idle_timeout_ms;    /* the same for UDP and ping; default 180 000 */
    unsigned half_close_timeout_ms;  /* one side has finished, nothing flows; default 300 000 */
    unsigned flows_per_container;    /* default 2 048 */
    unsigned flows_total;            /* default 8 192; capped below RLIMIT_NOFILE by the worker */
    unsigned flows_per_second;       /* new ones, per container, burst of the same; default 1 000 */
    unsigned dns_queries_per_second; /* per container, burst of the same; default 200 */
};

/* A network whose packets pass this host (network capture). */
#define CONFIG_NETWORKS_MAX 64
#define CONFIG_INTERFACES_MAX 16
#define CONFIG_SUBNETS_MAX 64
#define CONFIG_NETWORK_NAME_MAX 32
#define CONFIG_INTERFACE_SIZE 16 /* IFNAMSIZ: 15 bytes and a NUL */

struct config_network {
    char name[CONFIG_NETWORK_NAME_MAX + 1];
    char interfaces[CONFIG_INTERFACES_MAX][CONFIG_INTERFACE_SIZE]; /* whole names, or the beginning of names and "*" */
    size_t interface_count;
    struct cidr *subnets; /* none: what the routes say */
    size_t subnet_count;
    bool transparent;                /* capture: tproxy */
    const struct acl_policy *policy; /* NULL: by the assign rules */
};

struct config_snapshot;

/* Errors of one run, in the order found: "file:line:col: message". */
struct config_errors {
    size_t count;
    char **lines; /* each a heap string without newline */
};
void config_errors_finish(struct config_errors *errors);

/* Paths, each a heap string. */
struct config_files {
    size_t count;
    char **paths;
};
int config_files_add(struct config_files *files, const char *path); /* 0 or -ENOMEM */
void config_files_finish(struct config_files *files);

/* Load a YAML (or JSON) file. 0, or a negative errno with at least one line in *errors. Paths of allow_files
 * are taken relative to the file's folder. */
int config_load_file(const char *path, struct config_snapshot **ret, struct config_errors *errors);
/* The same, and *ret_bundle gets a sealed memory file with all that was read, from which config_load_bundle() makes the same
 * snapshot (equal version) in a process without files. The caller keeps the descriptors. */
int config_load_file_bundled(const char *path, struct config_snapshot **ret, int *ret_bundle, struct config_errors *errors);
/* The same, and *ret_files gets, also on failure, every file that was looked for, whether it was there or not. */
int config_load_file_noted(const char *path, struct config_snapshot **ret, int *ret_bundle, struct config_errors *errors,
                           struct config_files *ret_files);
int config_load_bundle(int bundle, struct config_snapshot **ret, struct config_errors *errors);
/* The same over text in memory; `name` is what errors call it. */
int config_load_text(const char *name, const char *text, size_t length, struct config_snapshot **ret,
                     struct config_errors *errors);
/* No file: one policy `name` of profile allowlist with these rule strings (errors call them "--allow").
 * `profile` may be NULL or a built-in profile to start from. */
int config_from_rules(const char *name, const char *profile, const char *const *rules, size_t count,
                      struct config_snapshot **ret, struct config_errors *errors);

/* What the command line adds, before the snapshot is shared. `resolvers` replace those of the file; a network is added to
 * `destinations.allow`. 0, -E2BIG or -ENOMEM. */
int config_set_resolvers(struct config_snapshot *snapshot, const struct config_resolver *resolvers, size_t count);
int config_allow_destination(struct config_snapshot *snapshot, const struct cidr *network);

struct config_snapshot *config_ref(struct config_snapshot *snapshot);
void config_unref(struct config_snapshot *snapshot); /* accepts NULL; the last one frees */
/* The same beside the caller: freeing a million names takes longer than a loop may stand still. */
void config_unref_aside(struct config_snapshot *snapshot);

/* A policy by name (the file's own, or a built-in profile); NULL when there is none. Owned by the snapshot.
 */
const struct acl_policy *config_policy(const struct config_snapshot *snapshot, const char *name);
/* What `assign` and `default` give a container. Never NULL: the last resort is a policy that denies
 * everything. */
const struct acl_policy *config_assign(const struct config_snapshot *snapshot, const char *container_name,
                                       const struct addr *source);
/* The policy of a container: the one that was asked for by name (the one that denies everything when there is none of that
 * name), else, when `asked` is empty, what config_assign() gives it. Never NULL. */
const struct acl_policy *config_policy_for(const struct config_snapshot *snapshot, const char *asked,
                                           const char *container_name);
/* The entries of `networks`, in the order written. */
const struct config_network *config_networks(const struct config_snapshot *snapshot, size_t *ret_count);
/* NULL when there is none of that name. */
const struct config_network *config_network(const struct config_snapshot *snapshot, const char *name);
/* What a source address in the network of this name gets: the network's policy, else what config_assign() says; when there is no
 * such network, the policy that denies everything. Never NULL. */
const struct acl_policy *config_network_policy(const struct config_snapshot *snapshot, const char *name,
                                               const struct addr *source);
/* A name for the file's only policy, or NULL when there are none or several (then the user must say which).
 */
const char *config_only_policy(const struct config_snapshot *snapshot);
/* The file's own policies, in the order written. */
void config_each_policy(const struct config_snapshot *snapshot,
                        void (*each)(const struct acl_policy *policy, void *arg), void *arg);

const struct config_resolver *config_resolvers(const struct config_snapshot *snapshot,
                                               size_t *ret_count); /* 0: the host's */
/* The addresses of gateway.hosts for a name in normal form; NULL: it is not there. Owned by the snapshot. */
const struct addr *config_host(const struct config_snapshot *snapshot, const char *name, size_t length,
                               size_t *ret_count);
const struct config_upstream *config_upstream(const struct config_snapshot *snapshot);
/* What gateway.ca_file holds (PEM); NULL: the system's authorities count. */
const char *config_authorities(const struct config_snapshot *snapshot, size_t *ret_length);
enum config_ocsp config_ocsp(const struct config_snapshot *snapshot);
const struct config_admin *config_admin(const struct config_snapshot *snapshot);
const char *config_audit_file(const struct config_snapshot *snapshot); /* NULL: none named */
unsigned config_workers(const struct config_snapshot *snapshot); /* gateway.workers; 0: auto */
bool config_watch(const struct config_snapshot *snapshot); /* gateway.watch: load files anew when they change */
enum config_on_full config_on_full(const struct config_snapshot *snapshot);
const struct config_limits *config_limits(const struct config_snapshot *snapshot);
/* The entries of `assign`, in order; `container` and `subnet` are NULL where the entry does not say. */
void config_each_assignment(const struct config_snapshot *snapshot,
                            void (*each)(const char *container, const struct cidr *subnet,
                                         const struct acl_policy *policy, void *arg),
                            void *arg);
/* The networks of `destinations.allow`. */
const struct cidr *config_destinations(const struct config_snapshot *snapshot, size_t *ret_count);
/* Is this address inside `destinations.allow`? */
bool config_destination_allowed(const struct config_snapshot *snapshot, const struct addr *a);
/* Is this very address listed there, as a network of one? */
bool config_destination_named(const struct config_snapshot *snapshot, const struct addr *a);
/* Version of what was loaded, for rule.version: first 12 hex digits of a hash of the text. */
const char *config_version(const struct config_snapshot *snapshot);
/* The same without run-time changes: equal for equal files. */
const char *config_file_version(const struct config_snapshot *snapshot);
/* What is legal but surely not meant (a rule written twice, one that can never match): "file:line:col:
 * message". */
const char *const *config_warnings(const struct config_snapshot *snapshot, size_t *ret_count);
