/*
 * Tests of redirect/rules/sealed.c with real packets: each case runs in a child with a network namespace of its
 * own, as root and as an ordinary user (through a user namespace), with each kind of link that the kernel
 * has. Nothing leaves the namespaces; addresses are those of RFC 2544 and RFC 3849.
 *
 * What the machine does not allow is skipped with the reason printed; a case that could run nowhere counts as
 * skipped.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/fds.h"
#include "gateway/packet.h"
#include "redirect/rules/netlink.h"
#include "redirect/rules/nflog.h"
#include "redirect/rules/rtnl.h"
#include "redirect/rules/sealed.h"

#include <dirent.h>
#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <seccomp.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#define SKIPPED 77
#define NOBODY 65534
#define PATIENCE_MS 3000
#define AT_ONCE_MS 500 /* far below the first TCP retransmission (1 s) */

/* In the children: cmocka's own assertions would jump into the parent's frame. */
#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: not so: %s (errno: %s)\n", __FILE__, __LINE__, #condition, \
                    strerror(errno));                                                          \
            _exit(1);                                                                          \
        }                                                                                      \
    } while (0)

static const struct acl_port_range web[] = {{80, 80}, {443, 443}, {8443, 8443}};
#define WEB web, sizeof(web) / sizeof(web[0])

/* ---- namespaces ---- */

enum who { ROOT, USER };
static const char *const who_name[] = {"root", "user"};
static const char *const link_name[] = {"auto", "dummy", "veth", "lo"};

static void write_file(const char *path, const char *text)
{
    _cleanup_fd_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

/* An ordinary user who becomes root of a user namespace of his own, as `sallyport exec` does without root. */
static void become_user(void)
{
    char map[64];
    if (getuid() == 0)
        CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    prctl(PR_SET_DUMPABLE, 1);
    unsigned uid = getuid(), gid = getgid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) {
        fprintf(stderr, "skipped as user: no user namespaces here: %s\n", strerror(errno));
        _exit(SKIPPED);
    }
    write_file("/proc/self/setgroups", "deny");
    snprintf(map, sizeof(map), "0 %u 1", uid);
    write_file("/proc/self/uid_map", map);
    snprintf(map, sizeof(map), "0 %u 1", gid);
    write_file("/proc/self/gid_map", map);
}

static void become_root_of_namespace(void)
{
    if (unshare(CLONE_NEWNET) < 0) {
        fprintf(stderr, "skipped as root: %s\n", strerror(errno));
        _exit(SKIPPED);
    }
}

typedef void (*check_fn)(enum sealed_link link);

/* How TCP is captured in the case at hand: as it is, or by NAT. */
static bool translated;

