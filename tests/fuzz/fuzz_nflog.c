/*
 * The log of refused packets: netlink messages whose payload a container wrote. Whatever they hold, as many events come out as are
 * said to, and each names a family and ports only where the protocol has them.
 */
#include "tests/fuzz/fuzz.h"

#include "redirect/rules/nflog.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netlink.h>
#include <netinet/in.h>

static void count_event(const struct nflog_event *event, void *arg)
{
    bool has_ports = event->protocol == IPPROTO_TCP || event->protocol == IPPROTO_UDP || event->protocol == IPPROTO_DCCP ||
                     event->protocol == IPPROTO_SCTP || event->protocol == IPPROTO_UDPLITE;
    CHECK(event->source.family == AF_INET || event->source.family == AF_INET6);
    CHECK(event->source.family == event->destination.family);
    CHECK(has_ports || (event->source.port == 0 && event->destination.port == 0));
    ++*(int *)arg;
}

static void parse(const void *bytes, size_t size, int at_most)
{
    int seen = 0;
    uint8_t *copy = malloc(size ? size : 1); /* ends where the buffer does */
    memcpy(copy, bytes, size);
    int told = nflog_parse(copy, size, count_event, &seen);
    free(copy);
    CHECK(told == seen && told <= at_most);
}

/* The input as the payload of a well-formed message: what a container can really choose. */
static void parse_packet(const uint8_t *data, size_t size)
{
    static uint8_t message[NLMSG_HDRLEN + 4 + NLA_HDRLEN + 2048];
    if (size > 2048)
        return;
    struct nlmsghdr header = {.nlmsg_len = (uint32_t)(NLMSG_HDRLEN + 4 + NLA_HDRLEN + size),
                              .nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET};
    struct nlattr attribute = {.nla_len = (uint16_t)(NLA_HDRLEN + size), .nla_type = NFULA_PAYLOAD};
    memcpy(message, &header, sizeof(header));
    memset(message + NLMSG_HDRLEN, 0, 4);
    memcpy(message + NLMSG_HDRLEN + 4, &attribute, sizeof(attribute));
    memcpy(message + NLMSG_HDRLEN + 4 + NLA_HDRLEN, data, size);
    parse(message, header.nlmsg_len, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse(data, size, (int)(size / NLMSG_HDRLEN));
    parse_packet(data, size);
    return 0;
}
