/*
 * What the daemon must know again after it was restarted: one small JSON file an enrolment, in a folder that nobody else can
 * write. A file is written whole or not at all, whatever kills us (temporary file, rename). What a power failure leaves of it is
 * of no interest: it would be of another boot, and its namespace gone. So nothing waits for the disk.
 *
 * Nothing secret is in it, and nothing that is believed without a look: the namespace and the process that it names are
 * compared with what is there (redirect/daemon/identity.h).
 */
#pragma once

#include "base/error.h"
#include "redirect/monitor/channel.h"
#include "redirect/daemon/identity.h"
#include "redirect/daemon/publish.h"

#define STATE_PATH_MAX 1024

struct state_record {
    char id[CHANNEL_ID_MAX], name[CHANNEL_ID_MAX], image[CHANNEL_IMAGE_MAX];
    char policy[CHANNEL_ID_MAX];  /* asked for; "": by the assign rules */
    char path[STATE_PATH_MAX];    /* of the namespace, when it was enrolled by path; else "" */
    char pod[CHANNEL_IMAGE_MAX], pod_namespace[CHANNEL_ID_MAX]; /* of Kubernetes; "": none */
    char attachment[CHANNEL_ID_MAX]; /* of CNI: NETWORK/INTERFACE that it was enrolled with; else "" */
    char publish[PUBLISH_TEXT_MAX]; /* ports of the host that lead in, as publish_parse() takes them */
    bool attached;
    bool any_capture;             /* of a request: neither was asked for; not kept */
    pid_t pid;                    /* 0: enrolled by path */
    uint64_t start_time;          /* of the process */
    struct namespace_id netns;
    int64_t since;                /* seconds of the epoch */
    struct sealed_past past;      /* how it was captured, for whoever comes after us; `plan` 0: unknown */
};

/* 1 to 127 letters, digits, "_", "." and "-", the first one a letter or digit: what engines use, and a file name. */
bool state_id_valid(const char *id);
/* Text for people and logs: no control characters, UTF-8 or not, shorter than `size`. */
bool state_text_valid(const char *text, size_t size);

/* The folder, made when it is not there (0700), and ours alone while the descriptor is open. Refused when it is a symbolic link,
 * somebody else's, or writable by others. Returns a descriptor or a negative errno. */
int state_open(const char *path, struct error *err);
int state_write(int folder, const struct state_record *record, struct error *err);
void state_remove(int folder, const char *id); /* none there is fine */
/* Any other file of the folder, whole or not at all also when the power fails; `name` ends in neither ".json" nor ".new". */
int state_write_text(int folder, const char *name, const char *text, struct error *err);
/* Every record of this boot. What is unreadable, of another boot, or left half-written is removed, and told on the log. */
void state_each(int folder, void (*each)(const struct state_record *record, void *arg), void *arg);

/* JSON to record and back, for the above and for the tests. `text` is heap memory, the caller's. */
char *state_format(const struct state_record *record, const char *boot);
/* -ESTALE: of another boot. */
int state_parse(const char *text, size_t length, const char *boot, struct state_record *ret, struct error *err);