/* The exit status of the check in a fresh namespace. */
static int in_namespace(check_fn check, enum who who, enum sealed_link link)
{
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (who == USER)
            become_user();
        else
            become_root_of_namespace();
        check(link);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void run(check_fn check, enum sealed_link first, enum sealed_link last)
{
    int ran = 0;
    for (int way = 0; way < 2; way++)
        for (int who = ROOT; who <= USER; who++)
            for (int link = (int)first; link <= (int)last; link++) {
                translated = way;
                int status = in_namespace(check, (enum who)who, (enum sealed_link)link);
                if (status != 0 && status != SKIPPED)
                    fail_msg("as %s, link %s, %s: exit status %d", who_name[who], link_name[link],
                             translated ? "by NAT" : "as it is", status);
                ran += status == 0;
            }
    if (ran == 0)
        skip();
}

static void everywhere(check_fn check)
{
    run(check, SEALED_LINK_AUTO, SEALED_LINK_LO);
}

static void with_any_link(check_fn check)
{
    run(check, SEALED_LINK_AUTO, SEALED_LINK_AUTO);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int capture_ports(const struct acl_port_range *ports, size_t count, enum sealed_link link, struct capture_sockets *ret,
                         struct error *err)
{
    const struct sealed_plan plan = {.ports = ports, .port_count = count, .link = link, .translate = translated};
    int group;
    return sealed_capture(&plan, ret, &group, err);
}

/* Segments of TCP, by this namespace. */
static long retransmitted(void)
{
    char line[512];
    long segments = -1;
    FILE *file = fopen("/proc/thread-self/net/snmp", "re");
    CHECK(file);
    while (fgets(line, sizeof(line), file))
        if (sscanf(line, "Tcp: %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %ld", &segments) == 1)
            break;
    fclose(file);
    CHECK(segments >= 0);
    return segments;
}

static struct capture_sockets seal_ports(const struct acl_port_range *ports, size_t count,
                                         enum sealed_link link)
{
    struct capture_sockets sockets = CAPTURE_SOCKETS_NONE;
    struct error err = {0};
    long before = retransmitted();
    int r = capture_ports(ports, count, link, &sockets, &err);
    if (r == -EOPNOTSUPP && (link == SEALED_LINK_DUMMY || link == SEALED_LINK_VETH)) {
        fprintf(stderr, "skipped with link %s: %s\n", link_name[link], err.text);
        _exit(SKIPPED);
    }
    if (r < 0)
        fprintf(stderr, "%s\n", err.text);
    CHECK(r == 0);
    CHECK(retransmitted() == before); /* the self-test lost no segment, and so did not wait for one */
    CHECK(socket_is_transparent(sockets.tcp[0], AF_INET) == !translated); /* it is not the lesser way that was taken */
    CHECK(socket_is_transparent(sockets.dns_udp[0], AF_INET) == !translated && (sockets.raw[0] >= 0) == !translated);
    return sockets;
}

static struct capture_sockets seal(enum sealed_link link)
{
    return seal_ports(WEB, link);
}

/* ---- sockets ---- */

static struct addr addr_of(const char *text)
{
    struct addr a;
    CHECK(addr_parse_with_port(text, 0, &a));
    return a;
}

static bool readable(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, ms) == 1;
}

static int socket_for(const struct addr *a, int type)
{
    int fd = socket(a->family, type | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    return fd;
}

/* 0 or the errno of a blocking connect(2). */
static int connect_to(int fd, const char *text)
{
    struct sockaddr_storage to;
    struct addr a = addr_of(text);
    socklen_t length = addr_to_sockaddr(&a, &to);
    return connect(fd, (struct sockaddr *)&to, length) < 0 ? errno : 0;
}

static int connected(const char *text)
{
    struct addr a = addr_of(text);
    int fd = socket_for(&a, SOCK_STREAM);
    CHECK(connect_to(fd, text) == 0);
    return fd;
}

static int accepted(int listener)
{
    CHECK(readable(listener, PATIENCE_MS));
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static int bound(const char *text, int type)
{
    struct sockaddr_storage at;
    struct addr a = addr_of(text);
    socklen_t length = addr_to_sockaddr(&a, &at);
    int fd = socket_for(&a, type);
    CHECK(bind(fd, (struct sockaddr *)&at, length) == 0);
    CHECK(type != SOCK_STREAM || listen(fd, 5) == 0);
    return fd;
}

static struct addr name_of(int fd)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof(own);
    struct addr a;
    CHECK(getsockname(fd, (struct sockaddr *)&own, &length) == 0);
    CHECK(addr_from_sockaddr((struct sockaddr *)&own, &a));
    return a;
}

static void check_talk(int a, int b)
{
    char byte = 0;
    CHECK(send(a, "x", 1, 0) == 1 && readable(b, PATIENCE_MS) && recv(b, &byte, 1, 0) == 1 && byte == 'x');
    CHECK(send(b, "y", 1, 0) == 1 && readable(a, PATIENCE_MS) && recv(a, &byte, 1, 0) == 1 && byte == 'y');
}

static int destination_of(int listener, int server, int family, struct addr *ret)
{
    struct addr own = name_of(listener);
    return translated ? original_destination(server, family, ret) : transparent_destination(server, &own, ret);
}

static void check_captured(int listener, const char *destination)
{
    struct addr expected = addr_of(destination), got;
    int client = connected(destination);
    int server = accepted(listener);
    CHECK(destination_of(listener, server, expected.family, &got) == 0);
    CHECK(addr_equal(&expected, &got));
    check_talk(client, server);
    close(client);
    close(server);
}

static void check_refused(const char *destination)
{
    struct addr a = addr_of(destination);
    int fd = socket_for(&a, SOCK_STREAM);
    int64_t began = now_ms();
    int code = connect_to(fd, destination);
    if (code != ECONNREFUSED)
        fprintf(stderr, "%s: %s\n", destination, strerror(code));
    CHECK(code == ECONNREFUSED);
    CHECK(now_ms() - began < AT_ONCE_MS);
    close(fd);
}

/* ---- TCP ---- */

static void redirects(enum sealed_link link)
{
    struct capture_sockets s = seal(link);
    static const char *const destinations[2][6] = {
        {"198.18.0.1:80", "198.18.0.1:443", "198.18.0.1:8443", "198.19.255.254:443", "10.0.2.2:443",
         "10.0.2.3:80"},
        {"[2001:db8:1::7]:80", "[2001:db8:1::7]:443", "[2001:db8:1::7]:8443", "[2001:db8:ffff::1]:443",
         "[fd00::2]:443", "[fd00::3]:80"},
    };
    for (int i = 0; i < 2; i++)
        for (int d = 0; d < 6; d++)
            check_captured(s.tcp[i], destinations[i][d]);
    check_captured(s.dns_tcp[0], "198.18.0.53:53");
    check_captured(s.dns_tcp[1], "[2001:db8::53]:53");
    check_captured(s.dns_tcp[0], "10.0.2.3:53");
    check_captured(s.dns_tcp[1], "[fd00::3]:53");
}
static void tcp_is_redirected_with_its_destination(void **state)
{
    (void)state;
    everywhere(redirects);
}

/* Options of the listener are the accepted socket's; the sockets themselves are as the loop wants them. */
static void inherits(enum sealed_link link)
{
    struct capture_sockets s = seal(link);
    int all[CAPTURE_SOCKETS], nodelay = 0;
    socklen_t length = sizeof(nodelay);
    memcpy(all, &s, sizeof(all));
    for (int i = 0; i < 7; i++) { /* without rules for UDP or ICMP, there are no sockets for them */
        CHECK(all[i] >= 0);
        CHECK(fcntl(all[i], F_GETFL) & O_NONBLOCK);
        CHECK(fcntl(all[i], F_GETFD) & FD_CLOEXEC);
    }
    int client = connected("198.18.0.1:443");
    int server = accepted(s.tcp[0]);
    CHECK(getsockopt(server, IPPROTO_TCP, TCP_NODELAY, &nodelay, &length) == 0 && nodelay);
    close(client);
}
static void sockets_are_ready_for_a_loop(void **state)
{
    (void)state;
    with_any_link(inherits);
}

static void refuses_tcp(enum sealed_link link)
{
    struct capture_sockets s = seal(link);
    static const char *const destinations[] = {
        "198.18.0.1:22",     "198.18.0.1:81",     "198.18.0.1:8442",   "198.18.0.1:8444",
        "198.18.0.1:65535",  "10.0.2.2:22",       "10.0.2.3:1",        "[2001:db8::1]:22",
        "[2001:db8::1]:442", "[2001:db8::1]:444", "[2001:db8::1]:853", "[2001:db8::1]:65535",
        "[fd00::2]:22",
    };
    for (size_t i = 0; i < sizeof(destinations) / sizeof(destinations[0]); i++)
        check_refused(destinations[i]);
    CHECK(!readable(s.tcp[0], 0) && !readable(s.tcp[1], 0));
}
static void other_tcp_ports_are_refused_at_once(void **state)
{
    (void)state;
    everywhere(refuses_tcp);
}

static void serves_itself(enum sealed_link link)
{
    struct capture_sockets s = seal(link);
    static const char *const servers[] = {"127.0.0.1:80",   "127.0.0.7:443",  "10.0.2.100:8443", "[::1]:443",
                                          "[fd00::100]:80", "127.0.0.1:5000", "[::1]:5000"};
    for (size_t i = 0; i < sizeof(servers) / sizeof(servers[0]); i++) {
        int listener = bound(servers[i], SOCK_STREAM);
        int client = connected(servers[i]);
        int server = accepted(listener);
        check_talk(client, server);
        close(client);
        close(server);
        close(listener);
        check_refused(servers[i]); /* nobody listens: the kernel's own refusal */
    }
    CHECK(!readable(s.tcp[0], 0) && !readable(s.tcp[1], 0));
}
static void servers_inside_stay_their_own(void **state)
{
    (void)state;
    everywhere(serves_itself);
}

static void dials_listener(enum sealed_link link)
{
    struct capture_sockets s = seal(link);
    static const int family[2] = {AF_INET, AF_INET6};
    for (int i = 0; i < 2; i++) {
        char text[ADDR_TEXT_MAX];
        struct addr listener = name_of(s.tcp[i]), got = {.port = 1};
        int client = connected(addr_format_with_port(&listener, text));
        int server = accepted(s.tcp[i]);
        CHECK(destination_of(s.tcp[i], server, family[i], &got) == -ELOOP);
        CHECK(got.family == AF_UNSPEC && got.port == 1);
        check_talk(
            client,
            server); /* how the worker ends it is the worker's business; it does not come round again */
        CHECK(!readable(s.tcp[i], 0));
        close(client);
        close(server);
    }
}
static void the_listener_dialled_directly_is_a_loop(void **state)
{
    (void)state;
    everywhere(dials_listener);
}

/* Sockets whose destination netfilter does not know: an error, and the result is left alone. */
static void original_destination_never_guesses(void **state)
{
    (void)state;
    struct addr got = {.port = 1};
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    _cleanup_fd_ int listener = bound("127.0.0.1", SOCK_STREAM);
    char text[ADDR_TEXT_MAX];
    struct addr at = name_of(listener);
    _cleanup_fd_ int client = connected(addr_format_with_port(&at, text));
    _cleanup_fd_ int server = accepted(listener);
    const struct {
        int fd, family;
    } cases[] = {{pair[0], AF_INET}, {pair[0], AF_INET6}, {server, AF_INET},   {server, AF_INET6},
                 {listener, AF_INET}, {server, AF_UNSPEC}, {-1, AF_INET}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (original_destination(cases[i].fd, cases[i].family, &got) >= 0)
            fail_msg("case %zu: told %s", i, addr_format_with_port(&got, text));
        assert_int_equal(got.family, AF_UNSPEC);
        assert_int_equal(got.port, 1);
    }
    close(pair[0]);
    close(pair[1]);
}

/* A segment that no TCP sends (SYN and FIN) goes nowhere: conntrack calls it invalid, and without conntrack our socket takes no
 * notice. A SYN does. */
static void sends_segments(enum sealed_link link)
{
    static const struct {
        const char *destination;
        int family;
    } cases[] = {
        {"127.0.0.1", AF_INET}, {"198.18.0.1", AF_INET}, {"::1", AF_INET6}, {"2001:db8::1", AF_INET6}};
    struct capture_sockets s = seal(link);
    for (int i = 0; i < 4; i++) {
        struct tcphdr segment = {.source = htons(20000), .dest = htons(443), .doff = 5, .syn = 1, .fin = 1};
        struct sockaddr_storage to;
        struct addr a = addr_of(cases[i].destination);
        socklen_t length = addr_to_sockaddr(&a, &to);
        int fd = socket(cases[i].family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_TCP);
        CHECK(fd >= 0);
        bool sent = sendto(fd, &segment, sizeof(segment), 0, (struct sockaddr *)&to, length) == sizeof(segment);
        CHECK(translated ? !sent && errno == EPERM : sent);
        CHECK(!readable(s.tcp[i / 2], 0));
        segment.fin = 0;
        CHECK(sendto(fd, &segment, sizeof(segment), 0, (struct sockaddr *)&to, length) == sizeof(segment));
        close(fd);
    }
}
static void invalid_segments_are_dropped(void **state)
{
    (void)state;
    with_any_link(sends_segments);
}

/* ---- ports ---- */

static void redirects_all(enum sealed_link link)
{
    static const struct acl_port_range all[] = {{1, 65535}};
    struct capture_sockets s = seal_ports(all, 1, link);
    static const char *const four[] = {"198.18.0.1:1", "198.18.0.1:22", "198.18.0.1:54", "198.18.0.1:65535"};
    static const char *const six[] = {"[2001:db8::1]:1", "[2001:db8::1]:52", "[2001:db8::1]:40000",
                                      "[2001:db8::1]:65535"};
    for (int i = 0; i < 4; i++) {
        check_captured(s.tcp[0], four[i]);
        check_captured(s.tcp[1], six[i]);
    }
    check_captured(s.dns_tcp[0], "198.18.0.1:53"); /* DNS stays DNS */
    int listener = bound("127.0.0.1:5000", SOCK_STREAM);
    int client = connected("127.0.0.1:5000");
    check_talk(client, accepted(listener));
}
static void all_ports_may_be_named(void **state)
{
    (void)state;
    everywhere(redirects_all);
}

static void redirects_ranges(enum sealed_link link)
{
    static const struct acl_port_range ranges[] = {{20, 22},   {52, 54},     {80, 80},
                                                   {443, 443}, {1000, 1999}, {65000, 65535}};
    struct capture_sockets s = seal_ports(ranges, 6, link);
    static const uint16_t inside[] = {20, 21, 22, 52, 54, 80, 443, 1000, 1500, 1999, 65000, 65535};
    static const uint16_t outside[] = {1, 19, 23, 51, 55, 79, 81, 442, 444, 999, 2000, 64999};
    char text[ADDR_TEXT_MAX];
    for (size_t i = 0; i < sizeof(inside) / sizeof(inside[0]); i++) {
        snprintf(text, sizeof(text), "198.18.0.1:%u", inside[i]);
        check_captured(s.tcp[0], text);
        snprintf(text, sizeof(text), "[2001:db8::1]:%u", inside[i]);
        check_captured(s.tcp[1], text);
    }
    for (size_t i = 0; i < sizeof(outside) / sizeof(outside[0]); i++) {
        snprintf(text, sizeof(text), "198.18.0.1:%u", outside[i]);
        check_refused(text);
    }
}
static void ranges_begin_and_end_where_they_say(void **state)
{
    (void)state;
    with_any_link(redirects_ranges);
}

static void redirects_none(enum sealed_link link)
{
    struct capture_sockets s = seal_ports(NULL, 0, link);
    check_refused("198.18.0.1:443");
    check_refused("[2001:db8::1]:80");
    check_captured(s.dns_tcp[0], "198.18.0.1:53");
}
static void no_ports_at_all(void **state)
{
    (void)state;
    with_any_link(redirects_none);
}

/* ---- UDP and echo requests ---- */

static const struct acl_port_range udp_ports[] = {{100, 200}, {65535, 65535}};

static struct capture_sockets seal_packets(enum sealed_link link)
{
    struct capture_sockets sockets = CAPTURE_SOCKETS_NONE;
    const struct sealed_plan plan = {.link = link, .udp_ports = udp_ports, .udp_port_count = 2, .echo = true, .translate = translated};
    struct error err = {0};
    int group;
    int r = sealed_capture(&plan, &sockets, &group, &err);
    if (r == -EOPNOTSUPP && (link == SEALED_LINK_DUMMY || link == SEALED_LINK_VETH))
        _exit(SKIPPED);
    if (r < 0)
        fprintf(stderr, "%s\n", err.text);
    CHECK(r == 0);
    return sockets;
}

/* A datagram to `destination` arrives at the transparent socket with its destination; the client stays open. */
static int check_udp_captured(int server, const char *destination, struct addr *ret_source)
{
    struct addr expected = addr_of(destination), got = {0};
    struct sockaddr_storage to, from;
    uint8_t control[128], byte = 0;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_name = &from,
                             .msg_namelen = sizeof(from),
                             .msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof(control)};
    int client = socket_for(&expected, SOCK_DGRAM);
    CHECK(connect_to(client, destination) == 0 && send(client, "u", 1, 0) == 1);
    CHECK(readable(server, PATIENCE_MS) && recvmsg(server, &message, 0) == 1 && byte == 'u');
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    CHECK(c && (c->cmsg_type == IP_ORIGDSTADDR || c->cmsg_type == 74 /* IPV6_ORIGDSTADDR */));
    memset(&to, 0, sizeof(to));
    memcpy(&to, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    CHECK(addr_from_sockaddr((struct sockaddr *)&to, &got) && addr_equal(&got, &expected));
    CHECK(addr_from_sockaddr((struct sockaddr *)&from, ret_source));
    return client;
}

static void captures_udp(enum sealed_link link)
{
    struct capture_sockets s = seal_packets(link);
    static const char *const named[2][3] = {{"198.18.0.1:100", "198.18.0.1:200", "203.0.113.9:65535"},
                                            {"[2001:db8::1]:100", "[2001:db8::1]:200", "[2001:db8:9::9]:65535"}};
    static const char *const unnamed[] = {"198.18.0.1:99", "198.18.0.1:201", "[2001:db8::1]:443", "[2001:db8::1]:65534"};
    struct addr source;
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 3; k++)
            close(check_udp_captured(s.udp[i], named[i][k], &source));
    for (int i = 0; i < 4; i++) {
        struct addr a = addr_of(unnamed[i]);
        int client = socket_for(&a, SOCK_DGRAM);
        CHECK(connect_to(client, unnamed[i]) == 0 && send(client, "x", 1, 0) < 0);
        close(client);
    }
    CHECK(!readable(s.udp[0], 0) && !readable(s.udp[1], 0));
}
static void udp_ports_are_captured(void **state)
{
    (void)state;
    everywhere(captures_udp);
}

/* Whole packets by the raw socket: the client believes that its destination answers. */
static void answers_udp(enum sealed_link link)
{
    struct capture_sockets s = seal_packets(link);
    struct addr client_address;
    int client = check_udp_captured(s.udp[0], "198.18.0.1:100", &client_address);
    uint8_t packet[29] = {0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 0, 1, 10, 0, 2, 100, 0, 100, 0, 0, 0, 9, 0, 0, 'a'};
    char byte = 0;
    packet[22] = (uint8_t)(client_address.port >> 8);
    packet[23] = (uint8_t)client_address.port;
    struct sockaddr_storage to;
    client_address.port = 0;
    socklen_t length = addr_to_sockaddr(&client_address, &to);
    CHECK(sendto(s.raw[0], packet, sizeof(packet), 0, (struct sockaddr *)&to, length) == sizeof(packet));
    CHECK(readable(client, PATIENCE_MS) && recv(client, &byte, 1, 0) == 1 && byte == 'a');
    CHECK(recv(s.raw[0], packet, sizeof(packet), MSG_DONTWAIT) < 0); /* deaf */
    close(client);
}
static void answers_come_from_where_the_client_sent_to(void **state)
{
    (void)state;
    everywhere(answers_udp);
}

static void check_dns(const struct capture_sockets *s, const char *server);

/* Rules are kept or the container does not start; what only audit mode asks for may be missing. */
static void needs_raw_sockets(enum sealed_link link)
{
    struct sealed_plan plan = {.ports = udp_ports, .port_count = 1, .link = link, .udp_ports = udp_ports, .udp_port_count = 2,
                               .translate = translated};
    struct capture_sockets s = CAPTURE_SOCKETS_NONE;
    struct error err = {0};
    struct addr a = addr_of("198.18.0.1:100");
    int group;
    capng_get_caps_process();
    CHECK(capng_update(CAPNG_DROP, CAPNG_EFFECTIVE, CAP_NET_RAW) == 0 && capng_apply(CAPNG_SELECT_CAPS) == 0);
    CHECK(sealed_capture(&plan, &s, &group, &err) == -EPERM && strstr(err.text, "CAP_NET_RAW"));
    plan.packets_optional = true;
    CHECK(sealed_capture(&plan, &s, &group, &err) == 0 && s.udp[0] < 0 && s.raw[0] < 0 && s.tcp[0] >= 0);
    CHECK(!socket_is_transparent(s.dns_udp[0], AF_INET) && !socket_is_transparent(s.tcp[0], AF_INET));
    translated = true; /* raw sockets are what DNS without NAT takes, too */
    check_dns(&s, "198.18.0.53:53");
    int client = socket_for(&a, SOCK_DGRAM);
    CHECK(connect_to(client, "198.18.0.1:100") == 0 && send(client, "x", 1, 0) < 0);
    check_captured(s.tcp[0], "198.18.0.1:100");
    close(client);
}
static void without_raw_sockets_rules_fail_and_audit_mode_goes_on(void **state)
{
    (void)state;
    with_any_link(needs_raw_sockets);
}

static bool take_one;
static void take_echo(const struct nflog_event *event, void *arg)
{
    const struct addr *expected = arg;
    CHECK(nflog_is_echo(event) && addr_equal_ip(&event->destination, expected));
    CHECK(event->packet_length > 1000 && memcmp(event->packet + event->packet_length - 4, "tail", 4) == 0);
    take_one = true;
}

static void captures_echo(enum sealed_link link)
{
    struct capture_sockets s = seal_packets(link);
    struct addr target = addr_of("198.18.0.1");
    uint8_t request[1000 + 8] = {8, 0, 0, 0, 0, 0, 0, 1};
    memcpy(request + sizeof(request) - 4, "tail", 4);
    int ping = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP);
    CHECK(ping >= 0);
    CHECK(connect_to(ping, "198.18.0.1") == 0);
    CHECK(send(ping, request, sizeof(request), 0) == sizeof(request));
    CHECK(readable(s.nflog, PATIENCE_MS) && nflog_read(s.nflog, take_echo, &target) == 1 && take_one);
    close(ping);
}
static void echo_requests_are_copied_whole(void **state)
{
    (void)state;
    everywhere(captures_echo);
}

