#include "redirect/rules/netlink.h"

#include "base/fds.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <stdalign.h>
#include <string.h>
#include <sys/socket.h>

/* Larger than any answer: error messages are capped to the header of their request (NETLINK_CAP_ACK). */
#define ANSWER_MAX 8192
#define LIST_PIECE_MAX 65536 /* the kernel puts no more into a piece of a list than this, whoever reads it */

int netlink_open(int protocol, struct error *err)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
    if (fd < 0)
        return error_errno(err, errno, "cannot open a netlink socket (protocol %d)", protocol);
    int on = 1;
    /* Both only make errors better and smaller; a kernel without them (before 4.12) works as well. */
    (void)setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
    (void)setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
    return fd;
}

static int find_message(const struct nlattr *attribute, void *data)
{
    const char **text = data;
    if (mnl_attr_get_type(attribute) == NLMSGERR_ATTR_MSG &&
        mnl_attr_validate(attribute, MNL_TYPE_NUL_STRING) >= 0)
        *text = mnl_attr_get_str(attribute);
    return MNL_CB_OK;
}

/* The kernel's sentence inside an error answer; NULL when it said none. */
static const char *extended_text(const struct nlmsghdr *answer)
{
    const struct nlmsgerr *e = mnl_nlmsg_get_payload(answer);
    size_t offset = sizeof(*e);
    const char *text = NULL;
    if (!(answer->nlmsg_flags & NLM_F_ACK_TLVS))
        return NULL;
    if (!(answer->nlmsg_flags & NLM_F_CAPPED))
        offset += (e->msg.nlmsg_len - sizeof(e->msg) + 3) & ~(size_t)3;
    if (offset < mnl_nlmsg_get_payload_len(answer))
        mnl_attr_parse(answer, (unsigned)offset, find_message, &text);
    return text;
}

/* Of requests that are no batch: each its own, so that an answer which was left unread (whoever read before had to give up) is not
 * taken for the next one's. Batches count from 1, far from here. */
static uint32_t next_sequence(void)
{
    static uint32_t sequence = 1u << 30;
    return sequence++;
}

struct outcome {
    uint32_t first, last; /* of the requests */
    bool answered; /* the acknowledgement of the last message is there */
    int code;      /* negative errno of the first failure */
    uint32_t failed;
};

static void take_answer(const struct nlmsghdr *answer, struct outcome *outcome, struct error *err)
{
    if (answer->nlmsg_type != NLMSG_ERROR || mnl_nlmsg_get_payload_len(answer) < sizeof(struct nlmsgerr))
        return;
    if (answer->nlmsg_seq < outcome->first || answer->nlmsg_seq > outcome->last + 1) /* a batch's end mark is behind the last */
        return;
    const struct nlmsgerr *e = mnl_nlmsg_get_payload(answer);
    if (answer->nlmsg_seq == outcome->last)
        outcome->answered = true;
    if (e->error == 0 || outcome->code != 0)
        return;
    const char *text = extended_text(answer);
    outcome->code = e->error;
    outcome->failed = answer->nlmsg_seq;
    error_set(err, -e->error, "%s%s%s%s", strerror(-e->error), text ? " (" : "", text ? text : "",
              text ? ")" : "");
}

int netlink_transact(int fd, const void *messages, size_t length, uint32_t last, uint32_t *ret_failed,
                     struct error *err)
{
    struct outcome outcome = {.first = ((const struct nlmsghdr *)messages)->nlmsg_seq, .last = last};
    alignas(struct nlmsghdr) char buffer[ANSWER_MAX];
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (sendto(fd, messages, length, 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return error_errno(err, errno, "cannot send %zu bytes to the kernel", length);
    for (;;) {
        ssize_t got = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            break;
        if (got < 0)
            return error_errno(err, errno, "cannot read the kernel's answer");
        int left = (int)got;
        for (const struct nlmsghdr *m = (const void *)buffer; mnl_nlmsg_ok(m, left);
             m = mnl_nlmsg_next(m, &left))
            take_answer(m, &outcome, err);
    }
    if (outcome.code != 0) {
        if (ret_failed)
            *ret_failed = outcome.failed;
        return outcome.code;
    }
    return outcome.answered ? 0 : error_set(err, EPROTO, "the kernel did not answer");
}

int netlink_request(int fd, struct nlmsghdr *request, const char *step, struct error *err)
{
    request->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
    request->nlmsg_seq = next_sequence();
    int r = netlink_transact(fd, request, request->nlmsg_len, request->nlmsg_seq, NULL, err);
    if (r < 0 && err)
        error_prefix(err, "%s", step);
    return r;
}

/* ---- lists ---- */

struct list_reading {
    uint32_t sequence;
    bool done, changed;
    netlink_each_fn each;
    void *arg;
    const char *step;
};

/* The kernel says how it went in the last message of a list, as it does in an error. */
static int end_of_list(struct list_reading *reading, const struct nlmsghdr *message, struct error *err)
{
    const int *code = mnl_nlmsg_get_payload(message);
    bool refused = message->nlmsg_type == NLMSG_ERROR;
    reading->done = true;
    if (mnl_nlmsg_get_payload_len(message) < sizeof(*code))
        return error_set(err, EPROTO, "%s: the kernel's list ends in something else", reading->step);
    if (*code < 0)
        return error_errno(err, -*code, "%s", reading->step);
    return refused ? error_set(err, EPROTO, "%s: the kernel did not answer", reading->step) : 0;
}

static int read_piece(struct list_reading *reading, const void *piece, int left, struct error *err)
{
    const struct nlmsghdr *m = piece;
    int r = 0;
    for (; r >= 0 && !reading->done && mnl_nlmsg_ok(m, left); m = mnl_nlmsg_next(m, &left)) {
        if (m->nlmsg_seq < reading->sequence)
            continue; /* of a list before, which was given up */
        if (m->nlmsg_seq != reading->sequence)
            return error_set(err, EPROTO, "%s: the kernel answers what nobody asked", reading->step);
        reading->changed |= (m->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
        if (m->nlmsg_type == NLMSG_DONE || m->nlmsg_type == NLMSG_ERROR)
            r = end_of_list(reading, m, err);
        else if (m->nlmsg_type >= NLMSG_MIN_TYPE)
            r = reading->each(m, reading->arg);
    }
    return r >= 0 && !reading->done && left != 0 ? error_set(err, EPROTO, "%s: the kernel's list is torn", reading->step) : r;
}

int netlink_list(int fd, struct nlmsghdr *request, const char *step, netlink_each_fn each, void *arg, struct error *err)
{
    alignas(struct nlmsghdr) static char buffer[LIST_PIECE_MAX]; /* one list at a time: the monitor and its children have one thread */
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct list_reading reading = {.sequence = next_sequence(), .each = each, .arg = arg, .step = step};
    int r = 0;
    request->nlmsg_flags |= NLM_F_REQUEST | NLM_F_DUMP;
    request->nlmsg_seq = reading.sequence;
    if (sendto(fd, request, request->nlmsg_len, 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return error_errno(err, errno, "%s", step);
    while (r >= 0 && !reading.done) {
        ssize_t got = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT | MSG_TRUNC);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_errno(err, errno, "%s", step);
        if ((size_t)got > sizeof(buffer))
            return error_set(err, EMSGSIZE, "%s: the kernel's answer is too long", step);
        r = read_piece(&reading, buffer, (int)got, err);
    }
    if (r >= 0 && reading.changed)
        return error_set(err, ESTALE, "%s: it changed while it was read", step);
    return r < 0 ? r : 0;
}
