#include "redirect/daemon/inherit.h"

#include "base/fds.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define LISTEN_FDS_START 3
#define LISTEN_FDS_MAX 1000000

int inherited_add(struct inherited *in, const char *name, int fd)
{
    if (in->count == in->room) {
        size_t room = in->room ? in->room * 2 : 64;
        struct inherited_fd *grown = realloc(in->all, room * sizeof(*grown));
        if (!grown) {
            close(fd);
            return -ENOMEM;
        }
        in->all = grown;
        in->room = room;
    }
    struct inherited_fd *one = &in->all[in->count++];
    snprintf(one->name, sizeof(one->name), "%s", name);
    one->fd = fd;
    in->sorted = false;
    return 0;
}

static long number(const char *text)
{
    char *end;
    errno = 0;
    long value = text && *text ? strtol(text, &end, 10) : -1;
    return value < 0 || *end || errno ? -1 : value;
}

void inherited_from_environment(struct inherited *in)
{
    long pid = number(getenv("LISTEN_PID")), count = number(getenv("LISTEN_FDS"));
    const char *names = getenv("LISTEN_FDNAMES");
    for (long i = 0; pid == getpid() && i < count && i < LISTEN_FDS_MAX; i++) {
        char name[CHANNEL_ID_MAX];
        size_t length = names ? strcspn(names, ":") : 0;
        int fd = LISTEN_FDS_START + (int)i;
        snprintf(name, sizeof(name), "%.*s", (int)length, names ? names : "");
        if (names && names[length])
            names += length + 1;
        else
            names = NULL;
        if (fd_set_cloexec(fd, 1) == 0)
            inherited_add(in, name, fd);
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
}

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct inherited_fd *)a)->name, ((const struct inherited_fd *)b)->name);
}

/* The first of those with this name, and how many. */
static struct inherited_fd *find(struct inherited *in, const char *name, size_t *ret_count)
{
    struct inherited_fd key;
    snprintf(key.name, sizeof(key.name), "%s", name);
    if (!in->sorted && in->count)
        qsort(in->all, in->count, sizeof(*in->all), compare);
    in->sorted = true;
    struct inherited_fd *first =
        in->count ? bsearch(&key, in->all, in->count, sizeof(*in->all), compare) : NULL;
    *ret_count = 0;
    if (!first)
        return NULL;
    while (first > in->all && !strcmp(first[-1].name, key.name))
        first--;
    while (first + *ret_count < in->all + in->count && !strcmp(first[*ret_count].name, key.name))
        ++*ret_count;
    return first;
}

int inherited_take(struct inherited *in, const char *name)
{
    size_t count;
    struct inherited_fd *found = find(in, name, &count);
    for (size_t i = 0; i < count; i++)
        if (found[i].fd >= 0)
            return fd_steal(&found[i].fd);
    return -1;
}

static bool listens_on(int fd, const struct addr *address)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof(own);
    struct addr a;
    return getsockname(fd, (struct sockaddr *)&own, &length) == 0 &&
           addr_from_sockaddr((struct sockaddr *)&own, &a) && addr_equal(&a, address);
}

int inherited_take_listener(struct inherited *in, const struct addr *address)
{
    size_t count;
    struct inherited_fd *found = find(in, INHERITED_LISTENER, &count);
    for (size_t i = 0; i < count; i++)
        if (found[i].fd >= 0 && listens_on(found[i].fd, address))
            return fd_steal(&found[i].fd);
    return -1;
}

static bool complete(const struct sealed_past *past, const struct capture_sockets *sockets)
{
    int all[CAPTURE_SOCKETS];
    memcpy(all, sockets, sizeof(all));
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++)
        if (past->cookies[i] && all[i] < 0)
            return false;
    return all[0] >= 0;
}

bool inherited_take_sockets(struct inherited *in, const char *name, const struct sealed_past *past,
                            struct capture_sockets *ret)
{
    struct capture_sockets sockets = CAPTURE_SOCKETS_NONE;
    size_t count;
    struct inherited_fd *found = find(in, name, &count);
    for (size_t i = 0; i < count; i++)
        if (found[i].fd >= 0 && sealed_place_socket(past, found[i].fd, &sockets))
            found[i].fd = -1;
    if (!complete(past, &sockets)) {
        capture_sockets_close(&sockets);
        return false;
    }
    *ret = sockets;
    return true;
}

void inherited_each_left(const struct inherited *in, void (*each)(const char *name))
{
    for (size_t i = 0; i < in->count; i++)
        if (in->all[i].fd >= 0 && (i == 0 || strcmp(in->all[i].name, in->all[i - 1].name) != 0))
            each(in->all[i].name);
}

void inherited_finish(struct inherited *in)
{
    for (size_t i = 0; i < in->count; i++)
        fd_close(&in->all[i].fd);
    free(in->all);
    *in = (struct inherited){0};
}
