/*
 * File descriptors: scope-bound closing, flags, and handing them to another process (SCM_RIGHTS).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

/* Close *fd when it is not negative, and set it to -1. errno is kept. */
void fd_close(int *fd);
#define _cleanup_fd_ __attribute__((cleanup(fd_close)))

/* Return what *fd holds and leave -1 behind: ownership moves to the caller. */
static inline int fd_steal(int *fd)
{
    int kept = *fd;
    *fd = -1;
    return kept;
}

/* 0 or a negative errno. */
int fd_set_nonblocking(int fd);
int fd_set_cloexec(int fd, int on);

#define FDS_MAX 16 /* most descriptors one message can carry */

/* Send `length` bytes and `count` (<= FDS_MAX) descriptors as one message on a unix SOCK_SEQPACKET socket. The caller
 * keeps its descriptors. 0 or a negative errno. */
int fds_send(int socket, const void *bytes, size_t length, const int *fds, size_t count);

/* Receive one message. *ret_count descriptors (close-on-exec) land in `fds`, now owned by the caller. Returns the
 * number of bytes, 0 at end of file, or a negative errno (-EMSGSIZE when something was cut off: then every received
 * descriptor has been closed). */
ssize_t fds_receive(int socket, void *bytes, size_t size, int fds[FDS_MAX], size_t *ret_count);
