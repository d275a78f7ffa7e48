/*
 * Both ends are the same program, so a message is the struct itself; but the worker may have been taken over,
 * so what arrives is checked as if it were hostile: size, type, and a descriptor for each that the message
 * promises, no more.
 */
#include "redirect/monitor/channel.h"

#include "base/fds.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static_assert(sizeof(struct capture_sockets) == CAPTURE_SOCKETS * sizeof(int),
              "capture_sockets is an array of sockets");
static_assert(CAPTURE_SOCKETS <= 16 && CAPTURE_SOCKETS <= FDS_MAX,
              "a bit of `present` and a place for each socket");

static int put_text(char *field, size_t size, const char *text)
{
    size_t length = strlen(text);
    if (length >= size)
        return -ENAMETOOLONG;
    memcpy(field, text, length + 1);
    return 0;
}

static int send_message(int channel, const struct channel_message *message, const int *fds, size_t count)
{
    return fds_send(channel, message, sizeof(*message), fds, count);
}

static int send_with_sockets(int channel, struct channel_message *message, const struct capture_sockets *sockets)
{
    int all[CAPTURE_SOCKETS], fds[CAPTURE_SOCKETS];
    size_t count = 0;
    memcpy(all, sockets, sizeof(all));
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++) {
        if (all[i] < 0)
            continue;
        message->present |= (uint16_t)(1u << i);
        fds[count++] = all[i];
    }
    return send_message(channel, message, fds, count);
}

int channel_send_door(int channel, const char *id, const struct capture_sockets *door)
{
    struct channel_message message = {.type = CHANNEL_DOOR};
    int r = put_text(message.container_id, CHANNEL_ID_MAX, id);
    return r < 0 ? r : send_with_sockets(channel, &message, door);
}

int channel_send_publish(int channel, uint32_t serial, const char *id, uint16_t port, int listener)
{
    struct channel_message message = {.type = CHANNEL_PUBLISH, .serial = serial, .port = port};
    int r = put_text(message.container_id, CHANNEL_ID_MAX, id);
    return r < 0 ? r : send_message(channel, &message, &listener, 1);
}

int channel_send_container(int channel, uint32_t serial, const struct channel_container *who,
                           const struct capture_sockets *sockets)
{
    struct channel_message message = {.type = CHANNEL_CAPTURE, .serial = serial};
    int r = put_text(message.container_id, CHANNEL_ID_MAX, who->id);
    if (r == 0)
        r = put_text(message.container_name, CHANNEL_ID_MAX, who->name);
    if (r == 0)
        r = put_text(message.container_image, CHANNEL_IMAGE_MAX, who->image);
    if (r == 0 && who->pod)
        r = put_text(message.pod, CHANNEL_IMAGE_MAX, who->pod);
    if (r == 0 && who->pod_namespace)
        r = put_text(message.pod_namespace, CHANNEL_ID_MAX, who->pod_namespace);
    if (r == 0)
        r = put_text(message.policy, CHANNEL_ID_MAX, who->policy);
    return r < 0 ? r : send_with_sockets(channel, &message, sockets);
}

int channel_send_capture(int channel, const char *id, const char *name, const char *policy,
                         const struct capture_sockets *sockets)
{
    const struct channel_container who = {.id = id, .name = name, .image = "", .policy = policy};
    return channel_send_container(channel, 0, &who, sockets);
}

static void put_cut(char *field, size_t size, const char *text)
{
    snprintf(field, size, "%s", text ? text : "");
}

int channel_send_note(int channel, uint32_t serial, const struct channel_note *note)
{
    struct channel_message message = {
        .type = CHANNEL_NOTE, .serial = serial, .note = note->kind, .user = note->user, .failed = note->failed};
    put_cut(message.container_id, sizeof(message.container_id), note->id);
    put_cut(message.container_name, sizeof(message.container_name), note->name);
    put_cut(message.policy, sizeof(message.policy), note->policy);
    put_cut(message.version, sizeof(message.version), note->version);
    put_cut(message.text, sizeof(message.text), note->text);
    return send_message(channel, &message, NULL, 0);
}

static int network_id(const char *name, unsigned share, char ret[CHANNEL_ID_MAX])
{
    int length = share ? snprintf(ret, CHANNEL_ID_MAX, "network %s %u", name, share)
                       : snprintf(ret, CHANNEL_ID_MAX, "network %s", name);
    return length < 0 || length >= CHANNEL_ID_MAX ? -ENAMETOOLONG : 0;
}

int channel_send_network(int channel, uint32_t serial, const char *name, unsigned share, bool transparent,
                         const struct capture_sockets *sockets)
{
    struct channel_message message = {.type = CHANNEL_NETWORK, .serial = serial, .transparent = transparent};
    int r = network_id(name, share, message.container_id);
    if (r == 0)
        r = put_text(message.container_name, CHANNEL_ID_MAX, name);
    return r < 0 ? r : send_with_sockets(channel, &message, sockets);
}

int channel_send_network_end(int channel, uint32_t serial, const char *name, unsigned share)
{
    char id[CHANNEL_ID_MAX];
    int r = network_id(name, share, id);
    return r < 0 ? r : channel_send_withdraw(channel, serial, id);
}

