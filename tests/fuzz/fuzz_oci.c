/*
 * What container engines write: a container's state, and the config.json of a bundle, which comes out with one hook more at each of
 * our stages, with a policy, and otherwise as it was.
 */
#include "tests/fuzz/fuzz.h"

#include "redirect/engines/oci.h"

#include <errno.h>

static void check_state(const char *text, size_t size)
{
    struct oci_state state;
    struct error err = {0};
    int r = oci_state_parse(text, size, &state, &err);
    if (r < 0) {
        CHECK(r == -EINVAL && err.text[0]);
        return;
    }
    const struct state_record *record = &state.record;
    CHECK(state_id_valid(record->id) && record->pid >= 0);
    CHECK(state_text_valid(record->name, sizeof(record->name)) && state_text_valid(record->image, sizeof(record->image)));
    CHECK(state_text_valid(record->policy, sizeof(record->policy)));
    CHECK(memchr(state.bundle, 0, sizeof(state.bundle)));
}

static size_t hooks_at(const json_t *config, const char *stage)
{
    return json_array_size(json_object_get(json_object_get(config, "hooks"), stage));
}

/* Everything but what we write. */
static void strip(json_t *config, size_t create, size_t stop)
{
    json_t *hooks = json_object_get(config, "hooks");
    json_t *stages[] = {json_object_get(hooks, "createRuntime"), json_object_get(hooks, "poststop")};
    size_t keep[] = {create, stop};
    for (size_t i = 0; i < 2; i++) {
        CHECK(json_array_size(stages[i]) == keep[i] + 1);
        json_t *ours = json_array_get(stages[i], keep[i]); /* last: hooks that are there stay in front */
        CHECK(!strcmp(json_string_value(json_object_get(ours, "path")), "/sallyport"));
        json_array_remove(stages[i], keep[i]);
        if (keep[i] == 0)
            json_object_del(hooks, i == 0 ? "createRuntime" : "poststop");
    }
    if (json_object_size(hooks) == 0)
        json_object_del(config, "hooks");
    json_object_del(config, "annotations");
}

static void drop_empty(json_t *config)
{
    json_t *hooks = json_object_get(config, "hooks");
    for (size_t i = 0; i < 2; i++) {
        const char *stage = i == 0 ? "createRuntime" : "poststop";
        if (hooks_at(config, stage) == 0)
            json_object_del(hooks, stage);
    }
    if (json_object_size(hooks) == 0)
        json_object_del(config, "hooks");
    json_object_del(config, "annotations");
}

static void check_config(const char *text, size_t size)
{
    json_error_t why;
    struct error err = {0};
    json_t *config = json_loadb(text, size, 0, &why);
    if (!config)
        return;
    json_t *before = json_deep_copy(config);
    size_t create = hooks_at(config, "createRuntime"), stop = hooks_at(config, "poststop");
    int r = oci_config_add_hooks(config, "/sallyport", NULL, NULL, &err);
    if (r == 0) {
        const char *policy = json_string_value(json_object_get(json_object_get(config, "annotations"), OCI_POLICY_ANNOTATION));
        CHECK(policy && *policy);
        strip(config, create, stop);
        drop_empty(before);
        CHECK(json_equal(config, before));
    } else {
        CHECK(r == -EINVAL && err.text[0]);
    }
    json_decref(before);
    json_decref(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size ? size : 1); /* no NUL behind it */
    memcpy(copy, data, size);
    check_state(copy, size);
    check_config(copy, size);
    free(copy);
    return 0;
}
