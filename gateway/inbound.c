#include "gateway/inbound.h"

#include "base/fds.h"
#include "redirect/daemon/publish.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define ACCEPT_BATCH 64
#define MAKE_PATIENCE_MS 1000 /* a handshake on the container's loopback that takes longer is begun anew */

/* Makes sockets in the container's namespace, one at a time. */
struct door {
    struct published *published;
    int seed; /* connects to `listener`, then is disconnected; -1: no such family */
    struct poll_handle listener;
    struct addr listens_at, seed_at;
    bool making;
    uint64_t since;      /* it is being made */
    struct list waiting; /* struct inbound */
};

struct inbound_port {
    struct list link;
    struct capture_listener listener;
    uint16_t port; /* inside */
};

struct published {
    struct capture *capture;
    struct door doors[2]; /* IPv4, IPv6 */
    struct list ports;
};

/* What a flow needs that comes in, until it ends. */
struct inbound {
    struct list link; /* in a door's list of those that wait */
    struct flow *flow;
    struct addr inside;
    int family; /* index of the door tried */
};

static void try_family(struct inbound *inbound, int family);

static int own_address(int fd, struct addr *ret)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof(own);
    if (getsockname(fd, (struct sockaddr *)&own, &length) < 0)
        return -errno;
    return addr_from_sockaddr((struct sockaddr *)&own, ret) ? 0 : -EAFNOSUPPORT;
}

/* A TCP socket becomes as it was before it was connected (connect(2), AF_UNSPEC); its peer is told by a reset. */
static int disconnect(int fd)
{
    const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    return connect(fd, &nobody, sizeof(nobody)) < 0 ? -errno : 0;
}

/* ---- the socket to the server inside ---- */

static void try_next(struct inbound *inbound, int error)
{
    struct flow *flow = inbound->flow;
    if (inbound->family == 0 && flow->capture->published->doors[1].seed >= 0) {
        try_family(inbound, 1);
        return;
    }
    metrics_upstream_failed(flow->worker->metrics, error);
    flow_deny(flow, ACL_CONNECT_FAILED,
              error == -ECONNREFUSED ? "nothing listens at that port inside" : strerror(-error));
}

