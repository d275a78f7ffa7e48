/*
 * Monitor and worker talk over one unix SOCK_SEQPACKET pair: fixed-size messages, descriptors beside them.
 *
 *   monitor → worker   CAPTURE (a namespace's sockets, who it is, its policy; more sockets of one that is there)   WITHDRAW (its flows end, its sockets close)
 *                      NETWORK (the sockets of a captured network, and its name)
 *                      CONFIG (a configuration as a bundle in a memory file)    AUDIT (new audit file)
 *                      CHANGES (all run-time changes, likewise)
 *                      ADMIN (listener of the admin endpoint, or none any more)
 *                      PING (answer when everything before it is done)
 *                      FINISH (end flows, flush, say the summary if asked, exit 0)
 *                      LEARNED_DONE (all LEARNED up to this serial number)
 *                      NOTE (something for the audit log that was done by order)
 *   worker  → monitor  LEARNED (an address for a rule by name; see gateway/learned.h)
 *                      READY, FAILED: the answer to a CAPTURE, WITHDRAW, CONFIG, CHANGES, NOTE or PING, or to a FINISH that drains, with
 *                      its serial number
 *
 * The worker is the less trusted end: the monitor takes nothing from it but whether something worked, and its exit status.
 */
#pragma once

#include "redirect/rules/sealed.h"

#include <stdint.h>

enum channel_type {
    CHANNEL_CAPTURE = 1,
    CHANNEL_AUDIT,
    CHANNEL_FINISH,
    CHANNEL_READY,
    CHANNEL_WITHDRAW,
    CHANNEL_CONFIG,
    CHANNEL_PING,
    CHANNEL_FAILED,
    CHANNEL_CHANGES,
    CHANNEL_NETWORK,
    CHANNEL_LEARNED,
    CHANNEL_LEARNED_DONE,
    CHANNEL_ADMIN,
    CHANNEL_DOOR,   /* of a captured container (redirect/daemon/publish.h), in place of the one before; not answered */
    CHANNEL_PUBLISH, /* a listener that leads to a port of it */
    CHANNEL_NOTE
};

/* What is noted in the audit log of what is done to the gateway, not by a container. */
enum channel_note_kind {
    NOTE_STARTED,
    NOTE_TOOK_OVER, /* from the gateway before */
    NOTE_STOPPED,
    NOTE_POLICY_LOADED, /* or it could not be: `failed` */
    NOTE_ALLOW, /* run-time changes */
    NOTE_ALLOW_REMOVED,
    NOTE_DENY,
    NOTE_DENY_REMOVED,
    NOTE_SET,
    NOTE_SET_REMOVED,
    NOTE_FORGET,
    NOTE_ENROLLED,
    NOTE_WITHDRAWN,
    NOTE_ENDED, /* it did by itself */
    NOTE_KINDS
};
#define NOTE_NOBODY UINT32_MAX /* ordered it: it came about */

#define CHANNEL_ID_MAX 128
#define CHANNEL_VERSION_MAX 16
#define CHANNEL_IMAGE_MAX 256

struct channel_message {
    uint32_t type;
    uint32_t serial;              /* chosen by the monitor, repeated in the answer */
    int32_t code;                 /* FAILED: a positive errno */
    uint32_t drain_ms;            /* FINISH: serve the flows that are up for so long, if they last; no new ones */
    uint16_t port;                /* PUBLISH: inside the container */
    char version[CHANNEL_VERSION_MAX]; /* LEARNED: of the configuration that the rule is of */
    uint32_t rule, ttl;           /* LEARNED: the rule's number (acl_policy_each_packet_rule), seconds */
    struct addr address;          /* LEARNED */
    uint8_t transparent;          /* NETWORK: captured by TPROXY: a socket's own address is where the client wanted to go */
    uint16_t present;             /* CAPTURE, NETWORK, DOOR: bit i: socket i of struct capture_sockets is there, in order */
    char container_id[CHANNEL_ID_MAX];
    char container_name[CHANNEL_ID_MAX];
    char container_image[CHANNEL_IMAGE_MAX];
    char pod[CHANNEL_IMAGE_MAX], pod_namespace[CHANNEL_ID_MAX]; /* of Kubernetes */
    char policy[CHANNEL_ID_MAX];  /* name; the worker looks it up in its snapshot. "": by the assign rules */
    uint32_t note, user;          /* NOTE: its kind; the uid of who ordered it */
    uint8_t failed;               /* NOTE: it was not done */
    char text[CHANNEL_IMAGE_MAX]; /* NOTE: the rule, or a sentence */
    uint8_t summary;              /* FINISH: print the one-line summary of what was denied on standard error */
};

