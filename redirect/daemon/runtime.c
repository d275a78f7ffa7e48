/*
 * Run-time changes: `sallyport allow`, `deny`, `set` and `forget`.
 *
 * A change is checked, laid over the snapshot, written to the state folder, put in force here and sent to every worker, in this
 * order; who asked is answered when the workers have judged every live flow by it and every ruleset is as it should be. So what was
 * answered is in the file: a daemon that dies at any instant has the old changes or the new ones when it starts again, and has
 * the new ones if it had answered.
 *
 * A worker is sent all changes each time (they are small), not the difference: so the order of changes and of a new
 * configuration that it is loading does not matter. A new worker has them by the fork.
 */
#include "redirect/daemon/daemon_internal.h"

#include "base/fds.h"
#include "base/log.h"
#include "config/bundle.h"
#include "config/file.h"
#include "redirect/daemon/network.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define FILE_NAME "changes.yaml"

/* A change that is not in force yet. */
struct change {
    struct list link;
    struct client *client; /* NULL: it has gone */
    json_t *answer;
    uint32_t waits;                /* for these workers: a bit each */
    uint32_t serials[WORKERS_MAX]; /* of the messages that they have not answered; 0: not sent */
};

static bool waits_for(const struct change *change, const struct daemon_worker *worker)
{
    return change->waits & 1u << worker->index;
}

static void waits_no_more(struct change *change, const struct daemon_worker *worker)
{
    change->waits &= ~(1u << worker->index);
}

/* ---- at the start ---- */

/* NULL when there is no file. */
static int read_changes(int folder, char **ret, size_t *ret_length, struct error *err)
{
    char path[64];
    _cleanup_fd_ int fd = openat(folder, FILE_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    *ret = NULL;
    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0)
        return error_errno(err, errno, "cannot read the run-time changes of the state folder (%s)",
                           FILE_NAME);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return config_file_read(path, OVERRIDES_MAX_BYTES, ret, ret_length, err);
}

static int parse_changes(const char *text, size_t length, struct overrides **ret, struct error *err)
{
    struct config_errors errors;
    int r = overrides_parse(FILE_NAME, text, length, ret, &errors);
    for (size_t i = 0; i < errors.count; i++)
        log_error("%s", errors.lines[i]);
    config_errors_finish(&errors);
    return r < 0 ? error_set(err, -r,
                             "the run-time changes of the state folder (%s) cannot be read: repair that "
                             "file, or remove it "
                             "to start without them",
                             FILE_NAME)
                 : 0;
}

/* What names a policy that the file does not have (any more): it is kept, and nothing comes of it. */
static void warn_of_strays(const struct config_snapshot *snapshot, const struct overrides *overrides)
{
    const struct override *o;
    for (size_t i = 0; (o = overrides_at(overrides, i)); i++) {
        const char *policy = o->of_policy ? o->target : o->policy;
        if (!policy || config_policy(snapshot, policy))
            continue;
        if (o->of_policy)
            log_warning("there is no policy \"%s\" any more: the rules that were added to it at run time are "
                        "idle (sallyport forget "
                        "--policy %s takes them back)",
                        policy, policy);
        else
            log_warning("%s was set to policy \"%s\", which is there no more: it is denied everything "
                        "(sallyport set %s POLICY gives "
                        "it another)",
                        o->target, policy, o->target);
    }
}

int runtime_derive(const struct daemon *d, struct config_snapshot *file, struct config_snapshot **ret)
{
    struct overrides *overrides = config_overrides(d->snapshot);
    warn_of_strays(file, overrides);
    return config_derive(file, overrides, ret);
}

