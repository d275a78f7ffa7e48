/*
 * Unix sockets with a path, judged when the command connects. Such a socket belongs to the file system, not
 * to the network namespace: whoever sees the file can connect to it, and what listens may be a Docker daemon,
 * an ssh agent or an ssh connection held open for others, all of which act outside. Names do not tell: a
 * socket can be bound to a relative name, renamed, linked, made in another namespace, or later.
 *
 * So connect(2) of the command is done here, by threads of init (SECCOMP_RET_USER_NOTIF, seccomp_unotify(2)).
 * A path may be connected to when the very inode was bound inside, or named with --keep; else ECONNREFUSED,
 * as if nobody listened.
 *
 *   never "continue"  The kernel would read address and descriptor anew, and another thread may have changed
 *                     both. The socket is fetched (pidfd_getfd(2)), the address copied once, and connect(2)
 *                     done with those.
 *   bound inside      listen(2) is told, too; SIOCUNIXFILE yields the inode that a socket is bound to. The
 *                     kernel gives it to who has CAP_NET_ADMIN over the socket's network namespace: init has
 *                     that over the sealed one and those nested in it, not over those outside. listen(2)
 *                     itself may continue: what is noted was bound inside, whichever socket it acts on. The
 *                     inode is held, so no other gets its number.
 *   the path          is opened (O_PATH) from the caller's root and working folder and with the caller's
 *                     ids, judged, and connected to through the descriptor: nothing is looked up twice.
 *   --keep            A socket is the inode it was at the start. Of a folder, everything below: looked up
 *                     again in init's own mounts, which nobody inside can change. A kept folder is a mount
 *                     of its own (enclosure_mounts.c), so no other socket can be linked or moved into it.
 *   all other         IPv4, IPv6, netlink and abstract names cannot leave the sealed network namespace: done
 *                     as asked.
 *   datagrams         can be sent to a path without connect(2), by sendmsg(2), whose address is in memory. A
 *                     datagram socket is made here and shut down for writing, for good: enough for who wants
 *                     just a descriptor (if_nametoindex(3)) or receives. Pairs are refused
 *                     (enclosure_filter.c). When a socket named with --keep takes datagrams, none of this
 *                     holds, and only masks keep others out of sight.
 *
 * A call that blocks holds a thread; there is always one more, up to a bound that only the command itself can
 * reach. A caller waits as in the kernel, but no signal handler interrupts it (WAIT_KILLABLE_RECV: else a
 * call that was done could be repeated). Inside the sealed network a connect hardly ever waits.
 *
 * Seen by the listener, the peer's process is init (SO_PEERCRED: pid 1); user and group are the caller's.
 *
 * Sources: kernel/seccomp.c, net/unix/af_unix.c (unix_find_bsd, unix_open_file).
 */
#include "redirect/exec/enclosure_internal.h"

#include "base/fds.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <linux/un.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define THREADS_MAX 512
#define THREAD_STACK (256 * 1024)
#define BOUND_MAX 1024 /* socket files of servers inside */
#define GROUPS_MOST 256
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL /* Linux 6.9 */
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS /* Linux 6.6 */
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1ul
#endif

struct inode {
    int fd; /* O_PATH: while it is open the number is not given to another */
    dev_t device;
    ino_t number;
};

struct kept_folder {
    struct inode inode;
    char *path;
};

/* One an init. Only `bound` changes once the threads run. */
static struct {
    int listener;
    int proc; /* O_PATH, of the enclosure's /proc */
    struct stat command_users;
    bool single_id;
    bool groups_fixed; /* setgroups(2) is denied to everybody inside */
    uid_t uid;
    gid_t gid;
    gid_t groups[GROUPS_MOST];
    int group_count;
    struct inode *kept;
    size_t kept_count;
    struct kept_folder *folders;
    size_t folder_count;
    pthread_mutex_t lock; /* of what follows */
    struct inode bound[BOUND_MAX];
    size_t bound_count;
    atomic_int idle, threads;
} door = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* A call that waits for its answer. */
struct call {
    const struct seccomp_notif *notif;
    int process; /* pidfd */
    int socket;  /* a duplicate of the caller's */
};

