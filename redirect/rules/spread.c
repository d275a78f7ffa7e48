#include "redirect/rules/spread.h"

#include <errno.h>
#include <linux/filter.h>
#include <net/if_arp.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#define MULTIPLIER \
    0x9e3779b1u        /* 2^32 by the golden ratio: neighbouring addresses are spread evenly (Knuth, 6.4) */
#define SOURCE_LINK 6  /* bytes into the Ethernet header */
#define SOURCE_IPV4 12 /* into the IP header */
#define SOURCE_IPV6 8
#define WORDS_MAX 4
#define CODE_MAX 48

struct program {
    struct sock_filter code[CODE_MAX];
    uint16_t length;
};

static void add(struct program *program, uint16_t code, uint32_t k)
{
    program->code[program->length++] = (struct sock_filter)BPF_STMT(code, k);
}

/* A = (A ^ value) * M, of a value of 4 or 2 bytes. */
static void mix(struct program *program, uint16_t size, uint32_t at)
{
    add(program, BPF_MISC | BPF_TAX, 0);
    add(program, BPF_LD | BPF_ABS | size, at);
    add(program, BPF_ALU | BPF_XOR | BPF_X, 0);
    add(program, BPF_ALU | BPF_MUL | BPF_K, MULTIPLIER);
}

static void finish(struct program *program, unsigned count)
{
    add(program, BPF_ALU | BPF_RSH | BPF_K, 16);
    add(program, BPF_ALU | BPF_MOD | BPF_K, count);
    add(program, BPF_RET | BPF_A, 0);
}

/* What cannot be read makes the kernel take 0: it is always one of them. */
int spread_by_source(int fd, int family, unsigned count)
{
    struct program p = {0};
    uint32_t source = (uint32_t)SKF_NET_OFF + (family == AF_INET ? SOURCE_IPV4 : SOURCE_IPV6);
    uint32_t words = family == AF_INET ? 1 : WORDS_MAX;
    add(&p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_AD_OFF + SKF_AD_HATYPE);
    uint16_t branch = p.length++;
    mix(&p, BPF_W, (uint32_t)SKF_LL_OFF + SOURCE_LINK);
    mix(&p, BPF_H, (uint32_t)SKF_LL_OFF + SOURCE_LINK + 4);
    finish(&p, count);
    p.code[branch] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARPHRD_ETHER, 0,
                                                  (uint8_t)(p.length - branch - 1));
    for (uint32_t i = 0; i < words; i++)
        mix(&p, BPF_W, source + 4 * i);
    finish(&p, count);
    const struct sock_fprog program = {.len = p.length, .filter = p.code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program)) < 0 ? -errno : 0;
}

int spread_join(int fd)
{
    static const int on = 1;
    return setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0 ? -errno : 0;
}
