/*
 * Which system calls the worker may make: a list, and whoever makes another is not the worker any more.
 *
 *   allowed    what relaying, DNS, the audit log, threads and memory need; arguments are looked at where that shuts a door
 *   refused    what a library asks for out of curiosity and can do without (a C library that looks for a file): an error,
 *              harmlessly. Short, and each with its reason
 *   killed     what an intruder would do next: the kernel ends the process at once, nothing of ours has a say in it
 *   the rest   is not made either; the handler of SIGSYS tells the operator which call it was, and then makes one of the killed
 *              ones: so the monitor sees the same end, and the log has the name
 *
 * The rest has a handler because the kernel tells a parent that a filter killed its child, but not for which call (only its own
 * log does), and whoever wrote a call that was forgotten here should not have to guess. Who runs code of his own in here cannot get a
 * call past the filter by way of the handler: it is not made, whatever the handler does; nor can he replace it, as handlers of signals
 * are not changed any more once the filter is there.
 */
#include "gateway/syscalls.h"

#ifndef SALLYPORT_SANITIZED

#include "base/log.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

/* clang-format off */
static const int allowed[] = {
    /* sockets it has */
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pwritev2), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg),
    SCMP_SYS(recvmmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(sendmmsg), SCMP_SYS(accept4), SCMP_SYS(connect),
    SCMP_SYS(shutdown), SCMP_SYS(getsockopt), SCMP_SYS(getsockname), SCMP_SYS(getpeername),
    SCMP_SYS(splice), SCMP_SYS(pipe2), SCMP_SYS(close), SCMP_SYS(dup),
    /* the audit file: appended to, and a torn last line mended */
    SCMP_SYS(fstat), SCMP_SYS(lseek), SCMP_SYS(pread64), SCMP_SYS(ftruncate), SCMP_SYS(fallocate),
    SCMP_SYS(fsync), SCMP_SYS(fdatasync),
    /* the loop */
    SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_create1), SCMP_SYS(eventfd2),
    SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime),
    /* time (also where the vdso does not have it), chance, itself */
    SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep), SCMP_SYS(getrandom), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getuid),
    SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(getrusage), SCMP_SYS(exit), SCMP_SYS(exit_group),
    SCMP_SYS(restart_syscall), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack),
    /* memory (qsort(3) asks how much there is) and threads */
    SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(sysinfo), SCMP_SYS(futex),
    SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(set_tid_address), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity),
    SCMP_SYS(getcpu), SCMP_SYS(membarrier),
};

static const struct {
    int call, error;
} refused[] = {
    /* glibc, giving an arena back, looks at overcommit_memory; others look for time zones, message catalogues, processors */
    {SCMP_SYS(open), EACCES}, {SCMP_SYS(openat), EACCES}, {SCMP_SYS(access), EACCES}, {SCMP_SYS(faccessat), EACCES},
    {SCMP_SYS(faccessat2), EACCES}, {SCMP_SYS(stat), EACCES}, {SCMP_SYS(lstat), EACCES}, {SCMP_SYS(readlink), EACCES},
    {SCMP_SYS(readlinkat), EACCES},
    {SCMP_SYS(statx), ENOSYS},  /* newer than what is allowed: whoever tries it has the older one to fall back upon */
    {SCMP_SYS(clone3), ENOSYS}, /* hides its flags in memory, where a filter cannot see them: glibc then takes clone */
};

static const int killed[] = {
    SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(fork), SCMP_SYS(vfork), SCMP_SYS(ptrace), SCMP_SYS(mount),
    SCMP_SYS(unshare), SCMP_SYS(setns), SCMP_SYS(bpf), SCMP_SYS(process_vm_writev), SCMP_SYS(bind), SCMP_SYS(listen),
    SCMP_SYS(keyctl), SCMP_SYS(add_key), SCMP_SYS(request_key), SCMP_SYS(userfaultfd), SCMP_SYS(process_vm_readv),
    SCMP_SYS(pidfd_getfd), SCMP_SYS(pidfd_open), SCMP_SYS(pidfd_send_signal), SCMP_SYS(kill), SCMP_SYS(tkill),
    SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register), SCMP_SYS(perf_event_open),
    SCMP_SYS(open_by_handle_at), SCMP_SYS(chroot), SCMP_SYS(pivot_root), SCMP_SYS(umount2), SCMP_SYS(move_mount), SCMP_SYS(fsopen),
    SCMP_SYS(open_tree), SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(kexec_load), SCMP_SYS(kexec_file_load),
    SCMP_SYS(setuid), SCMP_SYS(setgid), SCMP_SYS(setreuid), SCMP_SYS(setregid), SCMP_SYS(setresuid), SCMP_SYS(setresgid),
    SCMP_SYS(setgroups), SCMP_SYS(setfsuid), SCMP_SYS(capset), SCMP_SYS(seccomp), SCMP_SYS(memfd_create), SCMP_SYS(memfd_secret),
    SCMP_SYS(mknodat), SCMP_SYS(symlinkat), SCMP_SYS(linkat), SCMP_SYS(renameat2), SCMP_SYS(unlinkat), SCMP_SYS(personality),
    SCMP_SYS(modify_ldt), SCMP_SYS(iopl), SCMP_SYS(ioperm), SCMP_SYS(shmat), SCMP_SYS(pkey_mprotect),
};

