/*
 * An exchange is one question on its way: in two rounds it goes to each server once, over UDP, or over TCP
 * after a truncated answer. A bad or foreign datagram is ignored and waiting goes on; only the deadline or a
 * socket error ends an attempt.
 */
#include "gateway/resolver.h"
#include "base/cursor.h"
#include "base/fds.h"

#include <ctype.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define ROUNDS 2
#define TCP_MESSAGE_MAX (2 + 65535)
#define QUESTION_MAX 512 /* a header, a name, an OPT record, padding */
#define PADDED_TO 128    /* RFC 8467 section 4.1 */

struct resolver_exchange {
    struct list link;
    struct resolver *resolver;
    struct poll_handle poll;
    struct deadline deadline;
    resolver_answer_fn answered;
    void *arg;
    char name[ACL_NAME_MAX + 1];
    uint16_t type;
    bool edns, over_tls, over_tcp, tcp_sent;
    struct dot_question by_tls;
    unsigned attempt, attempts_max;
    unsigned tried; /* servers of this round, a bit each */
    size_t server;  /* that is being asked */
    uint64_t asked_ns;
    int last_error;
    uint8_t question[2 + QUESTION_MAX]; /* behind the two length bytes of TCP */
    size_t question_length, question_fixed; /* all of it; what the answer has to repeat */
    uint8_t *tcp_answer;
    size_t tcp_used;
};

static void attempt_start(struct resolver_exchange *x);

static void exchange_destroy(struct resolver_exchange *x)
{
    poller_close(x->resolver->poller, &x->poll);
    dot_cancel(&x->by_tls);
    deadline_stop(&x->deadline);
    list_remove(&x->link);
    x->resolver->outstanding--;
    free(x->tcp_answer);
    free(x);
}

static void exchange_end(struct resolver_exchange *x, int status, uint8_t *answer, size_t length,
                         const struct dns_answer *facts)
{
    resolver_answer_fn answered = x->answered;
    void *arg = x->arg;
    uint8_t *kept = x->tcp_answer; /* `answer` may live in it */
    x->tcp_answer = NULL;
    exchange_destroy(x);
    answered(arg, status, answer, length, facts);
    free(kept);
}

static void socket_drop(struct resolver_exchange *x)
{
    poller_close(x->resolver->poller, &x->poll);
    dot_cancel(&x->by_tls);
    free(x->tcp_answer);
    x->tcp_answer = NULL;
    x->tcp_used = 0;
}

/* The next one of this round: those that answer, in the order configured, before those that lately did not.
 */
static size_t server_next(struct resolver_exchange *x)
{
    const struct resolver *r = x->resolver;
    uint64_t now = uv_now(r->timeouts.timer.loop);
    size_t sick = r->server_count;
    if (((x->tried + 1) & ~x->tried) >> r->server_count) /* the lowest bit that is not set lies above them */
        x->tried = 0;
    for (size_t i = 0; i < r->server_count; i++) {
        if (x->tried & 1u << i)
            continue;
        if (r->health[i].well_again_ms <= now)
            return i;
        if (sick == r->server_count)
            sick = i;
    }
    return sick;
}

/* It did not answer: when that happens twice in a row, others are asked before it for a while. */
static void server_failed(struct resolver_exchange *x)
{
    struct resolver_health *health = &x->resolver->health[x->server];
    if (x->resolver->metrics)
        metric_add(&x->resolver->metrics->dns_upstream_failures, 1);
    if (++health->failures >= RESOLVER_FAILURES)
        health->well_again_ms = uv_now(x->resolver->timeouts.timer.loop) + RESOLVER_SICK_MS;
}

/* It spoke, or the want is ours: then it is as good as before. */
static bool is_servers_fault(int error)
{
    switch (-error) {
    case EREMOTEIO:
    case EBADMSG:
    case ENOMEM:
    case ENOBUFS:
    case EMFILE:
    case ENFILE:
    case ESRCH:
        return false;
    default:
        return true;
    }
}

static void server_answered(struct resolver_exchange *x)
{
    x->resolver->health[x->server] = (struct resolver_health){0};
    if (x->resolver->metrics)
        metrics_observe_dns(x->resolver->metrics, uv_hrtime() - x->asked_ns);
}

