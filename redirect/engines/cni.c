#include "redirect/engines/cni.h"

#include "redirect/engines/oci.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char *const versions[] = {"0.3.0", "0.3.1", "0.4.0", "1.0.0", CNI_VERSION_NEWEST};
#define VERSIONS (sizeof(versions) / sizeof(*versions))

static const char *const commands[] = {[CNI_ADD] = "ADD",       [CNI_DEL] = "DEL", [CNI_CHECK] = "CHECK",
                                       [CNI_STATUS] = "STATUS", [CNI_GC] = "GC",   [CNI_VERSION] = "VERSION"};
#define COMMANDS (sizeof(commands) / sizeof(*commands))

__attribute__((format(printf, 3, 4))) static int fail(struct error *err, enum cni_code code,
                                                      const char *format, ...)
{
    char text[sizeof(err->text)];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return error_set(err, (int)code, "%s", text);
}

static bool take(const char *text, char *ret, size_t size)
{
    if (!state_text_valid(text, size))
        return false;
    memcpy(ret, text, strlen(text) + 1);
    return true;
}

/* ---- the configuration ---- */

static int check_version(struct cni_call *call, struct error *err)
{
    const char *version = json_string_value(json_object_get(call->config, "cniVersion"));
    for (size_t i = 0; version && i < VERSIONS; i++) {
        if (!strcmp(version, versions[i])) {
            call->version = versions[i];
            return 0;
        }
    }
    return fail(err, CNI_INCOMPATIBLE_VERSION,
                "cniVersion %s: this plugin speaks 0.3.0 to " CNI_VERSION_NEWEST,
                version ? version : "is missing");
}

/* *ret stays as it is when there is none. */
static int take_string(const struct cni_call *call, const char *key, const char **ret, struct error *err)
{
    const json_t *there = json_object_get(call->config, key);
    if (!there || json_is_null(there))
        return 0;
    if (!json_is_string(there) || !*json_string_value(there))
        return fail(err, CNI_BAD_CONFIG, "\"%s\" of the network configuration is no text", key);
    *ret = json_string_value(there);
    return 0;
}

static int take_policy(struct cni_call *call, struct error *err)
{
    const json_t *annotations =
        json_object_get(json_object_get(call->config, "runtimeConfig"), CNI_ANNOTATIONS_CAPABILITY);
    const char *policy = "";
    int r = take_string(call, "policy", &policy, err);
    if (r < 0)
        return r;
    const char *annotation = json_string_value(json_object_get(annotations, OCI_POLICY_ANNOTATION));
    if (annotation && *annotation)
        policy = annotation;
    if (strcmp(policy, "assign") != 0 && !take(policy, call->record.policy, sizeof(call->record.policy)))
        return fail(err, CNI_BAD_CONFIG, "\"%.64s\" is no name of a policy", policy);
    return 0;
}

static int read_config(struct cni_call *call, struct error *err)
{
    const char *capture = "attached";
    int r = check_version(call, err);
    if (r == 0)
        r = take_string(call, "name", &call->network, err);
    if (r == 0)
        r = take_string(call, "control", &call->control, err);
    if (r == 0)
        r = take_string(call, "capture", &capture, err);
    if (r < 0)
        return r;
    if (strcmp(capture, "attached") != 0 && strcmp(capture, "sealed") != 0)
        return fail(err, CNI_BAD_CONFIG, "\"capture\" is \"%.64s\": write attached or sealed", capture);
    if (!call->network)
        return fail(err, CNI_BAD_CONFIG, "the network configuration has no \"name\"");
    call->record.attached = !strcmp(capture, "attached");
    return take_policy(call, err);
}

/* ---- the environment ---- */

static int read_command(struct cni_call *call, const char *text, struct error *err)
{
    for (size_t i = 0; text && i < COMMANDS; i++) {
        if (!strcmp(text, commands[i])) {
            call->command = (enum cni_command)i;
            return 0;
        }
    }
    return fail(err, CNI_BAD_ENVIRONMENT,
                "CNI_COMMAND is %s%.32s: it must be ADD, DEL, CHECK, STATUS, GC or VERSION",
                text ? "" : "missing", text ? text : "");
}

/* The value of KEY in KEY=VALUE;… when it fits, else "". */
static void take_argument(const char *args, const char *key, char *ret, size_t size)
{
    size_t length = strlen(key);
    for (const char *at = args; at && *at; at = strchr(at, ';') ? strchr(at, ';') + 1 : NULL) {
        if (strncmp(at, key, length) || at[length] != '=')
            continue;
        const char *value = at + length + 1;
        size_t value_length = strcspn(value, ";");
        if (value_length >= size)
            return;
        memcpy(ret, value, value_length);
        ret[value_length] = 0;
        if (!state_text_valid(ret, size))
            *ret = 0;
    }
}

