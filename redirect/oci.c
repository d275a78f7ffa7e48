#include "redirect/oci.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* Names that engines give to what we want to know, the best one first. */
static const char *const name_annotations[] = {OCI_NAME_ANNOTATION, "io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name",
                                               "io.kubernetes.cri.container-name", "nerdctl/name",
                                               "io.kubernetes.cri-o.ContainerName", NULL};
static const char *const image_annotations[] = {"io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName",
                                                "org.opencontainers.image.ref.name", NULL};

static const char *const pod_annotations[] = {"io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name",
                                              "io.kubernetes.cri-o.KubeName", NULL};
static const char *const namespace_annotations[] = {"io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace",
                                                    "io.kubernetes.cri-o.Namespace", NULL};

static const char *annotation(const json_t *annotations, const char *key)
{
    const char *text = json_string_value(json_object_get(annotations, key));
    return text ? text : "";
}

/* The first that says something fit to be written down. */
static void first_of(const json_t *annotations, const char *const *keys, char *ret, size_t size)
{
    for (; *keys; keys++) {
        const char *text = annotation(annotations, *keys);
        if (*text && state_text_valid(text, size)) {
            memcpy(ret, text, strlen(text) + 1);
            return;
        }
    }
}

static int take_policy(const json_t *annotations, struct state_record *record, struct error *err)
{
    const char *policy = annotation(annotations, OCI_POLICY_ANNOTATION);
    const char *capture = annotation(annotations, OCI_CAPTURE_ANNOTATION);
    if (!state_text_valid(policy, sizeof(record->policy)))
        return error_set(err, EINVAL, "the annotation " OCI_POLICY_ANNOTATION " is no name of a policy");
    if (*capture && strcmp(capture, "sealed") && strcmp(capture, "attached"))
        return error_set(err, EINVAL, "the annotation " OCI_CAPTURE_ANNOTATION " is \"%s\": write sealed or attached", capture);
    record->attached = !strcmp(capture, "attached");
    if (strcmp(policy, "assign") != 0)
        memcpy(record->policy, policy, strlen(policy) + 1);
    return 0;
}

static int parse(const json_t *root, struct oci_state *ret, struct error *err)
{
    const char *id = json_string_value(json_object_get(root, "id")), *status, *bundle;
    const json_t *annotations = json_object_get(root, "annotations");
    json_int_t pid = json_integer_value(json_object_get(root, "pid"));
    if (!id || !state_id_valid(id))
        return error_set(err, EINVAL, "the container's state has no usable id");
    if (pid < 0 || pid > INT32_MAX)
        return error_set(err, EINVAL, "the container's state has no usable pid");
    strcpy(ret->record.id, id);
    status = json_string_value(json_object_get(root, "status"));
    ret->record.pid = status && !strcmp(status, "stopped") ? 0 : (pid_t)pid;
    bundle = json_string_value(json_object_get(root, "bundle"));
    if (bundle && strlen(bundle) < sizeof(ret->bundle))
        strcpy(ret->bundle, bundle);
    first_of(annotations, name_annotations, ret->record.name, sizeof(ret->record.name));
    first_of(annotations, image_annotations, ret->record.image, sizeof(ret->record.image));
    first_of(annotations, pod_annotations, ret->record.pod, sizeof(ret->record.pod));
    first_of(annotations, namespace_annotations, ret->record.pod_namespace, sizeof(ret->record.pod_namespace));
    return take_policy(annotations, &ret->record, err);
}

int oci_state_parse(const char *text, size_t length, struct oci_state *ret, struct error *err)
{
    json_error_t why;
    struct oci_state state = {0};
    json_t *root = json_loadb(text, length, 0, &why);
    if (!root)
        return error_set(err, EINVAL, "the container's state is no JSON: %s", why.text);
    int r = parse(root, &state, err);
    json_decref(root);
    if (r == 0)
        *ret = state;
    return r;
}

/* ---- config.json ---- */

/* The member, made when it is not there; NULL when it is something else. Borrowed. */
static json_t *member(json_t *object, const char *key, bool array)
{
    json_t *there = json_object_get(object, key);
    if (!there || json_is_null(there)) {
        json_object_set_new(object, key, array ? json_array() : json_object());
        there = json_object_get(object, key);
    }
    return (array ? json_is_array(there) : json_is_object(there)) ? there : NULL;
}

static const char *from_environment(const json_t *config)
{
    static const char variable[] = OCI_POLICY_VARIABLE "=";
    const json_t *one;
    const char *found = NULL;
    size_t i;
    json_array_foreach (json_object_get(json_object_get(config, "process"), "env"), i, one) {
        const char *text = json_string_value(one);
        if (text && !strncmp(text, variable, sizeof(variable) - 1))
            found = text + sizeof(variable) - 1; /* the last one counts, as it does for the process */
    }
    return found;
}

static json_t *hook(const char *program, const char *control)
{
    return control ? json_pack("{s:s, s:[s,s,s,s]}", "path", program, "args", "sallyport", "oci-hook", "--control", control)
                   : json_pack("{s:s, s:[s,s]}", "path", program, "args", "sallyport", "oci-hook");
}

int oci_config_add_hooks(json_t *config, const char *program, const char *control, const char *policy, struct error *err)
{
    static const char *const stages[] = {"createRuntime", "poststop"};
    json_t *annotations = json_is_object(config) ? member(config, "annotations", false) : NULL;
    json_t *hooks = annotations ? member(config, "hooks", false) : NULL;
    if (!hooks)
        return error_set(err, EINVAL, "config.json is not what the OCI runtime specification says");
    if (!*annotation(annotations, OCI_POLICY_ANNOTATION)) {
        const char *asked = from_environment(config);
        asked = asked && *asked ? asked : policy ? policy : "assign";
        json_object_set_new(annotations, OCI_POLICY_ANNOTATION, json_string(asked));
    }
    if (!*annotation(annotations, OCI_NAME_ANNOTATION)) {
        const char *hostname = json_string_value(json_object_get(config, "hostname"));
        if (hostname && *hostname)
            json_object_set_new(annotations, OCI_NAME_ANNOTATION, json_string(hostname));
    }
    for (size_t i = 0; i < sizeof(stages) / sizeof(*stages); i++) {
        json_t *list = member(hooks, stages[i], true);
        if (!list || json_array_append_new(list, hook(program, control)) < 0)
            return error_set(err, EINVAL, "hooks.%s of config.json is no list", stages[i]);
    }
    return 0;
}