static void attempt_failed(struct resolver_exchange *x, int error)
{
    socket_drop(x);
    if (is_servers_fault(error))
        server_failed(x);
    x->last_error = error;
    x->over_tcp = false;
    if (++x->attempt >= x->attempts_max)
        exchange_end(x, error, NULL, 0, NULL);
    else
        attempt_start(x);
}

/* Fetched from the kernel by the hundred, each used once. False: there is none. */
static bool take_random(void *ret, size_t length)
{
    static uint8_t pool[4096];
    static size_t left;
    if (left < length) {
        left = 0;
        if (getrandom(pool, sizeof(pool), 0) != sizeof(pool))
            return false;
        left = sizeof(pool);
    }
    left -= length;
    memcpy(ret, pool + left, length);
    explicit_bzero(pool + left, length);
    return true;
}

static void mix_case(uint8_t *question, size_t length)
{
    uint8_t coins[(ACL_NAME_MAX + 8) / 8];
    size_t i = 0;
    if (!take_random(coins, sizeof(coins)))
        return;
    for (size_t at = 0; at < length && question[at] != 0; at += (size_t)question[at] + 1)
        for (size_t l = 1; l <= question[at] && at + l < length; l++, i++)
            if (isalpha(question[at + l]) && i < 8 * sizeof(coins) && (coins[i / 8] >> i % 8 & 1))
                question[at + l] ^= 0x20;
}

static int question_write(struct resolver_exchange *x)
{
    uint8_t *message = x->question + 2;
    uint16_t id;
    if (!take_random(&id, sizeof(id)))
        return -EIO;
    ssize_t length = dns_query_write(id, x->name, x->type, x->edns, message, QUESTION_MAX);
    if (length < 0)
        return (int)length;
    x->question_fixed = (size_t)length - (x->edns ? DNS_OPT_LENGTH : 0);
    x->question_length = (size_t)length;
    if (x->over_tls && x->edns)
        x->question_length = dns_query_pad(message, (size_t)length, PADDED_TO, QUESTION_MAX);
    else if (!x->over_tls && x->attempt < x->resolver->server_count)
        mix_case(message + 12, (size_t)length - 12); /* a server that garbles it gets a second, plain question */
    x->question[0] = (uint8_t)(x->question_length >> 8);
    x->question[1] = (uint8_t)x->question_length;
    return 0;
}

/* Id and question must be ours, letter for letter. */
static bool answers_our_question(const struct resolver_exchange *x, const uint8_t *bytes, size_t length)
{
    const uint8_t *ours = x->question + 2;
    return length >= x->question_fixed && memcmp(bytes, ours, 2) == 0 &&
           memcmp(bytes + 12, ours + 12, x->question_fixed - 12) == 0;
}

static void tcp_begin(struct resolver_exchange *x)
{
    socket_drop(x);
    x->over_tcp = true;
    attempt_start(x);
}

/* Returns false when the message is to be ignored. */
static bool message_take(struct resolver_exchange *x, uint8_t *bytes, size_t length)
{
    struct dns_answer facts;
    if (!answers_our_question(x, bytes, length))
        return false;
    server_answered(x);
    int r = dns_answer_parse(bytes, length, x->name, x->type, &facts);
    if (r < 0)
        attempt_failed(x, r);
    else if (facts.truncated && !x->over_tcp && !x->over_tls)
        tcp_begin(x);
    else if ((facts.rcode == DNS_SERVFAIL || facts.rcode == DNS_REFUSED || facts.rcode == DNS_NOTIMP ||
              facts.rcode == DNS_FORMERR) &&
             x->attempt + 1 < x->attempts_max) {
        x->edns &= facts.rcode != DNS_FORMERR; /* RFC 6891 section 7: it may not know OPT */
        attempt_failed(x, -EREMOTEIO);
    } else
        exchange_end(x, 0, bytes, length, &facts);
    return true;
}

