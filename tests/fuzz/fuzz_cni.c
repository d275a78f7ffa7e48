/*
 * What a container runtime says to the CNI plugin: variables, a NAME=VALUE a line, an empty line, then the network's configuration.
 * What is understood names a container and a place, its result is a result, and an error is always one that a runtime reads.
 */
#include "tests/fuzz/fuzz.h"

#include "redirect/engines/cni.h"

static char variables[4096];

static const char *variable(const char *name)
{
    size_t length = strlen(name);
    for (const char *line = variables; *line; line += strlen(line) + 1)
        if (!strncmp(line, name, length) && line[length] == '=')
            return line + length + 1;
    return NULL;
}

/* The lines, each NUL-terminated; returns where the configuration begins. */
static size_t take_variables(const uint8_t *data, size_t size)
{
    size_t at = 0, used = 0;
    memset(variables, 0, sizeof(variables));
    while (at < size && data[at] != '\n') {
        for (; at < size && data[at] != '\n'; at++)
            if (data[at] && used < sizeof(variables) - 2)
                variables[used++] = (char)data[at];
        used += used < sizeof(variables) - 2 && used > 0 && variables[used - 1];
        at += at < size;
    }
    return at < size ? at + 1 : size;
}

static void check_call(const struct cni_call *call)
{
    const struct state_record *r = &call->record;
    CHECK(call->command >= CNI_ADD && call->command <= CNI_VERSION && call->config && call->version);
    CHECK(state_text_valid(r->name, sizeof(r->name)) && state_text_valid(r->policy, sizeof(r->policy)) &&
          state_text_valid(r->path, sizeof(r->path)));
    if (call->command == CNI_ADD || call->command == CNI_CHECK)
        CHECK(state_id_valid(r->id) && r->path[0] == '/');
    if (call->command == CNI_ADD) {
        json_t *result = cni_result(call);
        CHECK(json_is_object(result) && json_is_string(json_object_get(result, "cniVersion")));
        json_decref(result);
    }
    if (call->command == CNI_VERSION) {
        json_t *versions = cni_versions(call);
        CHECK(json_is_array(json_object_get(versions, "supportedVersions")));
        json_decref(versions);
    }
    if (call->command == CNI_GC)
        cni_is_stale(call, "box", "box/eth0/net");
}

static void edit_list(const char *text, size_t size)
{
    json_error_t why;
    struct error err = {0};
    json_t *list = json_loadb(text, size, 0, &why), *entry = json_pack("{s:s}", "type", CNI_PLUGIN_TYPE);
    if (list && cni_list_edit(list, entry, &err) == 0) {
        json_t *once = json_deep_copy(list);
        CHECK(cni_list_edit(list, entry, &err) == 0 && json_equal(list, once)); /* twice is once */
        CHECK(cni_list_edit(list, NULL, &err) == 0);
        json_decref(once);
    }
    json_decref(entry);
    json_decref(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cni_call call = {0};
    struct error err = {0};
    size_t begin = take_variables(data, size), length = size - begin;
    char *copy = malloc(length ? length : 1); /* no NUL behind it */
    memcpy(copy, data + begin, length);
    int r = cni_parse(copy, length, variable, &call, &err);
    if (r == 0) {
        check_call(&call);
    } else {
        CHECK(r < 0 && err.text[0]);
        json_t *error = cni_error(&call, -r, err.text);
        CHECK(json_is_integer(json_object_get(error, "code")) && json_is_string(json_object_get(error, "msg")));
        json_decref(error);
    }
    json_decref(call.config);
    edit_list(copy, length);
    free(copy);
    return 0;
}