#define AN_INT UINT64_C(0xffffffff) /* the kernel does not look at the rest of the register */
#define A_POINTER (~UINT64_C(0))
#define SOCKET_KIND (AN_INT & ~(uint64_t)(SOCK_CLOEXEC | SOCK_NONBLOCK))
/* What pthread_create(3) of glibc asks for; that of musl adds CLONE_DETACHED, which means nothing any more. */
#define CLONE_A_THREAD (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS | \
                        CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

/* One argument has to have this value (under this mask), and so has the other one, an int, if there is one. */
static const struct {
    int call, action; /* 0: allowed; else refused with that error */
    unsigned at;
    uint64_t mask, value;
    int at_too; /* -1: there is none */
    uint64_t value_too;
} conditions[] = {
#define WHEN(call, at, value) {SCMP_SYS(call), 0, at, AN_INT, value, -1, 0}
#define WHEN_BOTH(call, at, value, at_too, value_too) {SCMP_SYS(call), 0, at, AN_INT, value, at_too, value_too}
#define WHEN_BITS(call, at, mask, value) {SCMP_SYS(call), 0, at, mask, value, -1, 0}
    /* to origins and name servers, and pings: never raw, no other family (netlink, unix, packet, vsock, alg, …) */
    {SCMP_SYS(socket), 0, 1, SOCKET_KIND, SOCK_STREAM, 0, AF_INET}, {SCMP_SYS(socket), 0, 1, SOCKET_KIND, SOCK_STREAM, 0, AF_INET6},
    {SCMP_SYS(socket), 0, 1, SOCKET_KIND, SOCK_DGRAM, 0, AF_INET}, {SCMP_SYS(socket), 0, 1, SOCKET_KIND, SOCK_DGRAM, 0, AF_INET6},
    /* no socket filters, no other device or mark, nothing of netfilter */
    WHEN_BOTH(setsockopt, 1, SOL_SOCKET, 2, SO_LINGER), WHEN_BOTH(setsockopt, 1, SOL_SOCKET, 2, SO_RCVBUF),
    WHEN_BOTH(setsockopt, 1, SOL_SOCKET, 2, SO_OOBINLINE),
    WHEN_BOTH(setsockopt, 1, SOL_SOCKET, 2, SO_SNDBUF), WHEN_BOTH(setsockopt, 1, SOL_SOCKET, 2, SO_RCVLOWAT),
    WHEN_BOTH(setsockopt, 1, IPPROTO_TCP, 2, TCP_NODELAY), WHEN_BOTH(setsockopt, 1, IPPROTO_TCP, 2, TCP_QUICKACK),
    WHEN_BOTH(setsockopt, 1, IPPROTO_TCP, 2, TCP_NOTSENT_LOWAT), WHEN_BOTH(setsockopt, 1, IPPROTO_TCP, 2, TCP_CORK),
    WHEN_BOTH(setpriority, 0, PRIO_PROCESS, 1, 0), /* the thread that loads a configuration steps back */
    WHEN(ioctl, 1, FIONBIO), WHEN(ioctl, 1, FIONREAD),
    {SCMP_SYS(ioctl), ENOTTY, 1, AN_INT, TCGETS, -1, 0}, /* stdio asks whether it writes to a terminal */
    WHEN(fcntl, 1, F_GETFD), WHEN(fcntl, 1, F_SETFD), WHEN(fcntl, 1, F_GETFL), WHEN(fcntl, 1, F_SETFL),
    WHEN(fcntl, 1, F_DUPFD_CLOEXEC), WHEN(fcntl, 1, F_SETPIPE_SZ), WHEN(fcntl, 1, F_GETPIPE_SZ), WHEN(fcntl, 1, F_GET_SEALS),
    WHEN(fcntl, 1, F_SETLK), /* of the audit log, which several workers write */
    /* no code but what is there */
    WHEN_BITS(mmap, 2, PROT_EXEC, 0), WHEN_BITS(mprotect, 2, PROT_EXEC, 0),
    WHEN(prctl, 0, PR_SET_NAME),
    {SCMP_SYS(prctl), EINVAL, 0, AN_INT, 0x53564d41, -1, 0}, /* PR_SET_VMA: a C library that names its memory */
    WHEN_BITS(clone, 0, AN_INT & ~(uint64_t)0x00400000, CLONE_A_THREAD),
    {SCMP_SYS(prlimit64), 0, 2, A_POINTER, 0, 0, 0}, /* its own limits, to read: the size of a thread's stack */
    /* abort(3), and the two signals that are the C library's own (the first thread brings a handler): none that could be put in the
     * place of ours, or beside it */
    WHEN(rt_sigaction, 0, SIGABRT), WHEN(rt_sigaction, 0, 32), WHEN(rt_sigaction, 0, 33),
    {SCMP_SYS(newfstatat), 0, 3, AT_EMPTY_PATH, AT_EMPTY_PATH, -1, 0}, /* fstat(3) of glibc */
    {SCMP_SYS(newfstatat), EACCES, 3, AT_EMPTY_PATH, 0, -1, 0},
};
/* clang-format on */

