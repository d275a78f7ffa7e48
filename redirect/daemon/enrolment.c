/*
 * One captured container. What happens to it, and where it can go from each state:
 *
 *   BUILDING   a child captures the namespace; then the state file is written; then the worker is told      SERVED, LEAVING
 *   SERVED     the worker has (or gets) its sockets; verified and updated at will                           LEAVING
 *   SHARED     another enrolment has captured its namespace (sharing.c)                                     (freed)
 *   FAILED     after a restart only: it could not be captured again. No service, but no way out either      LEAVING
 *
 * After a restart it begins with BUILDING, or, when its sockets were inherited, with SERVED: then a child looks afterwards whether
 * everything else is as it was (RENEW).
 *
 *   LEAVING    sockets and state file are gone at once; the rules go by a child when the namespace lives on, the worker's sockets
 *              when it says so; then nothing is left, and whoever asked is answered
 *
 * Whatever fails on the way to SERVED goes to LEAVING with the reason, so a half-done enrolment is undone by the same code. A
 * child that failed has cleaned up behind itself; one that was killed may have got anywhere, so the rules are removed after it.
 */
#include "redirect/daemon/daemon_internal.h"

#include "base/fds.h"
#include "base/log.h"
#include "redirect/monitor/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define ID_BEGINNING 4 /* characters of an id that stand for it */

static void leave(struct enrolment *enrolment, bool remove_rules);
static void leave_next(struct enrolment *enrolment);

void enrolment_note(const struct enrolment *e, enum channel_note_kind kind, uint32_t user)
{
    notes_add(e->daemon, &(struct channel_note){.kind = kind,
                                                .user = user,
                                                .id = e->record.id,
                                                .name = e->record.name,
                                                .policy = acl_policy_name(enrolment_policy(e)),
                                                .text = e->record.attached ? "attached" : "sealed"});
}

const struct acl_policy *enrolment_policy(const struct enrolment *enrolment)
{
    const struct state_record *who = &enrolment->record;
    return config_container_policy(enrolment->daemon->snapshot, who->id, who->name, who->policy);
}

/* ---- finding ---- */

#define RULESET_FORM " 3" /* of the rulesets that a plan makes; to be counted up when the same plan is to make others */
#define HASH_START 14695981039346656037u /* FNV-1a, 64 bits */
#define HASH_PRIME 1099511628211u

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t length)
{
    for (const uint8_t *at = bytes; length > 0; length--)
        hash = (hash ^ *at++) * HASH_PRIME;
    return hash;
}

static struct list *place_of_id(struct daemon *d, const char *id)
{
    return &d->by_id[hash_bytes(HASH_START, id, strlen(id)) % INDEX_SIZE];
}

static struct list *place_of_netns(struct daemon *d, const struct namespace_id *id)
{
    return &d->by_netns[hash_bytes(HASH_START, &id->inode, sizeof(id->inode)) % INDEX_SIZE];
}

void enrolments_init(struct daemon *d)
{
    list_init(&d->enrolments);
    for (size_t i = 0; i < INDEX_SIZE; i++) {
        list_init(&d->by_id[i]);
        list_init(&d->by_netns[i]);
    }
}

struct enrolment *enrolment_find(struct daemon *d, const char *id)
{
    struct list *place = place_of_id(d, id);
    for (struct list *link = place->next; link != place; link = link->next)
        if (!strcmp(list_entry(link, struct enrolment, id_link)->record.id, id))
            return list_entry(link, struct enrolment, id_link);
    return NULL;
}

struct enrolment *enrolment_find_namespace(struct daemon *d, const struct namespace_id *id)
{
    struct list *place = place_of_netns(d, id);
    for (struct list *link = place->next; link != place; link = link->next)
        if (namespace_equal(&list_entry(link, struct enrolment, netns_link)->record.netns, id))
            return list_entry(link, struct enrolment, netns_link);
    return NULL;
}

