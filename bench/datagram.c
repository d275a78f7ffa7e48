/*
 * Datagrams for bench/datagrams.py.
 *
 *   datagram echo ADDRESS PORT                          says "ready", then echoes until killed
 *   datagram rtt ADDRESS PORT SIZE COUNT                one at a time: median and 99th percentile in microseconds
 *   datagram rate ADDRESS PORT SIZE WINDOW SECONDS      so many on their way: answers a second, and how many were lost
 */
#include "base/addr.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SIZE_MAX_OF_DATAGRAM 65507
#define PATIENCE_MS 200

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int open_socket(const char *host, const char *port, struct sockaddr_storage *ret,
                       socklen_t *ret_length)
{
    struct addr a;
    static const int room = 4 << 20;
    if (!addr_parse(host, strlen(host), &a) || !addr_parse_port(port, strlen(port), &a.port)) {
        fprintf(stderr, "no address: %s %s\n", host, port);
        exit(2);
    }
    *ret_length = addr_to_sockaddr(&a, ret);
    int fd = socket(a.family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    return fd;
}

static void echo(int fd)
{
    static char bytes[SIZE_MAX_OF_DATAGRAM];
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct sockaddr_storage from;
        socklen_t length = sizeof(from);
        ssize_t got = recvfrom(fd, bytes, sizeof(bytes), 0, (struct sockaddr *)&from, &length);
        if (got >= 0)
            (void)sendto(fd, bytes, (size_t)got, 0, (struct sockaddr *)&from, length);
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* False when no answer came in time. */
static bool await(int fd, int ms)
{
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    return poll(&polled, 1, ms) == 1;
}

static void rtt(int fd, char *bytes, size_t size, size_t count)
{
    double *took = calloc(count, sizeof(*took));
    size_t kept = 0;
    for (size_t i = 0; took && i < count; i++) {
        double begun = now_us();
        if (send(fd, bytes, size, 0) < 0)
            fail("send");
        if (!await(fd, PATIENCE_MS))
            continue;
        if (recv(fd, bytes, SIZE_MAX_OF_DATAGRAM, 0) >= 0)
            took[kept++] = now_us() - begun;
    }
    if (!took || kept == 0)
        fail("no answers");
    qsort(took, kept, sizeof(*took), compare);
    printf("{\"median_us\": %.2f, \"p99_us\": %.2f, \"lost\": %zu}\n", took[kept / 2], took[kept * 99 / 100],
           count - kept);
    free(took);
}

/* What is not answered within PATIENCE_MS is lost, and sent anew. */
static void rate(int fd, char *bytes, size_t size, size_t window, double seconds)
{
    double begun = now_us(), end = begun + seconds * 1e6;
    size_t outstanding = 0, answered = 0, lost = 0;
    while (now_us() < end) {
        for (; outstanding < window; outstanding++)
            if (send(fd, bytes, size, MSG_DONTWAIT) < 0)
                break;
        if (!await(fd, PATIENCE_MS)) {
            lost += outstanding;
            outstanding = 0;
            continue;
        }
        while (recv(fd, bytes, SIZE_MAX_OF_DATAGRAM, MSG_DONTWAIT) >= 0) {
            answered++;
            outstanding -= outstanding > 0;
        }
    }
    printf("{\"per_second\": %.0f, \"lost\": %zu}\n", (double)answered / (now_us() - begun) * 1e6, lost);
}

int main(int argc, char **argv)
{
    static char bytes[SIZE_MAX_OF_DATAGRAM];
    struct sockaddr_storage address;
    socklen_t length;
    if (argc < 4 || (strcmp(argv[1], "echo") != 0 && argc < 6)) {
        fprintf(stderr, "usage: see the top of bench/datagram.c\n");
        return 2;
    }
    int fd = open_socket(argv[2], argv[3], &address, &length);
    if (!strcmp(argv[1], "echo")) {
        if (bind(fd, (struct sockaddr *)&address, length) < 0)
            fail("bind");
        echo(fd);
    }
    if (connect(fd, (struct sockaddr *)&address, length) < 0)
        fail("connect");
    size_t size = strtoul(argv[4], NULL, 10);
    if (size > sizeof(bytes))
        size = sizeof(bytes);
    if (!strcmp(argv[1], "rtt"))
        rtt(fd, bytes, size, strtoul(argv[5], NULL, 10));
    else if (argc > 6)
        rate(fd, bytes, size, strtoul(argv[5], NULL, 10), strtod(argv[6], NULL));
    close(fd);
    return 0;
}
