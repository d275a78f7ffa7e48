/*
 * The system call filter of the command: what a namespace does not shut.
 *
 *   socket, socketpair  only unix, IPv4, IPv6 and netlink, which belong to the network namespace. AF_VSOCK
 *                       talks to the hypervisor, AF_SMC and AF_RDS may use RDMA hardware, AF_ALG,
 *                       AF_BLUETOOTH … are attack surface. IPPROTO_SMC is AF_SMC by another name
 *                       (kernel 6.11)
 *   io_uring_*          would make and connect sockets without passing here
 *   ioctl               TIOCSTI and TIOCLINUX (paste) put words into the mouth of the shell that owns the
 *                       terminal
 *   keyctl, add_key,    key types with an upcall (dns_resolver!) run /sbin/request-key outside, in the
 *   request_key         host's namespaces; keyrings are per user, not per namespace
 *   bpf                 opens objects pinned outside
 *   open_by_handle_at   opens files by handle, past mounts
 *   another ABI         i386 and x32 calls have other numbers: killed, as the filter could not read them
 *
 * A second filter, of what is decided outside the command (enclosure_connect.c): connect(2), listen(2), and
 * unix datagram sockets, which send to a path without connecting. Where the kernel cannot tell us of calls
 * (one listener in a tree of filters: a container manager may have it), there are no unix sockets but pairs.
 *
 * Written as classic BPF rather than through libseccomp: the domain of socket(2) and the request of ioctl(2)
 * are 32-bit for the kernel, libseccomp compares 64 bits, and a set bit in the upper half would pass by.
 */
#include "redirect/exec/enclosure_internal.h"

#include "base/log.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__) && !defined(__ILP32__)
#define FILTER_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__) && defined(__LP64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FILTER_ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define FILTER_ARCH AUDIT_ARCH_RISCV64
#else
#error \
    "the system call filter does not know this architecture: add its AUDIT_ARCH_… and check that socketcall(2) is absent"
#endif

#ifndef IPPROTO_SMC
#define IPPROTO_SMC 256
#endif
#define X32_BIT 0x40000000u /* __X32_SYSCALL_BIT; other architectures have no call so high */

/* Little-endian: the low half of an argument comes first. */
#define ARGUMENT(n) (offsetof(struct seccomp_data, args) + (n) * sizeof(uint64_t))
#define LOAD(offset) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)
#define REFUSE(code) RETURN(SECCOMP_RET_ERRNO | (code))
#define ALLOW RETURN(SECCOMP_RET_ALLOW)
/* If A == value: run the next instruction, else skip it. */
#define IF_EQUAL(value) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1)
#define IF_AT_LEAST(value) BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, value, 0, 1)
/* If A == value: run the next `n` instructions, which must return, else skip them. */
#define IF_EQUAL_BLOCK(value, n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, n)
#define TELL RETURN(SECCOMP_RET_USER_NOTIF)
#define COUNT(array) (sizeof(array) / sizeof(*(array)))
/* If it is `call` for a unix datagram socket (SOCK_RAW is another word for it; the kernel looks at these four
 * bits): run the next instruction, else skip it. */
#define IF_DATAGRAM(call)                                                                                  \
    IF_EQUAL_BLOCK(call, 9), LOAD(ARGUMENT(0)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 1, 0), ALLOW, \
        LOAD(ARGUMENT(1)), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf),                                       \
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SOCK_DGRAM, 2, 0),                                             \
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SOCK_RAW, 1, 0), ALLOW

