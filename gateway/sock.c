#include "gateway/sock.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

int sock_share(unsigned flows)
{
    int share = flows > SOCK_FREE_FLOWS ? (int)(SOCK_SHARE_ALL / flows) : 0;
    return share && share < SOCK_SHARE_MIN ? SOCK_SHARE_MIN : share;
}

void sock_bound(int from, int to, int share)
{
    setsockopt(from, SOL_SOCKET, SO_RCVBUF, &share, sizeof(share));
    setsockopt(to, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &share, sizeof(share));
}