struct enrolment *enrolment_find_named(struct daemon *d, const char *text)
{
    struct enrolment *named = NULL, *begun = NULL, *found = enrolment_find(d, text);
    unsigned beginnings = 0;
    for (struct list *link = d->enrolments.next; link != &d->enrolments && !found; link = link->next) {
        struct enrolment *e = list_entry(link, struct enrolment, link);
        if (e->state == ENROLMENT_LEAVING)
            continue;
        if (!strcmp(e->record.name, text))
            named = e;
        if (strlen(text) >= ID_BEGINNING && !strncmp(e->record.id, text, strlen(text))) {
            begun = e;
            beginnings++;
        }
    }
    return found ? found : named ? named : beginnings == 1 ? begun : NULL;
}

/* Short: a service manager puts the names of all descriptors into one variable, which may have 128 KiB. */
const char *enrolment_kept_name(const struct state_record *record, char ret[ENROLMENT_KEPT_NAME])
{
    snprintf(ret, ENROLMENT_KEPT_NAME, "%llx", (unsigned long long)record->netns.inode);
    return ret;
}

static void forget_kept(const struct state_record *record)
{
    char name[ENROLMENT_KEPT_NAME];
    notify_forget(enrolment_kept_name(record, name));
}

bool enrolment_ended(const struct enrolment *enrolment)
{
    return enrolment->pidfd >= 0 && pidfd_ended(enrolment->pidfd);
}

json_t *enrolment_describe(const struct enrolment *e)
{
    static const char *const names[] = {[ENROLMENT_BUILDING] = "building",
                                        [ENROLMENT_SERVED] = "served",
                                        [ENROLMENT_SHARED] = "shared",
                                        [ENROLMENT_FAILED] = "failed",
                                        [ENROLMENT_LEAVING] = "leaving"};
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I}", "id", e->record.id, "name", e->record.name, "image",
                          e->record.image, "policy", acl_policy_name(enrolment_policy(e)), "capture",
                          e->record.attached ? "attached" : "sealed", "state", names[e->state], "pid", (int)e->record.pid, "netns",
                          (json_int_t)e->record.netns.inode, "since", (json_int_t)e->record.since);
    if (*e->record.path)
        json_object_set_new(o, "path", json_string(e->record.path));
    if (*e->record.pod)
        json_object_set_new(o, "pod", json_string(e->record.pod));
    if (*e->record.pod_namespace)
        json_object_set_new(o, "pod_namespace", json_string(e->record.pod_namespace));
    if (*e->record.attachment)
        json_object_set_new(o, "attachment", json_string(e->record.attachment));
    if (*e->failure)
        json_object_set_new(o, "failure", json_string(e->failure));
    if (e->worker && e->daemon->worker_count > 1)
        json_object_set_new(o, "worker", json_integer((json_int_t)e->worker->index + 1));
    sharing_describe(e, o);
    publishing_describe(e, o);
    return o;
}

/* ---- memory ---- */

void enrolment_destroy(struct enrolment *e)
{
    struct daemon *d = e->daemon;
    watch_stop(&d->loop, &e->pidfd_watch);
    list_remove(&e->id_link);
    list_remove(&e->netns_link);
    list_remove(&e->unsent_link);
    list_remove(&e->answer_link);
    list_remove(&e->job_link);
    list_remove(&e->link);
    publishing_end(e);
    capture_sockets_close(&e->sockets);
    fd_close(&e->pidfd);
    fd_close(&e->netns);
    if (e->worker)
        e->worker->captures--;
    if (e->state == ENROLMENT_SHARED)
        d->sharing--;
    metric_set(&d->options->metrics->containers, --d->count);
    free(e);
}

static struct enrolment *create(struct daemon *d, const struct state_record *record, int netns, int pidfd)
{
    struct enrolment *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->daemon = d;
    e->record = *record;
    e->netns = netns;
    e->pidfd = pidfd;
    e->sockets = (struct capture_sockets)CAPTURE_SOCKETS_NONE;
    e->pidfd_watch.fd = -1;
    list_init(&e->unsent_link);
    list_init(&e->answer_link);
    list_init(&e->job_link);
    list_append(place_of_id(d, record->id), &e->id_link);
    list_append(place_of_netns(d, &record->netns), &e->netns_link);
    list_append(&d->enrolments, &e->link);
    metric_set(&d->options->metrics->containers, ++d->count);
    return e;
}

