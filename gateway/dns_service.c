/*
 * The containers' name server (DESIGN section 7), whatever server they asked.
 *
 * A name the policy does not allow is answered NXDOMAIN with an extended error that says why, is audited, and
 * never leaves the host. What becomes of an allowed question depends on its type:
 *
 *   A, AAAA             forwarded; every address must pass the guard (a name that resolves into private
 * ranges is refused: rebinding), and is remembered for binding HTTPS, SVCB         forwarded without `ech`
 * and `h3` (dns_answer.c); address hints are guarded and remembered CNAME, NS, SOA, PTR, MX, TXT, SPF, SRV,
 * NAPTR, LOC, CAA, URI, SSHFP, TLSA, DS, DNSKEY forwarded; what the names in them resolve to has to be
 * allowed and asked for by itself all others          refused and audited, among them ANY, AXFR, IXFR and
 * NULL, the tunnels' favourite
 *
 * Classes but IN are refused, opcodes but QUERY not implemented. Answers say nothing of DNSSEC: the gateway
 * vouches for them, AD and DO go neither way. A name of one label, or with a search domain behind it, is a
 * name like others: allowed or answered NXDOMAIN at once, so that a stub resolver goes on to the next.
 *
 * Answers come from the address that was asked: by NAT, or in a namespace that has none (redirect/rules/ruleset.c) as whole packets, which
 * leave by its raw socket.
 *
 * A question that waits for its answer holds a copy of the client's message; how many may wait is bounded, by
 * container.
 */
#include "gateway/flow.h"
#include "gateway/packet.h"
#include "base/fds.h"

#include <errno.h>
#include <linux/in6.h>
#include <netinet/in.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define QUERY_MAX 1232 /* bytes of a client's message; what is longer asks nothing a resolver would */
#define TCP_CONNECTIONS_MAX 64
#define TCP_OUT_MAX (128u * 1024)
#define REMEMBER_EVERY_MS 1000 /* the addresses of one answer that is given out again and again */
#define UDP_BATCH 32 /* questions read, and answers sent, by one system call */
#define UDP_ANSWER_MAX 1500 /* of those that are sent together; longer ones go alone */
#define TCP_TURN_BUDGET 16   /* reads of one connection before others have their turn */
#define TCP_QUESTIONS_MAX 64 /* of one connection, waiting for their answers */
#define QUESTIONS_MAX 512 /* that wait, of one container */

/* Which of our addresses a datagram came to, as the kernel told it (IP_PKTINFO); the answer leaves from there. Asked for where a
 * socket is bound to any address, in a captured network: its interface may have several. A transparent socket is told where the
 * client sent to instead (IP_RECVORIGDSTADDR), which is no address of ours: that goes to `asked`, and nothing is left here. */
struct local_end {
    alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(struct sockaddr_in6))];
    size_t length;
};

/* Who waits for an answer: a UDP peer, or a TCP connection. */
struct dns_question {
    struct list link; /* worker->dns_questions */
    struct capture *capture;
    struct dns_connection *connection; /* NULL over UDP */
    int udp_fd;
    struct sockaddr_storage peer;
    socklen_t peer_length;
    struct local_end local;
    struct addr asked; /* the answer is a whole packet from there, by the namespace's raw socket; family 0: it leaves by udp_fd */
    struct forwarder_waiter waiter;
    struct dns_query query;
    uint32_t held; /* until the kernel's sets have its addresses (learned.h); 0: it is not */
    bool malformed, learned;
    const uint8_t *bytes; /* the client's message */
    size_t length;
    uint8_t copy[]; /* of it, when the question waits */
};

struct dns_connection {
    struct list link;
    struct capture *capture;
    struct poll_handle poll;
    struct deadline idle;
    struct addr source;
    unsigned questions;
    bool eof, writable, paused; /* paused: bytes are there, but answers have to go first */
    size_t in_used;
    uint8_t in[2 + QUERY_MAX];
    struct buffer out;
};

static void connection_flush(struct dns_connection *connection);

/* Of one that waits; others live on the stack. */
static void question_destroy(struct dns_question *question)
{
    if (question->connection)
        question->connection->questions--;
    question->capture->dns_waiting--;
    forwarder_cancel(&question->waiter);
    list_remove(&question->link);
    free(question);
}

