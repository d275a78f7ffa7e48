#include "redirect/exec/enclosure.h"
#include "redirect/exec/enclosure_internal.h"

#include "base/fds.h"
#include "redirect/monitor/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NEW_NAMESPACES (CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID)

/* What builder, init and command share: filled before the first fork, each process has its copy. */
struct inside {
    const struct enclosure_plan *plan;
    int control;   /* init's end */
    int passage;   /* the builder's end */
    char *uid_map; /* of both user namespaces */
    char *gid_map;
    bool single_id;  /* mapped without privilege: one id, no setgroups(2) */
    bool core_piped; /* the kernel hands core dumps to a program */
    char *cwd;
};

/* Pid 1, and what the command inherits of it. */
struct init {
    const struct inside *inside;
    struct paths keep;
    bool datagrams; /* one of them takes datagrams */
    pid_t command;
    int sync;         /* with the command until it goes */
    int exec_failure; /* reads the errno of execvp() */
};

static int report(int control, enum enclosure_event event, int value, const char *text)
{
    struct enclosure_message message = {.type = event, .value = value};
    snprintf(message.text, sizeof(message.text), "%s", text);
    return fds_send(control, &message, sizeof(message), NULL, 0);
}

__attribute__((noreturn)) static void give_up(const struct inside *inside, const struct error *err)
{
    report(inside->control, ENCLOSURE_FAILED, err->code, err->text);
    _exit(1);
}

/* --- ids ------------------------------------------------------------------------------------------------ */

static bool has_capability(unsigned capability)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
    if (syscall(SYS_capget, &header, data) < 0)
        return false;
    return data[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability);
}

/* Every id that exists in our user namespace, mapped to itself. */
static char *identity_of(const char *map_path)
{
    unsigned first, outside, count;
    size_t used = 0, size;
    int length;
    char *map = file_read(map_path), *identity;
    if (!map)
        return NULL;
    size = strlen(map) + 64; /* no line grows: the outer number gives way to the inner one, except by width */
    identity = calloc(2, size);
    for (char *at = map; identity && sscanf(at, "%u %u %u%n", &first, &outside, &count, &length) == 3;
         at += length)
        used += (size_t)snprintf(identity + used, 2 * size - used, "%u %u %u\n", first, first, count);
    free(map);
    return identity;
}

static int plan_ids(struct inside *inside, struct error *err)
{
    inside->single_id =
        !(has_capability(CAP_SETUID) && has_capability(CAP_SETGID) && has_capability(CAP_SETFCAP));
    int failed = 0;
    if (!inside->single_id) {
        inside->uid_map = identity_of("/proc/self/uid_map");
        inside->gid_map = identity_of("/proc/self/gid_map");
        failed = !inside->uid_map || !inside->gid_map;
    } else {
        failed = asprintf(&inside->uid_map, "%u %u 1\n", (unsigned)geteuid(), (unsigned)geteuid()) < 0 ||
                 asprintf(&inside->gid_map, "%u %u 1\n", (unsigned)getegid(), (unsigned)getegid()) < 0;
    }
    return failed ? error_errno(err, errno, "cannot read /proc/self/uid_map (is /proc mounted?)") : 0;
}

static int write_map(pid_t pid, const char *name, const char *text, struct error *err)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    int failed = file_write(path, text);
    return failed ? error_errno(err, -failed, "cannot map the ids of a user namespace (%s)", name) : 0;
}

/* By a process in the parent user namespace. */
static int map_ids(const struct inside *inside, pid_t pid, struct error *err)
{
    int failed;
    if (inside->single_id && (failed = write_map(pid, "setgroups", "deny", err)))
        return failed;
    if ((failed = write_map(pid, "gid_map", inside->gid_map, err)))
        return failed;
    return write_map(pid, "uid_map", inside->uid_map, err);
}

