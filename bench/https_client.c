/*
 * The client of the bench: new HTTPS connections, one at a time, each timed from its first system call to its
 * last. It lives as long as its standard input, so no measurement has the start of a process in it, and the
 * same program with the same orders runs beside the gateway and behind it.
 *
 *   https_client CA_FILE DNS_SERVER
 *
 * Orders, a line each:
 *   get NAME ADDRESS           one connection: TCP, TLS, GET / over HTTP/1.1, close; ADDRESS "-": look it up
 *   hold COUNT NAME ADDRESS    open so many, one request on each, and keep them
 *
 * Answers, a line each:
 *   ok DNS CONNECT HANDSHAKE REQUEST TOTAL    in nanoseconds
 *   failed STEP: why
 *
 * Honest means: the certificate and its name are verified, nothing is resumed, the answer has to be a 200
 * with exactly BODY_SIZE bytes, whatever takes longer than TIMEOUT_S has failed, and the look-up is a
 * question on the wire (nothing is cached here). TOTAL ends when close(2) has returned, with the TLS
 * close_notify sent; the FIN's own way is not waited for.
 */
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <resolv.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BODY_SIZE 1024
#define TIMEOUT_S 10
#define HOLD_MAX 100000
#define PORT 443

enum step { STEP_DNS, STEP_CONNECT, STEP_HANDSHAKE, STEP_REQUEST, STEP_COUNT };
static const char *const step_names[STEP_COUNT] = {"dns", "connect", "handshake", "request"};

struct connection {
    int fd;
    SSL *tls;
    uint64_t started, ended[STEP_COUNT];
    enum step step; /* the one that failed, if any did */
    char why[160];
};

static SSL_CTX *context;
static struct __res_state resolver;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool failed(struct connection *c, enum step step, const char *why)
{
    c->step = step;
    snprintf(c->why, sizeof(c->why), "%s", why);
    return false;
}

/* A TLS call went wrong: by the system, by the library, or by the other side's end. */
static bool failed_tls(struct connection *c, enum step step)
{
    int code = errno;
    unsigned long error = ERR_get_error();
    const char *reason = error ? ERR_reason_error_string(error) : NULL;
    ERR_clear_error();
    return failed(c, step, reason ? reason : code ? strerror(code) : "the connection was closed");
}

/* The first A record of `name`. */
static bool look_up(struct connection *c, const char *name, struct in_addr *ret)
{
    unsigned char answer[4096];
    ns_msg message;
    ns_rr record;
    int length = res_nquery(&resolver, name, ns_c_in, ns_t_a, answer, sizeof(answer));
    if (length < 0)
        return failed(c, STEP_DNS, hstrerror(resolver.res_h_errno));
    if (ns_initparse(answer, length, &message) < 0)
        return failed(c, STEP_DNS, "a malformed answer");
    for (int i = 0; i < ns_msg_count(message, ns_s_an); i++) {
        if (ns_parserr(&message, ns_s_an, i, &record) == 0 && ns_rr_type(record) == ns_t_a &&
            ns_rr_rdlen(record) == 4) {
            memcpy(ret, ns_rr_rdata(record), 4);
            return true;
        }
    }
    return failed(c, STEP_DNS, "no address in the answer");
}

static bool find_address(struct connection *c, const char *name, const char *text, struct in_addr *ret)
{
    bool found = strcmp(text, "-")
                     ? inet_pton(AF_INET, text, ret) == 1 || failed(c, STEP_DNS, "not an IPv4 address")
                     : look_up(c, name, ret);
    c->ended[STEP_DNS] = now();
    return found;
}

static bool connect_to(struct connection *c, struct in_addr address)
{
    const struct timeval timeout = {.tv_sec = TIMEOUT_S};
    const struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr = address};
    const int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0 ||
        setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0 ||
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
        connect(c->fd, (const struct sockaddr *)&to, sizeof(to)) < 0)
        return failed(c, STEP_CONNECT, strerror(errno));
    c->ended[STEP_CONNECT] = now();
    return true;
}

static bool handshake(struct connection *c, const char *name)
{
    c->tls = SSL_new(context);
    if (!c->tls || !SSL_set_fd(c->tls, c->fd) || !SSL_set_tlsext_host_name(c->tls, name) ||
        !SSL_set1_host(c->tls, name) || SSL_connect(c->tls) != 1)
        return failed_tls(c, STEP_HANDSHAKE);
    c->ended[STEP_HANDSHAKE] = now();
    return true;
}