/* ---- children ---- */

static uint64_t hash_ports(uint64_t hash, const struct acl_port_range *ports, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        hash = hash_bytes(hash, &ports[i].low, sizeof(ports[i].low));
        hash = hash_bytes(hash, &ports[i].high, sizeof(ports[i].high));
    }
    return hash;
}

/* Whatever of a plan goes into the ruleset, and the version of who makes it: a ruleset with the same hash need not be made anew.
 * Never 0. */
static uint64_t plan_hash(const struct sealed_plan *plan)
{
    uint64_t hash = hash_bytes(HASH_START, SALLYPORT_VERSION RULESET_FORM, sizeof(SALLYPORT_VERSION RULESET_FORM));
    hash = hash_bytes(hash, &plan->attached, sizeof(plan->attached));
    hash = hash_ports(hash, plan->ports, plan->port_count);
    hash = hash_bytes(hash, &plan->echo, sizeof(plan->echo));
    hash = hash_ports(hash, plan->udp_ports, plan->udp_port_count);
    return hash ? hash : 1;
}

static void want_job(struct enrolment *e, enum enrol_job job)
{
    e->has_job = true;
    e->job = job;
    visit_want(e);
}

int enrolment_plan(struct enrolment *e, struct enrol_plan *ret, int *ret_opened, struct error *err)
{
    struct enrol_plan plan = {.job = e->job,
                              .sealed = {.attached = e->record.attached, .link = SEALED_LINK_AUTO},
                              .sockets = &e->sockets,
                              .past = e->record.past.plan ? &e->record.past : NULL};
    *ret_opened = e->netns < 0 ? namespace_of_socket(e->sockets.tcp[0], err) : -1;
    if (e->netns < 0 && *ret_opened < 0)
        return *ret_opened;
    plan.netns = e->netns < 0 ? *ret_opened : e->netns;
    sealed_plan_policy(enrolment_policy(e), acl_policy_mode(enrolment_policy(e)) == ACL_MODE_AUDIT, &plan.sealed);
    e->plan = plan_hash(&plan.sealed);
    plan.same_plan = e->plan == e->record.past.plan;
    *ret = plan;
    return 0;
}

void enrolment_want_job(struct enrolment *e, enum enrol_job job)
{
    want_job(e, job);
}

/* One that had to wait for another child. */
static void update_if_wanted(struct enrolment *e)
{
    if (e->has_job)
        return;
    if (e->update_wanted) {
        e->update_wanted = false;
        want_job(e, ENROL_UPDATE);
    } else {
        publishing_job_over(e);
    }
}

static int write_state(struct enrolment *e)
{
    struct error err;
    if (state_write(e->daemon->state, &e->record, &err) == 0)
        return 0;
    snprintf(e->failure, sizeof(e->failure), "%s", err.text);
    return err.code ? err.code : EIO;
}

/* A service manager may have them for the next one of us. */
static void keep_sockets(const struct enrolment *e)
{
    int all[CAPTURE_SOCKETS];
    memcpy(all, &e->sockets, sizeof(all));
    char name[ENROLMENT_KEPT_NAME];
    notify_keep(enrolment_kept_name(&e->record, name), all, CAPTURE_SOCKETS);
}

static void built(struct enrolment *e, const struct enrol_result *result)
{
    struct sealed_past past = {.group = result->group, .fingerprint = result->fingerprint, .plan = e->plan};
    sealed_note_sockets(&e->sockets, &past);
    e->record.past = past;
    int code = write_state(e);
    if (code && !e->adopted) {
        e->outcome = code;
        leave(e, true);
        return;
    }
    if (code) /* its record is an old one, but good enough to be found by */
        log_error("%s: %s", e->record.id, e->failure);
    *e->failure = 0;
    keep_sockets(e);
    fd_close(&e->netns);
    e->state = ENROLMENT_SERVED;
    enrolment_tell(e);
    update_if_wanted(e);
}

