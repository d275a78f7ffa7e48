#include "redirect/netlink.h"

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

struct outcome {
    bool answered; /* the acknowledgement of the last message is there */
    int code;      /* negative errno of the first failure */
    uint32_t failed;
};

static void take_answer(const struct nlmsghdr *answer, uint32_t last, struct outcome *outcome,
                        struct error *err)
{
    if (answer->nlmsg_type != NLMSG_ERROR || mnl_nlmsg_get_payload_len(answer) < sizeof(struct nlmsgerr))
        return;
    const struct nlmsgerr *e = mnl_nlmsg_get_payload(answer);
    if (answer->nlmsg_seq == last)
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
    struct outcome outcome = {0};
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
            take_answer(m, last, &outcome, err);
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
    request->nlmsg_seq = 1;
    int r = netlink_transact(fd, request, request->nlmsg_len, 1, NULL, err);
    if (r < 0 && err)
        error_prefix(err, "%s", step);
    return r;
}
