/*
 * Unit tests of run-time changes: what a change makes of the changes before it, that its text is read back as it was, and what
 * containers and policies may do afterwards.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "config/overrides.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char file[] = "version: 1\n"
                           "policies:\n"
                           "  base: {allow: [base.example], deny: [never.example]}\n"
                           "  agents: {extends: base, allow: [agents.example], mode: audit}\n"
                           "  narrow: {allow: [narrow.example, 'tcp://ssh.example:22']}\n"
                           "assign: [{container: 'ci-*', policy: narrow}]\n"
                           "default: agents\n";

static struct config_snapshot *load(const char *text)
{
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    if (config_load_text("policy.yaml", text, strlen(text), &snapshot, &errors) < 0)
        fail_msg("%s", errors.count ? errors.lines[0] : "?");
    config_errors_finish(&errors);
    return snapshot;
}

/* The changes after one more; `old` is given back. */
static struct overrides *then(struct overrides *old, struct override_change change)
{
    struct overrides *next = NULL;
    struct error err;
    change.by = "uid 7";
    change.at = "2026-11-29T10:00:00Z";
    if (overrides_change(old, &change, &next, &err) < 0)
        fail_msg("%s", err.text);
    overrides_unref(old);
    return next;
}

static struct overrides *with_rule(struct overrides *old, enum override_verb verb, bool of_policy,
                                   const char *target, const char *rule)
{
    return then(old, (struct override_change){
                         .verb = verb, .of_policy = of_policy, .target = target, .rules = &rule, .count = 1});
}

static struct overrides *without_rule(struct overrides *old, enum override_verb verb, const char *target,
                                      const char *rule)
{
    return then(old, (struct override_change){
                         .verb = verb, .remove = true, .target = target, .rules = &rule, .count = 1});
}

static struct overrides *set(struct overrides *old, const char *target, const char *policy)
{
    return then(old, (struct override_change){
                         .verb = OVERRIDE_SET, .remove = !policy, .target = target, .policy = policy});
}

static struct config_snapshot *derive(struct config_snapshot *snapshot, struct overrides *overrides)
{
    struct config_snapshot *derived = NULL;
    assert_int_equal(config_derive(snapshot, overrides, &derived), 0);
    return derived;
}

static bool passes(const struct acl_policy *policy, const char *name)
{
    return acl_policy_judge_name(policy, ACL_TLS, name, strlen(name), 443).allowed;
}

static void same_again(struct overrides *overrides)
{
    size_t length, again_length;
    struct overrides *again = NULL;
    struct config_errors errors;
    const char *text = overrides_text(overrides, &length);
    assert_int_equal(overrides_parse("again", text, length, &again, &errors), 0);
    const struct override *a, *b;
    for (size_t i = 0; (a = overrides_at(overrides, i)); i++) {
        b = overrides_at(again, i);
        assert_non_null(b);
        assert_string_equal(a->target, b->target);
        assert_int_equal(a->of_policy, b->of_policy);
        assert_int_equal(a->count, b->count);
        for (size_t k = 0; k < a->count; k++) {
            assert_string_equal(a->rules[k].text, b->rules[k].text);
            assert_int_equal(a->rules[k].deny, b->rules[k].deny);
        }
    }
    assert_string_equal(overrides_text(again, &again_length), text);
    overrides_unref(again);
    config_errors_finish(&errors);
}

static void changes_add_up_and_are_taken_back(void **state)
{
    struct overrides *o = overrides_none();
    size_t length;
    (void)state;
    o = with_rule(o, OVERRIDE_ALLOW, false, "box-1", "a.example");
    o = with_rule(o, OVERRIDE_DENY, false, "box-1", "b.example");
    o = with_rule(o, OVERRIDE_DENY, true, "agents", "c.example");
    o = set(o, "box \"two\\", "narrow");
    same_again(o);
    assert_int_equal(overrides_find(o, false, "box-1")->count, 2);
    assert_string_equal(overrides_find(o, false, "box \"two\\")->policy, "narrow");
    assert_null(overrides_find(o, true, "box-1"));

    o = without_rule(o, OVERRIDE_ALLOW, "box-1", "a.example");
    assert_int_equal(overrides_find(o, false, "box-1")->count, 1);
    assert_true(overrides_find(o, false, "box-1")->rules[0].deny);
    o = then(o, (struct override_change){.verb = OVERRIDE_FORGET, .target = "box-1"});
    assert_null(overrides_find(o, false, "box-1"));
    o = set(o, "box \"two\\", NULL);
    o = then(o, (struct override_change){.verb = OVERRIDE_FORGET, .of_policy = true, .target = "agents"});
    assert_null(overrides_at(o, 0));
    struct overrides *none = overrides_none();
    assert_string_equal(overrides_text(o, &length), overrides_text(none, &length));
    overrides_unref(none);
    overrides_unref(o);
}

