/*
 * Monitor and worker talk over one unix SOCK_SEQPACKET pair: fixed-size messages, descriptors beside them.
 *
 *   monitor → worker   CAPTURE (a namespace's sockets, who it is, its policy)   AUDIT (new audit file)
 *                      FINISH (end flows, flush, say the summary if asked, exit 0)
 *   worker  → monitor  READY (confined, listening)
 *
 * The worker is the less trusted end: the monitor takes nothing from it but READY and its exit status.
 */
#pragma once

#include "redirect/sealed.h"

#include <stdint.h>

enum channel_type { CHANNEL_CAPTURE = 1, CHANNEL_AUDIT, CHANNEL_FINISH, CHANNEL_READY };

#define CHANNEL_ID_MAX 128

struct channel_message {
    uint32_t type;
    uint8_t present;              /* CAPTURE: bit i: socket i of struct capture_sockets is there, in order */
    char container_id[CHANNEL_ID_MAX];
    char container_name[CHANNEL_ID_MAX];
    char policy[CHANNEL_ID_MAX];  /* name; the worker looks it up in its snapshot */
    uint8_t summary;              /* FINISH: print the one-line summary of what was denied on standard error */
};

int channel_send_capture(int channel, const char *id, const char *name, const char *policy,
                         const struct capture_sockets *sockets); /* the caller keeps its descriptors */
int channel_send_audit(int channel, int fd);
int channel_send_finish(int channel, bool summary);
int channel_send_ready(int channel);

/* One message. Descriptors of CAPTURE land in *ret_sockets, that of AUDIT in *ret_fd; the caller owns them. Returns 1, 0 at
 * end of file, -EAGAIN, or another negative errno (-EBADMSG: not a message of ours; descriptors are closed). Strings are
 * NUL-terminated whatever was sent. */
int channel_receive(int channel, struct channel_message *ret, struct capture_sockets *ret_sockets, int *ret_fd);
