/*
 * What is left to the worker when this is done: memory, threads of its own, the sockets it was handed, new
 * outgoing IPv4 and IPv6 sockets, and the audit descriptor. No file can be opened, nothing executed, nothing
 * bound or listened on.
 *
 * In order: limits and dumpability, bounding set, user and groups, no_new_privs, Landlock (no access at all;
 * system calls raw, the kernel's ABI is newer than the headers), seccomp. A sanitizer needs files and system
 * calls of its own, so in sanitized builds (never shipped) the last two are left out.
 */
#include "gateway/confine.h"
#include "base/log.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <linux/landlock.h>
#include <pwd.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Does this user namespace know the id? (One mapped for a single user, as a rootless container may have, knows no other.) */
static bool id_is_mapped(const char *map, unsigned id)
{
    unsigned first, outside, count;
    bool found = false;
    FILE *file = fopen(map, "re");
    while (file && !found && fscanf(file, "%u %u %u", &first, &outside, &count) == 3)
        found = id >= first && id - first < count;
    if (file)
        fclose(file);
    return found;
}

static int change_user(struct error *err)
{
    const struct passwd *user = getpwnam("sallyport");
    if (!user)
        user = getpwnam("nobody");
    uid_t uid = user ? user->pw_uid : 65534;
    gid_t gid = user ? user->pw_gid : 65534;
    if (!id_is_mapped("/proc/self/uid_map", uid) || !id_is_mapped("/proc/self/gid_map", gid)) {
        log_info("worker: no other user is mapped here; it stays the caller's, without capabilities");
        return 0;
    }
    if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        return error_errno(err, errno, "cannot change to uid %u", uid);
    return 0;
}

static int drop_privileges(struct error *err)
{
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
#ifndef SALLYPORT_SANITIZED /* the leak checker has to trace its own process */
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        return error_errno(err, errno, "cannot become undumpable");
#endif
    if (geteuid() == 0) {
        capng_clear(CAPNG_SELECT_BOUNDS);
        if (capng_apply(CAPNG_SELECT_BOUNDS) < 0)
            return error_set(err, EPERM, "cannot empty the capability bounding set");
        int r = change_user(err);
        if (r < 0)
            return r;
    }
    capng_clear(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT);
    if (capng_apply(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT) < 0 ||
        capng_have_capabilities(CAPNG_SELECT_CAPS) != CAPNG_NONE)
        return error_set(err, EPERM, "cannot drop all capabilities");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_errno(err, errno, "cannot set no_new_privs");
    return 0;
}

#ifndef SALLYPORT_SANITIZED

/* struct landlock_ruleset_attr of ABI 6 (Linux 6.12), include/uapi/linux/landlock.h. */
struct landlock_rules {
    uint64_t access_fs, access_net, scoped;
};

static int landlock(struct error *err)
{
    struct landlock_rules rules = {0};
    size_t size = sizeof(rules.access_fs);
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 0) {
        log_info("no Landlock here: the worker is confined by user and seccomp alone");
        return 0;
    }
    rules.access_fs = (1u << 13) - 1; /* ABI 1: EXECUTE … MAKE_SYM */
    if (abi >= 2)
        rules.access_fs |= 1u << 13; /* REFER */
    if (abi >= 3)
        rules.access_fs |= 1u << 14; /* TRUNCATE */
    if (abi >= 5)
        rules.access_fs |= 1u << 15; /* IOCTL_DEV */
    if (abi >= 4) {
        rules.access_net = 1; /* BIND_TCP */
        size = 2 * sizeof(uint64_t);
    }
    if (abi >= 6) {
        rules.scoped = 3; /* abstract unix sockets, signals */
        size = sizeof(rules);
    }
    int fd = (int)syscall(SYS_landlock_create_ruleset, &rules, size, 0);
    if (fd < 0)
        return error_errno(err, errno, "cannot make a Landlock ruleset");
    long r = syscall(SYS_landlock_restrict_self, fd, 0);
    close(fd);
    return r < 0 ? error_errno(err, errno, "cannot apply Landlock") : 0;
}