static void what_is_said_again_changes_nothing(void **state)
{
    struct overrides *o = with_rule(overrides_none(), OVERRIDE_DENY, false, "box", "a.example"), *before = o;
    (void)state;
    o = with_rule(o, OVERRIDE_DENY, false, "box", "a.example");
    assert_ptr_equal(o, before);
    o = without_rule(o, OVERRIDE_ALLOW, "box", "a.example"); /* it was denied, not allowed */
    assert_ptr_equal(o, before);
    o = set(o, "box", NULL);
    assert_ptr_equal(o, before);
    o = then(o, (struct override_change){.verb = OVERRIDE_FORGET, .target = "other"});
    assert_ptr_equal(o, before);
    overrides_unref(o);
}

static bool is_policy(const struct override *one, void *arg)
{
    (void)arg;
    return one->of_policy;
}

static bool is_any(const struct override *one, void *arg)
{
    (void)arg;
    return one->target != NULL;
}

static void some_are_kept(void **state)
{
    struct overrides *o = with_rule(overrides_none(), OVERRIDE_DENY, false, "box", "a.example"), *kept = NULL;
    struct error err;
    (void)state;
    o = with_rule(o, OVERRIDE_DENY, true, "p", "b.example");
    assert_int_equal(overrides_keep(o, is_any, NULL, &kept, &err), 0);
    assert_ptr_equal(kept, o);
    overrides_unref(kept);
    assert_int_equal(overrides_keep(o, is_policy, NULL, &kept, &err), 0);
    assert_string_equal(overrides_at(kept, 0)->target, "p");
    assert_null(overrides_at(kept, 1));
    same_again(kept);
    overrides_unref(kept);
    overrides_unref(o);
}

static void the_opposite_takes_its_place(void **state)
{
    struct overrides *o = with_rule(overrides_none(), OVERRIDE_DENY, false, "box", "a.example");
    (void)state;
    o = with_rule(o, OVERRIDE_ALLOW, false, "box", "a.example");
    assert_int_equal(overrides_find(o, false, "box")->count, 1);
    assert_false(overrides_find(o, false, "box")->rules[0].deny);
    overrides_unref(o);
}

static void bad_rules_change_nothing(void **state)
{
    static const char *const bad[] = {"http//x", "ex ample", "m\xc3\xbcnchen.example", "", "tcp://a.example"};
    struct overrides *o = overrides_none(), *next = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct error err = {0};
        const char *rules[] = {"good.example", bad[i]};
        const struct override_change change = {
            .verb = OVERRIDE_ALLOW, .target = "box", .rules = rules, .count = 2, .by = "uid 0", .at = "now"};
        assert_int_equal(overrides_change(o, &change, &next, &err), -EINVAL);
        assert_true(strlen(err.text) > 10 && err.text[0] != ':' && err.text[0] != ' ');
        assert_null(next);
    }
    overrides_unref(o);
}

static void too_much_is_told(void **state)
{
    static char texts[OVERRIDE_RULES_MAX + 1][32];
    const char *rules[OVERRIDE_RULES_MAX + 1];
    struct overrides *o = overrides_none(), *next = NULL;
    struct error err;
    (void)state;
    for (int i = 0; i <= OVERRIDE_RULES_MAX; i++) {
        snprintf(texts[i], sizeof(texts[i]), "n%d.example", i);
        rules[i] = texts[i];
    }
    struct override_change change = {.verb = OVERRIDE_DENY,
                                     .target = "box",
                                     .rules = rules,
                                     .count = OVERRIDE_RULES_MAX + 1,
                                     .by = "uid 0",
                                     .at = "now"};
    assert_int_equal(overrides_change(o, &change, &next, &err), -EINVAL);
    assert_non_null(strstr(err.text, "more than 1000 rules"));
    change.count--;
    assert_int_equal(overrides_change(o, &change, &next, &err), 0);
    overrides_unref(next);
    overrides_unref(o);
}