int runtime_load(struct daemon *d, struct error *err)
{
    struct overrides *overrides = NULL;
    struct config_snapshot *derived;
    char *text;
    size_t length;
    int r = read_changes(d->state, &text, &length, err);
    if (r == 0 && text)
        r = parse_changes(text, length, &overrides, err);
    free(text);
    if (r < 0)
        return r;
    if (!overrides)
        overrides = overrides_none();
    r = overrides ? config_derive(d->snapshot, overrides, &derived) : -ENOMEM;
    if (r == 0) {
        warn_of_strays(d->snapshot, overrides);
        daemon_take_snapshot(d, derived);
    }
    overrides_unref(overrides);
    return r < 0 ? error_set(err, ENOMEM, "out of memory") : 0;
}

/* ---- whom it is about ---- */

/* The name is the snapshot's, or `name`. */
static const char *policy_target(struct daemon *d, const char *name, struct error *err)
{
    const struct acl_policy *policy = config_policy(d->snapshot, name);
    if (policy)
        return acl_policy_name(policy);
    if (overrides_find(config_overrides(d->snapshot), true, name))
        return name;
    error_set(err, ENOENT, "there is no policy \"%s\"", name);
    return NULL;
}

/* A container by the word that was used for it, so that a name stays a name. */
static const char *container_target(struct daemon *d, const char *name, struct error *err)
{
    const struct enrolment *e = enrolment_find_named(d, name);
    if (e && e->state == ENROLMENT_SHARED) /* what it reaches is decided by the one that is captured */
        e = enrolment_find_namespace(d, &e->record.netns);
    if (e)
        return strcmp(e->record.name, name) ? e->record.id : e->record.name;
    if (overrides_find(config_overrides(d->snapshot), false, name))
        return name;
    error_set(err, ENOENT, "nothing is enrolled as %s, and no container has that name", name);
    return NULL;
}

/* ---- asking for it ---- */

/* An allow rule that changes nothing, because something denies what it allows, is surely not what was meant. */
static const char *still_denied(struct daemon *d, const struct override_change *change, char *text,
                                size_t size)
{
    static const enum acl_protocol protocols[] = {[ACL_SCHEME_WEB] = ACL_TLS,
                                                  [ACL_SCHEME_HTTPS] = ACL_TLS,
                                                  [ACL_SCHEME_HTTP] = ACL_HTTP,
                                                  [ACL_SCHEME_TCP] = ACL_TCP};
    const struct enrolment *e = change->of_policy ? NULL : enrolment_find_named(d, change->target);
    const struct acl_policy *policy = e ? enrolment_policy(e) : config_policy(d->snapshot, change->target);
    for (size_t i = 0; policy && change->verb == OVERRIDE_ALLOW && !change->remove && i < change->count;
         i++) {
        struct acl_rule rule;
        if (acl_rule_parse(change->rules[i], strlen(change->rules[i]), false, &rule, NULL) < 0 ||
            !rule.name[0] || rule.scheme > ACL_SCHEME_TCP)
            continue;
        struct acl_verdict v =
            acl_policy_judge_name(policy, protocols[rule.scheme], rule.name, strlen(rule.name),
                                  rule.scheme == ACL_SCHEME_WEB ? 443 : rule.port_low);
        if (v.allowed || v.reason != ACL_RULE_DENY || !v.has_rule)
            continue;
        int used = snprintf(text, size, "%s stays denied: deny beats allow, and \"%s\" denies it (%s",
                            rule.name, v.rule.text, v.rule.origin.file);
        if (v.rule.origin.line && used > 0 && (size_t)used < size)
            used += snprintf(text + used, size - (size_t)used, ":%u", v.rule.origin.line);
        if (used > 0 && (size_t)used < size)
            snprintf(text + used, size - (size_t)used, ")");
        return text;
    }
    return NULL;
}