static void redirects_many(enum sealed_link link)
{
    enum { MOST = 4096 };
    static struct acl_port_range ranges[MOST + 1];
    struct capture_sockets none = CAPTURE_SOCKETS_NONE;
    struct error err = {0};
    for (int i = 0; i <= MOST; i++)
        ranges[i] = (struct acl_port_range){(uint16_t)(100 + 4 * i), (uint16_t)(101 + 4 * i)};
    CHECK(capture_ports(ranges, MOST + 1, link, &none, &err) == -E2BIG);
    CHECK(strstr(err.text, "4097 separate ranges") && none.tcp[0] == -1);
    struct capture_sockets s = seal_ports(ranges, MOST, link);
    check_captured(s.tcp[0], "198.18.0.1:100");
    check_captured(s.tcp[0], "198.18.0.1:16481");
    check_captured(s.tcp[1], "[2001:db8::1]:8101");
    check_refused("198.18.0.1:16482");
    check_refused("[2001:db8::1]:102");
}
static void thousands_of_ranges(void **state)
{
    (void)state;
    with_any_link(redirects_many);
}

/* ---- datagrams ---- */

static ssize_t send_to(int fd, const char *destination, const char *text)
{
    struct sockaddr_storage to;
    struct addr a = addr_of(destination);
    socklen_t length = addr_to_sockaddr(&a, &to);
    return sendto(fd, text, strlen(text), 0, (struct sockaddr *)&to, length);
}