int channel_send_learned(int channel, uint32_t serial, const char *policy, const char *version, uint32_t rule,
                         const struct addr *address, uint32_t ttl)
{
    struct channel_message message = {
        .type = CHANNEL_LEARNED, .serial = serial, .rule = rule, .address = *address, .ttl = ttl};
    int r = put_text(message.policy, CHANNEL_ID_MAX, policy);
    if (r == 0)
        r = put_text(message.version, CHANNEL_VERSION_MAX, version);
    return r < 0 ? r : send_message(channel, &message, NULL, 0);
}

int channel_send_learned_done(int channel, uint32_t serial)
{
    return send_message(channel, &(struct channel_message){.type = CHANNEL_LEARNED_DONE, .serial = serial}, NULL, 0);
}

int channel_send_withdraw(int channel, uint32_t serial, const char *id)
{
    struct channel_message message = {.type = CHANNEL_WITHDRAW, .serial = serial};
    int r = put_text(message.container_id, CHANNEL_ID_MAX, id);
    return r < 0 ? r : send_message(channel, &message, NULL, 0);
}

int channel_send_config(int channel, uint32_t serial, int bundle)
{
    return send_message(channel, &(struct channel_message){.type = CHANNEL_CONFIG, .serial = serial}, &bundle, 1);
}

int channel_send_changes(int channel, uint32_t serial, int bundle)
{
    return send_message(channel, &(struct channel_message){.type = CHANNEL_CHANGES, .serial = serial}, &bundle, 1);
}

int channel_send_ping(int channel, uint32_t serial)
{
    return send_message(channel, &(struct channel_message){.type = CHANNEL_PING, .serial = serial}, NULL, 0);
}

int channel_send_audit(int channel, int fd)
{
    return send_message(channel, &(struct channel_message){.type = CHANNEL_AUDIT}, &fd, 1);
}

int channel_send_admin(int channel, int listener)
{
    const struct channel_message message = {.type = CHANNEL_ADMIN, .present = listener >= 0};
    return send_message(channel, &message, &listener, listener >= 0);
}

int channel_send_finish(int channel, bool summary)
{
    return send_message(channel, &(struct channel_message){.type = CHANNEL_FINISH, .summary = summary}, NULL,
                        0);
}

int channel_send_drain(int channel, uint32_t serial, uint32_t drain_ms)
{
    const struct channel_message message = {.type = CHANNEL_FINISH, .serial = serial, .drain_ms = drain_ms};
    return send_message(channel, &message, NULL, 0);
}

int channel_send_answer(int channel, uint32_t serial, int code)
{
    const struct channel_message message = {
        .type = code ? CHANNEL_FAILED : CHANNEL_READY, .serial = serial, .code = code};
    return send_message(channel, &message, NULL, 0);
}

int channel_send_ready(int channel)
{
    return channel_send_answer(channel, 0, 0);
}

/* How many descriptors come with this message; -1 when it is none of ours. */
static int expected_descriptors(const struct channel_message *message)
{
    switch (message->type) {
    case CHANNEL_CAPTURE:
    case CHANNEL_NETWORK:
    case CHANNEL_DOOR:
        return message->present >> CAPTURE_SOCKETS ? -1 : __builtin_popcount(message->present);
    case CHANNEL_AUDIT:
    case CHANNEL_CONFIG:
    case CHANNEL_CHANGES:
    case CHANNEL_PUBLISH:
        return 1;
    case CHANNEL_ADMIN:
        return message->present > 1 ? -1 : message->present;
    case CHANNEL_FINISH:
    case CHANNEL_READY:
    case CHANNEL_FAILED:
    case CHANNEL_WITHDRAW:
    case CHANNEL_PING:
    case CHANNEL_LEARNED:
    case CHANNEL_LEARNED_DONE:
        return 0;
    case CHANNEL_NOTE:
        return message->note < NOTE_KINDS ? 0 : -1;
    default:
        return -1;
    }
}

static void hand_out(const struct channel_message *message, const int *fds,
                     struct capture_sockets *ret_sockets, int *ret_fd)
{
    int all[CAPTURE_SOCKETS];
    bool sockets = message->type == CHANNEL_CAPTURE || message->type == CHANNEL_NETWORK || message->type == CHANNEL_DOOR;
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++)
        all[i] = sockets && message->present & 1u << i ? *fds++ : -1;
    memcpy(ret_sockets, all, sizeof(all));
    *ret_fd = message->type == CHANNEL_AUDIT || message->type == CHANNEL_CONFIG || message->type == CHANNEL_CHANGES ||
                      (message->type == CHANNEL_ADMIN && message->present) || message->type == CHANNEL_PUBLISH
                  ? *fds
                  : -1;
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
    message.container_image[CHANNEL_IMAGE_MAX - 1] = 0;
    message.pod[CHANNEL_IMAGE_MAX - 1] = 0;
    message.pod_namespace[CHANNEL_ID_MAX - 1] = 0;
    message.policy[CHANNEL_ID_MAX - 1] = 0;
    message.version[CHANNEL_VERSION_MAX - 1] = 0;
    message.text[CHANNEL_IMAGE_MAX - 1] = 0;
    hand_out(&message, fds, ret_sockets, ret_fd);
    *ret = message;
    return 1;
}
