/*
 * `sallyport show`: what a container or a policy may do, and who said so.
 *
 * Rules are listed in the order of their origins: presets and files first, what was set at run time last. A file of names may
 * hold a million: of one that holds more than a few, only the count is told.
 */
#include "redirect/daemon/daemon_internal.h"

#include <stdlib.h>
#include <string.h>

#define RULES_OF_A_FILE 200

static const char *mode_text(const struct acl_policy *policy)
{
    return acl_policy_mode(policy) == ACL_MODE_AUDIT ? "audit" : "enforce";
}

static const char *dns_text(const struct acl_policy *policy)
{
    static const char *const words[] = {
        [ACL_DNS_ALLOWED] = "allowed", [ACL_DNS_ANY] = "any", [ACL_DNS_OFF] = "off"};
    return words[acl_policy_dns(policy)];
}

static const char *bind_text(const struct acl_policy *policy)
{
    static const char *const words[] = {
        [ACL_BIND_REDIAL] = "redial", [ACL_BIND_STRICT] = "strict", [ACL_BIND_OFF] = "off"};
    return words[acl_policy_bind(policy)];
}

static const char *verify_text(const struct acl_policy *policy)
{
    static const char *const words[] = {
        [ACL_VERIFY_OFF] = "off", [ACL_VERIFY_FALLBACK] = "fallback", [ACL_VERIFY_ALWAYS] = "always"};
    return words[acl_policy_verify(policy)];
}

/* The rules that come from one place, one behind the other. */
struct listing {
    json_t *rules;
    const char *file; /* of the run of rules that is being listed */
    size_t run;       /* how many of them there were */
    size_t kept;      /* entries of `rules` before that run */
    size_t allow, deny;
};

/* A run that became too long is one entry. */
static void end_run(struct listing *l)
{
    if (l->run <= RULES_OF_A_FILE)
        return;
    while (json_array_size(l->rules) > l->kept)
        json_array_remove(l->rules, json_array_size(l->rules) - 1);
    json_array_append_new(l->rules, json_pack("{s:s, s:I, s:I}", "file", l->file, "allow_rules",
                                              (json_int_t)l->allow, "deny_rules", (json_int_t)l->deny));
}

static void begin_run(struct listing *l, const char *file)
{
    l->file = file;
    l->kept = json_array_size(l->rules);
    l->run = l->allow = l->deny = 0;
}

static bool list_rule(const struct acl_rule_view *rule, void *arg)
{
    struct listing *l = arg;
    if (!l->file || (l->file != rule->origin.file && strcmp(l->file, rule->origin.file) != 0)) {
        end_run(l);
        begin_run(l, rule->origin.file);
    }
    l->allow += !rule->deny;
    l->deny += rule->deny;
    if (++l->run > RULES_OF_A_FILE)
        return true;
    json_t *one = json_pack("{s:s, s:s, s:s}", "rule", rule->text, "action", rule->deny ? "deny" : "allow",
                            "file", rule->origin.file);
    if (rule->origin.line)
        json_object_set_new(one, "line", json_integer(rule->origin.line));
    json_array_append_new(l->rules, one);
    return true;
}

static void add_policy(json_t *o, const struct acl_policy *policy)
{
    const struct acl_limits *limits = acl_policy_limits(policy);
    struct listing l = {.rules = json_array()};
    json_object_set_new(o, "policy", json_string(acl_policy_name(policy)));
    json_object_set_new(o, "mode", json_string(mode_text(policy)));
    json_object_set_new(o, "dns", json_string(dns_text(policy)));
    json_object_set_new(o, "bind", json_string(bind_text(policy)));
    json_object_set_new(o, "verify_origin", json_string(verify_text(policy)));
    json_object_set_new(o, "ech", json_string(acl_policy_ech_denied(policy) ? "deny" : "record"));
    if (limits->flows)
        json_object_set_new(o, "flows_per_container", json_integer(limits->flows));
    if (limits->dns_queries_per_second)
        json_object_set_new(o, "dns_queries_per_second", json_integer(limits->dns_queries_per_second));
    acl_policy_each(policy, list_rule, &l);
    end_run(&l);
    json_object_set_new(o, "rules", l.rules);
}

