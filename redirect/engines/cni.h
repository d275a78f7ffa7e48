/*
 * What a container runtime says to a plugin in the words of the Container Network Interface (CNI specification 0.3.0 to 1.1.0):
 * variables of the environment, and the network's configuration on standard input. Pure.
 *
 *   CNI_COMMAND      ADD DEL CHECK STATUS GC VERSION
 *   CNI_CONTAINERID  CNI_NETNS  CNI_IFNAME   whose, where, which interface
 *   CNI_ARGS         K8S_POD_NAME=web;K8S_POD_NAMESPACE=prod;…
 *
 *   {"cniVersion": "1.0.0", "name": "podnet", "type": "sallyport", "prevResult": {…},
 *    "policy"?, "capture"? ("attached", as without, or "sealed"), "control"? (the gateway's socket),
 *    "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"sallyport.policy": …}},
 *    "cni.dev/valid-attachments": [{"containerID": …, "ifname": …}]  (GC)}
 *
 * The plugin makes no interface: it is chained behind those that do, and hands their result on.
 */
#pragma once

#include "base/error.h"
#include "redirect/daemon/state.h"

#include <jansson.h>

#define CNI_PLUGIN_TYPE "sallyport"
#define CNI_ANNOTATIONS_CAPABILITY "io.kubernetes.cri.pod-annotations"
#define CNI_VERSION_NEWEST "1.1.0"
#define CNI_CONFIG_MAX (4u << 20)

enum cni_command { CNI_ADD, CNI_DEL, CNI_CHECK, CNI_STATUS, CNI_GC, CNI_VERSION };

/* Codes of an error, from the specification; from 100 on they are ours. */
enum cni_code {
    CNI_INCOMPATIBLE_VERSION = 1,
    CNI_BAD_ENVIRONMENT = 4,
    CNI_NOT_DECODED = 6,
    CNI_BAD_CONFIG = 7,
    CNI_TRY_AGAIN = 11,
    CNI_NOT_AVAILABLE = 50,
    CNI_REFUSED = 100,
};

struct cni_call {
    enum cni_command command;
    json_t *config; /* the caller's to release; the rest points into it */
    const char *version;
    const char *control; /* NULL: the usual one */
    const char *network;
    struct state_record record; /* id, path, name, pod, pod_namespace, policy, attached, attachment */
};

/* The environment is asked through `variable` (getenv). Returns 0, or -code with a sentence; then ret->config may be set all the
 * same, and ret->version is what an error should say. */
int cni_parse(const char *text, size_t length, const char *(*variable)(const char *name),
              struct cni_call *ret, struct error *err);

/* What ADD prints, VERSION prints, and what an error looks like: new objects. */
json_t *cni_result(const struct cni_call *call);
json_t *cni_versions(const struct cni_call *call);
json_t *cni_error(const struct cni_call *call, int code, const char *text);

/* GC: is what was enrolled as `id`, with `attachment`, of this network and not among those that are valid? */
bool cni_is_stale(const struct cni_call *call, const char *id, const char *attachment);

/* Our entry into the plugins of a configuration list, at the end or in place of the one that is there; `entry` NULL: out of it.
 * The entry is not taken over. */
int cni_list_edit(json_t *list, json_t *entry, struct error *err);