/* --- inodes --------------------------------------------------------------------------------------------- */

static bool is_inode(const struct inode *inode, const struct stat *status)
{
    return inode->device == status->st_dev && inode->number == status->st_ino;
}

static bool is_among(const struct inode *inodes, size_t count, const struct stat *status)
{
    for (size_t i = 0; i < count; i++)
        if (is_inode(&inodes[i], status))
            return true;
    return false;
}

/* A file without a name cannot be connected to by one. */
static void forget_removed(void)
{
    size_t left = 0;
    for (size_t i = 0; i < door.bound_count; i++) {
        struct stat status;
        if (fstat(door.bound[i].fd, &status) < 0 || status.st_nlink == 0)
            close(door.bound[i].fd);
        else
            door.bound[left++] = door.bound[i];
    }
    door.bound_count = left;
}

/* Takes `fd`. What cannot be noted cannot be connected to. */
static void note_bound(int fd)
{
    struct stat status;
    pthread_mutex_lock(&door.lock);
    forget_removed();
    if (fstat(fd, &status) == 0 && !is_among(door.bound, door.bound_count, &status) &&
        door.bound_count < BOUND_MAX)
        door.bound[door.bound_count++] =
            (struct inode){.fd = fd_steal(&fd), .device = status.st_dev, .number = status.st_ino};
    pthread_mutex_unlock(&door.lock);
    fd_close(&fd);
}

static bool was_bound_inside(const struct stat *status)
{
    pthread_mutex_lock(&door.lock);
    bool found = is_among(door.bound, door.bound_count, status);
    pthread_mutex_unlock(&door.lock);
    return found;
}

static int open_beneath(int folder, const char *path)
{
    struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS};
    return (int)syscall(SYS_openat2, folder, path, &how, sizeof(how));
}

/* The path comes from the caller's mounts and proves nothing: the same must be found by it in ours. */
static bool lies_in_kept_folder(const char *path, const struct stat *status)
{
    for (size_t i = 0; i < door.folder_count; i++) {
        const struct kept_folder *folder = &door.folders[i];
        struct stat found;
        if (!path_is_within(path, folder->path))
            continue;
        const char *rest = path + strlen(folder->path);
        int _cleanup_fd_ fd = open_beneath(folder->inode.fd, rest + strspn(rest, "/"));
        if (fd >= 0 && fstat(fd, &found) == 0 && found.st_dev == status->st_dev &&
            found.st_ino == status->st_ino)
            return true;
    }
    return false;
}

/* --- rights --------------------------------------------------------------------------------------------- */

/* Raw system calls: credentials belong to the thread, glibc would change those of all. */
static int set_capabilities(uint64_t permitted, uint64_t effective)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct data[] = {
        {.permitted = (uint32_t)permitted, .effective = (uint32_t)effective},
        {.permitted = (uint32_t)(permitted >> 32), .effective = (uint32_t)(effective >> 32)}};
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

#define CAPABILITY(name) (UINT64_C(1) << (name))
#define FILE_CAPABILITIES (CAPABILITY(CAP_DAC_OVERRIDE) | CAPABILITY(CAP_DAC_READ_SEARCH))

static uint64_t needed_capabilities(void)
{
    uint64_t needed = CAPABILITY(CAP_NET_ADMIN) | CAPABILITY(CAP_SYS_CHROOT);
    return door.single_id ? needed
                          : needed | CAPABILITY(CAP_SETUID) | CAPABILITY(CAP_SETGID) | FILE_CAPABILITIES;
}

/* The capabilities that this thread uses now, of those that init has kept. */
static int use_capabilities(uint64_t effective)
{
    return set_capabilities(needed_capabilities(), effective);
}

struct identity {
    uid_t uid;
    gid_t gid;
    gid_t groups[GROUPS_MOST];
    int group_count;
    uint64_t capabilities; /* over files */
};

/* "Uid:\t1000\t1000\t1000\t1000" and the like; the second is the effective one. */
static const char *field_of(const char *status, const char *name)
{
    const char *at = strstr(status, name);
    return at ? at + strlen(name) : "";
}