static const struct sock_filter program[] = {
    LOAD(offsetof(struct seccomp_data, arch)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FILTER_ARCH, 1, 0),
    RETURN(SECCOMP_RET_KILL_PROCESS),
    LOAD(offsetof(struct seccomp_data, nr)),
    IF_EQUAL(UINT32_MAX), /* -1: how a tracer inside skips a call; the kernel answers ENOSYS */
    ALLOW,
    IF_AT_LEAST(X32_BIT),
    RETURN(SECCOMP_RET_KILL_PROCESS),

    IF_EQUAL_BLOCK(__NR_ioctl, 6),
    LOAD(ARGUMENT(1)),
    IF_EQUAL(TIOCSTI),
    REFUSE(EPERM),
    IF_EQUAL(TIOCLINUX),
    REFUSE(EPERM),
    ALLOW,

    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_socket, 1, 0),
    IF_EQUAL_BLOCK(__NR_socketpair, 12),
    LOAD(ARGUMENT(0)),
    IF_EQUAL(AF_UNIX),
    ALLOW,
    IF_EQUAL(AF_NETLINK),
    ALLOW,
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 2, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET6, 1, 0),
    REFUSE(EAFNOSUPPORT),
    LOAD(ARGUMENT(2)),
    IF_EQUAL(IPPROTO_SMC),
    REFUSE(EPROTONOSUPPORT),
    ALLOW,

    IF_EQUAL(__NR_io_uring_setup),
    REFUSE(ENOSYS),
    IF_EQUAL(__NR_io_uring_enter),
    REFUSE(ENOSYS),
    IF_EQUAL(__NR_io_uring_register),
    REFUSE(ENOSYS),
    IF_EQUAL(__NR_keyctl),
    REFUSE(ENOSYS),
    IF_EQUAL(__NR_add_key),
    REFUSE(ENOSYS),
    IF_EQUAL(__NR_request_key),
    REFUSE(ENOSYS),
    IF_EQUAL(__NR_bpf),
    REFUSE(EPERM),
    IF_EQUAL(__NR_open_by_handle_at),
    REFUSE(EPERM),
    ALLOW,
};

static const struct sock_filter supervised[] = {
    LOAD(offsetof(struct seccomp_data, nr)),
    IF_EQUAL(__NR_connect),
    TELL,
    IF_EQUAL(__NR_listen),
    TELL,
    IF_DATAGRAM(__NR_socket),
    TELL,
    IF_DATAGRAM(__NR_socketpair),
    REFUSE(EPROTONOSUPPORT),
    ALLOW,
};

/* For a datagram socket named with --keep. */
static const struct sock_filter supervised_with_datagrams[] = {
    LOAD(offsetof(struct seccomp_data, nr)), IF_EQUAL(__NR_connect), TELL, IF_EQUAL(__NR_listen), TELL, ALLOW,
};

static const struct sock_filter unsupervised[] = {
    LOAD(offsetof(struct seccomp_data, nr)),
    IF_EQUAL_BLOCK(__NR_socket, 4),
    LOAD(ARGUMENT(0)),
    IF_EQUAL(AF_UNIX),
    REFUSE(EAFNOSUPPORT),
    ALLOW,
    IF_DATAGRAM(__NR_socketpair),
    REFUSE(EPROTONOSUPPORT),
    ALLOW,
};

static int install(const struct sock_filter *filter, size_t length, unsigned flags)
{
    const struct sock_fprog code = {.len = (unsigned short)length, .filter = (struct sock_filter *)filter};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &code);
}

/* The supervisor fetches sockets of the command with pidfd_getfd(2), which Yama may forbid to everybody. */
static bool may_be_supervised(void)
{
    char *scope = file_read("/proc/sys/kernel/yama/ptrace_scope");
    bool may = !scope || *scope != '3';
    free(scope);
    return may;
}

static int install_supervised(bool datagrams)
{
    const struct sock_filter *filter = datagrams ? supervised_with_datagrams : supervised;
    size_t length = datagrams ? COUNT(supervised_with_datagrams) : COUNT(supervised);
    unsigned flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
    if (!may_be_supervised()) {
        errno = EPERM;
        return -1;
    }
    int listener = install(filter, length, flags | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
    return listener < 0 && errno == EINVAL ? install(filter, length, flags)
                                           : listener; /* before Linux 5.19 */
}

int enclosure_filter(bool datagrams, int *ret_listener, struct error *err)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_errno(err, errno, "cannot set no_new_privs");
    if (install(program, COUNT(program), 0) < 0)
        return error_errno(
            err, errno,
            "cannot install the system call filter (does the kernel have CONFIG_SECCOMP_FILTER?)");
    *ret_listener = install_supervised(datagrams);
    if (*ret_listener >= 0)
        return 0;
    log_warning("the command gets no unix sockets: this system does not let them be supervised (%s)",
                strerror(errno));
    if (install(unsupervised, COUNT(unsupervised), 0) < 0)
        return error_errno(err, errno, "cannot install the system call filter");
    return 0;
}