static void not_built(struct enrolment *e, const struct enrol_result *result)
{
    snprintf(e->failure, sizeof(e->failure), "%s", result->text);
    e->outcome = result->code;
    if (!e->adopted) {
        leave(e, result->code == ECHILD);
        return;
    }
    log_error("%s is not captured again: %s; it stays closed and is not served", e->record.id, result->text);
    fd_close(&e->netns);
    client_refuse(e->client, "failed", "%s", e->failure);
    e->client = NULL;
    e->verify_wanted = false;
    e->state = ENROLMENT_FAILED;
    publishing_end(e);
    e->adopted = false;
    e->daemon->adopting--;
    daemon_maybe_announce(e->daemon);
}

/* The sockets go: so the kernel refuses what comes. */
static void not_renewed(struct enrolment *e, const struct enrol_result *result)
{
    struct client *client = e->client;
    bool worker_knows = e->told || e->serial;
    log_error("%s: %s; it stays closed and is not served any more", e->record.id, result->text);
    snprintf(e->failure, sizeof(e->failure), "%s", result->text);
    e->client = NULL;
    e->verify_wanted = false;
    client_refuse(client, "failed", "%s", e->failure);
    e->state = ENROLMENT_FAILED;
    publishing_end(e);
    capture_sockets_close(&e->sockets);
    forget_kept(&e->record);
    list_remove(&e->unsent_link);
    if (worker_knows)
        enrolment_tell(e);
    if (e->adopted)
        e->daemon->adopting--;
    e->adopted = false;
    daemon_maybe_announce(e->daemon);
}

static void verify_if_wanted(struct enrolment *e)
{
    if (e->verify_wanted && !e->adopted) {
        e->verify_wanted = false;
        want_job(e, ENROL_VERIFY);
    }
}

/* Do the listeners in the container listen still? */
static bool listens(const struct enrolment *e)
{
    const int *const all[] = {e->sockets.tcp, e->sockets.dns_tcp};
    for (int i = 0; i < 4; i++) {
        int fd = all[i / 2][i % 2], on = 0;
        socklen_t size = sizeof(on);
        if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &size) == 0 && !on)
            return false;
    }
    return true;
}

static void verified(struct enrolment *e, const struct enrol_result *result)
{
    struct client *client = e->client;
    if (client && e->adopted && !result->code) {
        e->verify_wanted = true; /* when it is served again */
        return;
    }
    e->client = NULL;
    if (result->code)
        client_refuse(client, "failed", "%s", result->text);
    else if (!listens(e))
        client_refuse(client, "failed", "a process in %s, with CAP_NET_ADMIN, has destroyed our sockets there: it is closed until it "
                      "is started again", e->record.id);
    else if (!e->told || !e->worker->ready)
        client_refuse(client, "failed", "the rules are in force, but no worker serves it at the moment");
    else
        client_answer(client, NULL);
    update_if_wanted(e);
}

static void updated(struct enrolment *e, const struct enrol_result *result)
{
    struct client *client = e->coming || e->verify_wanted ? NULL : e->client;
    struct sealed_past *past = &e->record.past;
    if (result->code && e->job == ENROL_RENEW) {
        not_renewed(e, result);
        return;
    }
    if (result->code) {
        log_error("%s: its captured ports stay as they were: %s", e->record.id, result->text);
    } else if (past->fingerprint != result->fingerprint || past->plan != e->plan) {
        e->record.past.fingerprint = result->fingerprint;
        e->record.past.plan = e->plan;
        sealed_note_sockets(&e->sockets, &e->record.past);
        if (write_state(e))
            log_error("%s: %s", e->record.id, e->failure);
        *e->failure = 0;
    }
    if (client) {
        e->client = NULL;
        if (result->code)
            client_refuse(client, "failed", "%s: %s", e->record.id, result->text);
        else
            client_answer(client, json_pack("{s:s}", "policy", acl_policy_name(enrolment_policy(e))));
    }
    verify_if_wanted(e);
    update_if_wanted(e);
    daemon_reload_finished(e->daemon);
}