/* clang-format off */
static const int allowed_calls[] = {
    /* sockets it has */
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pwritev2), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg),
    SCMP_SYS(recvmmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(sendmmsg), SCMP_SYS(accept4), SCMP_SYS(connect),
    SCMP_SYS(shutdown), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(getsockname), SCMP_SYS(getpeername),
    SCMP_SYS(splice), SCMP_SYS(pipe2), SCMP_SYS(close), SCMP_SYS(fcntl), SCMP_SYS(dup),
    /* the audit file: appended to, and a torn last line mended */
    SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(lseek), SCMP_SYS(pread64), SCMP_SYS(ftruncate), SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    /* the loop */
    SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_create1), SCMP_SYS(eventfd2),
    SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime),
    /* time, chance, itself */
    SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres), SCMP_SYS(gettimeofday), SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep), SCMP_SYS(getrandom), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getuid),
    SCMP_SYS(geteuid), SCMP_SYS(getrusage), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(restart_syscall),
    SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack), SCMP_SYS(tgkill),
    /* memory and threads */
    SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(futex), SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq), SCMP_SYS(set_tid_address), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(membarrier),
};

/* Nobody who only relays would call these: whoever does is not the worker any more. */
static const int fatal_calls[] = {
    SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(fork), SCMP_SYS(vfork), SCMP_SYS(ptrace), SCMP_SYS(mount),
    SCMP_SYS(unshare), SCMP_SYS(setns), SCMP_SYS(bpf), SCMP_SYS(process_vm_writev), SCMP_SYS(bind), SCMP_SYS(listen),
    SCMP_SYS(keyctl), SCMP_SYS(add_key), SCMP_SYS(userfaultfd), SCMP_SYS(process_vm_readv), SCMP_SYS(pidfd_getfd), SCMP_SYS(pidfd_open),
    SCMP_SYS(io_uring_setup), SCMP_SYS(perf_event_open), SCMP_SYS(open_by_handle_at), SCMP_SYS(chroot), SCMP_SYS(pivot_root),
    SCMP_SYS(umount2), SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(kexec_load), SCMP_SYS(setuid), SCMP_SYS(setresuid),
    SCMP_SYS(capset), SCMP_SYS(memfd_create), SCMP_SYS(mknodat), SCMP_SYS(symlinkat), SCMP_SYS(linkat),
};
/* clang-format on */

static int add_conditions(scmp_filter_ctx filter)
{
    int r = 0;
    r |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_INET));
    r |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_INET6));
    r |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, FIONBIO));
    r |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, FIONREAD));
    r |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                          SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    r |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                          SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    r |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
    /* Threads, not processes; clone3 hides its flags in memory, so glibc is told to use clone. */
    r |= seccomp_rule_add(
        filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
        SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS, CLONE_THREAD));
    r |= seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    return r;
}

static int system_calls(struct error *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int r = filter ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < sizeof(allowed_calls) / sizeof(*allowed_calls); i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed_calls[i], 0);
    for (size_t i = 0; r == 0 && i < sizeof(fatal_calls) / sizeof(*fatal_calls); i++)
        r = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, fatal_calls[i], 0);
    if (r == 0)
        r = add_conditions(filter);
    if (r == 0)
        r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r < 0 ? error_errno(err, -r, "cannot load the seccomp filter") : 0;
}

static int forbid(struct error *err)
{
    int r = landlock(err);
    return r < 0 ? r : system_calls(err);
}

#else

static int forbid(struct error *err)
{
    (void)err;
    log_info("sanitized build: the worker runs without Landlock and seccomp");
    return 0;
}

#endif

int confine(struct error *err)
{
    int r = drop_privileges(err);
    return r < 0 ? r : forbid(err);
}