static int unshare_user(int more, struct error *err)
{
    if (unshare(CLONE_NEWUSER | more) == 0)
        return 0;
    int code = errno;
    const char *hint = "";
    if (code == EPERM)
        hint = " (forbidden to this user, or in a chroot; see sysctl kernel.unprivileged_userns_clone, "
               "kernel.apparmor_restrict_unprivileged_userns, and a container's seccomp profile)";
    else if (code == ENOSPC || code == EUSERS)
        hint = " (see sysctl user.max_user_namespaces)";
    return error_set(err, code, "cannot make a user namespace: %s%s", strerror(code), hint);
}

/* --- small talk between two processes ------------------------------------------------------------------- */

static bool say(int fd)
{
    return send(fd, "", 1, MSG_NOSIGNAL) == 1;
}

static bool hear(int fd)
{
    char byte;
    ssize_t got;
    do
        got = recv(fd, &byte, 1, 0);
    while (got < 0 && errno == EINTR);
    return got == 1;
}

/* --- the command ---------------------------------------------------------------------------------------- */

/* A descriptor the caller handed over stays, unless it is a way out: a network socket of the outer namespace
 * can be connected anew, a datagram socket reaches abstract names, a folder leads past the masks. */
static int check_standard_streams(struct error *err)
{
    static const char *const names[] = {"standard input", "standard output", "standard error"};
    for (int fd = 0; fd < 3; fd++) {
        struct stat status;
        int domain = 0, type = 0;
        if (fstat(fd, &status) < 0)
            continue;
        if (S_ISDIR(status.st_mode))
            return error_set(err, EISDIR,
                             "%s is a folder, through which the command could pass the masks; "
                             "redirect it from a file or /dev/null",
                             names[fd]);
        if (!S_ISSOCK(status.st_mode))
            continue;
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &(socklen_t){sizeof(domain)});
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof(type)});
        struct sockaddr_storage peer;
        bool connected = getpeername(fd, (struct sockaddr *)&peer, &(socklen_t){sizeof(peer)}) == 0;
        if (domain != AF_UNIX || type == SOCK_DGRAM || !connected)
            return error_set(err, ENOTSOCK,
                             "%s is a socket of the network outside, and so a way out; "
                             "put a pipe in between (cat |)",
                             names[fd]);
    }
    return 0;
}

static int enter_folder(const char *path, struct error *err)
{
    if (chdir("/") == 0 && path && chdir(path) == 0)
        return 0;
    return error_errno(err, path ? errno : ENOENT, "the current folder, %s, is not there inside%s",
                       path ? path : "deleted", path && path_is_within(path, "/run") ? " (--keep it)" : "");
}

/* Where core_pattern is a pipe, a crash inside would start a program outside, as root, fed by the command. A
 * limit of 1 is the kernel's word for "not through a pipe" (fs/coredump.c); 0 would not be. */
static void forbid_piped_core_dumps(void)
{
    const struct rlimit none = {1, 1};
    setrlimit(RLIMIT_CORE, &none);
}

/* In B, once its ids are mapped. Ends in the command, or with its errno on `exec_failure`. */
__attribute__((noreturn)) static void run_command(const struct init *init, int sync, int exec_failure)
{
    const struct inside *inside = init->inside;
    const struct enclosure_plan *plan = inside->plan;
    struct error err;
    int listener = -1;
    if (enter_folder(inside->cwd, &err) < 0 || enclosure_filter(init->datagrams, &listener, &err) < 0)
        give_up(inside, &err);
    if (inside->core_piped)
        forbid_piped_core_dumps();
    if (fds_send(sync, "", 1, &listener, listener >= 0) < 0 || !hear(sync))
        _exit(1);
    fd_close(&listener); /* none of ours comes along, this one least of all */
    setpgid(0, 0);
    if (plan->foreground)
        tcsetpgrp(plan->terminal, getpid()); /* SIGTTOU is blocked */
    if (dup3(exec_failure, 3, O_CLOEXEC) < 0 && exec_failure != 3)
        _exit(1);
    if (syscall(SYS_close_range, 4u, ~0u, 0u) < 0)
        _exit(1);
    sigprocmask(SIG_SETMASK, plan->signal_mask, NULL);
    execvp(plan->argv[0], plan->argv);
    int code = errno;
    (void)!write(3, &code, sizeof(code));
    _exit(127);
}

