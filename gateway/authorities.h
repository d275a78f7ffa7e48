/*
 * Whom the worker believes when it makes a TLS connection of its own: the authorities of gateway.ca_file, else the
 * system's, read before the worker confined itself.
 *
 * They are parsed when they are first needed, which takes the loop some 20 ms, once a configuration.
 */
#pragma once

#include "certs/trust.h"
#include "config/snapshot.h"

struct authorities;

/* `snapshot` is where the current configuration is found. Reads the system's authorities: before confinement. NULL when
 * out of memory. */
struct authorities *authorities_create(struct config_snapshot *const *snapshot);
void authorities_destroy(struct authorities *authorities); /* accepts NULL */
/* Another configuration is in force. */
void authorities_reset(struct authorities *authorities);
/* NULL: there are none, which was logged. Valid until the next reset. */
const struct trust *authorities_trust(struct authorities *authorities);
