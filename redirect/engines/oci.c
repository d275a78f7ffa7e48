#include "redirect/engines/oci.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
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

static int take_policy(const json_t *annotations, struct oci_state *state, struct error *err)
{
    struct state_record *record = &state->record;
    const char *policy = annotation(annotations, OCI_POLICY_ANNOTATION);
    const char *capture = annotation(annotations, OCI_CAPTURE_ANNOTATION);
    if (!state_text_valid(policy, sizeof(record->policy)))
        return error_set(err, EINVAL, "the annotation " OCI_POLICY_ANNOTATION " is no name of a policy");
    if (*capture && strcmp(capture, "sealed") && strcmp(capture, "attached"))
        return error_set(err, EINVAL, "the annotation " OCI_CAPTURE_ANNOTATION " is \"%s\": write sealed or attached", capture);
    const char *publish = annotation(annotations, OCI_PUBLISH_ANNOTATION);
    struct publish_port ports[PUBLISH_MAX];
    size_t port_count;
    if (!state_text_valid(publish, sizeof(record->publish)))
        return error_set(err, EINVAL, "the annotation " OCI_PUBLISH_ANNOTATION " is too long, or holds control characters");
    if (publish_parse(publish, ports, &port_count, err) < 0)
        return error_prefix(err, "the annotation " OCI_PUBLISH_ANNOTATION);
    strcpy(record->publish, publish);
    record->attached = !strcmp(capture, "attached");
    state->names_policy = *policy != 0;
    state->names_capture = *capture != 0;
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
    return take_policy(annotations, ret, err);
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

int oci_state_apply(struct oci_state *state, const struct oci_defaults *defaults, struct error *err)
{
    const char *policy = defaults->policy && (defaults->binding || !state->names_policy) ? defaults->policy : NULL;
    if (!state->names_capture)
        state->record.attached = defaults->attached;
    if (!policy)
        return 0;
    if (!state_text_valid(policy, sizeof(state->record.policy)))
        return error_set(err, EINVAL, "\"%.64s\" is no name of a policy", policy);
    strcpy(state->record.policy, strcmp(policy, "assign") ? policy : "");
    return 0;
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

/* The value of a variable of the container's process; the last one counts, as it does for the process. NULL: none, or empty. */
static const char *from_environment(const json_t *config, const char *variable)
{
    size_t length = strlen(variable), i;
    const json_t *one;
    const char *found = NULL;
    json_array_foreach (json_object_get(json_object_get(config, "process"), "env"), i, one) {
        const char *text = json_string_value(one);
        if (text && !strncmp(text, variable, length) && text[length] == '=')
            found = text + length + 1;
    }
    return found && *found ? found : NULL;
}

static void annotate(json_t *annotations, const char *key, const char *asked, const char *otherwise)
{
    if (!*annotation(annotations, key) && (asked || otherwise))
        json_object_set_new(annotations, key, json_string(asked ? asked : otherwise));
}

static json_t *hook(const char *program, const char *control)
{
    return control ? json_pack("{s:s, s:[s,s,s,s]}", "path", program, "args", "sallyport", "oci-hook", "--control", control)
                   : json_pack("{s:s, s:[s,s]}", "path", program, "args", "sallyport", "oci-hook");
}

int oci_config_add_hooks(json_t *config, const char *program, const char *control, const struct oci_defaults *defaults,
                         struct error *err)
{
    static const char *const stages[] = {"createRuntime", "poststop"};
    static const struct oci_defaults none = {0};
    json_t *annotations = json_is_object(config) ? member(config, "annotations", false) : NULL;
    json_t *hooks = annotations ? member(config, "hooks", false) : NULL;
    if (!hooks)
        return error_set(err, EINVAL, "config.json is not what the OCI runtime specification says");
    if (!defaults)
        defaults = &none;
    const json_t *environment = defaults->binding ? NULL : config;
    if (defaults->binding)
        json_object_del(annotations, OCI_POLICY_ANNOTATION);
    annotate(annotations, OCI_POLICY_ANNOTATION, from_environment(environment, OCI_POLICY_VARIABLE),
             defaults->policy ? defaults->policy : "assign");
    annotate(annotations, OCI_CAPTURE_ANNOTATION, from_environment(environment, OCI_CAPTURE_VARIABLE),
             defaults->attached ? "attached" : NULL);
    annotate(annotations, OCI_NAME_ANNOTATION, from_environment(environment, OCI_NAME_VARIABLE), NULL);
    annotate(annotations, OCI_PUBLISH_ANNOTATION, from_environment(environment, OCI_PUBLISH_VARIABLE), NULL);
    const char *hostname = json_string_value(json_object_get(config, "hostname"));
    annotate(annotations, OCI_NAME_ANNOTATION, NULL, hostname && *hostname ? hostname : NULL);
    for (size_t i = 0; i < sizeof(stages) / sizeof(*stages); i++) {
        json_t *list = member(hooks, stages[i], true);
        if (!list || json_array_append_new(list, hook(program, control)) < 0)
            return error_set(err, EINVAL, "hooks.%s of config.json is no list", stages[i]);
    }
    return 0;
}

/* ---- setting engines up ---- */

static void add_option(json_t *arguments, const char *name, const char *value)
{
    json_array_append_new(arguments, json_string(name));
    if (value)
        json_array_append_new(arguments, json_string(value));
}

static void add_defaults(json_t *arguments, const char *control, const struct oci_defaults *defaults)
{
    if (control)
        add_option(arguments, "--control", control);
    if (defaults->policy)
        add_option(arguments, defaults->binding ? "--policy" : "--default-policy", defaults->policy);
    if (defaults->attached)
        add_option(arguments, "--attached", NULL);
}

json_t *oci_hook_file(const char *program, const char *control, const struct oci_defaults *defaults, bool all)
{
    json_t *arguments = json_pack("[s, s]", "sallyport", "oci-hook");
    json_t *when = all ? json_pack("{s:b}", "always", 1)
                       : json_pack("{s:{s:s}}", "annotations", "^sallyport\\.policy$", ".*");
    add_defaults(arguments, control, defaults);
    return json_pack("{s:s, s:{s:s, s:o}, s:o, s:[s, s]}", "version", "1.0.0", "hook", "path", program, "args", arguments, "when",
                     when, "stages", "createRuntime", "poststop");
}

#define DOCKER_RUNTIME "sallyport"

static bool runtime_is_ours(const json_t *runtime)
{
    const char *first = json_string_value(json_array_get(json_object_get(runtime, "runtimeArgs"), 0));
    return first && !strcmp(first, "oci-runtime");
}

static int add_runtime(json_t *runtimes, const struct oci_docker *docker, const struct oci_defaults *defaults,
                       char name[2 * CHANNEL_ID_MAX], struct error *err)
{
    snprintf(name, 2 * CHANNEL_ID_MAX, "%s%s%s%s", DOCKER_RUNTIME, defaults->policy ? "-" : "",
             defaults->policy ? defaults->policy : "", defaults->attached ? "-attached" : "");
    const json_t *there = json_object_get(runtimes, name);
    if (there && !runtime_is_ours(there))
        return error_set(err, EEXIST, "runtimes.%s is there and is something else: rename it", name);
    json_t *arguments = json_pack("[s]", "oci-runtime");
    if (docker->runtime)
        add_option(arguments, "--runtime", docker->runtime);
    add_defaults(arguments, docker->control, defaults);
    json_t *runtime = json_pack("{s:s, s:o}", "path", docker->program, "runtimeArgs", arguments);
    return json_object_set_new(runtimes, name, runtime) < 0 ? error_set(err, EINVAL, "an argument is not UTF-8") : 0;
}

int oci_docker_configure(json_t *daemon, const struct oci_docker *docker, struct error *err)
{
    json_t *runtimes = member(daemon, "runtimes", false);
    char name[2 * CHANNEL_ID_MAX];
    int r = runtimes ? 0 : error_set(err, EINVAL, "\"runtimes\" is no object");
    for (size_t i = 0; r == 0 && i < (docker->policy_count ? docker->policy_count : 1); i++) {
        struct oci_defaults defaults = {.policy = docker->policy_count ? docker->policies[i] : NULL, .binding = docker->policy_count > 0};
        r = add_runtime(runtimes, docker, &defaults, name, err);
        defaults.attached = true;
        if (r == 0)
            r = add_runtime(runtimes, docker, &defaults, name, err);
        if (r == 0 && docker->make_default && i == 0)
            json_object_set_new(daemon, "default-runtime", json_string(name));
    }
    return r;
}

void oci_docker_remove(json_t *daemon)
{
    json_t *runtimes = json_object_get(daemon, "runtimes"), *runtime;
    const char *name, *chosen = json_string_value(json_object_get(daemon, "default-runtime"));
    void *next;
    json_object_foreach_safe (runtimes, next, name, runtime) {
        if (!runtime_is_ours(runtime))
            continue;
        if (chosen && !strcmp(chosen, name)) {
            json_object_del(daemon, "default-runtime");
            chosen = NULL;
        }
        json_object_del(runtimes, name);
    }
    if (json_is_object(runtimes) && json_object_size(runtimes) == 0)
        json_object_del(daemon, "runtimes");
}
