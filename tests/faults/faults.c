/*
 * Preloaded into the gateway by tests/netns/test_faults.py: makes the nth call of a kind fail, or the process die in it. It is told what
 * to do, and tells what it saw, in a file that both sides map (SALLYPORT_FAULTS names it), so that it can be told while the gateway
 * runs, and after the worker gave up its files.
 *
 *   32-bit numbers: kind (0: none, 1 + index, 255: any but memory)  process (0: any; > 0: this one; < 0: any but this one)
 *                   countdown  errno (or -1: SIGKILL, or what enum doctored has)  seconds that the clock of the wall is ahead  hits
 *                   then for each kind how many calls were seen
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind {
    MEMORY, SOCKET, ACCEPT4, CONNECT, SENDMSG, RECVMSG, SENDTO, RECVFROM, READ, WRITE, WRITEV, SPLICE, PIPE2, EPOLL_CTL, SETSOCKOPT,
    GETSOCKOPT, BIND, LISTEN, OPENAT, FSYNC, RENAMEAT, UNLINKAT, FORK, SENDMMSG, RECVMMSG, SETNS, SOCKETPAIR,
    NETLINK, /* what is received from the kernel over netlink; `code` may be one of enum doctored */
    KINDS
};

/* What becomes of an answer of the kernel. */
enum doctored {
    REFUSED = -2,    /* the first acknowledgement in it is an error */
    LOST = -3,       /* it never comes */
    CHANGED = -4,    /* a piece of a list says that things changed meanwhile (NLM_F_DUMP_INTR) */
    TORN = -5,       /* a piece of a list ends in the middle of a message */
    STRANGER = -6,   /* it has another sequence number */
    UNFINISHED = -7, /* the last message of a list says that the kernel could not go on */
};

struct order {
    _Atomic uint32_t kind;
    _Atomic int32_t process, countdown, code, ahead;
    _Atomic uint32_t hits, seen[KINDS];
};
#define ANY_BUT_MEMORY 255
#define DIE (-1)

static struct order *order;

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("SALLYPORT_FAULTS");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    void *map = fd >= 0 ? mmap(NULL, sizeof(*order), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0)
        syscall(SYS_close, fd);
    if (map != MAP_FAILED)
        order = map;
}

static bool concerns(int32_t process)
{
    int32_t self = process ? (int32_t)syscall(SYS_getpid) : 0;
    return process == 0 || process == self || (process < 0 && -process != self);
}

/* Is it this call's turn? */
static bool strikes(enum kind kind)
{
    if (!order || !concerns(order->process))
        return false;
    order->seen[kind]++;
    uint32_t wanted = order->kind;
    if (wanted == 0 || (wanted == ANY_BUT_MEMORY ? kind == MEMORY : wanted != 1u + kind) || --order->countdown != 0)
        return false;
    order->hits++;
    if (order->code == DIE)
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    errno = order->code;
    return true;
}

/* ---- memory ---- */

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

void *malloc(size_t size)
{
    return strikes(MEMORY) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return strikes(MEMORY) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    return strikes(MEMORY) ? NULL : __libc_realloc(old, size);
}

/* ---- system calls, made here directly ---- */

#define CALL(kind, type, name, parameters, ...)                                                    \
    type name parameters                                                                           \
    {                                                                                              \
        return strikes(kind) ? (type)-1 : (type)syscall(SYS_##name, __VA_ARGS__);                  \
    }

CALL(SOCKET, int, socket, (int domain, int type, int protocol), domain, type, protocol)
CALL(SOCKETPAIR, int, socketpair, (int domain, int type, int protocol, int pair[2]), domain, type, protocol, pair)
CALL(ACCEPT4, int, accept4, (int fd, struct sockaddr *from, socklen_t *length, int flags), fd, from, length, flags)
CALL(CONNECT, int, connect, (int fd, const struct sockaddr *to, socklen_t length), fd, to, length)
CALL(SENDMSG, ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), fd, message, flags)
CALL(RECVMSG, ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), fd, message, flags)
CALL(SENDTO, ssize_t, sendto, (int fd, const void *bytes, size_t length, int flags, const struct sockaddr *to, socklen_t to_length), fd,
     bytes, length, flags, to, to_length)
CALL(READ, ssize_t, read, (int fd, void *bytes, size_t length), fd, bytes, length)
CALL(WRITE, ssize_t, write, (int fd, const void *bytes, size_t length), fd, bytes, length)
CALL(WRITEV, ssize_t, writev, (int fd, const struct iovec *pieces, int count), fd, pieces, count)
CALL(SPLICE, ssize_t, splice, (int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags), from, from_at, to, to_at,
     length, flags)
