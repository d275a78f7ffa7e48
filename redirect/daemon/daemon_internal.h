/*
 * What the files of the daemon share.
 *
 *   daemon.c       life: start, signals, a new configuration, the end
 *   workers.c      the workers: started, told, heard, replaced
 *   enrolment.c    one captured container, from the request to its end
 *   visit.c        the children in namespaces, and who waits for one
 *   sharing.c      containers that share a network namespace
 *   publishing.c   ports of the host that lead into it
 *   vanish.c       namespaces enrolled by path that are gone
 *   api.c          the same requests by HTTP
 *   daemon_admin.c the listener of the admin endpoint
 *   client.c       one request on the control socket
 *   runtime.c      allow, deny, set, forget: changes on top of the file
 *   show.c         what a container or a policy may do, and who said so
 *   network.c      captured networks
 */
#pragma once

#include "config/overrides.h"
#include "redirect/daemon/control.h"
#include "redirect/daemon/daemon.h"
#include "redirect/daemon/enrol.h"
#include "redirect/daemon/file_watch.h"
#include "redirect/daemon/inherit.h"
#include "redirect/daemon/loading.h"
#include "redirect/monitor/loop.h"
#include "redirect/daemon/notes.h"
#include "redirect/daemon/takeover.h"
#include "redirect/daemon/workers.h"

#define VISITS_MAX 8 /* children that are in namespaces at the same time */
#define INDEX_SIZE 1024

struct client;
struct visit;
struct publishing;

struct daemon {
    const struct daemon_options *options;
    struct loop loop;
    sigset_t mask_before;
    int signals, audit, state, listener;
    struct watch signal_watch, listener_watch;
    struct config_snapshot *snapshot;
    struct inherited inherited;
    struct heir heir;
    struct predecessor predecessor;
    bool borrowed;      /* what we have is still the predecessor's */
    struct list elders; /* workers with flows of before an upgrade */
    unsigned elder_count;
    struct loop_timer watchdog_timer;

    struct daemon_worker workers[WORKERS_MAX];
    unsigned worker_count, worker_restarts;
    uint32_t serial; /* of the latest message to any of them; 0: none */

    struct list enrolments;
    struct list by_id[INDEX_SIZE], by_netns[INDEX_SIZE]; /* those that are not leaving */
    struct list jobs;       /* enrolments that wait for a child */
    struct list visits;
    struct loop_timer jobs_timer;
    unsigned waiting, running, count, adopting, sharing;

    struct list networks;
    uint64_t learned_warn_ms;

    struct list clients;
    unsigned client_count;

    int mounts; /* tells of mounts, see vanish.c */
    struct watch mounts_watch;
    struct loop_timer vanish_timer;
    bool vanish_soon;

    int bundle; /* a configuration that workers are to be told, or -1 */
    struct list changes;    /* those whose clients wait until they are in force (runtime.c) */
    struct loading loading; /* the file is being read */
    bool woken;             /* by a change of a file: what is the same is passed over in silence */
    bool reload_wanted, woken_wanted; /* another one when this is over; it was woken */
    char *told_error;       /* the first error of the latest load, while it is broken */
    struct file_watch file_watch;
    struct config_files files; /* that were looked for by the latest load */
    struct client *reload_client, *reload_next; /* who waits for the load under way, and for the one behind it */

    int api; /* listener of the HTTP API, or -1 */
    struct watch api_watch;
    struct list api_connections;
    unsigned api_count;

    int admin; /* listener of the admin endpoint, or -1 */
    struct addr admin_address;

    struct list notes; /* that the audit log has not got yet (notes.c) */
    unsigned note_count;
    uint32_t reload_user; /* who ordered the load under way */
    uint32_t signal_user; /* who sent the latest signal */

    bool announced; /* READY=1 was said */
    bool draining;
    struct loop_timer drain_timer; /* until all are killed */
    int exit_status;
};

enum enrolment_state {
    ENROLMENT_BUILDING, /* its namespace is being captured */
    ENROLMENT_SERVED,   /* the worker has its sockets, or gets them */
    ENROLMENT_SHARED,   /* its namespace is another one's, too, which is captured; see sharing.c */
    ENROLMENT_FAILED,   /* after a restart it could not be captured again: it is closed and not served */
    ENROLMENT_LEAVING,
};

struct enrolment {
    struct list link, id_link, netns_link, unsent_link, answer_link, job_link;
    struct daemon *daemon;
    struct state_record record;
    enum enrolment_state state;
    int netns, pidfd; /* netns only while it is needed: it would keep the namespace alive */
    struct watch pidfd_watch;
    struct capture_sockets sockets;
    uint64_t plan; /* hash of the one its child has */

    bool has_job; /* waiting for a child, or for its result */
    enum enrol_job job;
    struct visit *visit; /* NULL: it waits still */
    bool update_wanted, verify_wanted, remove_wanted;

    struct daemon_worker *worker; /* whose it is; NULL: nobody was told of it */
    bool told; /* the worker has its sockets */
    bool retell; /* but not all of them */
    uint32_t elder_serial; /* of the message that so many elders have not answered: */
    unsigned elders_left;
    uint32_t serial; /* of the message that the worker has not answered; 0: none */

