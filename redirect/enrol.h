/*
 * What is done inside a container's network namespace, each time by a child of its own that enters it, does one thing, says how
 * it went, and ends: the daemon itself never leaves its namespace.
 */
#pragma once

#include "redirect/sealed.h"

#include <sys/types.h>

enum enrol_job { ENROL_BUILD, ENROL_UPDATE, ENROL_VERIFY, ENROL_REMOVE };

struct enrol_plan {
    enum enrol_job job;
    int netns;
    struct sealed_plan sealed;
    const struct capture_sockets *sockets; /* UPDATE: those that are there */
    int group;                             /* UPDATE: of sealed_capture() */
    uint64_t fingerprint;                  /* VERIFY: what it should be */
};

struct enrol_result {
    int32_t code;         /* 0 or a positive errno */
    int32_t group;        /* BUILD */
    uint64_t fingerprint; /* BUILD, UPDATE */
    uint8_t present;      /* BUILD: bit i: socket i is there */
    char text[sizeof(((struct error *)0)->text)]; /* why not */
};

/* Fork the child; it is the caller's to reap, and dies with it. Its result comes over the socket *ret_passage. */
int enrol_start(const struct enrol_plan *plan, pid_t *ret_pid, int *ret_passage, struct error *err);
/* Always fills *ret: a child that ended without a word has failed. Sockets are the caller's, none unless BUILD worked. */
void enrol_receive(int passage, struct enrol_result *ret, struct capture_sockets *ret_sockets);
