/* Unit tests of redirect/engines/oci.c and of the requests in redirect/daemon/control.c: what others write in JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "redirect/daemon/control.h"
#include "redirect/engines/oci.h"

#include <errno.h>
#include <string.h>

static struct oci_state state_of(const char *text)
{
    struct oci_state state;
    struct error err = {0};
    if (oci_state_parse(text, strlen(text), &state, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    return state;
}

static void states_of_engines(void **state)
{
    (void)state;
    /* podman 4.3 with runc */
    struct oci_state s = state_of("{\"ociVersion\":\"1.0.2-dev\",\"id\":\"c0ffee\",\"status\":\"creating\",\"pid\":5647,"
                                  "\"bundle\":\"/b\",\"annotations\":{\"io.container.manager\":\"libpod\","
                                  "\"sallyport.policy\":\"agents\",\"sallyport.name\":\"ci-7\"}}");
    assert_string_equal(s.record.id, "c0ffee");
    assert_int_equal(s.record.pid, 5647);
    assert_string_equal(s.record.policy, "agents");
    assert_string_equal(s.record.name, "ci-7");
    assert_string_equal(s.bundle, "/b");
    assert_false(s.record.attached);
    /* poststop: no pid; crun says 0 */
    assert_int_equal(state_of("{\"id\":\"a\",\"status\":\"stopped\"}").record.pid, 0);
    assert_int_equal(state_of("{\"id\":\"a\",\"status\":\"stopped\",\"pid\":7}").record.pid, 0);
    assert_int_equal(state_of("{\"id\":\"a\",\"pid\":0}").record.pid, 0);
    /* CRI */
    s = state_of("{\"id\":\"a\",\"pid\":1,\"annotations\":{\"io.kubernetes.cri.container-name\":\"web\","
                 "\"io.kubernetes.cri.sandbox-name\":\"pod-1\",\"io.kubernetes.cri.image-name\":\"i\","
                 "\"sallyport.policy\":\"assign\",\"sallyport.capture\":\"attached\"}}");
    assert_string_equal(s.record.name, "pod-1");
    assert_string_equal(s.record.image, "i");
    assert_string_equal(s.record.policy, "");
    assert_true(s.record.attached);
    /* Names of others that cannot be written down are passed over. */
    s = state_of("{\"id\":\"a\",\"pid\":1,\"annotations\":{\"io.kubernetes.pod.name\":\"a\\nb\",\"nerdctl/name\":\"n\"}}");
    assert_string_equal(s.record.name, "n");
    assert_string_equal(state_of("{\"id\":\"a\",\"pid\":1,\"annotations\":null,\"more\":[{}]}").record.name, "");
}

static void states_that_are_refused(void **state)
{
    static const char *const cases[] = {
        "", "x", "[]", "{}", "null", "{\"id\":7,\"pid\":1}", "{\"id\":\"../a\",\"pid\":1}", "{\"id\":\"\",\"pid\":1}",
        "{\"id\":\"a\",\"pid\":-1}", "{\"id\":\"a\",\"pid\":99999999999}",
        "{\"id\":\"a\",\"pid\":1,\"annotations\":{\"sallyport.capture\":\"both\"}}",
        "{\"id\":\"a\",\"pid\":1,\"annotations\":{\"sallyport.policy\":\"a\\nb\"}}"};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct oci_state s;
        struct error err;
        if (oci_state_parse(cases[i], strlen(cases[i]), &s, &err) != -EINVAL)
            fail_msg("taken: %s", cases[i]);
    }
}

static json_t *with_hooks(const char *config, const char *control, const char *policy)
{
    struct error err = {0};
    json_t *root = json_loads(config, 0, NULL);
    assert_non_null(root);
    const struct oci_defaults defaults = {.policy = policy};
    if (oci_config_add_hooks(root, "/bin/sallyport", control, &defaults, &err) < 0)
        fail_msg("%s: %s", config, err.text);
    return root;
}

static const char *policy_in(json_t *root)
{
    return json_string_value(json_object_get(json_object_get(root, "annotations"), OCI_POLICY_ANNOTATION));
}

static void hooks_go_behind_those_that_are_there(void **state)
{
    (void)state;
    json_t *root = with_hooks("{\"hooks\":{\"createRuntime\":[{\"path\":\"/first\"}],\"prestart\":[{}]}}", "/run/c.sock", NULL);
    json_t *expected = json_loads("{\"createRuntime\":[{\"path\":\"/first\"},{\"path\":\"/bin/sallyport\",\"args\":[\"sallyport\","
                                  "\"oci-hook\",\"--control\",\"/run/c.sock\"]}],\"prestart\":[{}],\"poststop\":[{\"path\":"
                                  "\"/bin/sallyport\",\"args\":[\"sallyport\",\"oci-hook\",\"--control\",\"/run/c.sock\"]}]}",
                                  0, NULL);
    assert_true(json_equal(json_object_get(root, "hooks"), expected));
    assert_string_equal(policy_in(root), "assign");
    json_decref(expected);
    json_decref(root);
}