/* One datagram, with the destination that the socket tells beside it; family 0: none. */
static struct addr question_at(int dns, struct addr *ret_client)
{
    char text[16];
    struct sockaddr_storage to = {0}, from;
    uint8_t control[128];
    struct addr asked = {0};
    struct iovec part = {text, sizeof(text)};
    struct msghdr message = {.msg_name = &from,
                             .msg_namelen = sizeof(from),
                             .msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof(control)};
    CHECK(readable(dns, PATIENCE_MS));
    CHECK(recvmsg(dns, &message, 0) == 8 && memcmp(text, "question", 8) == 0);
    CHECK(addr_from_sockaddr((struct sockaddr *)&from, ret_client));
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (!c)
        return asked;
    CHECK(c->cmsg_type == IP_ORIGDSTADDR || c->cmsg_type == 74 /* IPV6_ORIGDSTADDR */);
    memcpy(&to, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    CHECK(addr_from_sockaddr((struct sockaddr *)&to, &asked));
    return asked;
}

/* As the worker answers: a whole packet from the address that was asked, or by the socket where NAT knows that address. */
static void answer(const struct capture_sockets *s, const struct addr *asked, const struct addr *client)
{
    struct sockaddr_storage to;
    uint8_t packet[PACKET_HEAD_MAX + 6];
    bool six = client->family == AF_INET6;
    struct addr plain = *client;
    if (asked->family == AF_UNSPEC) {
        socklen_t length = addr_to_sockaddr(client, &to);
        CHECK(sendto(s->dns_udp[six], "answer", 6, 0, (struct sockaddr *)&to, length) == 6);
        return;
    }
    size_t head = packet_udp_head(asked, client, (const uint8_t *)"answer", 6, packet);
    memcpy(packet + head, "answer", 6);
    plain.port = 0;
    socklen_t length = addr_to_sockaddr(&plain, &to);
    CHECK(sendto(s->raw[six], packet, head + 6, 0, (struct sockaddr *)&to, length) == (ssize_t)head + 6);
}

/* An unconnected client asks `server`; the gateway's socket gets it, and the answer comes from the address asked. */
static void check_asks(const struct capture_sockets *s, int client, const char *server)
{
    struct sockaddr_storage from;
    socklen_t length = sizeof(from);
    struct addr asked = addr_of(server), told, source, answered;
    char text[16];
    CHECK(send_to(client, server, "question") == 8);
    told = question_at(s->dns_udp[asked.family == AF_INET6], &source);
    CHECK(translated ? told.family == AF_UNSPEC : addr_equal(&told, &asked));
    answer(s, &told, &source);
    CHECK(readable(client, PATIENCE_MS));
    CHECK(recvfrom(client, text, sizeof(text), 0, (struct sockaddr *)&from, &length) == 6 && memcmp(text, "answer", 6) == 0);
    CHECK(addr_from_sockaddr((struct sockaddr *)&from, &answered) && addr_equal(&answered, &asked));
    CHECK(!readable(s->dns_udp[asked.family == AF_INET6], 0)); /* no answer is taken for a question */
}

static void check_dns(const struct capture_sockets *s, const char *server)
{
    struct addr asked = addr_of(server);
    int client = socket_for(&asked, SOCK_DGRAM);
    check_asks(s, client, server);
    close(client);
}

static void captures_dns(enum sealed_link link)
{
    struct capture_sockets s = seal(link);
    static const char *const four[] = {"10.0.2.3:53", "198.18.0.53:53", "203.0.113.9:53", "127.0.0.11:53"};
    static const char *const six[] = {"[fd00::3]:53", "[2001:db8::53]:53", "[2001:db8:9::9]:53"};
    for (size_t i = 0; i < sizeof(four) / sizeof(four[0]); i++)
        check_dns(&s, four[i]);
    for (size_t i = 0; i < sizeof(six) / sizeof(six[0]); i++)
        check_dns(&s, six[i]);
}
static void dns_to_any_server_is_captured(void **state)
{
    (void)state;
    everywhere(captures_dns);
}

/* Whatever address and port the client has, 53 among them, and whether its socket is connected or not. */
static void asks_from(enum sealed_link link)
{
    static const struct {
        const char *from, *server;
        bool goes_out; /* by the link, with a source that no link but lo takes: by NAT that fails */
    } cases[] = {
        {"127.0.0.1:5300", "127.0.0.53:53", false},  {"127.0.0.9", "198.18.0.53:53", true},
        {"10.0.2.100", "127.0.0.53:53", false},      {"10.0.2.100:53", "198.18.0.53:53", false},
        {"127.0.0.1:53", "10.0.2.3:53", true},       {"0.0.0.0:53", "203.0.113.9:53", false},
        {"[::1]:53", "[2001:db8::53]:53", true},     {"[fd00::100]:53", "[fd00::3]:53", false},
        {"::", "[::1]:53", false},
    };
    struct capture_sockets s = seal(link);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (translated && cases[i].goes_out)
            continue;
        int client = bound(cases[i].from, SOCK_DGRAM);
        check_asks(&s, client, cases[i].server);
        CHECK(connect_to(client, cases[i].server) == 0);
        check_asks(&s, client, cases[i].server);
        close(client);
    }
}
static void every_client_gets_its_answer(void **state)
{
    (void)state;
    everywhere(asks_from);
}