static void log_change(const struct daemon *d, const struct override_change *change)
{
    static const char *const words[] = {[OVERRIDE_ALLOW] = "allow",
                                        [OVERRIDE_DENY] = "deny",
                                        [OVERRIDE_SET] = "set",
                                        [OVERRIDE_FORGET] = "forget"};
    const char *rest = change->count > 1 ? " …" : "", *what = change->count    ? change->rules[0]
                                                              : change->policy ? change->policy
                                                                               : "";
    log_info("%s: %s%s%s %s%s%s%s: policy version %s", change->by, words[change->verb],
             change->remove ? " --remove" : "", change->of_policy ? " --policy" : "", change->target,
             *what ? " " : "", what, rest, config_version(d->snapshot));
}

#define NOTED_RULES_MAX 64 /* of one change; of more the audit log has their number, and the state folder the rules */

/* For the audit log: each rule by itself. */
static void note_change(struct daemon *d, uint32_t user, const struct override_change *change)
{
    static const enum channel_note_kind kinds[][2] = {[OVERRIDE_ALLOW] = {NOTE_ALLOW, NOTE_ALLOW_REMOVED},
                                                      [OVERRIDE_DENY] = {NOTE_DENY, NOTE_DENY_REMOVED},
                                                      [OVERRIDE_SET] = {NOTE_SET, NOTE_SET_REMOVED},
                                                      [OVERRIDE_FORGET] = {NOTE_FORGET, NOTE_FORGET}};
    const struct enrolment *e = change->of_policy ? NULL : enrolment_find_named(d, change->target);
    char many[64];
    struct channel_note note = {.kind = kinds[change->verb][change->remove],
                                .user = user,
                                .id = change->of_policy ? NULL : e ? e->record.id : change->target,
                                .name = e ? e->record.name : NULL,
                                .policy = change->of_policy ? change->target : change->policy};
    snprintf(many, sizeof(many), "%zu rules", change->count);
    if (change->count > NOTED_RULES_MAX)
        note.text = many;
    if (change->count == 0 || note.text)
        notes_add(d, &note);
    for (size_t i = 0; i < change->count && !(note.text == many); i++) {
        note.text = change->rules[i];
        notes_add(d, &note);
    }
}

/* Not in force yet: the workers are told, and the rulesets are changed. */
static void await(struct daemon *d, struct client *client, json_t *answer)
{
    struct change *change = calloc(1, sizeof(*change));
    if (!change) { /* it comes into force all the same; nobody can be told when */
        client_refuse(client, "failed", "out of memory");
        json_decref(answer);
        return;
    }
    *change = (struct change){.client = client, .answer = answer};
    list_append(&d->changes, &change->link);
    change->waits = workers_tell_changes(d); /* whoever is not there yet will start with it */
    daemon_feed(d);
    runtime_settle(d);
}

static int bundle_of(const struct overrides *overrides, int *ret, struct error *err);

static void tell_elders(struct daemon *d)
{
    struct error err;
    _cleanup_fd_ int bundle = -1;
    if (list_empty(&d->elders))
        return;
    if (bundle_of(config_overrides(d->snapshot), &bundle, &err) < 0)
        log_error("%s", err.text);
    elders_tell_changes(d, bundle);
}

/* The file first: what is not on the disk is not in force. */
static int put_in_force(struct daemon *d, struct overrides *next, struct error *err)
{
    struct config_snapshot *derived;
    size_t length;
    if (config_derive(d->snapshot, next, &derived) < 0)
        return error_set(err, ENOMEM, "out of memory");
    int r = networks_apply(d, derived, err); /* their rules are replaced all or nothing */
    if (r == 0 && (r = state_write_text(d->state, FILE_NAME, overrides_text(next, &length), err)) < 0)
        networks_apply(d, d->snapshot, NULL);
    if (r < 0)
        config_unref(derived);
    else
        daemon_take_snapshot(d, derived);
    if (r == 0)
        tell_elders(d);
    return r;
}