    struct publishing *publishing; /* NULL: nothing is; see publishing.c */
    bool ended;   /* its first process has, but others share its namespace */
    bool coming;  /* whoever wanted it enrolled waits still */
    bool adopted; /* from the state folder; not yet served again */
    struct client *client; /* who waits for the outcome, or NULL */
    int outcome; /* of an enrolment that is taken back */
    char failure[sizeof(((struct error *)0)->text)];
};

/* daemon.c */
void daemon_feed(struct daemon *daemon); /* tell the workers what they have not been told (workers.c) */
uint32_t daemon_next_serial(struct daemon *daemon);
/* Load the file anew; `client` (may be NULL) is answered when it is in force. */
void daemon_reload(struct daemon *daemon, struct client *client);
void daemon_reload_finished(struct daemon *daemon); /* something of it ended: maybe that was the last */
void daemon_maybe_announce(struct daemon *daemon);
void daemon_reload_if_wanted(struct daemon *daemon);
void daemon_stop(struct daemon *daemon, int status);
void daemon_adopt(struct daemon *daemon); /* the containers of the state folder */
void daemon_elder_gone(struct daemon *daemon);

/* elder.c */
/* Stops when one returns a negative errno, and returns it. */
int elders_each_channel(struct daemon *daemon, int (*each)(int channel, void *arg), void *arg);
/* Takes over `snapshot` (the file's own, or derived) as the one in force. */
void daemon_take_snapshot(struct daemon *daemon, struct config_snapshot *snapshot);
bool daemon_updates_left(const struct daemon *daemon); /* of rulesets, after a change */

/* daemon_admin.c: the listener that a configuration wants, before it is taken: *ret is -1 when there is nothing to change */
int daemon_admin_prepare(struct daemon *daemon, const struct config_snapshot *snapshot, int *ret, struct error *err);
void daemon_admin_take(struct daemon *daemon, const struct config_snapshot *snapshot, int prepared);

/* enrolment.c */
const struct acl_policy *enrolment_policy(const struct enrolment *enrolment);
void enrolment_note(const struct enrolment *enrolment, enum channel_note_kind kind, uint32_t user); /* for the audit log */
/* Takes over both descriptors (pidfd may be -1). Answers the client when it is served, or why not. */
void enrolment_start(struct daemon *daemon, const struct state_record *record, int netns, int pidfd, struct client *client);
void enrolment_adopt(const struct state_record *record, void *daemon);
void enrolment_withdraw(struct enrolment *enrolment, struct client *client);
void enrolment_verify(struct enrolment *enrolment, struct client *client);
void enrolment_update(struct enrolment *enrolment); /* its ports changed */
void enrolment_tell(struct enrolment *enrolment);   /* the worker is to know */
/* Tell it now: 0, or a negative errno of the channel. */
int enrolment_send(struct enrolment *enrolment, int channel);
void enrolment_answered(struct enrolment *enrolment, int code); /* by the worker */
/* An elder has done what `serial` told it; 0: one has ended, so whatever it was told. */
void enrolment_elder_answered(struct daemon *daemon, uint32_t serial);
void enrolment_worker_died(struct enrolment *enrolment);
void enrolment_client_gone(struct enrolment *enrolment);
/* For its child. *ret_opened is the caller's to close when the child is there (-1: nothing). */
int enrolment_plan(struct enrolment *enrolment, struct enrol_plan *ret, int *ret_opened, struct error *err);
/* Takes over the sockets. May free it. */
void enrolment_job_done(struct enrolment *enrolment, const struct enrol_result *result, struct capture_sockets *sockets);
bool enrolment_ended(const struct enrolment *enrolment); /* its first process */
/* By which its sockets are kept and handed over. */
#define ENROLMENT_KEPT_NAME 20
const char *enrolment_kept_name(const struct state_record *record, char ret[ENROLMENT_KEPT_NAME]);
void enrolments_init(struct daemon *daemon);
void enrolment_destroy(struct enrolment *enrolment); /* closes what it has, nothing else */
struct enrolment *enrolment_find(struct daemon *daemon, const char *id);
/* The one that is captured; never a SHARED one. */
struct enrolment *enrolment_find_namespace(struct daemon *daemon, const struct namespace_id *id);
/* Enrolled again, with another interface by now: the ruleset anew, then the client is answered. */
void enrolment_refresh(struct enrolment *enrolment, struct client *client);
void enrolment_vanished(struct enrolment *enrolment); /* its namespace's path */
void enrolment_want_job(struct enrolment *enrolment, enum enrol_job job);
void enrolment_leave(struct enrolment *enrolment, bool remove_rules);
/* Both take the pidfd over, also when they fail. */
struct enrolment *enrolment_create_shared(struct daemon *daemon, const struct state_record *record, int pidfd);
int enrolment_watch_process(struct enrolment *enrolment, int pidfd);