/* Rules for UDP or ICMP came where there were none: the worker gets what they need. */
static void take_more_sockets(struct enrolment *e, struct capture_sockets *more)
{
    bool some = more->udp[0] >= 0 || more->raw[0] >= 0;
    capture_sockets_join(&e->sockets, more);
    capture_sockets_close(more);
    if (!some)
        return;
    keep_sockets(e);
    if (e->told) {
        e->retell = true;
        enrolment_tell(e);
    }
}

static void opened(struct enrolment *e, const struct enrol_result *result, struct capture_sockets *door)
{
    publishing_take_door(e, result, door);
    if (result->code && e->coming) {
        snprintf(e->failure, sizeof(e->failure), "%s", result->text);
        e->outcome = result->code;
        leave(e, true);
        return;
    }
    update_if_wanted(e);
}

void enrolment_job_done(struct enrolment *e, const struct enrol_result *result, struct capture_sockets *sockets)
{
    e->has_job = false;
    if (e->job == ENROL_BUILD && e->state == ENROLMENT_BUILDING)
        e->sockets = *sockets;
    else if (e->state == ENROLMENT_SERVED && e->job != ENROL_DOOR)
        take_more_sockets(e, sockets);
    else if (e->job != ENROL_DOOR || e->state == ENROLMENT_LEAVING)
        capture_sockets_close(sockets);
    if (e->state == ENROLMENT_LEAVING) {
        if (e->job == ENROL_REMOVE && result->code)
            log_warning("%s: what was put into its namespace may still be there: %s", e->record.id, result->text);
        leave_next(e);
        return;
    }
    if (e->job == ENROL_BUILD && result->code == 0)
        built(e, result);
    else if (e->job == ENROL_BUILD)
        not_built(e, result);
    else if (e->job == ENROL_DOOR)
        opened(e, result, sockets);
    else if (e->job == ENROL_VERIFY)
        verified(e, result);
    else
        updated(e, result);
}

/* ---- coming ---- */

static void pidfd_ready(struct watch *watch, uint32_t events)
{
    struct enrolment *e = list_entry(watch, struct enrolment, pidfd_watch);
    (void)events;
    log_info("%s has ended", e->record.id);
    enrolment_note(e, NOTE_ENDED, NOTE_NOBODY);
    snprintf(e->failure, sizeof(e->failure), "the container's first process has ended");
    e->outcome = ESRCH;
    if (!sharing_keeps(e))
        leave(e, false);
}

void enrolment_vanished(struct enrolment *e)
{
    log_info("the network namespace of %s, %s, is gone", e->record.id, e->record.path);
    enrolment_note(e, NOTE_ENDED, NOTE_NOBODY);
    snprintf(e->failure, sizeof(e->failure), "its network namespace is gone");
    e->outcome = ESRCH;
    if (!sharing_keeps(e))
        leave(e, false);
}

static int watch_process(struct enrolment *e)
{
    return e->pidfd < 0 ? 0 : watch_start(&e->daemon->loop, &e->pidfd_watch, e->pidfd, EPOLLIN, pidfd_ready);
}

int enrolment_watch_process(struct enrolment *e, int pidfd)
{
    fd_close(&e->pidfd);
    e->pidfd = pidfd;
    int r = watch_process(e);
    if (r < 0)
        fd_close(&e->pidfd);
    return r;
}

struct enrolment *enrolment_create_shared(struct daemon *d, const struct state_record *record, int pidfd)
{
    struct enrolment *e = create(d, record, -1, pidfd);
    if (!e) {
        fd_close(&pidfd);
        return NULL;
    }
    e->state = ENROLMENT_SHARED;
    list_remove(&e->netns_link);
    d->sharing++;
    if (!e->record.since)
        e->record.since = (int64_t)time(NULL);
    if (watch_process(e) == 0)
        return e;
    enrolment_destroy(e);
    return NULL;
}

void enrolment_start(struct daemon *d, const struct state_record *record, int netns, int pidfd, struct client *client)
{
    struct enrolment *e = create(d, record, netns, pidfd);
    struct error err;
    if (!e || watch_process(e) < 0) {
        client_refuse(client, "failed", "out of memory");
        if (e)
            enrolment_destroy(e);
        return;
    }
    if (publishing_begin(e, false, &err) < 0) {
        client_refuse(client, "refused", "%s: %s", record->id, err.text);
        enrolment_destroy(e);
        return;
    }
    e->record.since = (int64_t)time(NULL);
    e->client = client;
    e->coming = true;
    if (*e->record.path)
        vanish_expect(d);
    want_job(e, ENROL_BUILD);
}

