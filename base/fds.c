#include "base/fds.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

void fd_close(int *fd)
{
    if (*fd >= 0) {
        int kept = errno;
        close(*fd);
        errno = kept;
        *fd = -1;
    }
}

static int change_flags(int fd, int get, int set, int bit, int on)
{
    int flags = fcntl(fd, get);
    if (flags < 0)
        return -errno;
    flags = on ? flags | bit : flags & ~bit;
    return fcntl(fd, set, flags) < 0 ? -errno : 0;
}

int fd_set_nonblocking(int fd)
{
    return change_flags(fd, F_GETFL, F_SETFL, O_NONBLOCK, 1);
}

int fd_set_cloexec(int fd, int on)
{
    return change_flags(fd, F_GETFD, F_SETFD, FD_CLOEXEC, on);
}

int fds_send(int socket, const void *bytes, size_t length, const int *fds, size_t count)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * FDS_MAX)];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)bytes, .iov_len = length};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count > FDS_MAX)
        return -E2BIG;
    if (count > 0) {
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

ssize_t fds_receive(int socket, void *bytes, size_t size, int fds[FDS_MAX], size_t *ret_count)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * FDS_MAX)];
    } control;
    struct iovec iov = {.iov_base = bytes, .iov_len = size};
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space)};
    ssize_t got;
    size_t count = 0;
    do
        got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(c), count * sizeof(int));
    }
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        for (size_t i = 0; i < count; i++)
            close(fds[i]);
        return -EMSGSIZE;
    }
    *ret_count = count;
    return got;
}