/* --- init ----------------------------------------------------------------------------------------------- */

static int drop_capabilities(struct error *err)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    if (syscall(SYS_capset, &header, none) < 0)
        return error_errno(err, errno, "cannot drop the capabilities of init");
    return 0;
}

/* The command's filter is in place: from here on its connects are ours to answer. */
static int supervise_command(const struct init *init, struct error *err)
{
    int fds[FDS_MAX];
    size_t count = 0;
    char byte;
    if (fds_receive(init->sync, &byte, 1, fds, &count) != 1)
        _exit(1); /* the command has said why */
    if (count == 0)
        return drop_capabilities(err);
    return enclosure_supervise(fds[0], &init->keep, init->command, init->inside->single_id, err);
}

static int fork_command(struct init *init, struct error *err)
{
    int sync[2], failure[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sync) < 0 || pipe2(failure, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot make a pipe");
    pid_t pid = fork();
    if (pid < 0)
        return error_errno(err, errno, "cannot fork");
    if (pid == 0) {
        struct error why;
        close(sync[0]);
        close(failure[0]);
        if (unshare_user(CLONE_NEWNS, &why) < 0)
            give_up(init->inside, &why);
        if (!say(sync[1]) || !hear(sync[1]))
            _exit(1);
        run_command(init, sync[1], failure[1]);
    }
    close(sync[1]);
    close(failure[1]);
    init->command = pid;
    init->sync = sync[0];
    init->exec_failure = failure[0];
    return 0;
}

/* The command has ended: say how, and end everything else by ending. */
__attribute__((noreturn)) static void report_end(const struct init *init, int status)
{
    int code;
    if (read(init->exec_failure, &code, sizeof(code)) == sizeof(code))
        report(init->inside->control, ENCLOSURE_EXEC_FAILED, code, "");
    else
        report(init->inside->control, ENCLOSURE_EXITED, status, "");
    _exit(0);
}

static void reap(const struct init *init)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0;) {
        if (pid != init->command)
            continue;
        if (WIFSTOPPED(status))
            report(init->inside->control, ENCLOSURE_STOPPED, WSTOPSIG(status), "");
        else
            report_end(init, status);
    }
}

static void obey(const struct init *init)
{
    struct enclosure_message message;
    int fds[FDS_MAX];
    size_t count = 0;
    ssize_t got = fds_receive(init->inside->control, &message, sizeof(message), fds, &count);
    if (got != sizeof(message))
        _exit(1); /* the monitor is gone */
    switch (message.type) {
    case ENCLOSURE_GO:
        say(init->sync);
        break;
    case ENCLOSURE_SIGNAL:
        kill(init->command, message.value);
        break;
    case ENCLOSURE_SIGNAL_GROUP:
        kill(-init->command, message.value);
        break;
    case ENCLOSURE_FOREGROUND:
        tcsetpgrp(init->inside->plan->terminal, init->command);
        break;
    }
}

__attribute__((noreturn)) static void serve(const struct init *init, int signals)
{
    struct pollfd polled[] = {{.fd = signals, .events = POLLIN},
                              {.fd = init->inside->control, .events = POLLIN}};
    for (;;) {
        struct signalfd_siginfo info;
        if (poll(polled, 2, -1) < 0 && errno != EINTR)
            _exit(1);
        if (polled[0].revents) {
            (void)!read(signals, &info, sizeof(info));
            reap(init);
        }
        if (polled[1].revents)
            obey(init);
    }
}