static void connection_destroy(struct dns_connection *connection)
{
    struct list *questions = &connection->capture->worker->dns_questions;
    int fd = connection->poll.fd;
    for (struct list *link = questions->next, *next; link != questions; link = next) {
        struct dns_question *question = list_entry(link, struct dns_question, link);
        next = link->next;
        if (question->connection == connection)
            question_destroy(question);
    }
    poller_remove(&connection->capture->worker->poller, &connection->poll);
    fd_close(&fd);
    deadline_stop(&connection->idle);
    connection->capture->dns_connections--;
    list_remove(&connection->link);
    buffer_free(&connection->out);
    free(connection);
}

void dns_service_forget(struct capture *capture)
{
    struct list *questions = &capture->worker->dns_questions,
                *connections = &capture->worker->dns_connections;
    for (struct list *link = questions->next, *next; link != questions; link = next) {
        next = link->next;
        if (list_entry(link, struct dns_question, link)->capture == capture)
            question_destroy(list_entry(link, struct dns_question, link));
    }
    for (struct list *link = connections->next, *next; link != connections; link = next) {
        next = link->next;
        if (list_entry(link, struct dns_connection, link)->capture == capture)
            connection_destroy(list_entry(link, struct dns_connection, link));
    }
}

/* ---- answering ---- */

/* While the questions of one read are answered, the answers that are known at once are collected here. One a process:
 * there is one loop. */
static struct {
    bool collecting;
    int fd; /* by which all of them leave */
    unsigned count;
    struct sockaddr_storage peers[UDP_BATCH];
    struct local_end locals[UDP_BATCH];
    struct iovec pieces[UDP_BATCH][2];
    struct mmsghdr messages[UDP_BATCH];
    uint8_t heads[UDP_BATCH][PACKET_HEAD_MAX];
    uint8_t bytes[UDP_BATCH][UDP_ANSWER_MAX];
} answers;

