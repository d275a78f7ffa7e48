/*
 * Network capture in the monitor: for each network of the configuration the listeners in our own namespace, and one ruleset
 * for all of them. Internal to the daemon.
 *
 * The ruleset is replaced as a whole, in one batch, whenever the configuration changes, and it outlives the daemon: without
 * listeners the kernel refuses what it redirects, so a captured network is closed then, not open.
 */
#pragma once

#include "redirect/daemon/daemon_internal.h"

/* Captures the networks of this configuration, and no others; also at the start, in place of what an earlier daemon left behind. All
 * or nothing: on failure everything stays as it was. The worker is told by network_feed(). */
int networks_apply(struct daemon *daemon, const struct config_snapshot *snapshot, struct error *err);
/* Tell the worker what it does not know yet, when it has the configuration in force. 0 or a negative errno of the channel. */
int networks_feed(struct daemon_worker *worker);
/* Its DNS service has an address for a rule by name: into the kernel's set with it. */
void networks_learn(struct daemon_worker *worker, const struct channel_message *message);
/* An answer of the worker; false: it is not about a network. */
bool networks_answered(struct daemon_worker *worker, uint32_t serial, int code);
void networks_worker_died(struct daemon_worker *worker);
/* Everything the worker is to know it has answered. */
bool networks_settled(const struct daemon *daemon);
/* The listeners alone: new connections are refused from now on. */
void networks_close(struct daemon *daemon);
/* Memory and listeners; the rules stay. */
void networks_destroy(struct daemon *daemon);
/* The listeners of each, and the name they are handed over by (inherit.h). Stops when one returns a negative errno, and returns it. */
int networks_each_sockets(struct daemon *daemon, int (*each)(const char *name, const struct capture_sockets *sockets, void *arg),
                          void *arg);
json_t *networks_describe(const struct daemon *daemon);