static void make_change(struct client *client, const struct override_change *change)
{
    struct daemon *d = client_daemon(client);
    struct overrides *old = config_overrides(d->snapshot), *next;
    struct error err;
    char text[1024];
    int r = overrides_change(old, change, &next, &err);
    if (r < 0) {
        client_refuse(client, "invalid", "%s", err.text);
        return;
    }
    bool changed = next != old;
    r = changed ? put_in_force(d, next, &err) : 0;
    overrides_unref(next);
    if (r < 0) {
        client_refuse(client, "failed", "%s", err.text);
        return;
    }
    json_t *answer =
        json_pack("{s:b, s:s, s:s}", "changed", changed, change->of_policy ? "policy" : "container",
                  change->target, "policy_version", config_version(d->snapshot));
    const char *warning = still_denied(d, change, text, sizeof(text));
    if (warning)
        json_object_set_new(answer, "warning", json_string(warning));
    if (changed) {
        log_change(d, change);
        note_change(d, client_user(client), change);
    }
    if (changed)
        await(d, client, answer);
    else
        client_answer(client, answer);
}

static bool is_enrolled(const struct override *o, void *daemon)
{
    return o->of_policy || enrolment_find_named(daemon, o->target);
}

static void forget_gone(struct client *client)
{
    struct daemon *d = client_daemon(client);
    struct overrides *old = config_overrides(d->snapshot), *next;
    struct error err;
    int r = overrides_keep(old, is_enrolled, d, &next, &err);
    bool changed = r == 0 && next != old;
    if (changed)
        r = put_in_force(d, next, &err);
    if (r < 0) {
        client_refuse(client, "failed", "%s", err.text);
    } else {
        json_t *answer =
            json_pack("{s:b, s:s}", "changed", changed, "policy_version", config_version(d->snapshot));
        if (changed) {
            notes_add(d, &(struct channel_note){
                             .kind = NOTE_FORGET, .user = client_user(client), .text = "of all containers that are gone"});
            await(d, client, answer);
        } else {
            client_answer(client, answer);
        }
    }
    if (r == 0 || changed)
        overrides_unref(next);
}

/* What no checker of rules can know. */
static int check_change(struct daemon *d, const struct control_request *request, const char *target,
                        struct error *err)
{
    const char *policy = request->record.policy;
    if (request->verb == CONTROL_SET && !request->remove && !config_policy(d->snapshot, policy))
        return error_set(err, ENOENT, "there is no policy \"%s\"", policy);
    if (request->of_policy && request->verb == CONTROL_ALLOW && !request->remove && !strcmp(target, "deny"))
        return error_set(
            err, EINVAL,
            "the policy \"deny\" denies everything, whatever is allowed: set the container to another one");
    return 0;
}