static bool request(struct connection *c, const char *name, bool keep)
{
    char text[512], answer[BODY_SIZE + 4096];
    size_t used = 0, whole = sizeof(answer);
    int length = snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: %s\r\nConnection: %s\r\n\r\n", name,
                          keep ? "keep-alive" : "close");
    if (SSL_write(c->tls, text, length) != length)
        return failed_tls(c, STEP_REQUEST);
    while (used < whole) {
        int got = SSL_read(c->tls, answer + used, (int)(sizeof(answer) - 1 - used));
        if (got <= 0)
            return failed_tls(c, STEP_REQUEST);
        used += (size_t)got;
        answer[used] = 0;
        const char *end = strstr(answer, "\r\n\r\n");
        if (end)
            whole = (size_t)(end - answer) + 4 + BODY_SIZE;
        if (used == sizeof(answer) - 1 && used < whole)
            break;
    }
    if (used != whole || strncmp(answer, "HTTP/1.1 200 ", 13))
        return failed(c, STEP_REQUEST, "not a 200 of the size that was agreed on");
    c->ended[STEP_REQUEST] = now();
    return true;
}

static void finish(struct connection *c)
{
    if (c->tls) {
        SSL_shutdown(c->tls); /* sends close_notify, waits for nothing */
        SSL_free(c->tls);
        ERR_clear_error();
    }
    if (c->fd >= 0)
        close(c->fd);
}

static bool open_connection(struct connection *c, const char *name, const char *address, bool keep)
{
    struct in_addr to;
    *c = (struct connection){.fd = -1, .started = now()};
    return find_address(c, name, address, &to) && connect_to(c, to) && handshake(c, name) &&
           request(c, name, keep);
}

static void say_failure(const struct connection *c)
{
    printf("failed %s: %s\n", step_names[c->step], c->why);
}

static void get(const char *name, const char *address)
{
    struct connection c;
    bool good = open_connection(&c, name, address, false);
    finish(&c);
    uint64_t end = now();
    if (!good) {
        say_failure(&c);
        return;
    }
    printf("ok %llu", (unsigned long long)(c.ended[STEP_DNS] - c.started));
    for (int step = STEP_CONNECT; step < STEP_COUNT; step++)
        printf(" %llu", (unsigned long long)(c.ended[step] - c.ended[step - 1]));
    printf(" %llu\n", (unsigned long long)(end - c.started));
}

/* They stay open until the process ends, so nothing needs to remember them. */
static void hold(unsigned count, const char *name, const char *address)
{
    struct connection c;
    for (unsigned i = 0; i < count && i < HOLD_MAX; i++) {
        if (!open_connection(&c, name, address, true)) {
            finish(&c);
            say_failure(&c);
            return;
        }
    }
    printf("ok 0 0 0 0 0\n");
}

static void obey(const char *line)
{
    char name[256], address[64];
    unsigned count;
    if (sscanf(line, "get %255s %63s", name, address) == 2)
        get(name, address);
    else if (sscanf(line, "hold %u %255s %63s", &count, name, address) == 3)
        hold(count, name, address);
    else
        printf("failed order: there is no such order\n");
    fflush(stdout);
}

static bool set_up(const char *authority, const char *dns_server)
{
    context = SSL_CTX_new(TLS_client_method());
    if (!context || !SSL_CTX_load_verify_locations(context, authority, NULL) ||
        !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) || res_ninit(&resolver) < 0)
        return false;
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    resolver.nscount = 1;
    resolver.nsaddr_list[0] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(53)};
    resolver.retrans = TIMEOUT_S;
    resolver.retry = 1;
    return inet_pton(AF_INET, dns_server, &resolver.nsaddr_list[0].sin_addr) == 1;
}

int main(int argc, char **argv)
{
    char line[512];
    if (argc != 3) {
        fprintf(stderr, "usage: https_client CA_FILE DNS_SERVER\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    if (!set_up(argv[1], argv[2])) {
        fprintf(stderr, "https_client: cannot use the authority %s or the server %s\n", argv[1], argv[2]);
        return 2;
    }
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin))
        obey(line);
    return 0;
}
