/*
 * Two hash tables, names and addresses, and between them the pairs: each pair is a link in its name's list,
 * in its address's list, and in one list of all by age. A name or address whose last pair goes, goes too.
 * Hashes are seeded: names come from clients.
 */
#include "gateway/namebook.h"
#include "base/list.h"
#include "base/secret_hash.h"

#include <stdlib.h>
#include <string.h>

/* One name with more addresses than this loses its oldest: a server of the client's own could otherwise make
 * one long. */
#define PAIRS_PER_NAME 256

struct book_name {
    UT_hash_handle hh;
    struct list pairs;
    size_t length;
    unsigned count;
    char text[];
};

struct book_address {
    UT_hash_handle hh;
    struct list pairs;
    struct addr address; /* port 0 */
};

struct book_pair {
    struct list by_name, by_address, by_age;
    struct book_name *name;
    struct book_address *address;
    uint64_t expires_ms;
};

struct namebook {
    struct book_name *names;
    struct book_address *addresses;
    struct list ages; /* oldest first */
    size_t size, capacity;
};

struct namebook *namebook_create(size_t capacity)
{
    struct namebook *book = calloc(1, sizeof(*book));
    if (!book)
        return NULL;
    book->capacity = capacity;
    list_init(&book->ages);
    return book;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
static struct book_name *find_name(struct namebook *book, const char *text, size_t length)
{
    struct book_name *name;
    HASH_FIND(hh, book->names, text, length, name);
    return name;
}

/* Only family and bytes count, and padding is zero: the key is hashed as memory. */
static struct addr address_key(const struct addr *address)
{
    struct addr key;
    memset(&key, 0, sizeof(key));
    key.family = address->family;
    memcpy(key.bytes, address->bytes, sizeof(key.bytes));
    return key;
}

static struct book_address *find_address(struct namebook *book, const struct addr *address)
{
    struct addr key = address_key(address);
    struct book_address *found;
    HASH_FIND(hh, book->addresses, &key, sizeof(key), found);
    return found;
}

static struct book_name *add_name(struct namebook *book, const char *text, size_t length)
{
    struct book_name *name = calloc(1, sizeof(*name) + length + 1);
    if (!name)
        return NULL;
    list_init(&name->pairs);
    name->length = length;
    memcpy(name->text, text, length);
    HASH_ADD_KEYPTR(hh, book->names, name->text, length, name);
    if (!name->hh.tbl) { /* uthash could not grow */
        free(name);
        return NULL;
    }
    return name;
}

static struct book_address *add_address(struct namebook *book, const struct addr *address)
{
    struct book_address *added = calloc(1, sizeof(*added));
    if (!added)
        return NULL;
    list_init(&added->pairs);
    struct addr key = address_key(address);
    memcpy(&added->address, &key, sizeof(key));
    HASH_ADD(hh, book->addresses, address, sizeof(struct addr), added);
    if (!added->hh.tbl) {
        free(added);
        return NULL;
    }
    return added;
}

static void drop_name_if_unused(struct namebook *book, struct book_name *name)
{
    if (name && list_empty(&name->pairs)) {
        HASH_DELETE(hh, book->names, name);
        free(name);
    }
}

static void drop_address_if_unused(struct namebook *book, struct book_address *address)
{
    if (address && list_empty(&address->pairs)) {
        HASH_DELETE(hh, book->addresses, address);
        free(address);
    }
}
#pragma GCC diagnostic pop

static void drop_pair(struct namebook *book, struct book_pair *pair)
{
    list_remove(&pair->by_name);
    list_remove(&pair->by_address);
    list_remove(&pair->by_age);
    pair->name->count--;
    drop_name_if_unused(book, pair->name);
    drop_address_if_unused(book, pair->address);
    free(pair);
    book->size--;
}

void namebook_destroy(struct namebook *book)
{
    if (!book)
        return;
    while (!list_empty(&book->ages))
        drop_pair(book, list_entry(book->ages.next, struct book_pair, by_age));
    free(book);
}

static struct book_pair *find_pair(const struct book_name *name, const struct addr *address)
{
    for (struct list *link = name->pairs.next; link != &name->pairs; link = link->next) {
        struct book_pair *pair = list_entry(link, struct book_pair, by_name);
        if (addr_equal_ip(&pair->address->address, address))
            return pair;
    }
    return NULL;
}

static struct book_pair *add_pair(struct namebook *book, const char *text, size_t length,
                                  const struct addr *address)
{
    if (book->size >= book->capacity)
        drop_pair(book, list_entry(book->ages.next, struct book_pair, by_age));
    struct book_pair *pair = calloc(1, sizeof(*pair));
    struct book_name *name = find_name(book, text, length);
    if (name && name->count >= PAIRS_PER_NAME)
        drop_pair(book, list_entry(name->pairs.next, struct book_pair, by_name));
    struct book_address *known = find_address(book, address);
    if (!name)
        name = add_name(book, text, length);
    if (!known)
        known = add_address(book, address);
    if (!pair || !name || !known) {
        drop_name_if_unused(book, name);
        drop_address_if_unused(book, known);
        free(pair);
        return NULL;
    }
    pair->name = name;
    pair->address = known;
    name->count++;
    list_append(&name->pairs, &pair->by_name);
    list_append(&known->pairs, &pair->by_address);
    list_append(&book->ages, &pair->by_age);
    book->size++;
    return pair;
}

void namebook_learn(struct namebook *book, const char *name, size_t length, const struct addr *address,
                    uint32_t ttl_s, uint64_t now_ms)
{
    struct book_name *known = find_name(book, name, length);
    struct book_pair *pair = known ? find_pair(known, address) : NULL;
    if (!pair)
        pair = add_pair(book, name, length, address);
    if (!pair)
        return;
    uint64_t expires = now_ms + (uint64_t)ttl_s * 1000 + NAMEBOOK_GRACE_MS;
    if (expires > pair->expires_ms)
        pair->expires_ms = expires;
    list_remove(&pair->by_age);
    list_append(&book->ages, &pair->by_age);
    list_remove(&pair->by_address);
    list_append(&pair->address->pairs, &pair->by_address);
    list_remove(&pair->by_name);
    list_append(&pair->name->pairs, &pair->by_name);
}

bool namebook_knows(struct namebook *book, const char *name, size_t length, const struct addr *address,
                    uint64_t now_ms)
{
    const struct book_name *known = find_name(book, name, length);
    const struct book_pair *pair = known ? find_pair(known, address) : NULL;
    return pair && pair->expires_ms > now_ms;
}

size_t namebook_addresses(struct namebook *book, const char *name, size_t length, uint64_t now_ms,
                          struct addr *ret, size_t size)
{
    const struct book_name *known = find_name(book, name, length);
    size_t count = 0;
    if (!known)
        return 0;
    for (struct list *link = known->pairs.prev; link != &known->pairs && count < size; link = link->prev) {
        const struct book_pair *pair = list_entry(link, struct book_pair, by_name);
        if (pair->expires_ms > now_ms)
            ret[count++] = pair->address->address;
    }
    return count;
}

void namebook_names(struct namebook *book, const struct addr *address, uint64_t now_ms,
                    bool (*each)(const char *name, size_t length, void *arg), void *arg)
{
    const struct book_address *known = find_address(book, address);
    if (!known)
        return;
    for (struct list *link = known->pairs.prev; link != &known->pairs; link = link->prev) {
        const struct book_pair *pair = list_entry(link, struct book_pair, by_address);
        if (pair->expires_ms > now_ms && !each(pair->name->text, pair->name->length, arg))
            return;
    }
}

size_t namebook_size(const struct namebook *book)
{
    return book->size;
}