/* sharing.c */
bool sharing_fits(const struct enrolment *first, const struct state_record *record); /* capture and policy are the same */
/* Another container in the namespace of `first`. Takes over pidfd; answers the client, at once or when `first` is served. */
void sharing_join(struct enrolment *first, const struct state_record *record, int pidfd, struct client *client);
void sharing_served(struct enrolment *first);      /* those that wait for it may start */
bool sharing_keeps(struct enrolment *first);       /* it has ended or is withdrawn: true when it stays for others */
/* The container of an ended one was started again. Takes over pidfd, also when it fails. */
int sharing_revive(struct enrolment *first, const struct state_record *record, int pidfd, struct error *err);
void sharing_left(struct enrolment *enrolment, bool remove_rules); /* one in state SHARED goes, and is freed */
void sharing_first_left(struct enrolment *first);                  /* it goes whatever others want: they go with it */
void sharing_describe(const struct enrolment *enrolment, json_t *object);

/* publishing.c */
/* Listens for it, if it is to. `patient`: a port in use will be free soon; never an error then. */
int publishing_begin(struct enrolment *enrolment, bool patient, struct error *err);
/* It is served, or something else has changed: the next step. True when there is none left. */
bool publishing_continue(struct enrolment *enrolment);
void publishing_job_over(struct enrolment *enrolment); /* another child was in the way */
/* Takes over the sockets. */
void publishing_take_door(struct enrolment *enrolment, const struct enrol_result *result, struct capture_sockets *sockets);
bool publishing_is_next(const struct enrolment *enrolment); /* for a worker that has the capture */
int publishing_send(struct enrolment *enrolment, int channel, uint32_t serial);
void publishing_answered(struct enrolment *enrolment); /* whatever it was told of */
void publishing_worker_died(struct enrolment *enrolment);
void publishing_end(struct enrolment *enrolment);
int publishing_each_listener(const struct enrolment *enrolment, int (*each)(int listener, void *arg), void *arg);
void publishing_describe(const struct enrolment *enrolment, json_t *object);

/* vanish.c */
void vanish_start(struct daemon *daemon);
void vanish_expect(struct daemon *daemon); /* one is enrolled by path */
bool vanish_path_is(const char *path, const struct namespace_id *id);
json_t *enrolment_describe(const struct enrolment *enrolment);
struct enrolment *enrolment_find_named(struct daemon *daemon, const char *id_or_name); /* or the beginning of one id */

/* visit.c */
void visits_init(struct daemon *daemon);
void visits_destroy(struct daemon *daemon); /* before the enrolments */
void visit_want(struct enrolment *enrolment); /* its `job` is to be done */
/* Not any more. False: it is being done; the result will come. */
bool visit_forget(struct enrolment *enrolment);
void visit_reaped(struct daemon *daemon, pid_t pid);

/* client.c */
int client_detach(struct client *client); /* its connection, the caller's; the client is gone */
void client_accept(struct watch *watch, uint32_t events);
/* Both end the client's wait. `answer` is taken over; NULL: {"ok": true}. `client` may be NULL: then nobody is told. */
void client_answer(struct client *client, json_t *answer);
void client_refuse(struct client *client, const char *code, const char *format, ...) __attribute__((format(printf, 3, 4)));
void client_close_all(struct daemon *daemon);
/* A client of the API, which has the socket (peer_fd stays its own). `deliver` is called once, with an answer that it borrows; the
 * client is gone by then. NULL: too many. */
typedef void (*client_deliver_fn)(void *arg, json_t *answer);
struct client *client_create_for(struct daemon *daemon, int peer_fd, client_deliver_fn deliver, void *arg);
void client_abandon(struct client *client); /* nobody waits any more: nothing is delivered */
/* A request, as it comes over the control socket. Descriptors that it needs are taken (-1 is left behind). */
void client_obey(struct client *client, const char *text, size_t length, int *fds, size_t count);

/* api.c */
/* While on, no request is taken: connections without one are closed, new ones wait. */
void api_pause(struct daemon *daemon, bool on);
int api_start(struct daemon *daemon, struct error *err);
void api_close(struct daemon *daemon); /* nobody new */
void api_finish(struct daemon *daemon);
struct daemon *client_daemon(const struct client *client);
const char *client_who(const struct client *client); /* "uid 0" */
uint32_t client_user(const struct client *client);   /* the uid; NOTE_NOBODY without a client */

/* runtime.c */
/* At the start: what was changed before, from the state folder, laid over the snapshot. */
int runtime_load(struct daemon *daemon, struct error *err);
/* A snapshot of the file, with the changes that are in force. 0 or -ENOMEM; `file` stays the caller's. */
int runtime_derive(const struct daemon *daemon, struct config_snapshot *file, struct config_snapshot **ret);
void runtime_change(struct client *client, const struct control_request *request);
int runtime_send(struct daemon_worker *worker); /* tell it: 0 or a negative errno */
bool runtime_answered(struct daemon_worker *worker, uint32_t serial, int code); /* false: that message was not ours */
void runtime_worker_died(struct daemon_worker *worker);
void runtime_settle(struct daemon *daemon); /* answer those whose changes are in force */
void runtime_client_gone(const struct client *client);
void runtime_finish(struct daemon *daemon);
/* show.c */
void show_target(struct client *client, const struct control_request *request);