static void asks_listener(enum sealed_link link)
{
    struct capture_sockets s = seal(link);
    for (int i = 0; i < 2; i++) {
        struct addr own = name_of(s.dns_udp[i]), told, source;
        char text[ADDR_TEXT_MAX], got[16];
        int client = socket_for(&own, SOCK_DGRAM);
        CHECK(connect_to(client, addr_format_with_port(&own, text)) == 0 && send(client, "question", 8, 0) == 8);
        told = question_at(s.dns_udp[i], &source);
        CHECK(translated ? told.family == AF_UNSPEC : addr_equal(&told, &own)); /* which is how the worker knows */
        answer(&s, &(struct addr){0}, &source);
        CHECK(readable(client, PATIENCE_MS) && recv(client, got, sizeof(got), 0) == 6);
        close(client);
    }
}
static void the_name_server_asked_directly_answers(void **state)
{
    (void)state;
    everywhere(asks_listener);
}

/* -1 where the kernel does not say. */
static int tracked(void)
{
    char text[16] = "";
    _cleanup_fd_ int fd = open("/proc/sys/net/netfilter/nf_conntrack_count", O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 ? atoi(text) : -1;
}

/* Not a single connection or question, whether there are rules for UDP or not. */
static void tracks_nothing(enum sealed_link link)
{
    for (int packets = 0; packets < 2; packets++) {
        struct capture_sockets s = packets ? seal_packets(link) : seal(link);
        if (tracked() < 0) {
            fprintf(stderr, "skipped: the kernel does not say what it tracks\n");
            _exit(SKIPPED);
        }
        int before = tracked();
        if (!packets)
            check_captured(s.tcp[0], "198.18.0.1:443");
        check_dns(&s, "198.18.0.53:53");
        check_dns(&s, "[2001:db8::53]:53");
        check_refused("198.18.0.1:22");
        struct addr client;
        if (packets)
            close(check_udp_captured(s.udp[0], "198.18.0.1:100", &client));
        CHECK(translated ? tracked() >= before + 2 : tracked() == 0);
        capture_sockets_close(&s);
    }
}
static void as_it_is_means_no_connection_tracking(void **state)
{
    (void)state;
    everywhere(tracks_nothing);
}

/* Ours are gone: it goes nowhere, to no server of the command's either. */
static void loses_its_sockets(enum sealed_link link)
{
    struct capture_sockets s = seal(link);
    capture_sockets_close(&s);
    int server = bound("0.0.0.0:53", SOCK_DGRAM);
    struct addr foreign = addr_of("198.18.0.53:53"), six = addr_of("[2001:db8::53]:53");
    int client = socket_for(&foreign, SOCK_DGRAM), client6 = socket_for(&six, SOCK_DGRAM);
    CHECK(send_to(client, "198.18.0.53:53", "question") == 8);
    CHECK(!readable(server, translated ? 0 : 20));
    CHECK(connect_to(client6, "[2001:db8::53]:53") == 0);
    CHECK(send(client6, "question", 8, 0) == 8 && readable(client6, PATIENCE_MS));
    CHECK(send(client6, "question", 8, 0) < 0 && errno == ECONNREFUSED);
}
static void without_our_sockets_dns_goes_nowhere(void **state)
{
    (void)state;
    everywhere(loses_its_sockets);
}

/* The version before had no NAT for TCP, but for DNS. */
static void is_of_before(enum sealed_link link)
{
    if (translated)
        return;
    struct capture_sockets s = seal(link), more = CAPTURE_SOCKETS_NONE;
    const struct sealed_plan plan = {.ports = web, .port_count = 3, .link = link};
    struct sealed_past past = {0};
    struct error err = {0};
    for (int i = 0; i < 2; i++) {
        char text[ADDR_TEXT_MAX];
        struct addr own = name_of(s.dns_udp[i]);
        close(s.dns_udp[i]);
        close(s.raw[i]);
        s.dns_udp[i] = bound(addr_format_with_port(&own, text), SOCK_DGRAM);
        s.raw[i] = -1;
        CHECK(!socket_is_transparent(s.dns_udp[i], own.family));
    }
    _cleanup_fd_ int route = netlink_open(NETLINK_ROUTE, &err);
    sealed_note_sockets(&s, &past);
    CHECK(sealed_fingerprint(&past.fingerprint, &err) == 0 && sealed_verify(false, &past, &err) == 0);
    rtnl_unroute_protocol(route, AF_INET, IPPROTO_UDP, 53, 9441);
    CHECK(sealed_verify(false, &past, &err) == -ENOENT && strstr(err.text, "DNS over IPv4"));
    CHECK(sealed_open_more(&plan, &s, &more, &err) == 0 && more.raw[0] >= 0 && more.raw[1] >= 0 && more.udp[0] < 0);
    capture_sockets_join(&s, &more);
    CHECK(sealed_update(&plan, &s, -1, &err) == 0);
    CHECK(sealed_fingerprint(&past.fingerprint, &err) == 0 && sealed_verify(false, &past, &err) == 0);
    check_dns(&s, "198.18.0.53:53");
    check_dns(&s, "[2001:db8::53]:53");
    check_captured(s.tcp[0], "198.18.0.1:443");
    CHECK(tracked() <= 0);
    CHECK(sealed_open_more(&plan, &s, &more, &err) == 0 && more.raw[0] < 0 && more.raw[1] < 0);
}
static void a_capture_of_the_version_before_is_brought_up_to_date(void **state)
{
    (void)state;
    everywhere(is_of_before);
}

static void refuses_datagrams(enum sealed_link link)
{
    seal(link);
    static const char *const destinations[] = {"198.18.0.1:443",   "198.18.0.1:123",    "10.0.2.2:5000",
                                               "224.0.0.251:5353", "[2001:db8::1]:443", "[fd00::2]:123",
                                               "[ff0e::101]:123"};
    for (size_t i = 0; i < sizeof(destinations) / sizeof(destinations[0]); i++) {
        struct addr a = addr_of(destinations[i]);
        int fd = socket_for(&a, SOCK_DGRAM);
        CHECK(send_to(fd, destinations[i], "x") == -1 && errno == EPERM);
        CHECK(connect_to(fd, destinations[i]) == 0);
        CHECK(send(fd, "x", 1, 0) == -1);
        close(fd);
    }
}
static void other_datagrams_are_refused_at_once(void **state)
{
    (void)state;
    everywhere(refuses_datagrams);
}

static void talks_udp_inside(enum sealed_link link)
{
    seal(link);
    static const char *const servers[] = {"127.0.0.1:443", "10.0.2.100:5000", "[::1]:443",
                                          "[fd00::100]:5000"};
    for (size_t i = 0; i < sizeof(servers) / sizeof(servers[0]); i++) {
        char byte;
        int server = bound(servers[i], SOCK_DGRAM);
        struct addr a = addr_of(servers[i]);
        int client = socket_for(&a, SOCK_DGRAM);
        CHECK(send_to(client, servers[i], "x") == 1);
        CHECK(readable(server, PATIENCE_MS) && recv(server, &byte, 1, 0) == 1 && byte == 'x');
        close(server);
        close(client);
    }
}
static void datagrams_inside_pass(void **state)
{
    (void)state;
    everywhere(talks_udp_inside);
}

/* Refused by the call itself, or by an error that waits on the socket when the call returns. */
static bool refused_at_once(int fd, ssize_t sent)
{
    struct pollfd p = {.fd = fd};
    if (sent < 0)
        return errno == EPERM;
    return poll(&p, 1, AT_ONCE_MS) == 1 && p.revents & POLLERR;
}

/* Ping needs no privilege inside, works towards oneself, and is refused at once towards others. */
static void pings(enum sealed_link link)
{
    seal(link);
    const struct icmphdr echo4 = {.type = ICMP_ECHO};
    const struct icmp6_hdr echo6 = {.icmp6_type = ICMP6_ECHO_REQUEST};
    const struct {
        int protocol;
        const void *echo;
        const char *self, *other;
    } cases[] = {{IPPROTO_ICMP, &echo4, "127.0.0.1", "198.18.0.1"},
                 {IPPROTO_ICMPV6, &echo6, "::1", "2001:db8::1"}};
    for (int i = 0; i < 2; i++) {
        struct sockaddr_storage to;
        char answer[64];
        struct addr self = addr_of(cases[i].self), other = addr_of(cases[i].other);
        int fd = socket(self.family, SOCK_DGRAM | SOCK_CLOEXEC, cases[i].protocol);
        CHECK(fd >= 0);
        socklen_t length = addr_to_sockaddr(&self, &to);
        CHECK(sendto(fd, cases[i].echo, 8, 0, (struct sockaddr *)&to, length) == 8);
        CHECK(readable(fd, PATIENCE_MS) && recv(fd, answer, sizeof(answer), 0) == 8);
        length = addr_to_sockaddr(&other, &to);
        int on = 1;
        CHECK(setsockopt(fd, i == 0 ? IPPROTO_IP : IPPROTO_IPV6, i == 0 ? IP_RECVERR : IPV6_RECVERR, &on,
                         sizeof(on)) == 0);
        CHECK(refused_at_once(fd, sendto(fd, cases[i].echo, 8, 0, (struct sockaddr *)&to, length)));
        close(fd);
    }
}
static void ping_is_refused_at_once(void **state)
{
    (void)state;
    everywhere(pings);
}

static void binds_low(enum sealed_link link)
{
    char text[16] = "";
    seal(link);
    _cleanup_fd_ int fd = open("/proc/sys/net/ipv4/ip_unprivileged_port_start", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && strcmp(text, "0\n") == 0);
}
static void low_ports_need_no_privilege(void **state)
{
    (void)state;
    with_any_link(binds_low);
}

/* ---- NFLOG ---- */

struct events {
    int count;
    struct nflog_event last[16];
};

static void keep_event(const struct nflog_event *event, void *arg)
{
    struct events *events = arg;
    CHECK(events->count < 16);
    events->last[events->count++] = *event;
}

static struct events read_events(int fd)
{
    struct events events = {0};
    while (nflog_read(fd, keep_event, &events) >= 0)
        ;
    CHECK(errno == EAGAIN);
    return events;
}

static void check_event(const struct nflog_event *event, uint8_t protocol, const char *source,
                        const char *destination)
{
    struct addr from = addr_of(source), to = addr_of(destination);
    CHECK(event->protocol == protocol);
    CHECK(addr_equal_ip(&event->source, &from));
    CHECK((event->source.port != 0) == (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP));
    CHECK(addr_equal(&event->destination, &to));
}

static void logs(enum sealed_link link)
{
    struct capture_sockets s = seal(link);
    if (s.nflog < 0) {
        fprintf(stderr, "skipped: the kernel has no NFLOG\n");
        _exit(SKIPPED);
    }
    CHECK(read_events(s.nflog).count == 0); /* the self-test took its own out */
    check_captured(s.tcp[0], "198.18.0.1:443");
    check_dns(&s, "[2001:db8::53]:53");
    check_refused("127.0.0.1:9"); /* the kernel's own refusal, inside */
    CHECK(read_events(s.nflog).count == 0);

    check_refused("198.18.0.1:22");
    check_refused("[2001:db8::1]:853");
    struct addr six = addr_of("[2001:db8::1]:443"), four = addr_of("198.18.0.1:123");
    CHECK(send_to(socket_for(&six, SOCK_DGRAM), "[2001:db8::1]:443", "x") == -1);
    CHECK(send_to(socket_for(&four, SOCK_DGRAM), "198.18.0.1:123", "x") == -1);
    struct events events = read_events(s.nflog);
    CHECK(events.count == 4);
    check_event(&events.last[0], IPPROTO_TCP, "10.0.2.100", "198.18.0.1:22");
    check_event(&events.last[1], IPPROTO_TCP, "fd00::100", "[2001:db8::1]:853");
    check_event(&events.last[2], IPPROTO_UDP, "fd00::100", "[2001:db8::1]:443");
    check_event(&events.last[3], IPPROTO_UDP, "10.0.2.100", "198.18.0.1:123");
    for (int i = 1; i < 4; i++)
        CHECK(events.last[i].sequence == events.last[i - 1].sequence + 1);
}
static void refused_packets_are_logged(void **state)
{
    (void)state;
    everywhere(logs);
}

/* An answer comes when nobody waits for it any more: the kernel would tell the server, which is an address out there. */
static void answers_late(enum sealed_link link)
{
    struct capture_sockets s = seal(link);
    static const char *const servers[] = {"198.18.0.53:53", "[2001:db8::53]:53"};
    if (s.nflog < 0)
        _exit(SKIPPED);
    for (int i = 0; i < 2; i++) {
        struct addr asked = addr_of(servers[i]), told, source;
        int client = socket_for(&asked, SOCK_DGRAM);
        CHECK(send_to(client, servers[i], "question") == 8);
        told = question_at(s.dns_udp[i], &source);
        close(client);
        answer(&s, &told, &source);
    }
    CHECK(read_events(s.nflog).count == 0);
    check_refused("198.18.0.1:22");
    CHECK(read_events(s.nflog).count == 1);
}
static void what_the_kernel_says_by_itself_is_no_event(void **state)
{
    (void)state;
    everywhere(answers_late);
}

/* Nobody reads: packets are lost, the reader is told, and the sequence says how many. */
static void logs_too_much(enum sealed_link link)
{
    struct capture_sockets s = seal(link);
    struct addr a = addr_of("198.18.0.1:9");
    enum { SENT = 20000 };
    if (s.nflog < 0)
        _exit(SKIPPED);
    for (int i = 0; i < SENT; i++) { /* a new socket now and then, so that packets are of new connections */
        int fd = socket_for(&a, SOCK_DGRAM);
        CHECK(send_to(fd, "198.18.0.1:9", "x") == -1);
        close(fd);
    }
    struct events events = {0};
    uint32_t told = 0;
    bool lost = false;
    for (;;) {
        int r = nflog_read(s.nflog, keep_event, &events);
        if (r == -EAGAIN)
            break;
        lost |= r == -ENOBUFS;
        told += r > 0 ? (uint32_t)r : 0;
        events.count = 0;
    }
    CHECK(lost && told > 0 && told < SENT);
    uint32_t last = events.last[0].sequence;
    CHECK(send_to(socket_for(&a, SOCK_DGRAM), "198.18.0.1:9", "x") == -1);
    events = read_events(s.nflog);
    CHECK(events.count == 1 && events.last[0].sequence - last > SENT - told - 1);
}
static void lost_log_entries_can_be_counted(void **state)
{
    (void)state;
    with_any_link(logs_too_much);
}

/* ---- building ---- */

static void rebuilds(enum sealed_link link)
{
    static const struct acl_port_range other[] = {{80, 80}, {443, 443}, {2222, 2222}};
    struct capture_sockets first = seal(link);
    int old = connected("198.18.0.1:443"); /* a flow that lives on */
    int old_server = accepted(first.tcp[0]);
    struct capture_sockets second = seal_ports(other, 3, link);
    CHECK(first.nflog < 0 || second.nflog >= 0);
    check_captured(second.tcp[0], "198.18.0.1:443");
    check_captured(second.tcp[1], "[2001:db8::1]:2222");
    check_dns(&second, "198.18.0.53:53");
    check_refused("198.18.0.1:8443");
    CHECK(!readable(first.tcp[0], 0) && !readable(first.tcp[1], 0) && !readable(first.dns_udp[0], 0));
    check_talk(old, old_server);
    capture_sockets_close(&first);
    check_captured(second.tcp[0], "198.18.0.1:443");
}
static void building_twice_replaces(void **state)
{
    (void)state;
    everywhere(rebuilds);
}

static int open_descriptors(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* Refused, with nothing left open and the result untouched. */
static void check_not_sealed(enum sealed_link link, int code, const char *part)
{
    struct capture_sockets s = CAPTURE_SOCKETS_NONE;
    struct error err = {0};
    int before = open_descriptors();
    int r = capture_ports(WEB, link, &s, &err);
    fprintf(stderr, "refused: %s\n", err.text);
    CHECK(r == -code && err.code == code && strstr(err.text, part));
    CHECK(s.tcp[0] == -1 && s.nflog == -1);
    CHECK(open_descriptors() == before);
}

/* A bridge is a link that someone else may have an end of. */
static void finds_bridge(enum sealed_link link)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {.ifr_name = "br0", .ifr_flags = IFF_UP};
    if (ioctl(fd, SIOCBRADDBR, "br0") < 0) {
        fprintf(stderr, "skipped: no bridges here: %s\n", strerror(errno));
        _exit(SKIPPED);
    }
    CHECK(ioctl(fd, SIOCSIFFLAGS, &request) == 0);
    close(fd);
    check_not_sealed(link, ENOTUNIQ, "br0");
}

static void move_link(int fd, const char *name, int namespace)
{
    alignas(struct nlmsghdr) char buffer[NETLINK_REQUEST_MAX];
    struct error err = {0};
    struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = RTM_NEWLINK;
    struct ifinfomsg *info = mnl_nlmsg_put_extra_header(request, sizeof(*info));
    info->ifi_index = (int)if_nametoindex(name);
    mnl_attr_put_u32(request, IFLA_NET_NS_FD, (uint32_t) namespace);
    CHECK(netlink_request(fd, request, "moving", &err) == 0);
}

/* An ordinary container link: a veth whose other end is outside. */
static void finds_veth_outward(enum sealed_link link)
{
    struct error err = {0};
    int outside = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    CHECK(outside >= 0 && unshare(CLONE_NEWNET) == 0);
    int fd = netlink_open(NETLINK_ROUTE, &err);
    int r = rtnl_add_veth(fd, "out0", "out1", &err);
    if (r == -EOPNOTSUPP) {
        fprintf(stderr, "skipped: %s\n", err.text);
        _exit(SKIPPED);
    }
    CHECK(r == 0);
    move_link(fd, "out1", outside);
    check_not_sealed(link, ENOTUNIQ, "out0"); /* down, but whoever may set it up is out */
    CHECK(rtnl_set_up(fd, if_nametoindex("out0"), &err) == 0);
    check_not_sealed(link, ENOTUNIQ, "out0");
}

static void a_link_that_leads_out_is_found(void **state)
{
    (void)state;
    with_any_link(finds_bridge);
    with_any_link(finds_veth_outward);
}

static void lacks_privilege(enum sealed_link link)
{
    /* No capability over the namespace any more, whoever one was. */
    CHECK(unshare(CLONE_NEWUSER) == 0);
    check_not_sealed(link, EPERM, "setting a link up");
}
static void without_privilege_it_says_so(void **state)
{
    (void)state;
    with_any_link(lacks_privilege);
}

/* A kernel without IPv6, as far as a process can tell. */
static void lacks_ipv6(enum sealed_link link)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    CHECK(filter && seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
                                     SCMP_A0(SCMP_CMP_EQ, AF_INET6)) == 0);
    CHECK(seccomp_load(filter) == 0);
    seccomp_release(filter);
    struct capture_sockets s = seal(link);
    CHECK(s.tcp[1] == -1 && s.dns_udp[1] == -1 && s.dns_tcp[1] == -1);
    check_captured(s.tcp[0], "198.18.0.1:443");
    check_dns(&s, "198.18.0.53:53");
    check_refused("198.18.0.1:22");
}
static void without_ipv6_there_is_ipv4(void **state)
{
    (void)state;
    everywhere(lacks_ipv6);
}

