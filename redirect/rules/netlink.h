/*
 * Requests to the kernel over a netlink socket, one at a time or as a batch, with the kernel's own words
 * (extended acknowledgement) in the error. Internal to redirect/.
 *
 * The kernel works a request off inside sendmsg(2): when it returns, every answer is queued already. So
 * nothing here ever waits, and a missing answer is an error rather than a hang.
 */
#pragma once

#include "base/error.h"

#include <linux/netlink.h>
#include <stddef.h>
#include <stdint.h>

#define NETLINK_REQUEST_MAX 1024 /* bytes; no single request of ours comes near */

/* A close-on-exec, non-blocking netlink socket in the caller's network namespace, or a negative errno. */
int netlink_open(int protocol, struct error *err);

/* Send `length` bytes of messages and read the answers. The message with sequence `last` must ask for an
 * acknowledgement. The error of the first failed message is told, and its sequence number if `ret_failed` is
 * not NULL. */
int netlink_transact(int fd, const void *messages, size_t length, uint32_t last, uint32_t *ret_failed,
                     struct error *err);

/* One request (flags NLM_F_REQUEST and NLM_F_ACK are added); `step` says in the error what was tried. */
int netlink_request(int fd, struct nlmsghdr *request, const char *step, struct error *err);

/* Sends a request for a list (NLM_F_DUMP is added) and calls `each` for every message of it, until one gives something negative, which
 * is returned; if that is to have words, `arg` knows whose. A list that the kernel could not finish is an error, never a shorter one;
 * one that changed while it was read is -ESTALE, after `each` had all of it: ask again, if need be. */
typedef int (*netlink_each_fn)(const struct nlmsghdr *message, void *arg);
int netlink_list(int fd, struct nlmsghdr *request, const char *step, netlink_each_fn each, void *arg, struct error *err);
#define NETLINK_LIST_TRIES 5 /* more often nothing changes in a row, unless somebody sees to it */
