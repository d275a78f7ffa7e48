/*
 * Ports of the host that lead into a sealed container, as engines' -p. Internal to redirect/, but for the text.
 *
 *   host: connect(127.0.0.1:8080) ──► listener, made by the monitor (so ports below 1024 work), served by the worker
 *                                        │ relays
 *   container: 10.0.2.100:80 ◄────────── a socket made in the container's namespace
 *
 * The worker cannot make sockets there. It gets a *door* for each family instead, made once by a child in the namespace: a socket
 * that was never connected, and a listener. The first connects to the second; what is accepted was made in the namespace; it and the
 * first are disconnected again (connect to AF_UNSPEC), and then it can connect to whatever is in there. So the worker makes as many
 * sockets as it needs, for a loopback handshake each, and never has to ask the monitor for anything.
 *
 * Nothing else comes in: the container's ruleset does not change, all of this is on its loopback. Its server sees the
 * container's own address as the client's, never 127.0.0.1, which some trust.
 */
#pragma once

#include "base/addr.h"
#include "base/error.h"
#include "redirect/rules/sealed.h"

#define PUBLISH_MAX 8 /* ports of a container */
#define PUBLISH_TEXT_MAX 512

struct publish_port {
    struct addr host; /* with its port */
    uint16_t inside;
};

/* "[ADDRESS:]PORT:PORT[/tcp],…"; the address is 127.0.0.1 without, and IPv6 in brackets. Pure. */
int publish_parse(const char *text, struct publish_port ret[PUBLISH_MAX], size_t *ret_count,
                  struct error *err);
/* As publish_parse() takes it. */
void publish_format(const struct publish_port *port, char ret[ADDR_TEXT_MAX + 8]);
/* A listener in our own namespace. */
int publish_listen(const struct publish_port *port, struct error *err);

/* How a door travels: as the sockets of a capture. */
#define DOOR_SEED(sockets, family) ((sockets)->tcp[family])
#define DOOR_LISTENER(sockets, family) ((sockets)->dns_tcp[family])
/* Runs in the container's namespace. */
int publish_open_door(struct capture_sockets *ret, struct error *err);