/* Who a capture belongs to. All texts may be "". */
struct channel_container {
    const char *id, *name, *image;
    const char *pod, *pod_namespace; /* may be NULL, too */
    const char *policy;
};

/* For the audit log. All texts may be NULL, and are cut where they are too long. */
struct channel_note {
    enum channel_note_kind kind;
    bool failed;
    uint32_t user; /* or NOTE_NOBODY */
    const char *id, *name, *policy, *version;
    const char *text;
};
int channel_send_note(int channel, uint32_t serial, const struct channel_note *note);

int channel_send_capture(int channel, const char *id, const char *name, const char *policy,
                         const struct capture_sockets *sockets); /* the caller keeps its descriptors */
int channel_send_container(int channel, uint32_t serial, const struct channel_container *who,
                           const struct capture_sockets *sockets); /* likewise */
/* A network is a capture without a container; its identifier is none that a container could have. The policy is what the
 * configuration says of a network of this name. Its listeners may be several shares, from 0, each a capture of its own. */
int channel_send_network(int channel, uint32_t serial, const char *name, unsigned share, bool transparent,
                         const struct capture_sockets *sockets); /* likewise */
/* By the worker: DNS has answered this address for a name of the policy's rule. And by the monitor: all up to this one is done. */
int channel_send_learned(int channel, uint32_t serial, const char *policy, const char *version, uint32_t rule,
                         const struct addr *address, uint32_t ttl);
int channel_send_learned_done(int channel, uint32_t serial);
int channel_send_network_end(int channel, uint32_t serial, const char *name, unsigned share);
int channel_send_withdraw(int channel, uint32_t serial, const char *id);
int channel_send_door(int channel, const char *id, const struct capture_sockets *door); /* the caller keeps its descriptors */
int channel_send_publish(int channel, uint32_t serial, const char *id, uint16_t port, int listener); /* likewise */
int channel_send_config(int channel, uint32_t serial, int bundle); /* the caller keeps the descriptor */
int channel_send_changes(int channel, uint32_t serial, int bundle); /* likewise */
int channel_send_ping(int channel, uint32_t serial);
int channel_send_audit(int channel, int fd);
int channel_send_admin(int channel, int listener); /* -1: none any more; the caller keeps the descriptor */
int channel_send_finish(int channel, bool summary);
int channel_send_drain(int channel, uint32_t serial, uint32_t drain_ms); /* answered when nothing new comes in; serial 0: not */
int channel_send_ready(int channel);
/* READY for `code` 0, else FAILED with it (a positive errno). */
int channel_send_answer(int channel, uint32_t serial, int code);

/* One message. Descriptors of CAPTURE and DOOR land in *ret_sockets, that of AUDIT, CONFIG, CHANGES, ADMIN or PUBLISH in *ret_fd; the
 * caller owns them. Returns 1, 0 at end of file, -EAGAIN, or another negative errno (-EBADMSG: not a message of ours; descriptors are closed). Strings are
 * NUL-terminated whatever was sent. */
int channel_receive(int channel, struct channel_message *ret, struct capture_sockets *ret_sockets, int *ret_fd);