static void bad_files_are_told_with_their_place(void **state)
{
    static const char *const bad[][2] = {
        {"version: 2\n", "1:10"},
        {"version: 1\nchanges: [{container: a, rules: [{allow: 'http//x', by: u, at: t}]}]\n", "2:42"},
        {"version: 1\nchanges: [{rules: []}]\n", "needs a container or a policy"},
        {"version: 1\nchanges: [{policy: a, set: {policy: b, by: u, at: t}}]\n", "only a container"},
        {"version: 1\nchanges: [{container: a}, {container: a}]\n", "there twice"},
        {"version: 1\nchanges: [{container: a, rules: [{allow: x.example}]}]\n",
         "needs allow or deny, by and at"},
        {"version: 1\nchanges: [{container: a, rules: [{allow: x.example, deny: y.example, by: u, at: "
         "t}]}]\n",
         "either"},
        {"version: 1\nchange: []\n", "did you mean"},
        {"", "changes.yaml"},
        {"version: 1\nchanges: [", "changes.yaml:3"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct overrides *o = NULL;
        struct config_errors errors;
        assert_int_equal(overrides_parse("changes.yaml", bad[i][0], strlen(bad[i][0]), &o, &errors), -EINVAL);
        assert_null(o);
        if (errors.count == 0 || !strstr(errors.lines[0], bad[i][1]))
            fail_msg("%s: %s", bad[i][0], errors.count ? errors.lines[0] : "nothing");
        config_errors_finish(&errors);
    }
}

static void containers_go_by_id_name_and_what_they_are_set_to(void **state)
{
    struct config_snapshot *s = load(file);
    struct overrides *o = with_rule(overrides_none(), OVERRIDE_ALLOW, false, "id-1", "one.example");
    (void)state;
    o = with_rule(o, OVERRIDE_DENY, false, "web", "agents.example");
    o = set(o, "id-3", "narrow");
    o = set(o, "id-4", "gone");
    struct config_snapshot *d = derive(s, o);

    const struct acl_policy *first = config_container_policy(d, "id-1", "web", "");
    assert_string_equal(acl_policy_name(first), "agents");
    assert_int_equal(acl_policy_mode(first), ACL_MODE_AUDIT);
    assert_true(passes(first, "one.example") && passes(first, "base.example"));
    assert_false(passes(first, "agents.example") || passes(first, "never.example"));
    assert_ptr_equal(first, config_container_policy(d, "id-1", "web", "")); /* made once */

    const struct acl_policy *second = config_container_policy(d, "id-2", "web", "base");
    assert_true(passes(second, "base.example"));
    assert_false(passes(second, "one.example"));
    const struct acl_verdict v = acl_policy_judge_name(second, ACL_TLS, "agents.example", 14, 443);
    assert_true(v.has_rule && v.rule.deny);
    assert_string_equal(v.rule.origin.file, "set at run time by uid 7, 2026-11-29T10:00:00Z");

    assert_ptr_equal(config_container_policy(d, "id-3", "", "agents"), config_policy(s, "narrow"));
    assert_ptr_equal(config_container_policy(d, "id-4", "", "agents"), config_policy(s, "deny"));
    assert_ptr_equal(config_container_policy(d, "id-5", "ci-1", ""), config_policy(s, "narrow"));
    assert_ptr_equal(config_container_policy(s, "id-1", "web", ""),
                     config_policy(s, "agents")); /* the file's own */
    overrides_unref(o);
    config_unref(s);
    assert_true(passes(first, "one.example")); /* the derived one keeps the file */
    config_unref(d);
}

static void a_changed_policy_changes_those_that_extend_it(void **state)
{
    struct config_snapshot *s = load(file);
    struct overrides *o = with_rule(overrides_none(), OVERRIDE_DENY, true, "base", "agents.example");
    (void)state;
    o = with_rule(o, OVERRIDE_ALLOW, true, "agents", "https://more.example:8443");
    struct config_snapshot *d = derive(s, o);
    assert_false(passes(config_policy(d, "agents"), "agents.example"));
    assert_ptr_equal(config_assign(d, "any", NULL), config_policy(d, "agents"));
    assert_ptr_equal(config_policy(d, "narrow"), config_policy(s, "narrow"));
    assert_ptr_equal(config_assign(d, "ci-7", NULL), config_policy(s, "narrow"));
    size_t count;
    const struct acl_port_range *ports = acl_policy_ports(config_policy(d, "agents"), &count);
    assert_int_equal(count, 3);
    assert_int_equal(ports[2].low, 8443);
    acl_policy_ports(config_policy(d, "base"), &count);
    assert_int_equal(count, 2);
    overrides_unref(o);
    config_unref(d);
    config_unref(s);
}

static void versions_tell_changes_apart(void **state)
{
    struct config_snapshot *s = load(file);
    struct overrides *none = overrides_none(),
                     *one = with_rule(overrides_none(), OVERRIDE_DENY, false, "a", "x.example");
    (void)state;
    struct config_snapshot *plain = derive(s, none), *first = derive(s, one), *again = derive(first, one),
                           *back = derive(first, none);
    assert_string_equal(config_version(plain), config_version(s));
    assert_string_not_equal(config_version(first), config_version(s));
    assert_string_equal(config_version(again), config_version(first));
    assert_string_equal(config_version(back), config_version(s));
    assert_ptr_equal(config_overrides(again), one);
    config_unref(s);
    config_unref(plain);
    config_unref_aside(first);
    config_unref(again);
    config_unref(back);
    overrides_unref(none);
    overrides_unref(one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changes_add_up_and_are_taken_back),
        cmocka_unit_test(what_is_said_again_changes_nothing),
        cmocka_unit_test(some_are_kept),
        cmocka_unit_test(the_opposite_takes_its_place),
        cmocka_unit_test(bad_rules_change_nothing),
        cmocka_unit_test(too_much_is_told),
        cmocka_unit_test(bad_files_are_told_with_their_place),
        cmocka_unit_test(containers_go_by_id_name_and_what_they_are_set_to),
        cmocka_unit_test(a_changed_policy_changes_those_that_extend_it),
        cmocka_unit_test(versions_tell_changes_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
