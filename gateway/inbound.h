/*
 * Ports of the host that lead into a container (redirect/daemon/publish.h tells how): flows the other way round. The client is outside, the
 * origin is a server in the container, and the socket to it is made through the container's door.
 *
 * Which name or address is not asked: that the port was published is the permission. Limits, events, counters and time limits
 * are those of the container's other flows; in events network.direction is "ingress".
 */
#pragma once

#include "gateway/flow.h"

/* Messages of the monitor. Both take the descriptors over. 0 or a negative errno. */
int inbound_take_door(struct capture *capture, struct capture_sockets *sockets);
int inbound_take_listener(struct capture *capture, uint16_t port, int listener);
/* Nothing new comes; flows go on. */
void inbound_close(struct capture *capture);
/* The capture goes; its flows are gone. */
void inbound_destroy(struct capture *capture);
/* The flow ends: whatever it waits for. */
void inbound_forget(struct flow *flow);