static void udp_read(struct resolver_exchange *x)
{
    uint8_t bytes[DNS_UDP_MAX];
    for (;;) {
        ssize_t got = recv(x->poll.fd, bytes, sizeof(bytes), 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (got < 0) {
            attempt_failed(x, -errno);
            return;
        }
        if (message_take(x, bytes, (size_t)got))
            return;
    }
}

static void tcp_read(struct resolver_exchange *x)
{
    if (!x->tcp_answer && !(x->tcp_answer = malloc(TCP_MESSAGE_MAX))) {
        attempt_failed(x, -ENOMEM);
        return;
    }
    for (;;) {
        size_t need = x->tcp_used < 2 ? 2 : 2 + (size_t)(x->tcp_answer[0] << 8 | x->tcp_answer[1]);
        if (x->tcp_used >= 2 && x->tcp_used == need)
            break;
        ssize_t got = recv(x->poll.fd, x->tcp_answer + x->tcp_used, need - x->tcp_used, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (got <= 0) {
            attempt_failed(x, got < 0 ? -errno : -ECONNRESET);
            return;
        }
        x->tcp_used += (size_t)got;
    }
    if (!message_take(x, x->tcp_answer + 2, x->tcp_used - 2))
        attempt_failed(x, -EBADMSG);
}

static void on_tls_answer(struct dot_question *question, int error, uint8_t *bytes, size_t length)
{
    struct resolver_exchange *x = list_entry(question, struct resolver_exchange, by_tls);
    if (error < 0)
        attempt_failed(x, error);
    else if (!message_take(x, bytes, length))
        attempt_failed(x, -EBADMSG);
}

static void on_ready(struct poll_handle *handle, uint32_t events)
{
    struct resolver_exchange *x = list_entry(handle, struct resolver_exchange, poll);
    if (x->over_tcp && !x->tcp_sent) {
        if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
            return;
        size_t length = x->question_length + 2;
        if (send(handle->fd, x->question, length, MSG_NOSIGNAL) != (ssize_t)length) {
            attempt_failed(x, errno ? -errno : -EIO);
            return;
        }
        x->tcp_sent = true;
    }
    if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP)))
        return;
    if (x->over_tcp)
        tcp_read(x);
    else
        udp_read(x);
}

static int attempt_open(struct resolver_exchange *x)
{
    struct sockaddr_storage to;
    if (x->server >= x->resolver->server_count) /* a new configuration took it away */
        return -ESRCH;
    const struct addr *server = &x->resolver->servers[x->server].address;
    struct dot *dot = x->resolver->dots[x->server];
    if (x->over_tls)
        return dot ? dot_ask(dot, &x->by_tls, x->question, x->question_length + 2) : -ENOMEM;
    socklen_t to_length = addr_to_sockaddr(server, &to);
    int kind = x->over_tcp ? SOCK_STREAM : SOCK_DGRAM;
    _cleanup_fd_ int fd = socket(server->family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&to, to_length) < 0 && errno != EINPROGRESS)
        return -errno;
    if (!x->over_tcp &&
        send(fd, x->question + 2, x->question_length, MSG_NOSIGNAL) != (ssize_t)x->question_length)
        return errno ? -errno : -EIO;
    x->tcp_sent = false;
    int r = poller_add(x->resolver->poller, &x->poll, fd);
    if (r == 0)
        (void)fd_steal(&fd);
    return r;
}

/* Goes through the attempts until one is under way. What cannot even be sent is not the end: the deadline is
 * what lets the callback run later, never inside resolver_ask(). */
static void attempt_start(struct resolver_exchange *x)
{
    int r = 0;
    if (!x->over_tcp) {
        x->server = server_next(x);
        x->tried |= 1u << x->server;
        x->over_tls = x->server < x->resolver->server_count && *x->resolver->servers[x->server].name;
        r = question_write(x);
    }
    x->asked_ns = uv_hrtime();
    deadline_start(&x->resolver->timeouts, &x->deadline);
    if (r == 0)
        r = attempt_open(x);
    if (r == 0)
        return;
    x->last_error = r;
    poller_again(x->resolver->poller, &x->poll);
}

static void on_ready_or_failed(struct poll_handle *handle, uint32_t events)
{
    struct resolver_exchange *x = list_entry(handle, struct resolver_exchange, poll);
    if (handle->fd < 0)
        attempt_failed(x, x->last_error);
    else
        on_ready(handle, events);
}

static void on_timeout(struct deadline *deadline)
{
    struct resolver_exchange *x = list_entry(deadline, struct resolver_exchange, deadline);
    dot_give_up(&x->by_tls);
    attempt_failed(x, -ETIMEDOUT);
}

static bool servers_are(const struct resolver *resolver, const struct config_resolver *servers, size_t count)
{
    if (resolver->server_count != count)
        return false;
    for (size_t i = 0; i < count; i++)
        if (!addr_equal(&resolver->servers[i].address, &servers[i].address) ||
            strcmp(resolver->servers[i].name, servers[i].name))
            return false;
    return true;
}

