/*
 * Policy files: loaded whole or not at all; a refusal has at least one line, and every line says where.
 */
#include "tests/fuzz/fuzz.h"

#include "config/snapshot.h"

static void ask_policy(const struct acl_policy *policy, void *arg)
{
    size_t count;
    (void)arg;
    acl_policy_judge_name(policy, ACL_TLS, "www.example.org", 15, 443);
    acl_policy_ports(policy, &count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors = {0};
    char *copy = malloc(size ? size : 1); /* no NUL behind it */
    memcpy(copy, data, size);
    int r = config_load_text("fuzz", copy, size, &snapshot, &errors);
    if (r == 0) {
        CHECK(snapshot);
        config_each_policy(snapshot, ask_policy, NULL);
        CHECK(config_assign(snapshot, "ci-1", NULL));
        config_unref(snapshot);
    } else {
        CHECK(r < 0 && !snapshot && errors.count > 0);
    }
    for (size_t i = 0; i < errors.count; i++)
        CHECK(!strncmp(errors.lines[i], "fuzz:", 5) && !strchr(errors.lines[i], '\n'));
    config_errors_finish(&errors);
    free(copy);
    return 0;
}
