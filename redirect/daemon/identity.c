#include "redirect/daemon/identity.h"

#include "base/fds.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

int namespace_identify(int fd, struct namespace_id *ret, struct error *err)
{
    struct stat status;
    if (ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET || fstat(fd, &status) < 0)
        return error_set(err, EINVAL, "this is no network namespace");
    *ret = (struct namespace_id){.device = status.st_dev, .inode = status.st_ino};
    return 0;
}

bool namespace_equal(const struct namespace_id *a, const struct namespace_id *b)
{
    return a->device == b->device && a->inode == b->inode;
}

static bool is_namespace_at(const char *path, const struct namespace_id *id)
{
    struct stat status;
    return stat(path, &status) == 0 && status.st_dev == id->device && status.st_ino == id->inode;
}

/* The whole of a small file of /proc, NUL-terminated. 0 or a negative errno. */
static int read_proc(pid_t pid, const char *name, char *text, size_t size)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);
    if (got < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    text[got] = 0;
    return 0;
}

#define KERNEL_THREADS 2 /* their parent, in the machine's own pid namespace */

static bool sees_kernel_threads(void)
{
    char name[32];
    return read_proc(KERNEL_THREADS, "comm", name, sizeof(name)) == 0 && !strcmp(name, "kthreadd\n");
}

bool namespace_is_host(const struct namespace_id *id)
{
    return is_namespace_at("/proc/self/ns/net", id) || is_namespace_at("/proc/1/ns/net", id) ||
           (sees_kernel_threads() && is_namespace_at("/proc/2/ns/net", id));
}

bool namespace_host_known(void)
{
    struct stat status;
    return stat("/proc/1/ns/net", &status) == 0 || (sees_kernel_threads() && stat("/proc/2/ns/net", &status) == 0);
}

int namespace_of_socket(int fd, struct error *err)
{
    int netns = ioctl(fd, SIOCGSKNS);
    return netns < 0 ? error_errno(err, errno, "cannot tell the namespace of a socket") : netns;
}

int process_start_time(pid_t pid, uint64_t *ret)
{
    char text[2048];
    int r = read_proc(pid, "stat", text, sizeof(text));
    if (r < 0)
        return r;
    /* The name, in parentheses, may hold anything; field 22, the start time, is the 20th behind it. */
    char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at)
        return -EPROTO;
    *ret = strtoull(at + 1, NULL, 10);
    return 0;
}

int pidfd_process(int pidfd, pid_t *ret)
{
    char name[32], text[1024];
    snprintf(name, sizeof(name), "fdinfo/%d", pidfd);
    int r = read_proc(getpid(), name, text, sizeof(text));
    if (r < 0)
        return r;
    const char *line = strstr(text, "\nPid:");
    long pid = line ? strtol(line + 5, NULL, 10) : 0;
    if (!line)
        return -EINVAL; /* another kind of descriptor */
    if (pid <= 0)
        return -ESRCH;
    *ret = (pid_t)pid;
    return 0;
}

bool pidfd_ended(int pidfd)
{
    struct pollfd polled = {.fd = pidfd, .events = POLLIN};
    return poll(&polled, 1, 0) != 0;
}

int pidfd_open_process(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec by itself */
    return fd < 0 ? -errno : fd;
}

bool process_may_net_admin(pid_t pid)
{
    char text[4096];
    if (read_proc(pid, "status", text, sizeof(text)) < 0)
        return false;
    const char *line = strstr(text, "\nCapBnd:");
    return line && strtoull(line + 8, NULL, 16) & 1ull << CAP_NET_ADMIN;
}

int process_open(pid_t pid, int *ret_netns, int *ret_pidfd, struct error *err)
{
    char path[64];
    _cleanup_fd_ int pidfd = pidfd_open_process(pid);
    if (pidfd < 0)
        return error_errno(err, -pidfd, "process %d", (int)pid);
    snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
    _cleanup_fd_ int netns = open(path, O_RDONLY | O_CLOEXEC);
    if (netns < 0)
        return error_errno(err, errno, "cannot open the network namespace of process %d", (int)pid);
    /* Alive still: so the number has meant the same process all the while. */
    if (pidfd_ended(pidfd))
        return error_errno(err, ESRCH, "process %d", (int)pid);
    *ret_netns = fd_steal(&netns);
    *ret_pidfd = fd_steal(&pidfd);
    return 0;
}
