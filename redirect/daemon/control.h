/*
 * The control socket: how our own commands (enroll, ps, …), hooks and plugins talk to the daemon.
 *
 *   SOCK_SEQPACKET unix socket, mode 0600; the peer must be root or the daemon's own user (SO_PEERCRED).
 *   One request a connection: a JSON object, with the descriptors that belong to it beside it. The answer is a JSON object in
 *   as many packets as it takes, then end of file.
 *
 *     {"do": "enroll", "id": ID, "name"?, "image"?, "policy"?, "attached"?, "path"?, "pod"?, "pod_namespace"?, "attachment"?,
 *      "publish"?: "[ADDRESS:]PORT:PORT,…"}
 *                                                                                     descriptors: netns [, pidfd]
 *     {"do": "withdraw", "id": ID, "attachment"?}   (with it: only when it was enrolled with the same)
 *     {"do": "verify", "id": ID}   {"do": "list"}   {"do": "reload"}   {"do": "status"}
 *
 *     TARGET is "container": ID or name, or "policy": NAME
 *     {"do": "allow", TARGET, "rules": [RULE, …], "remove"?: true}   {"do": "deny", the same}
 *     {"do": "set", "container": ID or name, "policy": NAME}   or without policy, but "remove": true
 *     {"do": "forget", TARGET}   {"do": "forget", "gone": true}   (all of containers that are not enrolled)
 *     {"do": "show", TARGET}     {"do": "show"}   (all that was changed)
 *
 *     {"do": "upgrade"}   {"do": "take-over"}   after the latter the two gateways talk on (redirect/daemon/takeover.h)
 *
 *     {"ok": true, …}   {"ok": false, "code": WORD, "error": SENTENCE}
 *
 * WORD: invalid (the request), refused, exists, unknown, busy, failed.
 */
#pragma once

#include "base/error.h"
#include "redirect/daemon/state.h"

#include <jansson.h>

#define CONTROL_DEFAULT_PATH "/run/sallyport/control.sock"
#define CONTROL_REQUEST_MAX 65536
#define CONTROL_PACKET_MAX 32768

enum control_verb {
    CONTROL_ENROLL,
    CONTROL_WITHDRAW,
    CONTROL_VERIFY,
    CONTROL_LIST,
    CONTROL_RELOAD,
    CONTROL_STATUS,
    CONTROL_TAKE_OVER,
    CONTROL_UPGRADE,
    CONTROL_ALLOW, /* from here on: run-time changes (redirect/daemon/runtime.h) */
    CONTROL_DENY,
    CONTROL_SET,
    CONTROL_FORGET,
    CONTROL_SHOW,
};

struct control_request {
    enum control_verb verb;
    struct state_record record; /* id, attachment; of ENROLL also the other texts, and attached; of SET policy */
    char target[CHANNEL_ID_MAX]; /* ALLOW and behind */
    bool of_policy, remove, gone;
    json_t *rules; /* ALLOW and DENY: an array of texts; else NULL */
};
/* Pure. -EINVAL with a sentence for whoever wrote the request. */
int control_parse(const char *text, size_t length, struct control_request *ret, struct error *err);
void control_request_finish(struct control_request *request); /* after a control_parse() that returned 0 */

/* A listening socket; folders above it are made (0755). Refused when a daemon answers there already. */
int control_listen(const char *path, int *ret, struct error *err);
int control_listen_at(const char *path, int type, int *ret, struct error *err); /* the same for SOCK_STREAM, the API's */
/* Is it this listening socket that callers of `path` reach? */
bool control_is_at(int listener, const char *path);
/* May this peer give orders? */
bool control_peer_allowed(int fd);

/* A connection to whoever listens there; waits for an answer only so long. 0 or a negative errno. */
int control_dial(const char *path, int *ret, struct error *err);
/* The client's side: send, wait, return the answer's object (the caller's). A negative errno when there was none. */
int control_call(const char *path, json_t *request, const int *fds, size_t count, json_t **ret_answer, struct error *err);