CALL(PIPE2, int, pipe2, (int ends[2], int flags), ends, flags)
CALL(EPOLL_CTL, int, epoll_ctl, (int set, int operation, int fd, struct epoll_event *event), set, operation, fd, event)
CALL(SETSOCKOPT, int, setsockopt, (int fd, int level, int name, const void *value, socklen_t length), fd, level, name, value, length)
CALL(GETSOCKOPT, int, getsockopt, (int fd, int level, int name, void *value, socklen_t *length), fd, level, name, value, length)
CALL(BIND, int, bind, (int fd, const struct sockaddr *address, socklen_t length), fd, address, length)
CALL(LISTEN, int, listen, (int fd, int backlog), fd, backlog)
CALL(FSYNC, int, fsync, (int fd), fd)
CALL(RENAMEAT, int, renameat, (int from, const char *old, int to, const char *name), from, old, to, name)
CALL(UNLINKAT, int, unlinkat, (int folder, const char *name, int flags), folder, name, flags)
CALL(SENDMMSG, int, sendmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags), fd, messages, count, flags)
CALL(RECVMMSG, int, recvmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout), fd, messages, count, flags, timeout)
CALL(SETNS, int, setns, (int fd, int type), fd, type)

/* ---- what the kernel says over netlink ---- */

static bool is_netlink(int fd)
{
    int domain = 0;
    socklen_t length = sizeof(domain);
    return syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_NETLINK;
}

static bool is_message(const char *at, const char *end)
{
    const struct nlmsghdr *m = (const void *)at;
    return end - at >= (ptrdiff_t)sizeof(*m) && m->nlmsg_len >= sizeof(*m) && m->nlmsg_len <= (size_t)(end - at);
}

static bool suits(const struct nlmsghdr *m, int code)
{
    const int *first = NLMSG_DATA(m);
    bool piece = (m->nlmsg_flags & NLM_F_MULTI) && m->nlmsg_type != NLMSG_DONE;
    return code == REFUSED ? m->nlmsg_type == NLMSG_ERROR && *first == 0
         : code == CHANGED || code == TORN ? piece
         : code == UNFINISHED ? m->nlmsg_type == NLMSG_DONE
                              : true;
}

static struct nlmsghdr *find_suitable(char *bytes, size_t length, int code)
{
    for (char *at = bytes, *end = bytes + length; is_message(at, end); at += NLMSG_ALIGN(((struct nlmsghdr *)(void *)at)->nlmsg_len))
        if (suits((struct nlmsghdr *)(void *)at, code))
            return (struct nlmsghdr *)(void *)at;
    return NULL;
}

/* To one message, or to all of them where that is how the kernel would do it. */
static ssize_t doctor(char *bytes, size_t length, struct nlmsghdr *m, int code)
{
    switch (code) {
    case REFUSED:
    case UNFINISHED:
        *(int *)NLMSG_DATA(m) = -ENOMEM;
        break;
    case LOST:
        errno = EAGAIN;
        return -1;
    case CHANGED:
        m->nlmsg_flags |= NLM_F_DUMP_INTR;
        break;
    case TORN:
        return (char *)m - bytes + m->nlmsg_len / 2;
    case STRANGER:
        for (char *at = bytes, *end = bytes + length; is_message(at, end); at += NLMSG_ALIGN(((struct nlmsghdr *)(void *)at)->nlmsg_len))
            ((struct nlmsghdr *)(void *)at)->nlmsg_seq += 77777;
        break;
    }
    return (ssize_t)length;
}

/* Counted are only those that there is something to do about; with an errno, all: what came stays there. */
static ssize_t receive_from_kernel(int fd, void *bytes, size_t length, int flags, struct sockaddr *from, socklen_t *from_length)
{
    int code = order->code;
    if (code >= DIE && strikes(NETLINK))
        return -1;
    ssize_t got = syscall(SYS_recvfrom, fd, bytes, length, flags, from, from_length);
    if (code >= DIE || got <= 0)
        return got;
    size_t there = (size_t)got < length ? (size_t)got : length;
    struct nlmsghdr *found = find_suitable(bytes, there, code);
    return found && strikes(NETLINK) ? doctor(bytes, there, found, code) : got;
}

ssize_t recvfrom(int fd, void *bytes, size_t length, int flags, struct sockaddr *from, socklen_t *from_length)
{
    if (strikes(RECVFROM))
        return -1;
    if (order && order->kind == 1u + NETLINK && concerns(order->process) && is_netlink(fd))
        return receive_from_kernel(fd, bytes, length, flags, from, from_length);
    return syscall(SYS_recvfrom, fd, bytes, length, flags, from, from_length);
}

ssize_t send(int fd, const void *bytes, size_t length, int flags)
{
    return sendto(fd, bytes, length, flags, NULL, 0);
}

ssize_t recv(int fd, void *bytes, size_t length, int flags)
{
    return recvfrom(fd, bytes, length, flags, NULL, NULL);
}

int openat(int folder, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    unsigned mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, unsigned) : 0;
    va_end(args);
    return strikes(OPENAT) ? -1 : (int)syscall(SYS_openat, folder, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    unsigned mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, unsigned) : 0;
    va_end(args);
    return openat(AT_FDCWD, path, flags, mode);
}

extern pid_t __libc_fork(void);

pid_t fork(void)
{
    return strikes(FORK) ? -1 : __libc_fork();
}

int clock_gettime(clockid_t clock, struct timespec *ret)
{
    int r = (int)syscall(SYS_clock_gettime, clock, ret);
    if (r == 0 && order && clock == CLOCK_REALTIME)
        ret->tv_sec += order->ahead;
    return r;
}