void resolver_set_servers(struct resolver *resolver, const struct config_resolver *servers, size_t count)
{
    struct dot *old[RESOLVER_SERVERS_MAX];
    count = count < RESOLVER_SERVERS_MAX ? count : RESOLVER_SERVERS_MAX;
    if (servers_are(resolver, servers, count))
        return;
    memcpy(old, resolver->dots, sizeof(old));
    memset(resolver->dots, 0, sizeof(resolver->dots));
    memset(resolver->health, 0, sizeof(resolver->health));
    if (count > 0)
        memcpy(resolver->servers, servers, count * sizeof(*servers));
    resolver->server_count = count;
    for (size_t i = 0; i < count; i++)
        if (*servers[i].name)
            resolver->dots[i] = dot_create(resolver->poller, &resolver->dot_idle, resolver->authorities, &servers[i]);
    for (size_t i = 0; i < RESOLVER_SERVERS_MAX; i++)
        dot_destroy(old[i]); /* who waited there asks the new ones */
}

/* Each question on its way has a socket: an eighth of all descriptors, for flows need the rest. */
static unsigned sockets_we_may_have(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur / 8 > RESOLVER_OUTSTANDING_MAX)
        return RESOLVER_OUTSTANDING_MAX;
    return (unsigned)limit.rlim_cur / 8;
}

void resolver_init(struct resolver *resolver, uv_loop_t *loop, struct poller *poller,
                   struct authorities *authorities, const struct config_resolver *servers, size_t count)
{
    *resolver = (struct resolver){.poller = poller, .authorities = authorities};
    resolver->outstanding_max = sockets_we_may_have();
    list_init(&resolver->exchanges);
    deadline_queue_init(&resolver->timeouts, loop, RESOLVER_ATTEMPT_MS, on_timeout);
    deadline_queue_init(&resolver->dot_idle, loop, DOT_IDLE_MS, dot_idle_expired);
    resolver_set_servers(resolver, servers, count);
}

void resolver_finish(struct resolver *resolver)
{
    while (!list_empty(&resolver->exchanges))
        exchange_destroy(list_entry(resolver->exchanges.next, struct resolver_exchange, link));
    for (size_t i = 0; i < RESOLVER_SERVERS_MAX; i++)
        dot_destroy(resolver->dots[i]);
    deadline_queue_finish(&resolver->timeouts);
    deadline_queue_finish(&resolver->dot_idle);
}

const char *resolver_failure_text(int status)
{
    switch (-status) {
    case EKEYREJECTED:
        return "the name server's certificate does not prove its name";
    case ENOKEY:
        return "there are no certificate authorities to verify the name server with";
    case EBADMSG:
        return "the name server's answer does not fit the question";
    case EREMOTEIO:
        return "the name server failed to find out";
    case ENOBUFS:
        return "no name server can be asked: there is none, or too many questions wait already";
    default:
        return "no name server answered";
    }
}

size_t resolver_read_host_servers(const char *path, struct config_resolver *ret, size_t size)
{
    char line[512];
    size_t count = 0;
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    while (count < size && fgets(line, sizeof(line), file)) {
        char word[64];
        if (sscanf(line, " nameserver %63s", word) == 1 && addr_parse(word, strlen(word), &ret[count].address))
            ret[count++].address.port = 53;
    }
    fclose(file);
    return count;
}

struct resolver_exchange *resolver_ask(struct resolver *resolver, const char *name, uint16_t type, bool edns,
                                       resolver_answer_fn answered, void *arg)
{
    if (resolver->server_count == 0 || resolver->outstanding >= resolver->outstanding_max ||
        strlen(name) > ACL_NAME_MAX)
        return NULL;
    struct resolver_exchange *x = calloc(1, sizeof(*x));
    if (!x)
        return NULL;
    x->resolver = resolver;
    x->answered = answered;
    x->arg = arg;
    x->type = type;
    x->edns = edns;
    x->attempts_max = ROUNDS * (unsigned)resolver->server_count;
    strcpy(x->name, name);
    poll_handle_init(&x->poll, on_ready_or_failed);
    deadline_init(&x->deadline);
    dot_question_init(&x->by_tls, on_tls_answer);
    list_append(&resolver->exchanges, &x->link);
    resolver->outstanding++;
    attempt_start(x);
    return x;
}

void resolver_cancel(struct resolver_exchange *exchange)
{
    if (exchange)
        exchange_destroy(exchange);
}