/* Pid 1 of the new pid namespace. */
__attribute__((noreturn)) static void run_init(const struct inside *inside)
{
    struct error err;
    struct init init = {.inside = inside, .command = -1, .sync = -1, .exec_failure = -1};
    sigset_t child, all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* the monitor is the parent (CLONE_PARENT) */
    prctl(PR_SET_NAME, "sallyport-init");
    close(inside->passage);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    int signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0) {
        error_errno(&err, errno, "cannot make a signalfd");
        give_up(inside, &err);
    }
    if (enclosure_keep(inside->plan, &init.keep) < 0) {
        error_errno(&err, ENOMEM, "cannot remember what to keep");
        give_up(inside, &err);
    }
    if (enclosure_mount(inside->plan, &init.keep, &err) < 0)
        give_up(inside, &err);
    init.datagrams = enclosure_keeps_datagrams(&init.keep);
    if (fork_command(&init, &err) < 0)
        give_up(inside, &err);
    if (!hear(init.sync))
        _exit(1); /* the command has said why */
    if (map_ids(inside, init.command, &err) < 0)
        give_up(inside, &err);
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || !say(init.sync))
        _exit(1);
    if (supervise_command(&init, &err) < 0)
        give_up(inside, &err);
    report(inside->control, ENCLOSURE_PREPARED, 0, "");
    serve(&init, signals);
}

/* --- the builder ---------------------------------------------------------------------------------------- */

/* Without a capability over the network namespace a command could not use ports below 1024 or ping at all;
 * neither leads out. Failure is not an error. */
static void relax_sysctls(const struct inside *inside)
{
    char range[32];
    unsigned first = inside->single_id ? (unsigned)getegid() : 0,
             last = inside->single_id ? first : 2147483647u;
    snprintf(range, sizeof(range), "%u %u", first, last);
    file_write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    file_write("/proc/sys/net/ipv4/ping_group_range", range);
}

/* A child of our parent: CLONE_PARENT. No glibc state depends on the difference to fork(). */
static pid_t fork_sibling(void)
{
    return (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
}

/* What only the caller's namespaces can tell. */
static void look_around(struct inside *inside)
{
    inside->cwd = getcwd(NULL, 0);
    char *core_pattern = file_read("/proc/sys/kernel/core_pattern");
    inside->core_piped = core_pattern && *core_pattern == '|';
    free(core_pattern);
}

/* A, with the ids that the monitor maps, and what A owns. */
static int enter_namespaces(struct inside *inside, struct error *err)
{
    int failed = unshare_user(0, err);
    if (failed)
        return failed;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!say(inside->passage) || !hear(inside->passage))
        return error_set(err, EPIPE, "the monitor is gone");
    if (unshare(NEW_NAMESPACES) < 0)
        return error_errno(err, errno,
                           "cannot make the namespaces (the kernel or a security module forbids it)");
    return 0;
}

__attribute__((noreturn)) static void run_builder(struct inside *inside)
{
    struct error err;
    struct capture_sockets sockets = CAPTURE_SOCKETS_NONE;
    int group;
    const struct enclosure_plan *plan = inside->plan;
    prctl(PR_SET_NAME, "sallyport-build");
    look_around(inside);
    if (check_standard_streams(&err) < 0 || enter_namespaces(inside, &err) < 0)
        give_up(inside, &err);
    /* init mounts while we build the network: neither needs the other. */
    pid_t init = fork_sibling();
    if (init == 0)
        run_init(inside);
    if (init < 0) {
        error_errno(&err, errno, "cannot fork");
        give_up(inside, &err);
    }
    if (sealed_capture(&plan->sealed, &sockets, &group, &err) < 0)
        give_up(inside, &err);
    relax_sysctls(inside);
    if (fds_send(inside->passage, &init, sizeof(init), NULL, 0) < 0 ||
        channel_send_capture(inside->passage, "", "", "", &sockets) < 0)
        _exit(1);
    _exit(0);
}

/* --- the monitor's side --------------------------------------------------------------------------------- */

static void inside_finish(struct inside *inside)
{
    fd_close(&inside->control);
    fd_close(&inside->passage);
    free(inside->uid_map);
    free(inside->gid_map);
}