/* ---- telling which it was ---- */

#define NAME_SIZE 24
#define NAMES 512
static char (*names)[NAME_SIZE]; /* of system calls, resolved before: the handler may not ask for memory */

static int resolve_names(void)
{
    names = calloc(NAMES, sizeof(*names));
    for (int i = 0; names && i < NAMES; i++) {
        char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, i);
        if (name)
            strncpy(names[i], name, NAME_SIZE - 1);
        free(name);
    }
    return names ? 0 : -ENOMEM;
}

static void first_arguments(const ucontext_t *at, unsigned long long ret[3])
{
    ret[0] = ret[1] = ret[2] = 0;
#if defined(__x86_64__)
    static const int registers[] = {REG_RDI, REG_RSI, REG_RDX};
    for (int i = 0; i < 3; i++)
        ret[i] = (unsigned long long)at->uc_mcontext.gregs[registers[i]];
#elif defined(__aarch64__)
    for (int i = 0; i < 3; i++)
        ret[i] = at->uc_mcontext.regs[i];
#else
    (void)at;
#endif
}

/* Formatting text takes no lock and no memory, and nobody goes on from here. */
static void tell_and_die(int number, siginfo_t *info, void *context)
{
    unsigned long long arguments[3];
    const int call = info->si_syscall;
    (void)number;
    first_arguments(context, arguments);
    log_error("worker: it made a system call that is not on its list: number %d, %s(%#llx, %#llx, %#llx, ...)", call,
              call >= 0 && call < NAMES && names[call][0] ? names[call] : "unknown", arguments[0], arguments[1], arguments[2]);
    syscall(SYS_ptrace, 0, 0, 0, 0);
    _exit(1); /* not reached: that one is killed */
}

static int take_signal(void)
{
    struct sigaction action = {.sa_sigaction = tell_and_die, .sa_flags = SA_SIGINFO};
    sigfillset(&action.sa_mask);
    return sigaction(SIGSYS, &action, NULL) < 0 ? -errno : 0;
}

/* ---- the filter ---- */

static int add_condition(scmp_filter_ctx filter, size_t i)
{
    const uint32_t action = conditions[i].action ? SCMP_ACT_ERRNO((uint32_t)conditions[i].action) : SCMP_ACT_ALLOW;
    const struct scmp_arg_cmp tests[] = {
        {.arg = conditions[i].at,
         .op = SCMP_CMP_MASKED_EQ,
         .datum_a = conditions[i].mask,
         .datum_b = conditions[i].value},
        {.arg = conditions[i].at_too < 0 ? 0 : (unsigned)conditions[i].at_too,
         .op = SCMP_CMP_MASKED_EQ,
         .datum_a = AN_INT,
         .datum_b = conditions[i].value_too},
    };
    return seccomp_rule_add_array(filter, action, conditions[i].call, conditions[i].at_too < 0 ? 1 : 2, tests);
}

static int add_rules(scmp_filter_ctx filter)
{
    /* Of signals only to itself: abort(3), pthread_kill(3). */
    int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
    for (size_t i = 0; r == 0 && i < COUNT(allowed); i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
    for (size_t i = 0; r == 0 && i < COUNT(refused); i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO((uint32_t)refused[i].error), refused[i].call, 0);
    for (size_t i = 0; r == 0 && i < COUNT(killed); i++)
        r = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, killed[i], 0);
    for (size_t i = 0; r == 0 && i < COUNT(conditions); i++)
        r = add_condition(filter, i);
    return r;
}

int syscalls_confine(struct error *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);
    int r = filter ? resolve_names() : -ENOMEM;
    if (r == 0)
        r = take_signal();
    if (r == 0)
        r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (r == 0)
        r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (r == 0)
        r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a binary tree: every call of every flow goes through it */
    if (r == 0)
        r = add_rules(filter);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r < 0 ? error_errno(err, -r, "cannot load the seccomp filter") : 0;
}

#endif
