/*
 * Found by taking away one after the other and running the tests:
 *
 *   NET_ADMIN          rules, links, addresses, NFLOG, IP_TRANSPARENT
 *   NET_RAW            the raw socket that answers to UDP and ping leave by, where a policy has such rules
 *   SYS_ADMIN          setns(2) into a network namespace
 *   SYS_PTRACE         /proc/PID/ns of processes of other users
 *   SETUID … SETPCAP   the worker changes its user and empties its bounding set
 *   KILL               a worker that hangs; it is another user by then. Not needed: see worker_process_kill()
 *   NET_BIND_SERVICE   a listener below 1024
 *   DAC_READ_SEARCH    a policy file in a folder of somebody else
 *
 * CHOWN, FOWNER, DAC_OVERRIDE, MKNOD, SYS_MODULE, SYS_RAWIO, SYS_CHROOT, SYS_BOOT, SYS_TIME, BPF, SETFCAP and all the others go.
 */
#include "redirect/monitor/privileges.h"

#include <cap-ng.h>
#include <errno.h>
#include <stdbool.h>

static const struct {
    unsigned capability;
    const char *purpose; /* NULL: it goes without */
} kept[] = {
    {CAP_NET_ADMIN, "CAP_NET_ADMIN, to write nftables rules"},
    {CAP_SYS_ADMIN, "CAP_SYS_ADMIN, to enter network namespaces"},
    {CAP_NET_RAW, NULL},
    {CAP_SYS_PTRACE, NULL},
    {CAP_SETUID, NULL},
    {CAP_SETGID, NULL},
    {CAP_SETPCAP, NULL},
    {CAP_KILL, NULL},
    {CAP_NET_BIND_SERVICE, NULL},
    {CAP_DAC_READ_SEARCH, NULL},
};
#define KEPT (sizeof(kept) / sizeof(*kept))

int privileges_cut(struct error *err)
{
    bool have[KEPT];
    if (capng_get_caps_process() < 0)
        return error_set(err, EPERM, "cannot tell the capabilities of this process");
    bool may_cut = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);
    for (size_t i = 0; i < KEPT; i++) {
        have[i] = capng_have_capability(CAPNG_EFFECTIVE, kept[i].capability);
        if (!have[i] && kept[i].purpose)
            return error_set(err, EPERM, "the gateway needs %s, and does not have it", kept[i].purpose);
    }
    capng_clear(CAPNG_SELECT_ALL);
    for (size_t i = 0; i < KEPT; i++)
        if (have[i])
            capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET, kept[i].capability);
    /* The bounding set first: cutting it takes one of what is cut. */
    if (may_cut && capng_apply(CAPNG_SELECT_BOUNDS) < 0)
        return error_set(err, EPERM, "cannot cut the capability bounding set");
    if (capng_apply(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT) < 0)
        return error_set(err, EPERM, "cannot drop the capabilities that are not needed");
    return 0;
}