static int read_status(pid_t thread, char *ret, size_t size)
{
    char path[32];
    snprintf(path, sizeof(path), "%d/status", (int)thread);
    int _cleanup_fd_ fd = openat(door.proc, path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, ret, size - 1);
    if (got <= 0)
        return -ESRCH;
    ret[got] = '\0';
    return 0;
}

/* Capabilities of a nested user namespace reach fewer files than its ids would say: left out. */
static bool is_in_commands_users(pid_t thread)
{
    char path[32];
    struct stat status;
    snprintf(path, sizeof(path), "%d/ns/user", (int)thread);
    return fstatat(door.proc, path, &status, 0) == 0 && status.st_dev == door.command_users.st_dev &&
           status.st_ino == door.command_users.st_ino;
}

static int read_identity(pid_t thread, struct identity *ret)
{
    char status[8192];
    int failed = read_status(thread, status, sizeof(status)), length;
    if (failed)
        return failed;
    *ret = (struct identity){0};
    if (sscanf(field_of(status, "\nUid:"), "%*u %u", &ret->uid) != 1 ||
        sscanf(field_of(status, "\nGid:"), "%*u %u", &ret->gid) != 1)
        return -EPERM;
    const char *groups = field_of(status, "\nGroups:");
    groups += strspn(groups, "\t ");
    while (ret->group_count < GROUPS_MOST && *groups != '\n' &&
           sscanf(groups, "%u %n", &ret->groups[ret->group_count], &length) == 1 && length > 0) {
        groups += strcspn(groups, " \n");
        groups += strspn(groups, " ");
        ret->group_count++;
    }
    unsigned long long capabilities = 0;
    if (is_in_commands_users(thread) && sscanf(field_of(status, "\nCapEff:"), "%llx", &capabilities) == 1)
        ret->capabilities = capabilities & FILE_CAPABILITIES;
    return 0;
}

static int set_ids(const gid_t *groups, int group_count, gid_t gid, uid_t uid)
{
    if (use_capabilities(needed_capabilities()) < 0 ||
        (!door.groups_fixed && syscall(SYS_setgroups, group_count, groups) < 0) ||
        syscall(SYS_setresgid, -1, gid, -1) < 0 || syscall(SYS_setresuid, -1, uid, -1) < 0)
        return -EPERM;
    return 0;
}

/* Where all have one id there is no difference. */
static int act_as(const struct identity *caller)
{
    if (!door.single_id && set_ids(caller->groups, caller->group_count, caller->gid, caller->uid) < 0)
        return -EPERM;
    return use_capabilities(caller->capabilities);
}

static void act_as_self(void)
{
    if (!door.single_id && (syscall(SYS_setresuid, -1, door.uid, -1) < 0 ||
                            set_ids(door.groups, door.group_count, door.gid, door.uid) < 0))
        _exit(1);
    if (use_capabilities(0) < 0)
        _exit(1);
}

/* --- the caller ----------------------------------------------------------------------------------------- */

/* A pidfd of the thread itself, as its descriptor table need not be its process's; before Linux 6.9 of the
 * process. */
static int open_process(pid_t thread)
{
    char status[8192];
    int process, fd = (int)syscall(SYS_pidfd_open, thread, PIDFD_THREAD);
    if (fd >= 0 || errno != EINVAL)
        return fd;
    if (read_status(thread, status, sizeof(status)) < 0 ||
        sscanf(field_of(status, "\nTgid:"), "%d", &process) != 1)
        return -1;
    return (int)syscall(SYS_pidfd_open, process, 0);
}

/* Is the caller still waiting? Then its thread id meant nobody else so far. */
static bool waits(const struct call *call)
{
    return ioctl(door.listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &call->notif->id) == 0;
}

static int fetch_socket(struct call *call)
{
    call->process = open_process((pid_t)call->notif->pid);
    if (call->process < 0)
        return -errno;
    call->socket = (int)syscall(SYS_pidfd_getfd, call->process, (int)call->notif->data.args[0], 0);
    return call->socket < 0 ? -errno : 0;
}

