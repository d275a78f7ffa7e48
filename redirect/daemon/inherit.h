/*
 * Descriptors that were somebody else's before: kept for us by the service manager over a restart (its FD store), or handed over by
 * the gateway that we take the place of (takeover.h). Each has a name: that of the network namespace it belongs to (its inode), or
 * one of ours.
 */
#pragma once

#include "redirect/monitor/channel.h"

#define INHERITED_CONTROL "_control" /* the control socket, listening */
#define INHERITED_API "_api"         /* that of the HTTP API */
#define INHERITED_LISTENER "_listener" /* on an address of the host: the admin endpoint's, published ports */
#define INHERITED_METRICS "_metrics" /* the page they are counted in */
#define INHERITED_STATE "_state"     /* the state folder, and the lock on it */

struct inherited_fd {
    char name[CHANNEL_ID_MAX];
    int fd;
};

struct inherited {
    struct inherited_fd *all; /* in the order of names, once looked for */
    size_t count, room;
    bool sorted;
};

/* What $LISTEN_FDS names (sd_listen_fds(3)), if it is meant for us; the variables are removed. */
void inherited_from_environment(struct inherited *inherited);
/* Takes over the descriptor, also on failure. */
int inherited_add(struct inherited *inherited, const char *name, int fd);
/* The caller's from then on; -1: none of that name. */
int inherited_take(struct inherited *inherited, const char *name);
/* A listener on this very address, likewise. */
int inherited_take_listener(struct inherited *inherited, const struct addr *address);
/* All sockets that `past` tells of, or none. */
bool inherited_take_sockets(struct inherited *inherited, const char *name, const struct sealed_past *past,
                            struct capture_sockets *ret);
/* The names of what nobody took. */
void inherited_each_left(const struct inherited *inherited, void (*each)(const char *name));
void inherited_finish(struct inherited *inherited); /* closes what nobody took */
