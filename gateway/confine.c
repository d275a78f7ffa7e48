/*
 * What is left to the worker when this is done: memory, threads of its own, the sockets it was handed, new
 * outgoing IPv4 and IPv6 sockets, and the audit descriptor. No file can be opened, nothing executed, nothing
 * bound or listened on.
 *
 * In order: limits and dumpability, bounding set, user and groups, no_new_privs, Landlock (no access at all;
 * system calls raw, the kernel's ABI is newer than the headers), seccomp (syscalls.c). A sanitizer needs files and system
 * calls of its own, so in sanitized builds (never shipped) the last two are left out.
 */
#include "gateway/confine.h"
#include "base/log.h"
#include "gateway/syscalls.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <linux/landlock.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
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

static int forbid(struct error *err)
{
    int r = landlock(err);
    return r < 0 ? r : syscalls_confine(err);
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
