#include "base/secret_hash.h"

#include "base/sip.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>

static uint64_t key[2];
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A process without chance has no business with strangers' keys. The kernel's never fails once it is seeded. */
static void take_key(void)
{
    if (getrandom(key, sizeof(key), 0) != sizeof(key))
        abort();
}

uint32_t secret_hash(const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    uint64_t word = 0;
    size_t left = length;
    pthread_once(&once, take_key);
    struct sip s = sip_begin(key);
    for (; left >= sizeof(word); left -= sizeof(word), at += sizeof(word)) {
        memcpy(&word, at, sizeof(word));
        sip_word(&s, word);
    }
    word = 0;
    memcpy(&word, at, left);
    sip_word(&s, word | (uint64_t)length << 56);
    return sip_end(s, 0);
}
