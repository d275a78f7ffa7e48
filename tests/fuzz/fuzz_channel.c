/*
 * Messages between monitor and worker, from an end that was taken over: any bytes, with any number of descriptors. Whatever comes,
 * texts end, descriptors are exactly those that the message promises, and none stays open otherwise.
 *
 * The first byte says how many descriptors come along; the rest is the message, filled up to its size when the first byte is odd, so
 * that mutations stay inside a message instead of changing its length.
 */
#include "tests/fuzz/fuzz.h"

#include "base/fds.h"
#include "redirect/monitor/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

static int ends[2] = {-1, -1}, null = -1;

static void start(void)
{
    if (null >= 0)
        return;
    null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK(null >= 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
}

static int lowest_free(void)
{
    int fd = dup(null);
    CHECK(fd >= 0);
    close(fd);
    return fd;
}

static int count_open(const struct capture_sockets *sockets)
{
    int all[CAPTURE_SOCKETS], count = 0;
    memcpy(all, sockets, sizeof(all));
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++)
        count += all[i] >= 0;
    return count;
}

static void check_message(const struct channel_message *m, const struct capture_sockets *sockets, int fd, int sent)
{
    CHECK(m->type >= CHANNEL_CAPTURE && m->type <= 64);
    CHECK(memchr(m->container_id, 0, CHANNEL_ID_MAX) && memchr(m->container_name, 0, CHANNEL_ID_MAX));
    CHECK(memchr(m->container_image, 0, CHANNEL_IMAGE_MAX) && memchr(m->policy, 0, CHANNEL_ID_MAX));
    CHECK(memchr(m->pod, 0, CHANNEL_IMAGE_MAX) && memchr(m->pod_namespace, 0, CHANNEL_ID_MAX) && memchr(m->version, 0, CHANNEL_VERSION_MAX));
    CHECK(memchr(m->text, 0, CHANNEL_IMAGE_MAX) && (m->type != CHANNEL_NOTE || m->note < NOTE_KINDS));
    CHECK(count_open(sockets) + (fd >= 0) == sent);
    CHECK(m->type == CHANNEL_CAPTURE || m->type == CHANNEL_NETWORK || m->type == CHANNEL_DOOR || count_open(sockets) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[sizeof(struct channel_message) + 64];
    struct channel_message message;
    struct capture_sockets sockets = CAPTURE_SOCKETS_NONE;
    int fds[FDS_MAX], fd = -1;
    if (size < 1 || size > sizeof(bytes))
        return 0;
    start();
    int before = lowest_free();
    size_t count = (size_t)(data[0] >> 1) % (FDS_MAX + 1), length = size - 1;
    memset(bytes, 0, sizeof(bytes));
    memcpy(bytes, data + 1, length);
    if (data[0] & 1)
        length = sizeof(struct channel_message);
    for (size_t i = 0; i < FDS_MAX; i++)
        fds[i] = null;
    if (fds_send(ends[0], bytes, length, fds, count) < 0)
        return 0; /* nothing to send at all */
    int r = channel_receive(ends[1], &message, &sockets, &fd);
    CHECK(r == 1 || r == 0 || r == -EBADMSG);
    if (r == 1)
        check_message(&message, &sockets, fd, (int)count);
    else
        CHECK(count_open(&sockets) == 0 && fd < 0);
    capture_sockets_close(&sockets);
    fd_close(&fd);
    CHECK(lowest_free() == before);
    CHECK(channel_receive(ends[1], &message, &sockets, &fd) == -EAGAIN); /* all of it is gone */
    return 0;
}
