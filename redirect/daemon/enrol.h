/*
 * What is done inside a container's network namespace, by a child that enters it, does one thing, says how it went, and ends: the
 * daemon itself never leaves its namespace. After a restart a child does the same in a number of namespaces in turn, because the
 * fork costs more than the visit; from where it could not enter the next one it does nothing there.
 */
#pragma once

#include "redirect/rules/sealed.h"

#include <sys/types.h>

enum enrol_job { ENROL_BUILD, ENROL_RENEW, ENROL_UPDATE, ENROL_VERIFY, ENROL_REMOVE, ENROL_DOOR };

struct enrol_plan {
    enum enrol_job job;
    int netns;
    struct sealed_plan sealed;
    const struct capture_sockets *sockets; /* UPDATE, RENEW: those that are there */
    const struct sealed_past *past;        /* all but a first BUILD and REMOVE: how it was captured; NULL: never */
    bool same_plan;                        /* RENEW, BUILD: `past` was made by the very plan */
};

struct enrol_result {
    int32_t code;         /* 0 or a positive errno */
    int32_t group;        /* BUILD */
    uint64_t fingerprint; /* BUILD, RENEW, UPDATE */
    uint16_t present;     /* bit i: socket i is there; with RENEW and UPDATE, those that were missing; DOOR: see publish.h */
    char text[sizeof(((struct error *)0)->text)]; /* why not */
};

/* Fork the child; it is the caller's to reap, and dies with it. Its results come over the socket *ret_passage, in the order of the
 * plans. */
int enrol_start(const struct enrol_plan *plans, size_t count, pid_t *ret_pid, int *ret_passage, struct error *err);
/* The next result, which it always fills in: a child that ended without a word has failed, and then false is returned, for this
 * plan and all that follow. Sockets are the caller's, none unless it worked. */
bool enrol_receive(int passage, struct enrol_result *ret, struct capture_sockets *ret_sockets);