static int fetch_address(const struct call *call, struct sockaddr_storage *ret, socklen_t length)
{
    struct iovec here = {.iov_base = ret, .iov_len = length};
    struct iovec there = {.iov_base = (void *)(uintptr_t)call->notif->data.args[1], .iov_len = length};
    memset(ret, 0, sizeof(*ret));
    if (length > 0 && process_vm_readv((pid_t)call->notif->pid, &here, 1, &there, 1, 0) != (ssize_t)length)
        return -EFAULT;
    return 0;
}

/* Look up paths as the caller does. The thread has root and working folder of its own. */
static int stand_where_caller_stands(pid_t thread)
{
    char name[32];
    snprintf(name, sizeof(name), "%d/root", (int)thread);
    int _cleanup_fd_ root = openat(door.proc, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    snprintf(name, sizeof(name), "%d/cwd", (int)thread);
    int _cleanup_fd_ cwd = openat(door.proc, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || cwd < 0 || use_capabilities(needed_capabilities()) < 0 || fchdir(root) < 0 ||
        chroot(".") < 0 || fchdir(cwd) < 0)
        return -EACCES;
    return 0;
}

/* "/proc/self/fd/7/name", which programs use for long paths, would be our own: step into the caller's folder.
 */
static int enter_descriptor(const struct call *call, const char **path)
{
    int number, length = 0;
    if (sscanf(*path, "/proc/self/fd/%d/%n", &number, &length) != 1 || length == 0)
        return 0;
    int _cleanup_fd_ folder = (int)syscall(SYS_pidfd_getfd, call->process, number, 0);
    if (folder < 0 || fchdir(folder) < 0)
        return -ENOENT;
    *path += length;
    *path += strspn(*path, "/");
    return 0;
}

/* --- connect(2) ----------------------------------------------------------------------------------------- */

/* Magic links of /proc would be followed with our rights, into our own folders. */
static int open_target(const char *path)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS};
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
    return fd < 0 ? -errno : fd;
}

static bool may_connect(int target, const char *name)
{
    struct stat status;
    char path[PATH_MAX];
    if (fstat(target, &status) < 0 || !S_ISSOCK(status.st_mode))
        return false;
    if (was_bound_inside(&status) || is_among(door.kept, door.kept_count, &status))
        return true;
    ssize_t length = door.folder_count ? readlinkat(door.proc, name, path, sizeof(path) - 1) : 0;
    if (length <= 0)
        return false;
    path[length] = '\0';
    return lies_in_kept_folder(path, &status);
}

static int connect_to_target(const struct call *call, int target)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "self/fd/%d", target);
    if (!may_connect(target, address.sun_path))
        return -ECONNREFUSED;
    if (fchdir(door.proc) < 0)
        return -EACCES;
    return connect(call->socket, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
}

static int connect_by_path(const struct call *call, const char *path)
{
    pid_t thread = (pid_t)call->notif->pid;
    struct identity caller = {0};
    int failed = stand_where_caller_stands(thread);
    if (!failed)
        failed = enter_descriptor(call, &path);
    if (!failed && !door.single_id)
        failed = read_identity(thread, &caller);
    if (!failed && !waits(call)) /* then all that was the caller's */
        failed = -ESRCH;
    if (!failed && !(failed = act_as(&caller))) {
        int target = open_target(path);
        failed = target < 0 ? target : connect_to_target(call, target);
        fd_close(&target);
    }
    act_as_self();
    return failed;
}

static bool is_path(const struct sockaddr_un *address, socklen_t length)
{
    return address->sun_family == AF_UNIX && length > offsetof(struct sockaddr_un, sun_path) &&
           length <= sizeof(*address) && address->sun_path[0];
}

static int domain_of(int socket)
{
    int domain = -1;
    return getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &(socklen_t){sizeof(domain)}) < 0 ? -1 : domain;
}