static void inside_ready(struct poll_handle *handle, uint32_t events)
{
    struct flow_side *side = list_entry(handle, struct flow_side, poll);
    struct flow *flow = side->flow;
    int error = 0;
    socklen_t size = sizeof(error);
    flow_side_note(side, events);
    if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
        return;
    if (getsockopt(handle->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    if (error == 0) {
        handle->ready = flow_origin_ready;
        flow_connected(flow, &flow->inbound->inside);
        return;
    }
    poller_close(&flow->worker->poller, handle);
    side->readable = side->writable = side->hangup = false;
    try_next(flow->inbound, -error);
}

static void dial_inside(struct inbound *inbound, int socket)
{
    struct flow *flow = inbound->flow;
    struct sockaddr_storage to;
    _cleanup_fd_ int fd = socket;
    socklen_t length = addr_to_sockaddr(&inbound->inside, &to);
    poll_handle_init(&flow->origin.poll, inside_ready);
    int r = connect(fd, (struct sockaddr *)&to, length) < 0 && errno != EINPROGRESS ? -errno : 0;
    if (r == 0)
        r = poller_add(&flow->worker->poller, &flow->origin.poll, fd);
    if (r < 0)
        try_next(inbound, r);
    else
        (void)fd_steal(&fd);
}

static void close_listener(struct worker *w, struct poll_handle *handle)
{
    int fd = handle->fd; /* the monitor holds it, too: so not poller_close() */
    poller_remove(&w->poller, handle);
    fd_close(&fd);
}

/* ---- the door ---- */

/* A handshake of the container with itself: in most cases it is over when connect(2) returns. */
static void begin(struct door *door)
{
    struct sockaddr_storage to;
    socklen_t length = addr_to_sockaddr(&door->listens_at, &to);
    uint64_t now = uv_now(&door->published->capture->worker->loop);
    if (door->making && now - door->since < MAKE_PATIENCE_MS)
        return;
    if (door->making)
        disconnect(door->seed);
    door->since = now;
    door->making = connect(door->seed, (struct sockaddr *)&to, length) == 0 || errno == EINPROGRESS;
    if (door->making && own_address(door->seed, &door->seed_at) < 0)
        door->making = false;
}

/* Takes over `fd`, whose other end is the seed. */
static void made(struct door *door, int fd)
{
    door->making = false;
    int r = disconnect(fd);
    disconnect(door->seed);
    if (r < 0 || list_empty(&door->waiting)) {
        close(fd);
        return;
    }
    struct inbound *first = list_entry(door->waiting.next, struct inbound, link);
    list_remove(&first->link);
    dial_inside(first, fd);
}

/* The container destroyed its listener (see listener_lost() of capture.c): nobody comes in by it any more. */
static void lost(struct door *door)
{
    close_listener(door->published->capture->worker, &door->listener);
    fd_close(&door->seed);
    door->making = false;
    while (!list_empty(&door->waiting)) {
        struct inbound *first = list_entry(door->waiting.next, struct inbound, link);
        list_remove(&first->link);
        try_next(first, -ECONNABORTED);
    }
}

/* True when there may be more. */
static bool accept_one(struct door *door)
{
    struct sockaddr_storage from;
    socklen_t length = sizeof(from);
    struct addr peer = {0};
    int fd = accept4(door->listener.fd, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && errno == EINVAL)
        lost(door);
    if (fd < 0)
        return errno != EAGAIN && errno != EINVAL;
    addr_from_sockaddr((struct sockaddr *)&from, &peer);
    if (door->making && addr_equal(&peer, &door->seed_at))
        made(door, fd);
    else
        close(fd); /* a process of the container called; nobody is at home */
    return true;
}

/* For all that wait, unless something is slow: then the listener's event goes on with it. */
static void make(struct door *door)
{
    for (int i = 0; i < ACCEPT_BATCH && door->seed >= 0 && !list_empty(&door->waiting); i++) {
        begin(door);
        if (!accept_one(door))
            return;
    }
    if (!list_empty(&door->waiting))
        poller_again(&door->published->capture->worker->poller, &door->listener);
}

static void door_ready(struct poll_handle *handle, uint32_t events)
{
    struct door *door = list_entry(handle, struct door, listener);
    (void)events;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        if (!accept_one(door)) {
            make(door);
            return;
        }
    }
    poller_again(&door->published->capture->worker->poller, handle);
}

static void try_family(struct inbound *inbound, int family)
{
    struct door *door = &inbound->flow->capture->published->doors[family];
    inbound->family = family;
    if (door->seed < 0) {
        try_next(inbound, -ECONNABORTED);
        return;
    }
    uint16_t port = inbound->inside.port;
    inbound->inside = door->listens_at;
    inbound->inside.port = port;
    list_append(&door->waiting, &inbound->link);
    make(door);
}

/* ---- who comes ---- */

static void start(struct inbound_port *port, int fd, const struct addr *source)
{
    struct capture *capture = port->listener.capture;
    struct addr destination = port->listener.local;
    own_address(fd, &destination);
    struct inbound *inbound = calloc(1, sizeof(*inbound));
    if (!inbound) {
        close(fd);
        return;
    }
    list_init(&inbound->link);
    inbound->inside.port = port->port;
    struct flow *flow = flow_start_inbound(capture, fd, source, &destination, inbound);
    if (!flow)
        return;
    inbound->flow = flow;
    try_family(inbound, 0);
}

static void accept_ready(struct poll_handle *handle, uint32_t events)
{
    struct inbound_port *port = list_entry(handle, struct inbound_port, listener.poll);
    struct worker *w = port->listener.capture->worker;
    (void)events;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        struct sockaddr_storage from;
        socklen_t length = sizeof(from);
        struct addr source = {0};
        int fd = accept4(handle->fd, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            addr_from_sockaddr((struct sockaddr *)&from, &source);
            start(port, fd, &source);
        } else if (errno == EAGAIN) {
            return;
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            deadline_start(&w->accept_pauses, &port->listener.pause);
            return;
        }
    }
    poller_again(&w->poller, handle);
}

