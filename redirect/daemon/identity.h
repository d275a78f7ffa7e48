/*
 * Who is it? A container is told by its network namespace (device and inode number of /proc/PID/ns/net) and by its first
 * process (number and start time: numbers are used again, the pair is not).
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct namespace_id {
    uint64_t device, inode;
};

/* Of an open /proc/PID/ns/net or its bind mount. -EINVAL when it is no network namespace. */
int namespace_identify(int fd, struct namespace_id *ret, struct error *err);
bool namespace_equal(const struct namespace_id *a, const struct namespace_id *b);
/* Our own network namespace, or that of the machine's first process, or of the kernel's threads: what must never be captured. */
bool namespace_is_host(const struct namespace_id *id);
/* Could it tell? The first process may be out of our reach (in another user namespace, or with more capabilities). */
bool namespace_host_known(void);
/* The namespace a socket was made in: an open descriptor of it, or a negative errno. Needs CAP_NET_ADMIN over it. */
int namespace_of_socket(int fd, struct error *err);

/* Of /proc/PID/stat, in clock ticks since boot. 0, or a negative errno (-ESRCH: there is none). */
int process_start_time(pid_t pid, uint64_t *ret);
/* The process a pidfd stands for; -ESRCH when it has ended. */
int pidfd_process(int pidfd, pid_t *ret);
bool pidfd_ended(int pidfd);
int pidfd_open_process(pid_t pid); /* a descriptor or a negative errno */
/* May the process reconfigure networks (CAP_NET_ADMIN in its bounding set)? */
bool process_may_net_admin(pid_t pid);

/* Both descriptors of a running process, such that the namespace surely is that process's. */
int process_open(pid_t pid, int *ret_netns, int *ret_pidfd, struct error *err);
