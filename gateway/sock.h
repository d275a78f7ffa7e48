/*
 * How much memory the kernel may hold for a relayed flow.
 *
 * TCP offers an origin a window that grows, as it is read quickly, to net.ipv4.tcp_rmem's largest value: 6 MiB, 32 MiB since Linux
 * 6.18. A client that asks for much and then reads slowly, or not at all, leaves all of it in the gateway. A hundred such flows
 * take a machine to net.ipv4.tcp_mem, where every connection on it begins to stall, whoever's it is.
 *
 * So only a container's first SOCK_FREE_FLOWS have windows of TCP's own choice; with more under way, a flow that has moved some
 * bytes is given a share of a budget: less one by one, so that all of them together hold what grows with the logarithm of their
 * number. SO_RCVBUF it is, since the kernel forgets TCP_WINDOW_CLAMP whenever it enlarges a buffer by itself
 * (tcp_rcv_space_adjust(), net/ipv4/tcp_input.c). It doubles what is asked for, and cuts that to net.core.rmem_max.
 *
 * Source: socket(7), SO_RCVBUF; tcp(7); the kernel's Documentation/networking/ip-sysctl.rst, tcp_notsent_lowat, tcp_mem.
 */
#pragma once

#define SOCK_FREE_FLOWS 16
#define SOCK_SHARE_ALL (32 << 20)    /* the budget of a container */
#define SOCK_SHARE_MIN (64 << 10)    /* of a flow, however many there are */
#define SOCK_BOUND_AFTER (128 << 10) /* bytes moved in a direction */

/* What one direction of a flow may hold on each side when its container has `flows`; 0: what TCP likes. */
int sock_share(unsigned flows);
/* Of the two sockets of a direction: received and not read; and accepted from us beyond what the receiver's own window lets out.
 * Does not fail: a kernel that refuses has bounds of its own. */
void sock_bound(int from, int to, int share);