/* IPv6 switched off by default on the host: inside it is switched on again. */
static void finds_ipv6_off(enum sealed_link link)
{
    write_file("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    struct capture_sockets s = seal(link);
    check_captured(s.tcp[1], "[2001:db8::1]:443");
}
static void ipv6_is_switched_on(void **state)
{
    (void)state;
    everywhere(finds_ipv6_off);
}

/* Captured connections have foreign addresses of this very port for their own: a server of the command's beside them is no matter,
 * as long as it sets SO_REUSEADDR, as servers do. */
static void serves_beside_captured(enum sealed_link link)
{
    struct capture_sockets s = seal(link);
    int client = connected("198.18.0.1:443"), captured = accepted(s.tcp[0]), on = 1;
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(443)};
    CHECK(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
    CHECK(bind(server, (const struct sockaddr *)&any, sizeof(any)) == 0 && listen(server, 5) == 0);
    int own = connected("127.0.0.1:443");
    check_talk(own, accepted(server));
    own = connected("10.0.2.100:443");
    check_talk(own, accepted(server));
    check_talk(client, captured);
    check_captured(s.tcp[0], "198.18.0.2:443");
    CHECK(!readable(server, 0));
}
static void a_server_of_ones_own_has_a_captured_port(void **state)
{
    (void)state;
    everywhere(serves_beside_captured);
}

/* The test of building leaves nothing behind that keeps a port from a server, whatever its options. */
static void serves_at_once(enum sealed_link link)
{
    seal(link);
    close(bound("0.0.0.0:80", SOCK_STREAM));
    close(bound("[::]:80", SOCK_STREAM));
}
static void a_new_namespace_has_all_its_ports(void **state)
{
    (void)state;
    everywhere(serves_at_once);
}

/* SO_BINDTODEVICE, as `curl --interface` does. Translated, such a connection finds no way to lo: it stays closed. */
static void dials_by_its_link(enum sealed_link link)
{
    if (translated)
        return;
    struct capture_sockets s = seal(link);
    struct addr expected = addr_of("198.18.0.1:443"), got;
    const char *name = link == SEALED_LINK_LO ? "lo" : "eth0";
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(setsockopt(client, SOL_SOCKET, SO_BINDTODEVICE, name, (socklen_t)strlen(name)) == 0);
    CHECK(connect_to(client, "198.18.0.1:443") == 0);
    int server = accepted(s.tcp[0]);
    CHECK(destination_of(s.tcp[0], server, AF_INET, &got) == 0 && addr_equal(&got, &expected));
    check_talk(client, server);
    CHECK(connect_to(client, "198.18.0.1:9") != 0);
}
static void a_socket_bound_to_the_link_is_captured(void **state)
{
    (void)state;
    everywhere(dials_by_its_link);
}

/* Many connections at once, to different addresses with the same source port among them: each keeps its
 * destination. */
static void redirects_many_flows(enum sealed_link link)
{
    enum { FLOWS = 200 };
    struct capture_sockets s = seal(link);
    int clients[FLOWS], on = 1;
    bool seen[FLOWS] = {false};
    char text[ADDR_TEXT_MAX];
    for (int i = 0; i < FLOWS; i++) {
        struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(20000 + i / 2))};
        clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(setsockopt(clients[i], SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
        CHECK(bind(clients[i], (struct sockaddr *)&from, sizeof(from)) == 0);
        snprintf(text, sizeof(text), "198.18.1.%d:443", i);
        CHECK(connect_to(clients[i], text) == 0);
    }
    for (int i = 0; i < FLOWS; i++) {
        struct addr got;
        int server = accepted(s.tcp[0]);
        CHECK(destination_of(s.tcp[0], server, AF_INET, &got) == 0);
        int host = got.bytes[3];
        CHECK(host < FLOWS && !seen[host]);
        seen[host] = true;
        check_talk(clients[host], server);
        close(server);
    }
}
static void flows_from_one_source_port_stay_apart(void **state)
{
    (void)state;
    with_any_link(redirects_many_flows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tcp_is_redirected_with_its_destination),
        cmocka_unit_test(sockets_are_ready_for_a_loop),
        cmocka_unit_test(other_tcp_ports_are_refused_at_once),
        cmocka_unit_test(servers_inside_stay_their_own),
        cmocka_unit_test(the_listener_dialled_directly_is_a_loop),
        cmocka_unit_test(original_destination_never_guesses),
        cmocka_unit_test(invalid_segments_are_dropped),
        cmocka_unit_test(all_ports_may_be_named),
        cmocka_unit_test(ranges_begin_and_end_where_they_say),
        cmocka_unit_test(no_ports_at_all),
        cmocka_unit_test(udp_ports_are_captured),
        cmocka_unit_test(answers_come_from_where_the_client_sent_to),
        cmocka_unit_test(echo_requests_are_copied_whole),
        cmocka_unit_test(without_raw_sockets_rules_fail_and_audit_mode_goes_on),
        cmocka_unit_test(thousands_of_ranges),
        cmocka_unit_test(dns_to_any_server_is_captured),
        cmocka_unit_test(every_client_gets_its_answer),
        cmocka_unit_test(the_name_server_asked_directly_answers),
        cmocka_unit_test(as_it_is_means_no_connection_tracking),
        cmocka_unit_test(without_our_sockets_dns_goes_nowhere),
        cmocka_unit_test(a_capture_of_the_version_before_is_brought_up_to_date),
        cmocka_unit_test(what_the_kernel_says_by_itself_is_no_event),
        cmocka_unit_test(other_datagrams_are_refused_at_once),
        cmocka_unit_test(datagrams_inside_pass),
        cmocka_unit_test(ping_is_refused_at_once),
        cmocka_unit_test(low_ports_need_no_privilege),
        cmocka_unit_test(refused_packets_are_logged),
        cmocka_unit_test(lost_log_entries_can_be_counted),
        cmocka_unit_test(building_twice_replaces),
        cmocka_unit_test(a_link_that_leads_out_is_found),
        cmocka_unit_test(without_privilege_it_says_so),
        cmocka_unit_test(without_ipv6_there_is_ipv4),
        cmocka_unit_test(ipv6_is_switched_on),
        cmocka_unit_test(flows_from_one_source_port_stay_apart),
        cmocka_unit_test(a_server_of_ones_own_has_a_captured_port),
        cmocka_unit_test(a_new_namespace_has_all_its_ports),
        cmocka_unit_test(a_socket_bound_to_the_link_is_captured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