/* What the socket does not take is lost, as datagrams are; the client asks again. */
static void answers_flush(void)
{
    unsigned sent = 0;
    while (sent < answers.count) {
        int r = sendmmsg(answers.fd, answers.messages + sent, answers.count - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        sent += r > 0 ? (unsigned)r : 1;
    }
    answers.count = 0;
}

static int way_out(const struct dns_question *question)
{
    return question->asked.family ? question->capture->raw[question->asked.family == AF_INET6] : question->udp_fd;
}

/* The message that is the answer; what it points to has to stay. A raw socket has no ports, so the peer there is an address alone, and
 * the ports are in the head. */
static struct msghdr datagram(const struct dns_question *question, const uint8_t *bytes, size_t length, struct sockaddr_storage *peer,
                              struct iovec pieces[2], uint8_t head[PACKET_HEAD_MAX], struct local_end *local)
{
    size_t head_length = 0;
    struct addr client = {0};
    *peer = question->peer;
    *local = question->local;
    if (question->asked.family && addr_from_sockaddr((const struct sockaddr *)&question->peer, &client)) {
        head_length = packet_udp_head(&question->asked, &client, bytes, length, head);
        client.port = 0;
        addr_to_sockaddr(&client, peer);
    }
    pieces[0] = (struct iovec){head, head_length};
    pieces[1] = (struct iovec){(void *)(uintptr_t)bytes, length};
    return (struct msghdr){.msg_name = peer,
                           .msg_namelen = question->peer_length,
                           .msg_iov = pieces,
                           .msg_iovlen = 2,
                           .msg_control = local->control,
                           .msg_controllen = local->length};
}

static void answers_add(const struct dns_question *question, const uint8_t *bytes, size_t length)
{
    unsigned i = answers.count++;
    memcpy(answers.bytes[i], bytes, length);
    answers.messages[i].msg_hdr = datagram(question, answers.bytes[i], length, &answers.peers[i], answers.pieces[i], answers.heads[i],
                                           &answers.locals[i]);
}

static void reply_udp(const struct dns_question *question, const uint8_t *bytes, size_t length)
{
    int fd = way_out(question);
    if (answers.collecting && length <= UDP_ANSWER_MAX) {
        if (answers.count == UDP_BATCH || answers.fd != fd)
            answers_flush();
        answers.fd = fd;
        answers_add(question, bytes, length);
        return;
    }
    struct sockaddr_storage peer;
    struct iovec pieces[2];
    uint8_t head[PACKET_HEAD_MAX];
    struct local_end local;
    const struct msghdr message = datagram(question, bytes, length, &peer, pieces, head, &local);
    sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void reply(const struct dns_question *question, const uint8_t *bytes, size_t length)
{
    struct dns_connection *connection = question->connection;
    if (!connection) {
        reply_udp(question, bytes, length);
        return;
    }
    if (buffer_length(&connection->out) > TCP_OUT_MAX || buffer_reserve(&connection->out, length + 2) < 0)
        return; /* a client that asks and never reads */
    uint8_t *out = connection->out.bytes + connection->out.end;
    out[0] = (uint8_t)(length >> 8);
    out[1] = (uint8_t)length;
    memcpy(out + 2, bytes, length);
    connection->out.end += length + 2;
}

static void reply_refusal(const struct dns_question *question, int rcode, int ede, const char *text)
{
    uint8_t bytes[1024];
    ssize_t length =
        dns_refusal_write(question->bytes, &question->query, rcode, ede, text, bytes, sizeof(bytes));
    if (length > 0)
        reply(question, bytes, (size_t)length);
}

/* `question` must outlive the event. */
static struct audit_event question_event(const struct dns_question *question, enum audit_action action,
                                         enum acl_reason reason)
{
    struct capture *capture = question->capture;
    struct audit_event event = worker_event(capture->worker, capture, capture->policy);
    event.action = action;
    event.reason = reason;
    event.transport = question->connection ? "tcp" : "udp";
    event.protocol = "dns";
    event.dns_name = question->query.shown;
    event.dns_name_length = strlen(question->query.shown);
    clock_gettime(CLOCK_REALTIME, &event.start);
    addr_from_sockaddr((const struct sockaddr *)&question->peer, &event.source);
    return event;
}

static void audit_denial(const struct dns_question *question, enum acl_reason reason, const char *detail,
                         const struct acl_verdict *verdict, bool would_deny)
{
    struct worker *w = question->capture->worker;
    struct audit_event event = question_event(question, AUDIT_DNS_DENIED, reason);
    char type[12];
    event.allowed = event.would_deny = would_deny;
    event.detail = detail;
    event.verdict = verdict;
    event.dns_type = dns_type_name(question->query.type, type);
    audit_submit(w->audit, &event);
    report_denied(w->report, question->query.shown, reason);
}

static void refuse(const struct dns_question *question, enum acl_reason reason, const char *detail,
                   const struct acl_verdict *verdict)
{
    char text[ACL_NAME_MAX + 64];
    snprintf(text, sizeof(text), "sallyport: %s, policy %s", acl_reason_name(reason),
             acl_policy_name(question->capture->policy));
    audit_denial(question, reason, detail, verdict, false);
    reply_refusal(question, DNS_NXDOMAIN,
                  reason == ACL_DESTINATION_GUARDED ? DNS_EDE_FILTERED : DNS_EDE_BLOCKED, text);
}

static bool addresses_pass_guard(const struct dns_question *question, const struct forwarder_answer *answer)
{
    const struct capture *capture = question->capture;
    for (size_t i = 0; i < answer->address_count; i++)
        if (!worker_may_answer(capture->worker, capture->policy, &answer->addresses[i]))
            return false;
    return true;
}

static void remember(const struct dns_question *question, const struct forwarder_answer *answer)
{
    struct worker *w = question->capture->worker;
    uint64_t now = uv_now(&w->loop);
    if (answer->remembered_ms && *answer->remembered_ms && now < *answer->remembered_ms + REMEMBER_EVERY_MS)
        return;
    for (size_t i = 0; i < answer->address_count; i++)
        namebook_learn(w->names, question->query.name, question->query.name_length, &answer->addresses[i],
                       answer->ttl, now);
    if (answer->remembered_ms)
        *answer->remembered_ms = now;
}

static void serve(const struct dns_question *question, const struct forwarder_answer *answer)
{
    uint8_t *bytes = question->capture->worker->scratch;
    size_t size = question->connection ? SCRATCH_SIZE - 1 : DNS_UDP_MAX;
    ssize_t length = dns_answer_serve(answer->message, answer->length, answer->age, question->bytes,
                                      &question->query, question->connection == NULL, bytes, size);
    if (length > 0)
        reply(question, bytes, (size_t)length);
    else
        reply_refusal(question, DNS_SERVFAIL, DNS_EDE_NONE, NULL);
}

/* Nobody could be asked, or nobody answered. */
static void fail(const struct dns_question *question, const char *why)
{
    char text[128];
    snprintf(text, sizeof(text), "sallyport: %s", why);
    audit_denial(question, ACL_DNS_FAILED, why, NULL, false);
    reply_refusal(question, DNS_SERVFAIL, DNS_EDE_NETWORK_ERROR, text);
}

/* The kernel is to know an address before the container does: then 0 is not what comes back. */
static uint32_t must_wait(const struct dns_question *question, const struct forwarder_answer *answer)
{
    const struct dns_query *query = &question->query;
    if (question->learned || answer->lies || answer->status < 0 || !addresses_pass_guard(question, answer))
        return 0;
    return learned_note(question->capture, query->name, query->name_length, answer->addresses, answer->address_count, answer->ttl);
}

static void answer_question(const struct dns_question *question, const struct forwarder_answer *answer)
{
    if (answer->lies) {
        audit_denial(question, ACL_DNS_FAILED, "the answer has addresses for names that were not asked", NULL,
                     false);
        reply_refusal(question, DNS_SERVFAIL, DNS_EDE_FILTERED,
                      "sallyport: the answer does not fit the question");
    } else if (answer->status < 0) {
        fail(question, resolver_failure_text(answer->status));
    } else if (!addresses_pass_guard(question, answer)) {
        refuse(question, ACL_DESTINATION_GUARDED, "the name resolves to a private or guarded address", NULL);
    } else {
        remember(question, answer);
        serve(question, answer);
    }
}

static void on_answered(struct forwarder_waiter *waiter, const struct forwarder_answer *answer)
{
    struct dns_question *question = list_entry(waiter, struct dns_question, waiter);
    struct dns_connection *connection = question->connection;
    if ((question->held = must_wait(question, answer)))
        return;
    answer_question(question, answer);
    question_destroy(question);
    if (connection)
        connection_flush(connection);
}

/* ---- questions ---- */

static bool within_rate(struct capture *capture)
{
    const struct worker *w = capture->worker;
    unsigned own = acl_policy_limits(capture->policy)->dns_queries_per_second;
    return rate_take(&capture->dns_rate, own ? own : w->limits->dns_queries_per_second, uv_now(&w->loop));
}

static const char any_name[] = "*";

/* It was sent out: does it look like one of very many? */
static void watch_for_tunnels(const struct dns_question *question, const struct acl_verdict *verdict)
{
    struct capture *capture = question->capture;
    const struct dns_query *query = &question->query;
    uint64_t now = uv_now(&capture->worker->loop);
    const char *rule = verdict->has_rule ? verdict->rule.text : any_name; /* `dns: any` */
    if (!dns_watch_note(&capture->dns_watch, rule, query->name, query->name_length, now))
        return;
    struct audit_event event = question_event(question, AUDIT_DNS_SUSPECTED, ACL_RULE_ALLOW);
    event.allowed = true;
    event.verdict = verdict;
    event.detail = "a tunnel? very many long names below one wildcard, each asked for once";
    audit_submit(capture->worker->audit, &event);
}

/* A copy that waits. */
static int keep(const struct dns_question *question, struct dns_question **ret)
{
    struct capture *capture = question->capture;
    if (capture->dns_waiting >= QUESTIONS_MAX)
        return -ENOBUFS;
    struct dns_question *waits = malloc(sizeof(*waits) + question->length);
    if (!waits)
        return -ENOMEM;
    *waits = *question;
    memcpy(waits->copy, question->bytes, question->length);
    waits->bytes = waits->copy;
    forwarder_waiter_init(&waits->waiter, on_answered);
    list_append(&capture->worker->dns_questions, &waits->link);
    capture->dns_waiting++;
    if (waits->connection)
        waits->connection->questions++;
    *ret = waits;
    return 0;
}

/* The question waits, as a copy, for an answer from outside. As forwarder_wait(). */
static int wait_for_answer(const struct dns_question *question)
{
    const struct dns_query *query = &question->query;
    struct dns_question *waits;
    int r = keep(question, &waits);
    if (r < 0)
        return r;
    r = forwarder_wait(question->capture->worker->forwarder, query->name, query->name_length, query->type, &waits->waiter);
    if (r < 0)
        question_destroy(waits);
    return r;
}

/* Its answer is known, but is to wait for the kernel. */
static bool hold(const struct dns_question *question, uint32_t serial)
{
    struct dns_question *waits;
    if (serial == 0 || keep(question, &waits) < 0)
        return false;
    waits->held = serial;
    return true;
}

/* The answer may have become old meanwhile: then it is asked for once more. */
static void release(struct dns_question *question)
{
    struct worker *w = question->capture->worker;
    const struct dns_query *query = &question->query;
    struct dns_connection *connection = question->connection;
    struct forwarder_answer answer;
    int r = 0;
    question->held = 0;
    question->learned = true;
    if (forwarder_find(w->forwarder, query->name, query->name_length, query->type, &answer))
        answer_question(question, &answer);
    else if ((r = forwarder_wait(w->forwarder, query->name, query->name_length, query->type, &question->waiter)) >= 0)
        return;
    else
        fail(question, resolver_failure_text(r));
    question_destroy(question);
    if (connection)
        connection_flush(connection);
}

static struct dns_question *next_learned(const struct worker *w)
{
    for (struct list *link = w->dns_questions.next; link != &w->dns_questions; link = link->next) {
        struct dns_question *question = list_entry(link, struct dns_question, link);
        if (question->held && learned_is_done(w, question->held))
            return question;
    }
    return NULL;
}

/* From the beginning each time: with one question others of its connection may go. */
void dns_service_learned(struct worker *w)
{
    for (struct dns_question *question; (question = next_learned(w));)
        release(question);
}

static void forward(const struct dns_question *question, const struct acl_verdict *verdict)
{
    struct worker *w = question->capture->worker;
    const struct dns_query *query = &question->query;
    struct forwarder_answer answer;
    if (forwarder_find(w->forwarder, query->name, query->name_length, query->type, &answer)) {
        metric_add(&w->metrics->dns_cache_hits, 1);
        if (!hold(question, must_wait(question, &answer)))
            answer_question(question, &answer);
        return;
    }
    int r = wait_for_answer(question);
    if (r < 0)
        fail(question, resolver_failure_text(r));
    if (r > 0)
        watch_for_tunnels(question, verdict);
}

static void judge_name(const struct dns_question *question)
{
    const struct capture *capture = question->capture;
    const struct dns_query *query = &question->query;
    struct acl_verdict verdict = acl_policy_judge_dns(capture->policy, query->name, query->name_length);
    if (!verdict.allowed && !worker_only_records(capture->worker, capture->policy)) {
        metric_add(&capture->worker->metrics->dns_queries[METRICS_QUERY_DENIED], 1);
        refuse(question, verdict.reason, NULL, &verdict);
        return;
    }
    metric_add(&capture->worker->metrics->dns_queries[METRICS_QUERY_ALLOWED], 1);
    if (query->class != 1 || !dns_type_passes(query->type)) {
        audit_denial(question, ACL_NO_RULE, "a type or class of record that is not forwarded", &verdict,
                     false);
        reply_refusal(question, DNS_REFUSED, DNS_EDE_BLOCKED,
                      "sallyport: this type of record is not forwarded");
        return;
    }
    if (!verdict.allowed)
        audit_denial(question, verdict.reason, NULL, &verdict, true);
    forward(question, &verdict);
}

/* Judge one question, and answer it or let it wait. */
static void ask(const struct dns_question *question)
{
    struct capture *capture = question->capture;
    struct worker *w = capture->worker;
    const struct dns_query *query = &question->query;
    if (!within_rate(capture)) {
        /* One a second: a flood must not fill the log. */
        if (rate_take(&capture->limit_events, 1, uv_now(&w->loop)))
            audit_denial(question, ACL_LIMIT_RATE, "DNS queries of this container, in this second", NULL,
                         false);
        metric_add(&w->metrics->dns_queries[METRICS_QUERY_LIMITED], 1);
        metric_add(&w->metrics->limits[METRICS_LIMIT_DNS_QUERIES], 1);
        reply_refusal(question, DNS_REFUSED, DNS_EDE_BLOCKED, "sallyport: too many questions");
    } else if (query->opcode != 0) {
        reply_refusal(question, DNS_NOTIMP, DNS_EDE_NONE, NULL);
    } else if (question->malformed) {
        metric_add(&w->metrics->dns_queries[METRICS_QUERY_MALFORMED], 1);
        audit_denial(question, ACL_NO_RULE, "malformed DNS message", NULL, false);
        reply_refusal(question, DNS_FORMERR, DNS_EDE_NONE, NULL);
    } else if (query->edns && query->edns_version > 0) {
        reply_refusal(question, DNS_BADVERS, DNS_EDE_NONE, NULL);
    } else if (query->name_kind != ACL_NAME_OK) {
        metric_add(&w->metrics->dns_queries[METRICS_QUERY_DENIED], 1);
        refuse(question, query->name_kind == ACL_NAME_IP_LITERAL ? ACL_IP_LITERAL : ACL_NO_RULE,
               acl_name_kind_text(query->name_kind), NULL);
    } else {
        judge_name(question);
    }
}

/* A message of a client, answered or put to wait. What is no query at all is passed over: there is nobody to answer. */
static void take_message(struct dns_question *question)
{
    int r = dns_query_parse(question->bytes, question->length, &question->query);
    if (r == -EINVAL)
        return;
    question->malformed = r < 0;
    if (question->malformed)
        strcpy(question->query.shown, "(malformed)");
    ask(question);
}

/* Takes what the kernel told of the destination. A datagram that was sent, or translated, to the listener itself is answered by it; any
 * other by a whole packet from where the client sent to. False: it is not known where that was. */
static bool take_destination(const struct capture_listener *listener, const struct addr *source, struct msghdr *message,
                             struct dns_question *question)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        struct sockaddr_storage to = {0};
        bool four = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_ORIGDSTADDR,
             six = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_ORIGDSTADDR;
        size_t size = four ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
        if ((!four && !six) || c->cmsg_len < CMSG_LEN(size))
            continue;
        memcpy(&to, CMSG_DATA(c), size);
        question->local.length = 0;
        if (!addr_from_sockaddr((const struct sockaddr *)&to, &question->asked) || question->asked.family != source->family)
            return false;
        if (addr_equal(&question->asked, &listener->local))
            question->asked = (struct addr){0};
        return true;
    }
    return !listener->transparent;
}

