/* Unit tests of redirect/rules/spread.c: which of several listeners has whom, asked of the kernel. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "redirect/rules/spread.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SHARES 3
#define SOURCES 60
#define WAIT_MS 5000

/* On loopback, which has no Ethernet addresses: by the source address. */
static struct sockaddr_in at(unsigned host, uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(0x7f000000u + host)};
}

/* The first one binds as if nobody was to join. -1: the port is another's. */
static int open_share(int type, uint16_t port, bool joins)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (joins)
        assert_int_equal(spread_join(fd), 0);
    if (bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0) {
        assert_int_equal(errno, EADDRINUSE);
        close(fd);
        return -1;
    }
    if (!joins)
        assert_int_equal(spread_join(fd), 0);
    if (type == SOCK_STREAM)
        assert_int_equal(listen(fd, SOURCES), 0);
    return fd;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_in own;
    socklen_t length = sizeof(own);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&own, &length), 0);
    return ntohs(own.sin_port);
}

static void open_group(int type, int ret[SHARES])
{
    ret[0] = open_share(type, 0, false);
    for (int i = 1; i < SHARES; i++)
        ret[i] = open_share(type, port_of(ret[0]), true);
    assert_int_equal(spread_by_source(ret[0], AF_INET, SHARES), 0);
}

static void close_group(int group[SHARES])
{
    for (int i = 0; i < SHARES; i++)
        close(group[i]);
}

/* Which one of the group gets what this source sends. */
static int share_of(int type, const int group[SHARES], unsigned source)
{
    struct pollfd polled[SHARES];
    struct sockaddr_in from = at(source, 0), to = at(1, port_of(group[0]));
    char byte = 'x';
    int found = -1, client = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(client, (struct sockaddr *)&from, sizeof(from)), 0);
    assert_int_equal(connect(client, (struct sockaddr *)&to, sizeof(to)), 0);
    if (type == SOCK_DGRAM)
        assert_int_equal(send(client, &byte, 1, 0), 1);
    for (int i = 0; i < SHARES; i++)
        polled[i] = (struct pollfd){.fd = group[i], .events = POLLIN};
    assert_int_equal(poll(polled, SHARES, WAIT_MS), 1);
    for (int i = 0; i < SHARES; i++)
        if (polled[i].revents)
            found = i;
    if (type == SOCK_DGRAM)
        assert_int_equal(recv(group[found], &byte, 1, 0), 1);
    else
        close(accept(group[found], NULL, NULL));
    close(client);
    return found;
}

static void test_a_source_is_one_shares_whatever_it_sends(void **state)
{
    (void)state;
    int tcp[SHARES], udp[SHARES], seen[SHARES] = {0};
    open_group(SOCK_STREAM, tcp);
    open_group(SOCK_DGRAM, udp);
    for (unsigned source = 2; source < 2 + SOURCES; source++) {
        int share = share_of(SOCK_STREAM, tcp, source);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(share_of(SOCK_DGRAM, udp, source), share);
            assert_int_equal(share_of(SOCK_STREAM, tcp, source), share);
        }
        seen[share]++;
    }
    for (int i = 0; i < SHARES; i++)
        assert_in_range(seen[i], SOURCES / SHARES / 2,
                        SOURCES / SHARES * 2); /* neighbours are spread evenly */
    close_group(tcp);
    close_group(udp);
}

static void test_a_port_of_somebody_else_is_noticed(void **state)
{
    (void)state;
    static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
    for (int i = 0; i < 2; i++) {
        int group[SHARES];
        open_group(types[i], group);
        assert_int_equal(open_share(types[i], port_of(group[0]), false), -1);
        close_group(group);
    }
}

static void test_one_alone_cannot_be_spread(void **state)
{
    (void)state;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in any = at(1, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof(any)), 0);
    assert_int_equal(spread_by_source(fd, AF_INET, 2), -EINVAL);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_source_is_one_shares_whatever_it_sends),
        cmocka_unit_test(test_a_port_of_somebody_else_is_noticed),
        cmocka_unit_test(test_one_alone_cannot_be_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
