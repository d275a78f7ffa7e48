/* Unit tests of redirect/engines/cni.c: what container runtimes say, and what they are told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "redirect/engines/cni.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const *environment; /* pairs, NULL at the end */

static const char *variable(const char *name)
{
    for (const char *const *at = environment; *at; at += 2)
        if (!strcmp(at[0], name))
            return at[1];
    return NULL;
}

static const char *const add_environment[] = {
    "CNI_COMMAND",
    "ADD",
    "CNI_CONTAINERID",
    "c0ffee",
    "CNI_NETNS",
    "/run/netns/x",
    "CNI_IFNAME",
    "eth0",
    "CNI_ARGS",
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-1;K8S_POD_NAMES=other",
    NULL};

#define CONFIG "\"cniVersion\":\"1.0.0\",\"name\":\"podnet\",\"type\":\"sallyport\""
#define PREVIOUS "\"prevResult\":{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.1.0.2/24\"}]}"

static struct cni_call parsed(const char *text)
{
    struct cni_call call;
    struct error err = {0};
    if (cni_parse(text, strlen(text), variable, &call, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    return call;
}

static void check_code(const char *text, int code)
{
    struct cni_call call;
    struct error err = {0};
    int r = cni_parse(text, strlen(text), variable, &call, &err);
    if (r != -code || !*err.text)
        fail_msg("%s: %d, not %d: %s", text, -r, code, err.text);
    json_decref(call.config);
}

static void an_add_is_understood(void **state)
{
    (void)state;
    environment = add_environment;
    struct cni_call call =
        parsed("{" CONFIG "," PREVIOUS ",\"policy\":\"agents\",\"control\":\"/c.sock\",\"more\":{}}");
    assert_int_equal(call.command, CNI_ADD);
    assert_string_equal(call.record.id, "c0ffee");
    assert_string_equal(call.record.path, "/run/netns/x");
    assert_string_equal(call.record.name, "web-1");
    assert_string_equal(call.record.pod, "web-1");
    assert_string_equal(call.record.pod_namespace, "prod");
    assert_string_equal(call.record.attachment, "podnet/eth0");
    assert_string_equal(call.record.policy, "agents");
    assert_string_equal(call.control, "/c.sock");
    assert_true(call.record.attached);
    json_t *result = cni_result(&call), *expected = json_object_get(call.config, "prevResult");
    assert_true(json_equal(result, expected));
    json_decref(result);
    json_decref(call.config);
}

static void where_the_policy_comes_from(void **state)
{
    static const struct {
        const char *more, *policy;
    } cases[] = {
        {"", ""},
        {",\"policy\":\"assign\"", ""},
        {",\"policy\":null", ""},
        {",\"policy\":\"a\",\"runtimeConfig\":{\"io.kubernetes.cri.pod-annotations\":{\"sallyport.policy\":"
         "\"b\"}}",
         "b"},
        {",\"policy\":\"a\",\"runtimeConfig\":{\"io.kubernetes.cri.pod-annotations\":{\"sallyport.policy\":"
         "\"assign\"}}",
         ""},
        {",\"policy\":\"a\",\"runtimeConfig\":{\"io.kubernetes.cri.pod-annotations\":null}", "a"},
    };
    (void)state;
    environment = add_environment;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char text[1024];
        snprintf(text, sizeof(text), "{" CONFIG "," PREVIOUS "%s}", cases[i].more);
        struct cni_call call = parsed(text);
        assert_string_equal(call.record.policy, cases[i].policy);
        json_decref(call.config);
    }
}

static void what_is_refused(void **state)
{
    static const struct {
        const char *text;
        int code;
    } cases[] = {
        {"", CNI_NOT_DECODED},
        {"[]", CNI_NOT_DECODED},
        {"{}", CNI_INCOMPATIBLE_VERSION},
        {"{\"cniVersion\":\"0.2.0\",\"name\":\"a\"," PREVIOUS "}", CNI_INCOMPATIBLE_VERSION},
        {"{\"cniVersion\":\"2.0.0\",\"name\":\"a\"," PREVIOUS "}", CNI_INCOMPATIBLE_VERSION},
        {"{\"cniVersion\":\"1.0.0\"," PREVIOUS "}", CNI_BAD_CONFIG},
        {"{" CONFIG "}", CNI_BAD_CONFIG},
        {"{" CONFIG "," PREVIOUS ",\"policy\":7}", CNI_BAD_CONFIG},
        {"{" CONFIG "," PREVIOUS ",\"policy\":\"a\\nb\"}", CNI_BAD_CONFIG},
        {"{" CONFIG "," PREVIOUS ",\"capture\":\"both\"}", CNI_BAD_CONFIG},
        {"{" CONFIG "," PREVIOUS ",\"control\":\"\"}", CNI_BAD_CONFIG},
    };
    static const char *const without[][9] = {
        {"CNI_COMMAND", "DANCE", NULL},
        {"CNI_CONTAINERID", "a", NULL},
        {"CNI_COMMAND", "ADD", "CNI_CONTAINERID", "../a", "CNI_NETNS", "/x", "CNI_IFNAME", "eth0", NULL},
        {"CNI_COMMAND", "ADD", "CNI_CONTAINERID", "a", "CNI_NETNS", "x", "CNI_IFNAME", "eth0", NULL},
        {"CNI_COMMAND", "ADD", "CNI_CONTAINERID", "a", "CNI_IFNAME", "eth0", NULL},
        {"CNI_COMMAND", "ADD", "CNI_CONTAINERID", "a", "CNI_NETNS", "/x", NULL},
        {"CNI_COMMAND", "ADD", "CNI_CONTAINERID", "a", "CNI_NETNS", "/x", "CNI_IFNAME", "a/b", NULL},
    };
    (void)state;
    environment = add_environment;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        check_code(cases[i].text, cases[i].code);
    for (size_t i = 0; i < sizeof(without) / sizeof(*without); i++) {
        environment = without[i];
        check_code("{" CONFIG "," PREVIOUS "}", CNI_BAD_ENVIRONMENT);
    }
}

static void the_others_need_less(void **state)
{
    static const char *const del[] = {"CNI_COMMAND", "DEL", "CNI_CONTAINERID", "a", "CNI_IFNAME",
                                      "eth0",        NULL};
    static const char *const gc[] = {"CNI_COMMAND", "GC", NULL};
    static const char *const version[] = {"CNI_COMMAND", "VERSION", "CNI_NETNS", "dummy",
                                          "CNI_IFNAME",  "dummy",   NULL};
    (void)state;
    environment = del;
    struct cni_call call = parsed("{" CONFIG "}");
    assert_string_equal(call.record.attachment, "podnet/eth0");
    json_decref(call.config);
    environment = version;
    call = parsed("{\"cniVersion\":\"0.4.0\"}");
    json_t *versions = cni_versions(&call);
    assert_string_equal(json_string_value(json_object_get(versions, "cniVersion")), "0.4.0");
    assert_int_equal(json_array_size(json_object_get(versions, "supportedVersions")), 5);
    json_decref(versions);
    json_decref(call.config);
    environment = gc;
    call =
        parsed("{" CONFIG ",\"cni.dev/valid-attachments\":[{\"containerID\":\"a\",\"ifname\":\"eth0\"},7]}");
    assert_false(cni_is_stale(&call, "a", "podnet/eth0"));
    assert_true(cni_is_stale(&call, "a", "podnet/eth1"));
    assert_true(cni_is_stale(&call, "b", "podnet/eth0"));
    assert_false(cni_is_stale(&call, "b", "podnet2/eth0"));
    assert_false(cni_is_stale(&call, "b", "other/eth0"));
    assert_false(cni_is_stale(&call, "b", ""));
    json_decref(call.config);
}

static void errors_are_objects(void **state)
{
    (void)state;
    struct cni_call call = {.version = "0.4.0"};
    json_t *error = cni_error(&call, CNI_TRY_AGAIN, "no gateway answers");
    json_t *expected = json_loads(
        "{\"cniVersion\":\"0.4.0\",\"code\":11,\"msg\":\"no gateway answers\",\"details\":\"\"}", 0, NULL);
    assert_true(json_equal(error, expected));
    json_decref(error);
    json_decref(expected);
}

static void lists_are_edited(void **state)
{
    static const struct {
        const char *before, *entry, *after; /* after NULL: refused */
    } cases[] = {
        {"{\"plugins\":[{\"type\":\"bridge\"}]}", "{\"type\":\"sallyport\"}",
         "{\"plugins\":[{\"type\":\"bridge\"},{\"type\":\"sallyport\"}]}"},
        {"{\"plugins\":[{\"type\":\"bridge\"},{\"type\":\"sallyport\"},{\"type\":\"tuning\"}]}",
         "{\"type\":\"sallyport\",\"policy\":\"p\"}",
         "{\"plugins\":[{\"type\":\"bridge\"},{\"type\":\"sallyport\",\"policy\":\"p\"},{\"type\":\"tuning\"}"
         "]}"},
        {"{\"plugins\":[{\"type\":\"bridge\"},{\"type\":\"sallyport\"},{\"type\":\"sallyport\"}]}", NULL,
         "{\"plugins\":[{\"type\":\"bridge\"}]}"},
        {"{\"plugins\":[{\"type\":\"bridge\"}]}", NULL, "{\"plugins\":[{\"type\":\"bridge\"}]}"},
        {"{\"plugins\":[]}", "{\"type\":\"sallyport\"}", NULL},
        {"{\"type\":\"bridge\"}", "{\"type\":\"sallyport\"}", NULL},
        {"{\"plugins\":{}}", NULL, NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct error err;
        json_t *list = json_loads(cases[i].before, 0, NULL),
               *entry = cases[i].entry ? json_loads(cases[i].entry, 0, NULL) : NULL;
        json_t *after = cases[i].after ? json_loads(cases[i].after, 0, NULL) : NULL;
        assert_int_equal(cni_list_edit(list, entry, &err), after ? 0 : -EINVAL);
        if (after && !json_equal(list, after))
            fail_msg("%s", cases[i].before);
        json_decref(list);
        json_decref(entry);
        json_decref(after);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_add_is_understood), cmocka_unit_test(where_the_policy_comes_from),
        cmocka_unit_test(what_is_refused),      cmocka_unit_test(the_others_need_less),
        cmocka_unit_test(errors_are_objects),   cmocka_unit_test(lists_are_edited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