/* The namespace that the record is about, if it is there and still the same. */
static int reopen(const struct state_record *record, int *ret_netns, int *ret_pidfd, struct error *err)
{
    struct namespace_id id;
    uint64_t start_time = 0;
    _cleanup_fd_ int netns = -1;
    _cleanup_fd_ int pidfd = -1;
    int r = 0;
    if (record->pid == 0) {
        netns = open(record->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        r = netns < 0 ? error_errno(err, errno, "%s", record->path) : 0;
    } else if ((r = process_open(record->pid, &netns, &pidfd, err)) == 0 &&
               (process_start_time(record->pid, &start_time) < 0 || start_time != record->start_time)) {
        r = error_set(err, ESRCH, "process %d is another one now", (int)record->pid);
    }
    if (r == 0)
        r = namespace_identify(netns, &id, err);
    if (r == 0 && (!namespace_equal(&id, &record->netns) || namespace_is_host(&id)))
        r = error_set(err, ESTALE, "its network namespace is another one now");
    if (r < 0)
        return r;
    *ret_netns = fd_steal(&netns);
    *ret_pidfd = fd_steal(&pidfd);
    return 0;
}

void enrolment_adopt(const struct state_record *record, void *daemon)
{
    struct daemon *d = daemon;
    struct error err;
    char name[ENROLMENT_KEPT_NAME];
    int netns, pidfd;
    if (reopen(record, &netns, &pidfd, &err) < 0) {
        log_info("%s is gone: %s", record->id, err.text);
        forget_kept(record);
        state_remove(d->state, record->id);
        return;
    }
    if (pidfd >= 0 && enrolment_find_namespace(d, &record->netns)) {
        fd_close(&netns);
        if (!enrolment_create_shared(d, record, pidfd))
            log_error("%s is not known any more: out of memory", record->id);
        return;
    }
    struct enrolment *e = create(d, record, netns, pidfd);
    if (!e || watch_process(e) < 0) {
        log_error("%s is not captured again: out of memory", record->id);
        if (e)
            enrolment_destroy(e);
        return;
    }
    e->adopted = true;
    d->adopting++;
    if (publishing_begin(e, true, &err) < 0)
        log_error("%s: %s", record->id, err.text);
    if (*e->record.path)
        vanish_expect(d);
    if (!record->past.plan || !inherited_take_sockets(&d->inherited, enrolment_kept_name(record, name), &record->past, &e->sockets)) {
        want_job(e, ENROL_BUILD);
        return;
    }
    fd_close(&e->netns);
    e->state = ENROLMENT_SERVED;
    enrolment_tell(e);
    want_job(e, ENROL_RENEW);
}

/* ---- the worker ---- */

void enrolment_tell(struct enrolment *e)
{
    if (!e->worker)
        e->worker = workers_choose(e->daemon);
    if (list_empty(&e->unsent_link))
        list_append(&e->worker->unsent, &e->unsent_link);
    workers_feed_one(e->worker);
}

/* What the worker is to know next: that it goes, its sockets, or what it publishes. */
static int send_next(struct enrolment *e, int channel, uint32_t serial)
{
    const struct channel_container who = {
        .id = e->record.id, .name = e->record.name, .image = e->record.image, .policy = e->record.policy,
        .pod = e->record.pod, .pod_namespace = e->record.pod_namespace};
    if (e->state == ENROLMENT_LEAVING || e->state == ENROLMENT_FAILED)
        return channel_send_withdraw(channel, serial, e->record.id);
    if (e->told && !e->retell && publishing_is_next(e))
        return publishing_send(e, channel, serial);
    int r = channel_send_container(channel, serial, &who, &e->sockets);
    if (r == 0)
        e->retell = false;
    return r;
}

int enrolment_send(struct enrolment *e, int channel)
{
    uint32_t serial = daemon_next_serial(e->daemon);
    int r = send_next(e, channel, serial);
    if (r == 0) {
        e->serial = serial;
        list_remove(&e->answer_link);
        list_append(&e->worker->unanswered, &e->answer_link);
    }
    return r;
}

/* Served: from now on the container has its way out. */
static void served(struct enrolment *e)
{
    struct client *client = e->coming ? e->client : NULL;
    bool warn = (e->coming || e->adopted) && e->record.attached && e->record.pid > 0 && process_may_net_admin(e->record.pid);
    if (e->adopted)
        e->daemon->adopting--;
    e->adopted = false;
    if (!e->has_job)
        verify_if_wanted(e);
    if (!publishing_continue(e) && e->coming)
        return; /* not yet all that was wanted; this is called again */
    if (e->coming)
        e->client = NULL;
    e->coming = false;
    if (client)
        enrolment_note(e, NOTE_ENROLLED, client_user(client));
    if (warn)
        log_warning("%s may reconfigure its network (CAP_NET_ADMIN) and has a link of its own: it can leave past the gateway",
                    e->record.id);
    if (client) {
        json_t *answer = json_pack("{s:s}", "policy", acl_policy_name(enrolment_policy(e)));
        if (warn)
            json_object_set_new(answer, "warning",
                                json_string("the container has CAP_NET_ADMIN and a link of its own: it can leave past the "
                                            "gateway; take the capability away"));
        client_answer(client, answer);
    }
    sharing_served(e);
    daemon_maybe_announce(e->daemon);
}

void enrolment_answered(struct enrolment *e, int code)
{
    e->serial = 0;
    list_remove(&e->answer_link);
    if (e->state == ENROLMENT_LEAVING) {
        e->told = false;
        leave_next(e);
    } else if (e->state == ENROLMENT_FAILED) {
        e->told = false;
    } else if (code == 0) {
        publishing_answered(e);
        e->told = true;
        served(e);
        if (e->retell && list_empty(&e->unsent_link))
            enrolment_tell(e);
    } else {
        snprintf(e->failure, sizeof(e->failure), "the worker cannot serve it: %s", strerror(code));
        log_error("%s: %s", e->record.id, e->failure);
        e->outcome = code;
        leave(e, true);
    }
}

void enrolment_elder_answered(struct daemon *d, uint32_t serial)
{
    for (struct list *link = d->enrolments.next, *next; link != &d->enrolments; link = next) {
        struct enrolment *e = list_entry(link, struct enrolment, link);
        next = link->next;
        if (e->elders_left == 0 || (serial != 0 && e->elder_serial != serial))
            continue;
        e->elders_left = serial ? e->elders_left - 1 : 0;
        leave_next(e);
    }
}

void enrolment_worker_died(struct enrolment *e)
{
    e->told = false;
    e->serial = 0;
    e->retell = false;
    publishing_worker_died(e);
    list_remove(&e->answer_link);
    if (e->state == ENROLMENT_LEAVING) {
        list_remove(&e->unsent_link);
        leave_next(e);
    } else if (e->state == ENROLMENT_FAILED) {
        list_remove(&e->unsent_link);
    } else if (e->state == ENROLMENT_SERVED && list_empty(&e->unsent_link)) {
        list_append(&e->worker->unsent, &e->unsent_link);
    }
}

/* ---- serving ---- */

void enrolment_verify(struct enrolment *e, struct client *client)
{
    if (e->state == ENROLMENT_SHARED)
        e = enrolment_find_namespace(e->daemon, &e->record.netns);
    if (!e)
        client_refuse(client, "failed", "the container whose network namespace it shares is being withdrawn");
    else if (e->state == ENROLMENT_FAILED)
        client_refuse(client, "failed", "%s", e->failure);
    else if (!e->client && (e->adopted || (e->state == ENROLMENT_SERVED && e->has_job))) {
        e->client = client; /* after what is being done */
        e->verify_wanted = true;
    } else if (e->state != ENROLMENT_SERVED || e->has_job || e->client)
        client_refuse(client, "busy", "%s is being worked on: ask again", e->record.id);
    else {
        e->client = client;
        want_job(e, ENROL_VERIFY);
    }
}

void enrolment_refresh(struct enrolment *e, struct client *client)
{
    if (e->has_job || e->client) {
        client_refuse(client, "busy", "%s is being worked on: try again", e->record.id);
        return;
    }
    e->client = client;
    want_job(e, ENROL_UPDATE);
}

void enrolment_update(struct enrolment *e)
{
    if (e->state == ENROLMENT_SERVED && !e->has_job)
        want_job(e, ENROL_UPDATE);
    else if (e->state == ENROLMENT_SERVED || e->state == ENROLMENT_BUILDING)
        e->update_wanted = true;
}

/* ---- leaving ---- */

static void finish_leaving(struct enrolment *e)
{
    struct client *client = e->client;
    if (e->outcome && client)
        client_refuse(client, "failed", "%s: %s", e->record.id, e->failure);
    else if (client)
        client_answer(client, json_pack("{s:b}", "withdrawn", 1));
    enrolment_destroy(e);
}

/* The next thing that is to be taken back, or the end. */
static void leave_next(struct enrolment *e)
{
    if (e->has_job)
        return;
    /* First the workers: what they reset must still find its way, or the other end would wait for ever. */
    if (e->told || e->serial || !list_empty(&e->unsent_link) || e->elders_left > 0)
        return;
    if (e->remove_wanted) {
        e->remove_wanted = false;
        want_job(e, ENROL_REMOVE);
        return;
    }
    fd_close(&e->netns);
    finish_leaving(e);
}

static void leave(struct enrolment *e, bool remove_rules)
{
    struct daemon *d = e->daemon;
    struct error err;
    bool worker_knows = e->told || e->serial;
    if (e->state == ENROLMENT_LEAVING)
        return;
    if (e->state == ENROLMENT_SHARED) {
        sharing_left(e, remove_rules);
        return;
    }
    e->state = ENROLMENT_LEAVING;
    sharing_first_left(e);
    if (e->adopted)
        d->adopting--;
    e->adopted = false;
    watch_stop(&d->loop, &e->pidfd_watch);
    list_remove(&e->unsent_link);
    list_remove(&e->answer_link);
    list_remove(&e->id_link);
    list_remove(&e->netns_link);
    state_remove(d->state, e->record.id);
    forget_kept(&e->record);
    publishing_end(e);
    if (remove_rules && e->netns < 0 && e->sockets.tcp[0] >= 0)
        e->netns = namespace_of_socket(e->sockets.tcp[0], &err);
    e->remove_wanted = remove_rules && e->netns >= 0;
    capture_sockets_close(&e->sockets);
    if (e->has_job)
        e->has_job = !visit_forget(e);
    e->serial = 0;
    if (worker_knows)
        enrolment_tell(e);
    e->elder_serial = daemon_next_serial(d);
    e->elders_left = elders_tell_withdraw(d, e->elder_serial, e->record.id, remove_rules);
    leave_next(e);
    daemon_maybe_announce(d);
}

void enrolment_leave(struct enrolment *e, bool remove_rules)
{
    e->outcome = 0;
    leave(e, remove_rules);
}

void enrolment_withdraw(struct enrolment *e, struct client *client)
{
    struct client *waiting = e->client;
    enrolment_note(e, NOTE_WITHDRAWN, client_user(client));
    if (sharing_keeps(e)) {
        client_answer(client, json_pack("{s:b}", "withdrawn", 1));
        return;
    }
    e->client = NULL;
    if (waiting)
        client_refuse(waiting, "failed", "%s was withdrawn meanwhile", e->record.id);
    e->client = client;
    e->outcome = 0;
    leave(e, !enrolment_ended(e));
}

/* Who asked for it is gone, so nobody knows that it is enrolled. */
void enrolment_client_gone(struct enrolment *e)
{
    e->client = NULL;
    if (e->coming && e->state != ENROLMENT_LEAVING) {
        log_warning("%s: whoever wanted it enrolled is gone; withdrawn", e->record.id);
        leave(e, true);
    }
}