static int make_pair(int *ret_ours, int *ret_theirs, struct error *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return error_errno(err, errno, "cannot make a socket pair");
    *ret_ours = pair[0];
    *ret_theirs = pair[1];
    return 0;
}

/* What a child said before it died, if anything. It said so before it closed what we were reading. */
static int failure_of(struct enclosure *enclosure, const char *doing, struct error *err)
{
    struct enclosure_message message;
    struct pollfd polled = {.fd = enclosure->control, .events = POLLIN};
    while (poll(&polled, 1, 0) == 1 && enclosure_event(enclosure, &message) == 1)
        if (message.type == ENCLOSURE_FAILED)
            return error_set(err, message.value > 0 ? message.value : EIO, "%s", message.text);
    return error_set(err, EIO, "%s: the process ended without saying why", doing);
}

int enclosure_start(const struct enclosure_plan *plan, struct enclosure *ret, struct error *err)
{
    struct enclosure enclosure = ENCLOSURE_NONE;
    struct inside inside = {.plan = plan, .control = -1, .passage = -1};
    int failed;
    if ((failed = plan_ids(&inside, err)) || (failed = make_pair(&enclosure.control, &inside.control, err)) ||
        (failed = make_pair(&enclosure.passage, &inside.passage, err)))
        goto out;
    enclosure.builder = fork();
    if (enclosure.builder < 0) {
        failed = error_errno(err, errno, "cannot fork");
        goto out;
    }
    if (enclosure.builder == 0) {
        enclosure_close(&enclosure);
        run_builder(&inside);
    }
    fd_close(&inside.control);
    fd_close(&inside.passage);
    if (!hear(enclosure.passage))
        failed = failure_of(&enclosure, "making the user namespace", err);
    else if (!(failed = map_ids(&inside, enclosure.builder, err)))
        failed = say(enclosure.passage) ? 0 : failure_of(&enclosure, "making the namespaces", err);
out:
    inside_finish(&inside);
    if (failed)
        enclosure_close(&enclosure);
    else
        *ret = enclosure;
    return failed;
}

int enclosure_sockets(struct enclosure *enclosure, struct capture_sockets *ret, struct error *err)
{
    struct channel_message message;
    int fds[FDS_MAX], unused = -1;
    size_t count = 0;
    ssize_t got = fds_receive(enclosure->passage, &enclosure->init, sizeof(enclosure->init), fds, &count);
    if (got != sizeof(enclosure->init) || channel_receive(enclosure->passage, &message, ret, &unused) != 1)
        return failure_of(enclosure, "building the sealed network", err);
    fd_close(&enclosure->passage);
    return 0;
}

int enclosure_prepared(struct enclosure *enclosure, struct error *err)
{
    struct enclosure_message message;
    int got = enclosure_event(enclosure, &message);
    if (got == 1 && message.type == ENCLOSURE_PREPARED)
        return 0;
    if (got == 1 && message.type == ENCLOSURE_FAILED)
        return error_set(err, message.value > 0 ? message.value : EIO, "%s", message.text);
    return error_set(err, EIO, "the enclosure's init ended without saying why");
}

int enclosure_order(struct enclosure *enclosure, enum enclosure_order order, int value)
{
    const struct enclosure_message message = {.type = order, .value = value};
    return fds_send(enclosure->control, &message, sizeof(message), NULL, 0);
}

int enclosure_event(struct enclosure *enclosure, struct enclosure_message *ret)
{
    int fds[FDS_MAX];
    size_t count = 0;
    ssize_t got = fds_receive(enclosure->control, ret, sizeof(*ret), fds, &count);
    if (got <= 0)
        return (int)got;
    ret->text[sizeof(ret->text) - 1] = '\0';
    return got == sizeof(*ret) ? 1 : -EBADMSG;
}

void enclosure_close(struct enclosure *enclosure)
{
    fd_close(&enclosure->control);
    fd_close(&enclosure->passage);
}
