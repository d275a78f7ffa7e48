/*
 * The admin endpoint: metrics and health over TCP, with or without TLS. GET and HEAD of /metrics, /healthz and /readyz.
 *
 * It is the network's side, so the worker serves it: the monitor only makes the listening socket. Connections, the size of a
 * request and the time for it are bounded; who is over the bound is not answered.
 */
#pragma once

#include "config/snapshot.h"
#include "gateway/deadline.h"
#include "redirect/monitor/metrics.h"

struct admin;
struct worker;

/* NULL when out of memory. The first configuration comes by admin_configure(). */
struct admin *admin_create(struct worker *worker, const struct metrics *metrics);
void admin_destroy(struct admin *admin); /* accepts NULL */

/* What the snapshot says of TLS; connections that are up go on as they began. When it cannot be used nobody is served. */
void admin_configure(struct admin *admin, const struct config_snapshot *snapshot);
/* Serve here from now on; takes ownership. -1: nowhere. */
void admin_listen(struct admin *admin, int fd);
bool admin_is_idle(const struct admin *admin); /* no connection is up; also of NULL */

/* A request, or its answer, takes longer than ADMIN_PATIENCE_MS. */
void admin_connection_expired(struct deadline *deadline);
#define ADMIN_PATIENCE_MS 10000

/* Can TLS be spoken as configured? 0, or -EINVAL with what is wrong: for those who load a file, before it comes into force. */
int admin_check(const struct config_snapshot *snapshot, struct error *err);