static void now_text(char text[OVERRIDE_TEXT_MAX])
{
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(text, OVERRIDE_TEXT_MAX, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

void runtime_change(struct client *client, const struct control_request *request)
{
    static const enum override_verb verbs[] = {[CONTROL_ALLOW] = OVERRIDE_ALLOW,
                                               [CONTROL_DENY] = OVERRIDE_DENY,
                                               [CONTROL_SET] = OVERRIDE_SET,
                                               [CONTROL_FORGET] = OVERRIDE_FORGET};
    struct daemon *d = client_daemon(client);
    struct error err;
    char now[OVERRIDE_TEXT_MAX], copy[CHANNEL_ID_MAX]; /* the snapshot that it may belong to will go */
    if (request->gone) {
        forget_gone(client);
        return;
    }
    const char *target = (request->of_policy ? policy_target : container_target)(d, request->target, &err);
    if (!target && request->verb == CONTROL_FORGET && err.code == ENOENT) {
        client_answer(client, json_pack("{s:b}", "changed", 0));
        return;
    }
    if (!target || check_change(d, request, target, &err) < 0) {
        client_refuse(client, err.code == ENOENT ? "unknown" : "refused", "%s", err.text);
        return;
    }
    size_t count = json_array_size(request->rules);
    const char **rules = calloc(count + 1, sizeof(*rules));
    if (!rules) {
        client_refuse(client, "failed", "out of memory");
        return;
    }
    for (size_t i = 0; i < count; i++)
        rules[i] = json_string_value(json_array_get(request->rules, i));
    now_text(now);
    snprintf(copy, sizeof(copy), "%s", target);
    make_change(client, &(struct override_change){.verb = verbs[request->verb],
                                                  .remove = request->remove,
                                                  .of_policy = request->of_policy,
                                                  .target = copy,
                                                  .rules = rules,
                                                  .count = count,
                                                  .policy = request->record.policy,
                                                  .by = client_who(client),
                                                  .at = now});
    free(rules);
}

/* ---- until it is in force ---- */

static int bundle_of(const struct overrides *overrides, int *ret, struct error *err)
{
    struct bundle_writer writer;
    size_t length;
    const char *text = overrides_text(overrides, &length);
    int r = bundle_create(&writer, err);
    if (r < 0)
        return r;
    r = bundle_add(&writer, FILE_NAME, text, length);
    if (r == 0)
        return bundle_finish(&writer, ret, err);
    bundle_abandon(&writer);
    return error_errno(err, -r, "cannot write the run-time changes for the worker");
}

int runtime_send(struct daemon_worker *w)
{
    struct daemon *d = w->daemon;
    struct error err;
    _cleanup_fd_ int bundle = -1;
    int r = bundle_of(config_overrides(d->snapshot), &bundle, &err);
    if (r < 0) {
        log_error("%s", err.text);
        return r;
    }
    uint32_t serial = daemon_next_serial(d);
    if ((r = channel_send_changes(w->process.channel, serial, bundle)) < 0)
        return r;
    w->changes_unsent = false;
    for (struct list *link = d->changes.next; link != &d->changes; link = link->next) {
        struct change *change = list_entry(link, struct change, link);
        if (waits_for(change, w) && !change->serials[w->index])
            change->serials[w->index] = serial;
    }
    return 0;
}

bool runtime_answered(struct daemon_worker *w, uint32_t serial, int code)
{
    struct daemon *d = w->daemon;
    bool ours = false;
    for (struct list *link = d->changes.next; link != &d->changes; link = link->next) {
        struct change *change = list_entry(link, struct change, link);
        if (!waits_for(change, w) || change->serials[w->index] != serial)
            continue;
        ours = true;
        if (code == 0)
            waits_no_more(change, w);
    }
    if (ours && code)
        log_error("the worker does not take the run-time changes (%s); a new one gets them", strerror(code));
    runtime_settle(d);
    return ours;
}

/* No flow of its own is left, and its successor is born with them. */
void runtime_worker_died(struct daemon_worker *w)
{
    struct daemon *d = w->daemon;
    for (struct list *link = d->changes.next; link != &d->changes; link = link->next)
        waits_no_more(list_entry(link, struct change, link), w);
    runtime_settle(d);
}

static void change_destroy(struct change *change)
{
    list_remove(&change->link);
    json_decref(change->answer);
    free(change);
}

void runtime_settle(struct daemon *d)
{
    if (daemon_updates_left(d))
        return;
    for (struct list *link = d->changes.next, *next; link != &d->changes; link = next) {
        struct change *change = list_entry(link, struct change, link);
        next = link->next;
        if (change->waits)
            continue;
        struct client *client = change->client;
        json_t *answer = json_incref(change->answer);
        change_destroy(change);
        if (client)
            client_answer(client, answer);
        else
            json_decref(answer);
    }
}

void runtime_client_gone(const struct client *client)
{
    struct daemon *d = client_daemon(client);
    for (struct list *link = d->changes.next; link != &d->changes; link = link->next) {
        struct change *change = list_entry(link, struct change, link);
        if (change->client == client)
            change->client = NULL;
    }
}

void runtime_finish(struct daemon *d)
{
    while (!list_empty(&d->changes))
        change_destroy(list_entry(d->changes.next, struct change, link));
}
