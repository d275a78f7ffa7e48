/*
 * What container engines say in the words of the OCI runtime specification: the state that a hook reads, and config.json of a
 * bundle. Read leniently: fields that are not known, and most that are missing, do not matter. Pure.
 */
#pragma once

#include "base/error.h"
#include "redirect/daemon/state.h"

#include <jansson.h>

#define OCI_POLICY_ANNOTATION "sallyport.policy"   /* the value "assign": by the assign rules */
#define OCI_CAPTURE_ANNOTATION "sallyport.capture" /* "sealed" (as without) or "attached" */
#define OCI_NAME_ANNOTATION "sallyport.name"
#define OCI_PUBLISH_ANNOTATION "sallyport.publish" /* as publish_parse() takes it */
/* The same from the environment of a container's process, for engines that pass no annotations. */
#define OCI_POLICY_VARIABLE "SALLYPORT_POLICY"
#define OCI_CAPTURE_VARIABLE "SALLYPORT_CAPTURE"
#define OCI_NAME_VARIABLE "SALLYPORT_NAME"
#define OCI_PUBLISH_VARIABLE "SALLYPORT_PUBLISH"
#define OCI_STATE_MAX (1u << 20)
#define OCI_CONFIG_MAX (16u << 20)

/* For containers that say nothing themselves; or, when it is binding, the policy whatever they say. What they say may come from
 * whoever made their image: its variables are in the environment, and podman takes over its annotations. */
struct oci_defaults {
    const char *policy; /* NULL: the assign rules */
    bool binding;       /* and the environment is not looked at for anything else */
    bool attached;
};

struct oci_state {
    struct state_record
        record; /* id, pid (0: it has ended), name, image, policy, attached, as far as the annotations say */
    bool names_policy, names_capture; /* by annotation */
    char bundle[STATE_PATH_MAX];
};
int oci_state_parse(const char *text, size_t length, struct oci_state *ret, struct error *err);
int oci_state_apply(struct oci_state *state, const struct oci_defaults *defaults, struct error *err);

/* Puts our hooks into the object of a config.json: `program` is run as `oci-hook` (with --control, unless NULL) when the container is
 * created, and when it has ended. Policy and capture are the annotations', else those of the process's environment, else
 * `defaults` (may be NULL). Hooks that are there stay in front. */
int oci_config_add_hooks(json_t *config, const char *program, const char *control,
                         const struct oci_defaults *defaults, struct error *err);

/* The hook of podman and CRI-O (oci-hooks(5)): a new object. It is for containers that have the annotation of a policy, or for `all`. */
json_t *oci_hook_file(const char *program, const char *control, const struct oci_defaults *defaults,
                      bool all);

/* Docker's daemon.json. The runtimes NAME and NAME-attached for each of `policies` (none: `sallyport` without a policy; else
 * sallyport-POLICY), and the default one when asked for. What is there by that name and is not ours is an error. */
struct oci_docker {
    const char *program, *control, *runtime; /* the last two may be NULL */
    const char *const *policies;
    size_t policy_count;
    bool make_default;
};
int oci_docker_configure(json_t *daemon, const struct oci_docker *docker, struct error *err);
void oci_docker_remove(json_t *daemon); /* whatever of ours is there */