/* What was changed at run time for this target, as an entry of `changes`. */
static void add_changes(json_t *changes, const struct override *o)
{
    if (!o)
        return;
    json_t *rules = json_array();
    for (size_t i = 0; i < o->count; i++)
        json_array_append_new(rules, json_pack("{s:s, s:s, s:s}", o->rules[i].deny ? "deny" : "allow",
                                               o->rules[i].text, "by", o->rules[i].by, "at", o->rules[i].at));
    json_t *one = json_pack("{s:s, s:o}", o->of_policy ? "policy" : "container", o->target, "rules", rules);
    if (o->policy)
        json_object_set_new(one, "set",
                            json_pack("{s:s, s:s, s:s}", "policy", o->policy, "by", o->by, "at", o->at));
    json_array_append_new(changes, one);
}

static void show_container(struct client *client, const struct enrolment *e)
{
    const struct daemon *d = client_daemon(client);
    const struct overrides *overrides = config_overrides(d->snapshot);
    json_t *answer = enrolment_describe(e), *changes = json_array();
    if (*e->record.policy)
        json_object_set_new(answer, "policy_asked", json_string(e->record.policy));
    add_policy(answer, enrolment_policy(e));
    add_changes(changes, overrides_find(overrides, true, acl_policy_name(enrolment_policy(e))));
    if (*e->record.name && strcmp(e->record.name, e->record.id) != 0)
        add_changes(changes, overrides_find(overrides, false, e->record.name));
    add_changes(changes, overrides_find(overrides, false, e->record.id));
    json_object_set_new(answer, "changes", changes);
    json_object_set_new(answer, "policy_version", json_string(config_version(d->snapshot)));
    client_answer(client, answer);
}

static void show_policy(struct client *client, const struct acl_policy *policy,
                        const struct override *changed)
{
    const struct daemon *d = client_daemon(client);
    json_t *answer = json_object(), *changes = json_array();
    if (policy)
        add_policy(answer, policy);
    add_changes(changes, changed);
    json_object_set_new(answer, "changes", changes);
    json_object_set_new(answer, "policy_version", json_string(config_version(d->snapshot)));
    client_answer(client, answer);
}

static void show_all_changes(struct client *client)
{
    struct daemon *d = client_daemon(client);
    const struct override *o;
    json_t *changes = json_array();
    for (size_t i = 0; (o = overrides_at(config_overrides(d->snapshot), i)); i++) {
        add_changes(changes, o);
        if (!o->of_policy && !enrolment_find_named(d, o->target))
            json_object_set_new(json_array_get(changes, i), "gone", json_true());
    }
    client_answer(client,
                  json_pack("{s:o, s:s}", "changes", changes, "policy_version", config_version(d->snapshot)));
}

void show_target(struct client *client, const struct control_request *request)
{
    struct daemon *d = client_daemon(client);
    const struct enrolment *e = request->of_policy ? NULL : enrolment_find_named(d, request->target);
    const struct acl_policy *policy = request->of_policy ? config_policy(d->snapshot, request->target) : NULL;
    const char *name = policy ? acl_policy_name(policy) : request->target;
    const struct override *changed = overrides_find(config_overrides(d->snapshot), request->of_policy, name);
    if (!*request->target)
        show_all_changes(client);
    else if (e)
        show_container(client, e);
    else if (policy || changed)
        show_policy(client, policy, changed);
    else if (request->of_policy)
        client_refuse(client, "unknown", "there is no policy \"%s\"", request->target);
    else
        client_refuse(client, "unknown", "nothing is enrolled as %s, and no container has that name",
                      request->target);
}
