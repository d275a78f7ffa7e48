#include "gateway/dead_addresses.h"

#include <string.h>

/* Where two meet, the later one stays. */
static size_t place_of(const struct addr *address)
{
    uint64_t high, low;
    memcpy(&high, address->bytes, sizeof(high));
    memcpy(&low, address->bytes + 8, sizeof(low));
    return (size_t)(((high ^ low * 31 ^ address->port) * 0x9e3779b97f4a7c15u) >> 32) &
           (DEAD_ADDRESSES_KEPT - 1);
}

void dead_addresses_note(struct dead_addresses *dead, const struct addr *address, uint64_t now_ms)
{
    size_t place = place_of(address);
    dead->kept[place].address = *address;
    dead->kept[place].until_ms = now_ms + DEAD_ADDRESSES_MS;
}

void dead_addresses_forget(struct dead_addresses *dead, const struct addr *address)
{
    size_t place = place_of(address);
    if (addr_equal(&dead->kept[place].address, address))
        dead->kept[place].until_ms = 0;
}

static bool is_dead(const struct dead_addresses *dead, const struct addr *address, uint64_t now_ms)
{
    size_t place = place_of(address);
    return dead->kept[place].until_ms > now_ms && addr_equal(&dead->kept[place].address, address);
}

void dead_addresses_last(const struct dead_addresses *dead, struct addr *addresses, size_t count,
                         uint64_t now_ms)
{
    size_t first = 0; /* of the dead ones, so far */
    for (size_t i = 0; i < count; i++) {
        if (is_dead(dead, &addresses[i], now_ms))
            continue;
        struct addr live = addresses[i];
        memmove(addresses + first + 1, addresses + first, (i - first) * sizeof(*addresses));
        addresses[first++] = live;
    }
}