/* As many questions as one call reads. Is there more? A short read has emptied the socket, and what comes later is an
 * event of its own. */
static bool read_questions(struct capture_listener *listener)
{
    static uint8_t bytes[UDP_BATCH][QUERY_MAX + 1];
    struct sockaddr_storage peers[UDP_BATCH];
    struct iovec pieces[UDP_BATCH];
    struct mmsghdr messages[UDP_BATCH];
    struct local_end locals[UDP_BATCH];
    for (int i = 0; i < UDP_BATCH; i++) {
        pieces[i] = (struct iovec){bytes[i], sizeof(bytes[i])};
        messages[i].msg_hdr = (struct msghdr){.msg_name = &peers[i],
                                              .msg_namelen = sizeof(peers[i]),
                                              .msg_iov = &pieces[i],
                                              .msg_iovlen = 1,
                                              .msg_control = locals[i].control,
                                              .msg_controllen = sizeof(locals[i].control)};
    }
    int got = recvmmsg(listener->poll.fd, messages, UDP_BATCH, MSG_DONTWAIT, NULL);
    bool more = got == UDP_BATCH || (got < 0 && errno != EAGAIN);
    answers.collecting = true;
    for (int i = 0; i < got; i++) {
        struct addr source = {0};
        addr_from_sockaddr((const struct sockaddr *)&peers[i], &source);
        struct dns_question question = {.capture = capture_of(listener->capture, &source),
                                        .udp_fd = listener->poll.fd,
                                        .peer = peers[i],
                                        .peer_length = messages[i].msg_hdr.msg_namelen,
                                        .bytes = bytes[i],
                                        .length = messages[i].msg_len};
        locals[i].length = messages[i].msg_hdr.msg_controllen;
        question.local = locals[i];
        bool fits = question.length > 0 && question.length <= QUERY_MAX;
        if (fits && question.capture && take_destination(listener, &source, &messages[i].msg_hdr, &question))
            take_message(&question);
    }
    answers_flush();
    answers.collecting = false;
    return more;
}