static int read_environment(struct cni_call *call, const char *(*variable)(const char *name),
                            struct error *err)
{
    struct state_record *record = &call->record;
    const char *id = variable("CNI_CONTAINERID"), *netns = variable("CNI_NETNS"),
               *interface = variable("CNI_IFNAME");
    const char *args = variable("CNI_ARGS");
    if (!id || !state_id_valid(id))
        return fail(err, CNI_BAD_ENVIRONMENT, "CNI_CONTAINERID is missing, or no id of a container");
    if (!interface || !*interface || strlen(interface) > 15 || strchr(interface, '/'))
        return fail(err, CNI_BAD_ENVIRONMENT, "CNI_IFNAME is missing, or no name of an interface");
    if ((!netns || netns[0] != '/') && call->command != CNI_DEL)
        return fail(err, CNI_BAD_ENVIRONMENT, "CNI_NETNS is missing, or no absolute path");
    strcpy(record->id, id);
    if (netns && !take(netns, record->path, sizeof(record->path)))
        return fail(err, CNI_BAD_ENVIRONMENT, "CNI_NETNS is too long");
    int length = snprintf(record->attachment, sizeof(record->attachment), "%s/%s", call->network, interface);
    if ((size_t)length >= sizeof(record->attachment) ||
        !state_text_valid(record->attachment, sizeof(record->attachment)))
        return fail(err, CNI_BAD_CONFIG, "the network's \"name\" is too long, or holds control characters");
    take_argument(args, "K8S_POD_NAMESPACE", record->pod_namespace, sizeof(record->pod_namespace));
    take_argument(args, "K8S_POD_NAME", record->name, sizeof(record->name));
    if (*record->pod_namespace)
        take_argument(args, "K8S_POD_NAME", record->pod, sizeof(record->pod));
    return 0;
}

int cni_parse(const char *text, size_t length, const char *(*variable)(const char *name),
              struct cni_call *ret, struct error *err)
{
    json_error_t why;
    *ret = (struct cni_call){.version = CNI_VERSION_NEWEST};
    int r = read_command(ret, variable("CNI_COMMAND"), err);
    ret->config = json_loadb(text, length, 0, &why);
    if (r < 0)
        return r;
    if (!ret->config || !json_is_object(ret->config))
        return fail(err, CNI_NOT_DECODED, "the network configuration on standard input: %s",
                    ret->config ? "no JSON object" : why.text);
    if (ret->command == CNI_VERSION) {
        const char *version = json_string_value(json_object_get(ret->config, "cniVersion"));
        ret->version = version ? version : ret->version;
        return 0;
    }
    r = read_config(ret, err);
    if (r < 0 || ret->command == CNI_STATUS || ret->command == CNI_GC)
        return r;
    r = read_environment(ret, variable, err);
    if (r == 0 && ret->command == CNI_ADD && !json_is_object(json_object_get(ret->config, "prevResult")))
        return fail(err, CNI_BAD_CONFIG,
                    "there is no \"prevResult\": put the plugin \"sallyport\" behind the one that makes the "
                    "interface, in the \"plugins\" of a .conflist");
    return r;
}

/* ---- answers ---- */

json_t *cni_result(const struct cni_call *call)
{
    json_t *result = json_copy(json_object_get(call->config, "prevResult"));
    json_object_set_new(result, "cniVersion", json_string(call->version));
    return result;
}

json_t *cni_versions(const struct cni_call *call)
{
    json_t *all = json_array();
    for (size_t i = 0; i < VERSIONS; i++)
        json_array_append_new(all, json_string(versions[i]));
    return json_pack("{s:s, s:o}", "cniVersion", call->version, "supportedVersions", all);
}

json_t *cni_error(const struct cni_call *call, int code, const char *text)
{
    json_t *sentence = json_string(text);
    return json_pack("{s:s, s:i, s:o, s:s}", "cniVersion", call->version, "code", code, "msg",
                     sentence ? sentence : json_string("a text that is not UTF-8"), "details",
                     *call->record.id ? call->record.id : "");
}

bool cni_is_stale(const struct cni_call *call, const char *id, const char *attachment)
{
    size_t length = strlen(call->network), i;
    const json_t *one;
    if (strncmp(attachment, call->network, length) || attachment[length] != '/')
        return false;
    json_array_foreach(json_object_get(call->config, "cni.dev/valid-attachments"), i, one)
    {
        const char *valid_id = json_string_value(json_object_get(one, "containerID"));
        const char *interface = json_string_value(json_object_get(one, "ifname"));
        if (valid_id && interface && !strcmp(valid_id, id) && !strcmp(interface, attachment + length + 1))
            return false;
    }
    return true;
}

/* ---- configuration lists ---- */

int cni_list_edit(json_t *list, json_t *entry, struct error *err)
{
    json_t *plugins = json_object_get(list, "plugins");
    bool there = false;
    if (!json_is_array(plugins))
        return error_set(err, EINVAL, "it has no list \"plugins\": only a .conflist can chain plugins");
    for (size_t i = 0; i < json_array_size(plugins);) {
        const char *type = json_string_value(json_object_get(json_array_get(plugins, i), "type"));
        bool ours = type && !strcmp(type, CNI_PLUGIN_TYPE);
        if (ours && entry && !there) {
            json_array_set(plugins, i, entry);
            there = true;
        } else if (ours) {
            json_array_remove(plugins, i);
            continue;
        }
        i++;
    }
    if (entry && !there && json_array_size(plugins) == 0)
        return error_set(err, EINVAL,
                         "\"plugins\" is empty: nothing makes an interface that could be captured");
    if (entry && !there)
        json_array_append(plugins, entry);
    return 0;
}