static void where_the_policy_comes_from(void **state)
{
    static const struct {
        const char *config, *policy, *expected;
    } cases[] = {
        {"{}", NULL, "assign"},
        {"{}", "agents", "agents"},
        {"{\"process\":{\"env\":[\"PATH=/\",\"SALLYPORT_POLICY=ci\"]}}", "agents", "ci"},
        {"{\"process\":{\"env\":[\"SALLYPORT_POLICY=a\",\"SALLYPORT_POLICY=b\"]}}", NULL, "b"},
        {"{\"process\":{\"env\":[\"SALLYPORT_POLICY=\",7]}}", "agents", "agents"},
        {"{\"annotations\":{\"sallyport.policy\":\"x\"},\"process\":{\"env\":[\"SALLYPORT_POLICY=ci\"]}}", "agents", "x"},
        {"{\"annotations\":null,\"hooks\":null}", NULL, "assign"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        json_t *root = with_hooks(cases[i].config, NULL, cases[i].policy);
        assert_string_equal(policy_in(root), cases[i].expected);
        json_decref(root);
    }
}

static json_t *json_of(const char *text)
{
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    return root;
}

static void check_same(json_t *root, const char *expected)
{
    json_t *other = json_of(expected);
    if (!json_equal(root, other))
        fail_msg("not %s", expected);
    json_decref(other);
}

static void capture_and_name_come_likewise(void **state)
{
    static const char config[] = "{\"hostname\":\"h\",\"process\":{\"env\":[\"SALLYPORT_CAPTURE=sealed\",\"SALLYPORT_NAME=n\"]}}";
    const struct oci_defaults attached = {.attached = true};
    struct error err;
    (void)state;
    json_t *root = json_of(config);
    assert_int_equal(oci_config_add_hooks(root, "/s", NULL, &attached, &err), 0);
    check_same(json_object_get(root, "annotations"),
               "{\"sallyport.policy\":\"assign\",\"sallyport.capture\":\"sealed\",\"sallyport.name\":\"n\"}");
    json_decref(root);
    root = json_of("{\"hostname\":\"h\"}");
    assert_int_equal(oci_config_add_hooks(root, "/s", NULL, &attached, &err), 0);
    check_same(json_object_get(root, "annotations"),
               "{\"sallyport.policy\":\"assign\",\"sallyport.capture\":\"attached\",\"sallyport.name\":\"h\"}");
    json_decref(root);
}

static void an_image_cannot_choose_where_the_policy_is_binding(void **state)
{
    const struct oci_defaults binding = {.policy = "agents", .binding = true};
    struct error err;
    (void)state;
    json_t *root = json_of("{\"annotations\":{\"sallyport.policy\":\"unrestricted\"},\"process\":{\"env\":["
                           "\"SALLYPORT_POLICY=unrestricted\",\"SALLYPORT_NAME=ci-1\",\"SALLYPORT_CAPTURE=attached\","
                           "\"SALLYPORT_PUBLISH=0.0.0.0:22:22\"]}}");
    assert_int_equal(oci_config_add_hooks(root, "/s", NULL, &binding, &err), 0);
    check_same(json_object_get(root, "annotations"), "{\"sallyport.policy\":\"agents\"}");
    json_decref(root);
}

static void a_hook_has_defaults(void **state)
{
    const struct oci_defaults defaults = {.policy = "agents", .attached = true};
    struct error err;
    (void)state;
    struct oci_state s = state_of("{\"id\":\"a\",\"pid\":1}");
    assert_int_equal(oci_state_apply(&s, &defaults, &err), 0);
    assert_string_equal(s.record.policy, "agents");
    assert_true(s.record.attached);
    s = state_of("{\"id\":\"a\",\"pid\":1,\"annotations\":{\"sallyport.policy\":\"assign\",\"sallyport.capture\":\"sealed\"}}");
    assert_int_equal(oci_state_apply(&s, &defaults, &err), 0);
    assert_string_equal(s.record.policy, "");
    assert_false(s.record.attached);
    /* A binding policy is no default. */
    const struct oci_defaults binding = {.policy = "agents", .binding = true};
    s = state_of("{\"id\":\"a\",\"pid\":1,\"annotations\":{\"sallyport.policy\":\"unrestricted\"}}");
    assert_int_equal(oci_state_apply(&s, &binding, &err), 0);
    assert_string_equal(s.record.policy, "agents");
    json_t *file = oci_hook_file("/s", "/c", &defaults, false);
    check_same(file, "{\"version\":\"1.0.0\",\"hook\":{\"path\":\"/s\",\"args\":[\"sallyport\",\"oci-hook\",\"--control\",\"/c\","
                     "\"--default-policy\",\"agents\",\"--attached\"]},\"when\":{\"annotations\":{\"^sallyport\\\\.policy$\":\".*\"}},"
                     "\"stages\":[\"createRuntime\",\"poststop\"]}");
    json_decref(file);
}

static void dockers_file(void **state)
{
    static const char *const policies[] = {"a"};
    struct oci_docker docker = {.program = "/s"};
    struct error err;
    (void)state;
    json_t *root = json_of("{\"runtimes\":{\"kata\":{\"path\":\"/k\"}},\"default-runtime\":\"kata\",\"x\":1}");
    assert_int_equal(oci_docker_configure(root, &docker, &err), 0);
    docker.policies = policies;
    docker.policy_count = 1;
    docker.make_default = true;
    assert_int_equal(oci_docker_configure(root, &docker, &err), 0);
    assert_int_equal(json_object_size(json_object_get(root, "runtimes")), 5);
    assert_string_equal(json_string_value(json_object_get(root, "default-runtime")), "sallyport-a-attached");
    oci_docker_remove(root);
    check_same(root, "{\"runtimes\":{\"kata\":{\"path\":\"/k\"}},\"x\":1}");
    json_decref(root);
    root = json_of("{\"runtimes\":[]}");
    assert_int_equal(oci_docker_configure(root, &docker, &err), -EINVAL);
    json_decref(root);
    root = json_of("{\"runtimes\":{\"sallyport-a\":{\"path\":\"/k\",\"runtimeArgs\":[\"-x\"]}}}");
    assert_int_equal(oci_docker_configure(root, &docker, &err), -EEXIST);
    oci_docker_remove(root);
    assert_int_equal(json_object_size(json_object_get(root, "runtimes")), 1);
    json_decref(root);
}

static void configs_that_are_refused(void **state)
{
    static const char *const cases[] = {"[]", "7", "{\"hooks\":[]}", "{\"annotations\":\"x\"}", "{\"hooks\":{\"poststop\":{}}}"};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct error err;
        json_t *root = json_loads(cases[i], JSON_DECODE_ANY, NULL);
        assert_int_equal(oci_config_add_hooks(root, "/bin/sallyport", NULL, NULL, &err), -EINVAL);
        json_decref(root);
    }
}

