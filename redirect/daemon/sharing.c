/*
 * Containers that share one network namespace: those of a pod, or Docker's --network container:X.
 *
 * The namespace is captured once, for the first of them, whose name the audit log tells. The others are enrolments in state
 * SHARED: they have their process to be watched and their state file, and neither sockets nor rules. When the first one ends before
 * them it stays, as "ended", until the last of them has; started again in the meantime it takes its place again. After a restart
 * of the daemon whichever is found first is captured, and the others share it.
 *
 * All of them must want the same policy and capture: there is one set of rules and sockets, and no telling who sent what.
 */
#include "redirect/daemon/daemon_internal.h"

#include "base/fds.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static bool shares(const struct enrolment *one, const struct enrolment *first)
{
    return one->state == ENROLMENT_SHARED && namespace_equal(&one->record.netns, &first->record.netns);
}

/* The next one after `link` that shares with `first`, or NULL. */
static struct enrolment *next_sharer(const struct enrolment *first, const struct list *link)
{
    for (link = link->next; link != &first->daemon->enrolments; link = link->next)
        if (shares(list_entry(link, struct enrolment, link), first))
            return list_entry(link, struct enrolment, link);
    return NULL;
}

static struct enrolment *first_sharer(const struct enrolment *first)
{
    if (first->daemon->sharing == 0)
        return NULL;
    return next_sharer(first, &first->daemon->enrolments);
}

/* It has what it asked for. */
static void joined(struct enrolment *e, const struct enrolment *first)
{
    struct client *client = e->client;
    e->client = NULL;
    e->coming = false;
    enrolment_note(e, NOTE_ENROLLED, client_user(client));
    client_answer(client, json_pack("{s:s, s:s}", "policy", acl_policy_name(enrolment_policy(first)),
                                    "shares", first->record.id));
}

/* NULL when they can share, else why not. By the file: what was changed at run time is the namespace's, whoever comes. */
static const char *difference(const struct enrolment *first, const struct state_record *record)
{
    const struct config_snapshot *snapshot = first->daemon->snapshot;
    const struct state_record *there = &first->record;
    if (record->attached != there->attached && !record->any_capture)
        return "another capture (sealed or attached)";
    if (config_policy_for(snapshot, record->policy, record->name) != config_policy_for(snapshot, there->policy, there->name))
        return "another policy";
    return NULL;
}

bool sharing_fits(const struct enrolment *first, const struct state_record *record)
{
    return !difference(first, record);
}

void sharing_join(struct enrolment *first, const struct state_record *record, int pidfd,
                  struct client *client)
{
    struct error err;
    const char *differs = *record->publish ? "ports to be published, which only the first can" : difference(first, record);
    if (first->state == ENROLMENT_FAILED) {
        client_refuse(client, "failed", "%s, whose network namespace %s shares, is not captured: %s",
                      first->record.id, record->id, first->failure);
        fd_close(&pidfd);
        return;
    }
    if (differs || pidfd < 0) {
        client_refuse(client, "exists", "the network namespace of %s is enrolled already, as %s%s%s%s",
                      record->id, first->record.id, differs ? ", with " : "", differs ? differs : "",
                      differs ? ": containers that share a network need the same" : "");
        fd_close(&pidfd);
        return;
    }
    struct state_record shared = *record;
    shared.attached = first->record.attached;
    struct enrolment *e = enrolment_create_shared(first->daemon, &shared, pidfd);
    if (!e) {
        client_refuse(client, "failed", "out of memory");
        return;
    }
    if (state_write(e->daemon->state, &e->record, &err) < 0) {
        enrolment_destroy(e);
        client_refuse(client, "failed", "%s: %s", record->id, err.text);
        return;
    }
    e->client = client;
    e->coming = true;
    if (first->state == ENROLMENT_SERVED && first->told)
        joined(e, first);
}

void sharing_served(struct enrolment *first)
{
    struct enrolment *next;
    for (struct enrolment *e = first_sharer(first); e; e = next) {
        next = next_sharer(first, &e->link);
        if (e->coming)
            joined(e, first);
    }
}

bool sharing_keeps(struct enrolment *first)
{
    if ((first->state != ENROLMENT_SERVED && first->state != ENROLMENT_FAILED) || !first_sharer(first))
        return false;
    log_info("%s has ended; its network namespace is %s's, too, and stays captured", first->record.id,
             first_sharer(first)->record.id);
    first->ended = true;
    watch_stop(&first->daemon->loop, &first->pidfd_watch);
    fd_close(&first->pidfd);
    return true;
}

int sharing_revive(struct enrolment *first, const struct state_record *record, int pidfd, struct error *err)
{
    struct state_record changed = first->record;
    const char *differs = difference(first, record);
    _cleanup_fd_ int process = pidfd;
    if (differs)
        return error_set(err, EBUSY, "its network namespace is still captured for %s, with %s",
                         first_sharer(first)->record.id, differs);
    changed.pid = record->pid;
    changed.start_time = record->start_time;
    int r = state_write(first->daemon->state, &changed, err);
    if (r == 0 && (r = enrolment_watch_process(first, fd_steal(&process))) < 0)
        r = error_set(err, ENOMEM, "out of memory");
    if (r < 0)
        return r;
    first->record = changed;
    first->ended = false;
    return 0;
}

void sharing_left(struct enrolment *e, bool remove_rules)
{
    struct daemon *d = e->daemon;
    struct client *client = e->client;
    struct namespace_id netns = e->record.netns;
    bool refused = e->outcome != 0;
    char id[CHANNEL_ID_MAX], why[sizeof(e->failure)];
    memcpy(id, e->record.id, sizeof(id));
    memcpy(why, e->failure, sizeof(why));
    state_remove(d->state, id);
    enrolment_destroy(e);
    if (refused)
        client_refuse(client, "failed", "%s: %s", id, why);
    else if (client)
        client_answer(client, json_pack("{s:b}", "withdrawn", 1));
    struct enrolment *first = enrolment_find_namespace(d, &netns);
    if (first && first->ended && !first_sharer(first))
        enrolment_leave(first, remove_rules);
}

void sharing_first_left(struct enrolment *first)
{
    struct enrolment *next;
    for (struct enrolment *e = first_sharer(first); e; e = next) {
        next = next_sharer(first, &e->link);
        snprintf(e->failure, sizeof(e->failure),
                 "%s, whose network namespace it shares, is not captured: %.256s", first->record.id,
                 *first->failure ? first->failure : "withdrawn");
        e->outcome = first->outcome ? first->outcome : ECANCELED;
        sharing_left(e, false);
    }
}

void sharing_describe(const struct enrolment *e, json_t *object)
{
    const struct enrolment *first =
        e->state == ENROLMENT_SHARED ? enrolment_find_namespace(e->daemon, &e->record.netns) : NULL;
    if (first)
        json_object_set_new(object, "shares", json_string(first->record.id));
    if (e->ended)
        json_object_set_new(object, "ended", json_true());
}