void dns_udp_ready(struct poll_handle *handle, uint32_t events)
{
    struct capture_listener *listener = list_entry(handle, struct capture_listener, poll);
    (void)events;
    if (read_questions(listener)) /* others first */
        poller_again(&listener->capture->worker->poller, handle);
}

/* ---- DNS over TCP (RFC 7766) ---- */

/* Back-pressure (RFC 7766 section 6.2.1): a client that asks faster than it reads, or than we are answered,
 * waits. */
static bool connection_may_read(const struct dns_connection *connection)
{
    return !connection->eof && connection->questions < TCP_QUESTIONS_MAX &&
           buffer_length(&connection->out) <= TCP_OUT_MAX;
}

static void connection_flush(struct dns_connection *connection)
{
    struct buffer *out = &connection->out;
    while (buffer_length(out) && connection->writable) {
        ssize_t sent = send(connection->poll.fd, out->bytes + out->start, buffer_length(out), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno != EAGAIN) {
            connection_destroy(connection);
            return;
        }
        if (sent < 0)
            connection->writable = false;
        else
            out->start += (size_t)sent;
    }
    if (buffer_length(out) > 0)
        return;
    buffer_free(out);
    if (connection->eof && connection->questions == 0)
        connection_destroy(connection);
    else if (connection->paused && connection_may_read(connection))
        poller_again(&connection->capture->worker->poller, &connection->poll);
}