static void requests(void **state)
{
    static const char enroll[] = "{\"do\":\"enroll\",\"id\":\"a\",\"name\":\"n\",\"policy\":\"p\",\"attached\":true}";
    struct control_request request;
    struct error err;
    (void)state;
    assert_int_equal(control_parse(enroll, strlen(enroll), &request, &err), 0);
    assert_int_equal(request.verb, CONTROL_ENROLL);
    assert_string_equal(request.record.id, "a");
    assert_string_equal(request.record.name, "n");
    assert_string_equal(request.record.policy, "p");
    assert_string_equal(request.record.image, "");
    assert_true(request.record.attached);
    static const char *const refused[] = {"", "{", "[]", "{}", "{\"do\":\"dance\"}", "{\"do\":\"list\",\"id\":\"a\"}",
                                          "{\"do\":\"enroll\"}", "{\"do\":\"enroll\",\"id\":\"a\",\"id\":\"b\"}",
                                          "{\"do\":\"enroll\",\"id\":\"a\",\"attached\":1}", "{\"do\":\"withdraw\",\"id\":\"a/b\"}",
                                          "{\"do\":\"verify\"}", "{\"do\":\"status\"} x"};
    for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++)
        if (control_parse(refused[i], strlen(refused[i]), &request, &err) != -EINVAL)
            fail_msg("taken: %s", refused[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states_of_engines),           cmocka_unit_test(states_that_are_refused),
        cmocka_unit_test(hooks_go_behind_those_that_are_there), cmocka_unit_test(where_the_policy_comes_from),
        cmocka_unit_test(configs_that_are_refused),    cmocka_unit_test(requests),
        cmocka_unit_test(capture_and_name_come_likewise), cmocka_unit_test(a_hook_has_defaults),
        cmocka_unit_test(an_image_cannot_choose_where_the_policy_is_binding), cmocka_unit_test(dockers_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