static int answer_connect(struct call *call)
{
    union {
        struct sockaddr_storage any;
        struct sockaddr_un local;
    } address;
    int length = (int)call->notif->data.args[2], failed;
    if (length < 0 || (size_t)length > sizeof(address.any))
        return -EINVAL;
    if ((failed = fetch_socket(call)) || (failed = fetch_address(call, &address.any, (socklen_t)length)))
        return failed;
    if (!waits(call))
        return -ESRCH;
    if (domain_of(call->socket) == AF_UNIX && is_path(&address.local, (socklen_t)length))
        return connect_by_path(call, address.local.sun_path); /* the rest of the storage is zero: it ends */
    return connect(call->socket, (struct sockaddr *)&address.any, (socklen_t)length) < 0 ? -errno : 0;
}

/* --- listen(2) and socket(2) ---------------------------------------------------------------------------- */

static void note_listener(struct call *call)
{
    if (fetch_socket(call) < 0 || !waits(call) || domain_of(call->socket) != AF_UNIX)
        return;
    if (use_capabilities(CAPABILITY(CAP_NET_ADMIN)) < 0)
        return;
    int file = ioctl(call->socket, SIOCUNIXFILE);
    use_capabilities(0);
    if (file >= 0)
        note_bound(file);
}

/* Puts the socket into the caller's table, which answers the call. */
static int answer_socket(struct call *call)
{
    const __u64 *args = call->notif->data.args;
    int type = (int)args[1];
    call->socket = socket(AF_UNIX, type | SOCK_CLOEXEC, (int)args[2]);
    if (call->socket < 0)
        return -errno;
    if (shutdown(call->socket, SHUT_WR) < 0)
        return -errno;
    struct seccomp_notif_addfd addition = {.id = call->notif->id,
                                           .flags = SECCOMP_ADDFD_FLAG_SEND,
                                           .srcfd = (uint32_t)call->socket,
                                           .newfd_flags = type & SOCK_CLOEXEC ? O_CLOEXEC : 0};
    return ioctl(door.listener, SECCOMP_IOCTL_NOTIF_ADDFD, &addition) < 0 ? -errno : 0;
}

/* --- threads -------------------------------------------------------------------------------------------- */

/* The kernel's structures may be longer than ours. */
union notification {
    struct seccomp_notif notif;
    char space[512];
};
union reply {
    struct seccomp_notif_resp response;
    char space[256];
};

static void answer(const struct seccomp_notif *notif)
{
    struct call call = {.notif = notif, .process = -1, .socket = -1};
    union reply reply = {.response = {.id = notif->id}};
    bool answered = false;
    switch (notif->data.nr) {
    case __NR_connect:
        reply.response.error = answer_connect(&call);
        break;
    case __NR_listen:
        note_listener(&call);
        reply.response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        break;
    default:
        reply.response.error = answer_socket(&call);
        answered = reply.response.error == 0;
        break;
    }
    fd_close(&call.socket);
    fd_close(&call.process);
    if (!answered)
        ioctl(door.listener, SECCOMP_IOCTL_NOTIF_SEND, &reply.response);
}

static bool nobody_is_left(void)
{
    struct pollfd polled = {.fd = door.listener};
    return poll(&polled, 1, 0) == 1 && (polled.revents & POLLHUP);
}

static void start_thread(void);

static void *serve_calls(void *unused)
{
    (void)unused;
    if (unshare(CLONE_FS) < 0)
        _exit(1);
    for (;;) {
        union notification notification = {0};
        if (ioctl(door.listener, SECCOMP_IOCTL_NOTIF_RECV, &notification.notif) < 0) {
            if (errno != EINTR && errno != ENOENT)
                _exit(1);
            if (nobody_is_left())
                return NULL;
            continue; /* the caller is gone already */
        }
        if (atomic_fetch_sub(&door.idle, 1) == 1)
            start_thread(); /* this one may block, and none would be left */
        answer(&notification.notif);
        atomic_fetch_add(&door.idle, 1);
    }
    return NULL;
}

