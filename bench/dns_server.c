/*
 * The name server behind the subjects of dns.py: dns_server ADDRESS
 *
 * UDP port 53; every question is answered with one A record, 203.0.114.1 (public; nobody goes there), TTL 3600, and nothing is looked at but where the
 * question ends: it stands beside what is measured with room to spare. Prints "ready" when it listens.
 */
#include <arpa/inet.h>
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define BATCH 64
#define SIZE 1232

static const uint8_t record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 203, 0, 114, 1};

/* The question becomes its answer; 0: none. */
static size_t answer(uint8_t *message, size_t length)
{
    size_t at = 12;
    while (at < length && message[at])
        at += 1u + message[at];
    at += 5;
    if (at > length || at + sizeof(record) > SIZE)
        return 0;
    message[2] = 0x85; /* QR, AA, RD */
    message[3] = 0x80; /* RA */
    message[6] = 0;
    message[7] = 1;
    memset(message + 8, 0, 4);
    memcpy(message + at, record, sizeof(record));
    return at + sizeof(record);
}

int main(int argc, char **argv)
{
    static uint8_t bytes[BATCH][SIZE];
    static struct sockaddr_in peers[BATCH];
    static struct iovec pieces[BATCH];
    static struct mmsghdr messages[BATCH];
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(53)};
    int fd = socket(AF_INET, SOCK_DGRAM, 0), room = 8 << 20;
    if (argc != 2 || inet_pton(AF_INET, argv[1], &own.sin_addr) != 1)
        errx(2, "usage: dns_server ADDRESS");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
    if (bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0)
        err(1, "%s", argv[1]);
    puts("ready");
    fflush(stdout);
    for (;;) {
        for (unsigned i = 0; i < BATCH; i++) {
            pieces[i] = (struct iovec){bytes[i], SIZE};
            messages[i].msg_hdr = (struct msghdr){
                .msg_name = &peers[i], .msg_namelen = sizeof(peers[i]), .msg_iov = &pieces[i], .msg_iovlen = 1};
        }
        int got = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int i = 0; i < got; i++)
            pieces[i].iov_len = answer(bytes[i], messages[i].msg_len);
        if (got > 0)
            sendmmsg(fd, messages, (unsigned)got, 0);
    }
}