void inbound_forget(struct flow *flow)
{
    if (!flow->inbound)
        return;
    list_remove(&flow->inbound->link);
    free(flow->inbound);
    flow->inbound = NULL;
}

/* ---- messages ---- */

void inbound_close(struct capture *capture)
{
    struct published *published = capture->published;
    while (published && !list_empty(&published->ports)) {
        struct inbound_port *port = list_entry(published->ports.next, struct inbound_port, link);
        deadline_stop(&port->listener.pause);
        close_listener(capture->worker, &port->listener.poll);
        list_remove(&port->link);
        free(port);
    }
}

static int open_door(struct published *published, struct door *door, int *seed, int *listener)
{
    if (*seed < 0 || *listener < 0)
        return 0;
    int r = own_address(*listener, &door->listens_at);
    if (r < 0 || (r = poller_add(&published->capture->worker->poller, &door->listener, *listener)) < 0)
        return r;
    *listener = -1;
    door->seed = fd_steal(seed);
    disconnect(door->seed); /* a worker before us may have left it connected */
    if (!list_empty(&door->waiting))
        make(door);
    return 0;
}

/* Flows that wait go on waiting, for the new ones. */
static void close_doors(struct published *published)
{
    for (int i = 0; i < 2; i++) {
        close_listener(published->capture->worker, &published->doors[i].listener);
        fd_close(&published->doors[i].seed);
        published->doors[i].making = false;
    }
}

int inbound_take_door(struct capture *capture, struct capture_sockets *sockets)
{
    struct published *published = capture->published;
    int r = 0;
    if (!published) {
        published = calloc(1, sizeof(*published));
        if (!published) {
            capture_sockets_close(sockets);
            return -ENOMEM;
        }
        published->capture = capture;
        list_init(&published->ports);
        for (int i = 0; i < 2; i++) {
            published->doors[i].published = published;
            published->doors[i].seed = -1;
            poll_handle_init(&published->doors[i].listener, door_ready);
            list_init(&published->doors[i].waiting);
        }
        capture->published = published;
    }
    inbound_close(capture);
    close_doors(published);
    for (int i = 0; i < 2 && r == 0; i++)
        r = open_door(published, &published->doors[i], &DOOR_SEED(sockets, i), &DOOR_LISTENER(sockets, i));
    capture_sockets_close(sockets);
    return r == 0 && published->doors[0].seed < 0 && published->doors[1].seed < 0 ? -EBADMSG : r;
}

int inbound_take_listener(struct capture *capture, uint16_t inside, int listener)
{
    _cleanup_fd_ int fd = listener;
    const struct published *published = capture->published;
    if (!published || (published->doors[0].seed < 0 && published->doors[1].seed < 0))
        return -EBADMSG;
    struct inbound_port *port = calloc(1, sizeof(*port));
    if (!port)
        return -ENOMEM;
    port->port = inside;
    port->listener.capture = capture;
    poll_handle_init(&port->listener.poll, accept_ready);
    deadline_init(&port->listener.pause);
    own_address(fd, &port->listener.local);
    list_init(&port->link);
    int r = poller_add(&capture->worker->poller, &port->listener.poll, fd);
    if (r < 0) {
        free(port);
        return r;
    }
    (void)fd_steal(&fd);
    list_append(&capture->published->ports, &port->link);
    return 0;
}

void inbound_destroy(struct capture *capture)
{
    if (!capture->published)
        return;
    inbound_close(capture);
    close_doors(capture->published);
    free(capture->published);
    capture->published = NULL;
}