static void connection_question(struct dns_connection *connection, size_t length)
{
    struct dns_question question = {.capture = connection->capture,
                                    .connection = connection,
                                    .udp_fd = -1,
                                    .bytes = connection->in + 2,
                                    .length = length};
    question.peer_length = addr_to_sockaddr(&connection->source, &question.peer);
    take_message(&question);
    connection->in_used -= 2 + length;
    memmove(connection->in, connection->in + 2 + length, connection->in_used);
}

/* Takes every whole message off `in`. False: a message longer than any real question. */
static bool connection_parse(struct dns_connection *connection)
{
    while (connection->in_used >= 2) {
        size_t length = (size_t)(connection->in[0] << 8 | connection->in[1]);
        if (length > QUERY_MAX || length == 0)
            return false;
        if (connection->in_used < 2 + length)
            return true;
        connection_question(connection, length);
    }
    return true;
}

/* Reads once. 1 go on, 0 nothing is there, -1 the connection is gone. */
static int connection_read(struct dns_connection *connection)
{
    ssize_t got = recv(connection->poll.fd, connection->in + connection->in_used,
                       sizeof(connection->in) - connection->in_used, 0);
    if (got < 0 && errno == EINTR)
        return 1;
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got > 0) {
        connection->in_used += (size_t)got;
        deadline_start(&connection->capture->worker->dns_tcp_timeouts, &connection->idle);
        if (connection_parse(connection))
            return 1;
    }
    if (got == 0) {
        connection->eof = true;
        return 0;
    }
    connection_destroy(connection);
    return -1;
}

