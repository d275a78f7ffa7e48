/*
 * The listening socket of the admin endpoint. The monitor makes it, the worker serves it: its bytes come from the network.
 *
 * A new address is listened on before the configuration that names it is taken: one that cannot be had refuses the whole
 * configuration. The same address keeps its socket, and whoever waits in its queue.
 */
#include "redirect/daemon/daemon_internal.h"

#include "base/fds.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#define BACKLOG 64
#define START_TRIES 50 /* the worker of a monitor that was killed has its socket for a moment yet */
#define START_PAUSE_MS 20

static int listen_on(const struct addr *address, struct error *err)
{
    struct sockaddr_storage where;
    char text[ADDR_TEXT_MAX];
    const int on = 1;
    socklen_t length = addr_to_sockaddr(address, &where);
    _cleanup_fd_ int fd = socket(where.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && address->family == 6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, (struct sockaddr *)&where, length) < 0 || listen(fd, BACKLOG) < 0)
        return error_errno(err, errno, "gateway.admin: cannot listen on %s", addr_format_with_port(address, text));
    return fd_steal(&fd);
}

int daemon_admin_prepare(struct daemon *d, const struct config_snapshot *snapshot, int *ret, struct error *err)
{
    const struct config_admin *admin = config_admin(snapshot);
    *ret = -1;
    if (d->options->check && d->options->check(snapshot, err) < 0)
        return -EINVAL;
    if (admin->listen.family == 0 || (d->admin >= 0 && addr_equal(&admin->listen, &d->admin_address)))
        return 0;
    int fd = inherited_take_listener(&d->inherited, &admin->listen);
    if (fd < 0)
        fd = listen_on(&admin->listen, err);
    for (int i = 0; fd == -EADDRINUSE && !d->announced && i < START_TRIES; i++) {
        poll(NULL, 0, START_PAUSE_MS);
        fd = listen_on(&admin->listen, err);
    }
    if (fd < 0)
        return fd;
    *ret = fd;
    return 0;
}

void daemon_admin_take(struct daemon *d, const struct config_snapshot *snapshot, int prepared)
{
    const struct config_admin *admin = config_admin(snapshot);
    if (admin->listen.family != 0 && prepared < 0)
        return; /* as it was */
    fd_close(&d->admin);
    d->admin = prepared;
    d->admin_address = admin->listen;
    d->workers[0].admin_unsent = true;
}
