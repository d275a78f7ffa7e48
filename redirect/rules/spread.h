/*
 * One port, many listeners: sockets that are bound to the same address share what comes between them (SO_REUSEPORT), and a program
 * of the kernel says whose each is. Ours goes by the sender alone, so that whatever one container sends, over TCP or UDP, IPv4 or IPv6,
 * is one worker's: it has the names that its DNS answered, and the container's flows to count. The sender is the Ethernet address,
 * which both families have in common; so what comes from behind one router is one worker's. On a link that has none it is the source
 * address. Who makes up Ethernet addresses of its own gains its own limits once more for each worker, no name and no way out.
 *
 * The kernel numbers the sockets in the order in which they came to listen, and moves the last one to the place of one that is
 * closed: so who opens them does it in order, for each kind alike, and keeps them.
 *
 * Source: socket(7), SO_ATTACH_REUSEPORT_CBPF; the kernel's Documentation/networking/filter.rst, net/core/sock_reuseport.c.
 */
#pragma once

/* Before the second socket is bound, of both; the first one is bound without it, so that a port that is another's is noticed. 0 or a
 * negative errno. */
int spread_join(int fd);
/* What comes to the sockets that share with `fd` (of family AF_INET or AF_INET6) is shared out between so many. Likewise. */
int spread_by_source(int fd, int family, unsigned count);
