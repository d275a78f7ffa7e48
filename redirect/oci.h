/*
 * What container engines say in the words of the OCI runtime specification: the state that a hook reads, and config.json of a
 * bundle. Read leniently: fields that are not known, and most that are missing, do not matter. Pure.
 */
#pragma once

#include "base/error.h"
#include "redirect/state.h"

#include <jansson.h>

#define OCI_POLICY_ANNOTATION "sallyport.policy"   /* the value "assign": by the assign rules */
#define OCI_CAPTURE_ANNOTATION "sallyport.capture" /* "sealed" (as without) or "attached" */
#define OCI_NAME_ANNOTATION "sallyport.name"
#define OCI_POLICY_VARIABLE "SALLYPORT_POLICY"
#define OCI_STATE_MAX (1u << 20)
#define OCI_CONFIG_MAX (16u << 20)

struct oci_state {
    struct state_record record; /* id, pid (0: it has ended), name, image, policy, attached, as far as the annotations say */
    char bundle[STATE_PATH_MAX];
};
int oci_state_parse(const char *text, size_t length, struct oci_state *ret, struct error *err);

/* Puts our hooks into the object of a config.json: `program` is run as `oci-hook` (with --control, unless NULL) when the container is
 * created, and when it has ended. The policy is the annotation's, else the one of the process's environment, else `policy`
 * (NULL: the assign rules). Hooks that are there stay in front. */
int oci_config_add_hooks(json_t *config, const char *program, const char *control, const char *policy, struct error *err);
