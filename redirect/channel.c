/*
 * Both ends are the same program, so a message is the struct itself; but the worker may have been taken over,
 * so what arrives is checked as if it were hostile: size, type, and a descriptor for each that the message
 * promises, no more.
 */
#include "redirect/channel.h"

#include "base/fds.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static_assert(sizeof(struct capture_sockets) == CAPTURE_SOCKETS * sizeof(int),
              "capture_sockets is an array of sockets");
static_assert(CAPTURE_SOCKETS <= 8 && CAPTURE_SOCKETS <= FDS_MAX,
              "a bit of `present` and a place for each socket");

static int put_text(char field[CHANNEL_ID_MAX], const char *text)
{
    size_t length = strlen(text);
    if (length >= CHANNEL_ID_MAX)
        return -ENAMETOOLONG;
    memcpy(field, text, length + 1);
    return 0;
}

static int send_message(int channel, const struct channel_message *message, const int *fds, size_t count)
{
    return fds_send(channel, message, sizeof(*message), fds, count);
}

int channel_send_capture(int channel, const char *id, const char *name, const char *policy,
                         const struct capture_sockets *sockets)
{
    struct channel_message message = {.type = CHANNEL_CAPTURE};
    int all[CAPTURE_SOCKETS], fds[CAPTURE_SOCKETS];
    size_t count = 0;
    memcpy(all, sockets, sizeof(all));
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++) {
        if (all[i] < 0)
            continue;
        message.present |= (uint8_t)(1u << i);
        fds[count++] = all[i];
    }
    int r = put_text(message.container_id, id);
    if (r == 0)
        r = put_text(message.container_name, name);
    if (r == 0)
        r = put_text(message.policy, policy);
    return r < 0 ? r : send_message(channel, &message, fds, count);
}

int channel_send_audit(int channel, int fd)
{
    return send_message(channel, &(struct channel_message){.type = CHANNEL_AUDIT}, &fd, 1);
}

int channel_send_finish(int channel, bool summary)
{
    return send_message(channel, &(struct channel_message){.type = CHANNEL_FINISH, .summary = summary}, NULL,
                        0);
}

int channel_send_ready(int channel)
{
    return send_message(channel, &(struct channel_message){.type = CHANNEL_READY}, NULL, 0);
}

/* How many descriptors come with this message; -1 when it is none of ours. */
static int expected_descriptors(const struct channel_message *message)
{
    switch (message->type) {
    case CHANNEL_CAPTURE:
        return message->present >> CAPTURE_SOCKETS ? -1 : __builtin_popcount(message->present);
    case CHANNEL_AUDIT:
        return 1;
    case CHANNEL_FINISH:
    case CHANNEL_READY:
        return 0;
    default:
        return -1;
    }
}

static void hand_out(const struct channel_message *message, const int *fds,
                     struct capture_sockets *ret_sockets, int *ret_fd)
{
    int all[CAPTURE_SOCKETS];
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++)
        all[i] = message->type == CHANNEL_CAPTURE && message->present & 1u << i ? *fds++ : -1;
    memcpy(ret_sockets, all, sizeof(all));
    *ret_fd = message->type == CHANNEL_AUDIT ? *fds : -1;
}

int channel_receive(int channel, struct channel_message *ret, struct capture_sockets *ret_sockets,
                    int *ret_fd)
{
    struct channel_message message;
    int fds[FDS_MAX];
    size_t count = 0;
    ssize_t got = fds_receive(channel, &message, sizeof(message), fds, &count);
    if (got == -EMSGSIZE)
        return -EBADMSG;
    if (got < 0)
        return (int)got;
    if (got != sizeof(message) || expected_descriptors(&message) != (int)count) {
        for (size_t i = 0; i < count; i++)
            close(fds[i]);
        return got == 0 && count == 0 ? 0 : -EBADMSG;
    }
    message.container_id[CHANNEL_ID_MAX - 1] = 0;
    message.container_name[CHANNEL_ID_MAX - 1] = 0;
    message.policy[CHANNEL_ID_MAX - 1] = 0;
    hand_out(&message, fds, ret_sockets, ret_fd);
    *ret = message;
    return 1;
}