static void connection_ready(struct poll_handle *handle, uint32_t events)
{
    struct dns_connection *connection = list_entry(handle, struct dns_connection, poll);
    int more = 1;
    if (events & EPOLLOUT)
        connection->writable = true;
    for (int turn = 0; turn < TCP_TURN_BUDGET && more == 1 && connection_may_read(connection); turn++)
        if ((more = connection_read(connection)) < 0)
            return;
    connection->paused = more == 1 && !connection_may_read(connection);
    if (more == 1 && !connection->paused)
        poller_again(&connection->capture->worker->poller, handle); /* others first */
    connection_flush(connection);
}

void dns_tcp_expired(struct deadline *deadline)
{
    connection_destroy(list_entry(deadline, struct dns_connection, idle));
}

static void connection_create(struct capture *whole, int fd, const struct sockaddr_storage *peer)
{
    struct addr source = {0};
    addr_from_sockaddr((const struct sockaddr *)peer, &source);
    struct capture *capture = capture_of(whole, &source);
    struct dns_connection *connection =
        capture && capture->dns_connections < TCP_CONNECTIONS_MAX ? calloc(1, sizeof(*connection)) : NULL;
    if (!connection) {
        close(fd);
        return;
    }
    connection->capture = capture;
    connection->writable = true;
    connection->source = source;
    poll_handle_init(&connection->poll, connection_ready);
    deadline_init(&connection->idle);
    list_append(&capture->worker->dns_connections, &connection->link);
    capture->dns_connections++;
    deadline_start(&capture->worker->dns_tcp_timeouts, &connection->idle);
    if (poller_add(&capture->worker->poller, &connection->poll, fd) < 0) {
        connection_destroy(connection);
        close(fd);
    }
}

void dns_tcp_accept_ready(struct poll_handle *handle, uint32_t events)
{
    struct capture_listener *listener = list_entry(handle, struct capture_listener, poll);
    (void)events;
    for (;;) {
        struct sockaddr_storage peer;
        socklen_t length = sizeof(peer);
        int fd = accept4(handle->fd, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0)
            return;
        connection_create(listener->capture, fd, &peer);
    }
}
