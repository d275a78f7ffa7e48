/*
 * The enclosure: where the command of `sallyport exec` lives. Its own user, pid, mount, network, ipc and uts
 * namespaces, and none of the doors that lead round the network namespace (enclosure_mounts.c,
 * enclosure_connect.c, enclosure_filter.c say which, each beside the means that shuts it).
 *
 *   monitor ── forks ──► builder     unshares A = user namespace, then net, ipc, uts, pid (all owned by A)
 *      │                    │ clone(CLONE_PARENT)
 *      │                    ├─► init     pid 1 inside; own mount namespace; mounts and masks; then without
 *      │                    │     │      capabilities, but for threads that answer connect(2)
 *      │                    │     └─► command   in B = a second user and mount namespace, nested in A
 *      │                    └── sealed_capture(): links, rules, sockets; hands the sockets over; exits
 *      └── parent of both
 *
 * Why two user namespaces: a mount copied into a mount namespace of another user namespace is locked
 * (MNT_LOCKED, fs/namespace.c: lock_mnt_tree), so in B no mask can be unmounted, moved or made writable
 * again, not even by a command with every capability of B, which root's command has. And since A owns the
 * network, pid, ipc and uts namespaces, nobody in B has a capability over them: the ruleset cannot be
 * changed, and no new procfs can be mounted.
 *
 * The ids are mapped to themselves, so files look as the caller sees them. For root that means the command's
 * uid 0 is the host's uid 0 to every check that compares ids instead of asking for a capability: /proc/sys,
 * cgroups, device nodes. Those are shut by mounts.
 *
 * Killing the monitor kills everything inside: init dies with its parent (PR_SET_PDEATHSIG) and when its end
 * of the control socket closes, and a pid namespace dies with its init.
 *
 * Limits. Files are shared with the outside, so what the command leaves in a file that someone outside
 * executes later (a shell profile, as root a crontab) runs outside. A service of the kernel that belongs to
 * no namespace and is not named in these files would be open.
 */
#pragma once

#include "base/error.h"
#include "redirect/rules/sealed.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct enclosure_plan {
    char *const *argv; /* the command */
    struct sealed_plan sealed;
    const char *const *keep; /* paths that are not masked */
    size_t keep_count;
    const char *read_only_file;  /* one file the command may read but not write (the audit log), or NULL; its
                                    folder, too, unless the command works there */
    const sigset_t *signal_mask; /* what the command gets */
    int terminal;                /* the controlling terminal, or -1 */
    bool foreground;             /* the command's process group becomes the terminal's foreground group */
};

enum enclosure_event {
    ENCLOSURE_FAILED = 1,  /* text */
    ENCLOSURE_PREPARED,    /* waits for ENCLOSURE_GO */
    ENCLOSURE_EXEC_FAILED, /* value: errno; the last event */
    ENCLOSURE_STOPPED,     /* value: the signal */
    ENCLOSURE_EXITED,      /* value: wait status of the command; the last event */
};
enum enclosure_order {
    ENCLOSURE_GO = 16,      /* execute the command */
    ENCLOSURE_SIGNAL,       /* value: send it to the command */
    ENCLOSURE_SIGNAL_GROUP, /* value: send it to the command's process group */
    ENCLOSURE_FOREGROUND,   /* make the command's process group the terminal's foreground group */
};

struct enclosure_message {
    uint32_t type;
    int32_t value;
    char text[sizeof(((struct error *)0)->text)];
};

struct enclosure {
    pid_t builder;
    pid_t init;
    int passage; /* from the builder: init's pid, then the sockets */
    int control; /* to and from init; SOCK_SEQPACKET of struct enclosure_message */
};
#define ENCLOSURE_NONE                                          \
    {                                                           \
        .builder = -1, .init = -1, .passage = -1, .control = -1 \
    }

/* Does the command work in the folder, or below it? Then it is not covered as a whole, nor made read-only. */
bool enclosure_works_in(const char *folder);
/* Fork the builder and map its ids. Both children are the caller's to reap. */
int enclosure_start(const struct enclosure_plan *plan, struct enclosure *ret, struct error *err);
/* Wait for the sockets of the sealed namespace; fills ->init. */
int enclosure_sockets(struct enclosure *enclosure, struct capture_sockets *ret, struct error *err);
/* Wait until only ENCLOSURE_GO is missing. */
int enclosure_prepared(struct enclosure *enclosure, struct error *err);
int enclosure_order(struct enclosure *enclosure, enum enclosure_order order, int value);
/* The next event: 1, 0 at end of file (init is gone), or a negative errno. */
int enclosure_event(struct enclosure *enclosure, struct enclosure_message *ret);
/* Close the sockets; init dies of it, and everything inside with it. */
void enclosure_close(struct enclosure *enclosure);