/* Without one more the calls wait for those that run. */
static void start_thread(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    if (atomic_fetch_add(&door.threads, 1) >= THREADS_MAX) {
        atomic_fetch_sub(&door.threads, 1);
        return;
    }
    atomic_fetch_add(&door.idle, 1);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attributes, serve_calls, NULL) != 0) {
        atomic_fetch_sub(&door.idle, 1);
        atomic_fetch_sub(&door.threads, 1);
    }
    pthread_attr_destroy(&attributes);
}

/* --- the start ------------------------------------------------------------------------------------------ */

static int keep_folder(int fd, const struct stat *status)
{
    char name[32], path[PATH_MAX];
    snprintf(name, sizeof(name), "self/fd/%d", fd);
    ssize_t length = readlinkat(door.proc, name, path, sizeof(path) - 1);
    struct kept_folder *folders = realloc(door.folders, (door.folder_count + 1) * sizeof(*folders));
    if (length <= 0 || !folders)
        return -ENOMEM;
    path[length] = '\0';
    door.folders = folders;
    folders[door.folder_count] = (struct kept_folder){{fd, status->st_dev, status->st_ino}, strdup(path)};
    return folders[door.folder_count++].path ? 0 : -ENOMEM;
}

static int keep_socket(int fd, const struct stat *status)
{
    struct inode *kept = realloc(door.kept, (door.kept_count + 1) * sizeof(*kept));
    if (!kept)
        return -ENOMEM;
    door.kept = kept;
    kept[door.kept_count++] = (struct inode){fd, status->st_dev, status->st_ino};
    return 0;
}

static int open_kept(const struct paths *keep)
{
    int failed = 0;
    for (size_t i = 0; i < keep->count && !failed; i++) {
        struct stat status;
        int _cleanup_fd_ fd = open(keep->items[i], O_PATH | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &status) < 0)
            continue;
        if (S_ISDIR(status.st_mode))
            failed = keep_folder(fd_steal(&fd), &status);
        else if (S_ISSOCK(status.st_mode))
            failed = keep_socket(fd_steal(&fd), &status);
    }
    return failed;
}

bool enclosure_keeps_datagrams(const struct paths *keep)
{
    bool found = false;
    for (size_t i = 0; i < keep->count && !found; i++) {
        int _cleanup_fd_ probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", keep->items[i]);
        found = probe >= 0 && strlen(keep->items[i]) < sizeof(address.sun_path) &&
                connect(probe, (struct sockaddr *)&address, sizeof(address)) == 0;
    }
    return found;
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Who we are, and whose capabilities count. */
static int look_at_ids(pid_t command, bool single_id)
{
    char name[32];
    snprintf(name, sizeof(name), "%d/ns/user", (int)command);
    char *setgroups = file_read("/proc/self/setgroups");
    door.groups_fixed = setgroups && !strncmp(setgroups, "deny", 4);
    free(setgroups);
    door.single_id = single_id;
    door.uid = geteuid();
    door.gid = getegid();
    door.group_count = getgroups(GROUPS_MOST, door.groups);
    return door.group_count < 0 || fstatat(door.proc, name, &door.command_users, 0) < 0 ? -errno : 0;
}

int enclosure_supervise(int listener, const struct paths *keep, pid_t command, bool single_id,
                        struct error *err)
{
    struct seccomp_notif_sizes sizes;
    uint64_t flags = SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP;
    door.listener = listener;
    door.proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (door.proc < 0 || look_at_ids(command, single_id) < 0)
        return error_errno(err, errno, "cannot open /proc");
    int failed = open_kept(keep);
    if (failed)
        return error_errno(err, -failed, "cannot remember what to keep");
    if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) < 0 ||
        sizes.seccomp_notif > sizeof(union notification) || sizes.seccomp_notif_resp > sizeof(union reply))
        return error_set(err, ENOSYS, "this kernel's seccomp notifications are too long");
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags);
    raise_descriptor_limit();
    if (use_capabilities(0) < 0)
        return error_errno(err, errno, "cannot drop the capabilities of init");
    start_thread();
    if (atomic_load(&door.threads) == 0)
        return error_set(err, EAGAIN, "cannot start a thread");
    if (set_capabilities(0, 0) < 0)
        return error_errno(err, errno, "cannot drop the capabilities of init");
    return 0;
}
