/*
 * The worker's loop: starts up, confines itself, serves what comes over the channel, ends.
 *
 * Order matters: what needs the file system (the host's resolv.conf) is read first; then confinement; then
 * threads and the first hostile byte. End of file on the channel means that the monitor is gone: the worker
 * goes at once, and its flows with it.
 */
#include "gateway/worker.h"
#include "acl/guard.h"
#include "base/fds.h"
#include "base/log.h"
#include "gateway/confine.h"
#include "gateway/flow.h"
#include "gateway/inbound.h"
#include "gateway/own_address.h"
#include "gateway/rejudge.h"
#include "gateway/reload.h"
#include "gateway/tenants.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>

#ifdef SALLYPORT_SANITIZED
#include <sanitizer/lsan_interface.h>
#endif

#define STAGGER_MS 250        /* RFC 8305 section 5 */
#define LINGER_MS 2000        /* for a refused client to read why */
#define DNS_TCP_IDLE_MS 10000 /* RFC 7766 section 6.2.3 */
#define ACCEPT_PAUSE_MS 50
#define TENANT_IDLE_MS 60000 /* its limits have filled up again by then */
#define FINISH_MS 1000 /* for bytes on their way when the command has ended */
#define AUDIT_FLUSH_MS 3000
#define NAMEBOOK_PAIRS 65536
#define ANSWER_MS 5000 /* for the monitor to read what is said */
#define DESCRIPTORS_OF_OUR_OWN (128 + 2 * PIPES_MAX)
#define DESCRIPTORS_PER_FLOW 3 /* client, origin, and a second attempt while connecting */

bool worker_only_records(const struct worker *worker, const struct acl_policy *policy)
{
    return worker->audit_only || acl_policy_mode(policy) == ACL_MODE_AUDIT;
}

#define OWN_MACHINE "an address of the gateway's own machine"

/* A rule or the configuration names a network that holds it: that opens private ranges. */
static bool named_by_network(const struct worker *w, const struct acl_policy *policy, enum acl_protocol protocol,
                             const struct addr *address)
{
    return config_destination_allowed(w->snapshot, address) ||
           (protocol == ACL_TCP ? acl_policy_names_network(policy, address) /* without a port, for any */
                                : acl_policy_names_network_for(policy, protocol, address));
}

/* They name the very address: that opens an address of our own machine, too, whose services a network that happens to hold it
 * was not meant to open. */
static bool named_itself(const struct worker *w, const struct acl_policy *policy, enum acl_protocol protocol,
                         const struct addr *address)
{
    return config_destination_named(w->snapshot, address) || acl_policy_names_host(policy, protocol, address);
}

/* The kernel is asked each time for a public address. In ranges that were opened it may be a second old. */
static bool is_own(struct worker *w, const struct addr *address, bool lately)
{
    return lately ? own_address_is_lately(&w->own_addresses, w->routes, address, uv_now(&w->loop))
                  : own_address_is(w->routes, address);
}

static const char *guard(struct worker *w, const struct acl_policy *policy, enum acl_protocol protocol,
                         const struct addr *address, bool lately)
{
    enum acl_guard_class class = acl_guard_classify(address);
    bool opened = class != ACL_GUARD_NEVER && named_by_network(w, policy, protocol, address);
    if (class != ACL_GUARD_PUBLIC && !opened)
        return acl_guard_range_name(address);
    if (!is_own(w, address, lately || opened))
        return NULL;
    return opened && named_itself(w, policy, protocol, address) ? NULL : OWN_MACHINE;
}

const char *worker_guard_for(struct worker *worker, const struct acl_policy *policy, enum acl_protocol protocol,
                             const struct addr *address)
{
    return guard(worker, policy, protocol, address, false);
}

const char *worker_guard(struct worker *worker, const struct acl_policy *policy, const struct addr *address)
{
    return worker_guard_for(worker, policy, ACL_TCP, address);
}

bool worker_may_answer(struct worker *worker, const struct acl_policy *policy, const struct addr *address)
{
    return guard(worker, policy, ACL_TCP, address, true) == NULL;
}

bool worker_may_dial(struct worker *worker, const struct acl_policy *policy, const struct addr *address)
{
    return worker_guard(worker, policy, address) == NULL;
}

struct audit_event worker_event(const struct worker *worker, const struct capture *capture,
                                const struct acl_policy *policy)
{
    bool network = capture->tenants || capture->network;
    return (struct audit_event){
        .worker = worker->seat.count > 1 ? worker->seat.index + 1 : 0,
        .policy = acl_policy_name(policy),
        .policy_version = config_version(worker->snapshot),
        .container_id = network ? NULL : capture->id,
        .container_name = network ? NULL : capture->name,
        .network_name = network ? capture->name : NULL,
        .container_image = *capture->image ? capture->image : NULL,
        .pod = *capture->pod ? capture->pod : NULL,
        .pod_namespace = *capture->pod_namespace ? capture->pod_namespace : NULL,
    };
}

/* Of all together it may be one more for each other worker that accepts at the same instant. */
bool worker_is_full(const struct worker *w)
{
    return w->flow_count > w->flow_limit ||
           (w->seat.count > 1 && metrics_flows_active(w->page) > w->limits->flows_total);
}

/* ---- the end ---- */

/* The command is gone and what it sent has been passed on: nobody is left to answer. */
static bool flow_is_over(const struct flow *flow)
{
    return flow->state != FLOW_RELAY || (flow->client.eof && flow->origin.shut);
}

static void sweep(struct worker *w)
{
    while (!list_empty(&w->ended_flows)) {
        struct flow *flow = list_entry(w->ended_flows.next, struct flow, link);
        list_remove(&flow->link);
        slab_give(&w->flow_slab, flow);
    }
    if (w->draining && list_empty(&w->flows) && list_empty(&w->dns_questions) && list_empty(&w->dns_connections) &&
        (!w->yielding || admin_is_idle(w->admin)))
        poller_stop(&w->poller);
    if (!w->finishing)
        return;
    for (struct list *link = w->flows.next, *next; link != &w->flows; link = next) {
        struct flow *flow = list_entry(link, struct flow, link);
        next = link->next;
        if (flow_is_over(flow))
            flow_end(flow, AUDIT_CLOSE_CLIENT, "command_ended", false);
    }
    if (list_empty(&w->flows))
        poller_stop(&w->poller);
}

static void turned(void *arg)
{
    struct worker *w = arg;
    sweep(w);
    loop_lag_observe(w->metrics, w->poller.woke_ms);
}

static void on_finish_timeout(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    while (!list_empty(&w->flows))
        flow_end(list_entry(w->flows.next, struct flow, link), AUDIT_CLOSE_GATEWAY, "finished", true);
    poller_stop(&w->poller);
}

/* Datagrams that nobody waits for an answer to. */
static void take_last_datagrams(struct worker *w)
{
    for (struct list *link = w->captures.next; link != &w->captures; link = link->next) {
        struct capture *capture = list_entry(link, struct capture, link);
        for (int family = 0; family < 2; family++)
            if (capture->udp[family].poll.fd >= 0)
                association_udp_ready(&capture->udp[family].poll, 0);
    }
    associations_end(w, NULL, "command_ended");
}

/* Whatever the command left in its sockets still goes out. */
static void finish(struct worker *w, bool summary)
{
    take_last_datagrams(w);
    w->finishing = true;
    w->summary = summary;
    for (struct list *link = w->flows.next; link != &w->flows; link = link->next) {
        struct flow *flow = list_entry(link, struct flow, link);
        flow->client.readable = flow->client.hangup = true;
        poller_again(&w->poller, &flow->client.poll);
    }
    uv_timer_start(&w->finish_timer, on_finish_timeout, FINISH_MS, 0);
}

static void take_admin(struct worker *w, int listener);

/* Nothing new comes in; what is up may come to its end. */
static void drain(struct worker *w, unsigned for_ms)
{
    for (struct list *link = w->captures.next; !w->draining && link != &w->captures; link = link->next)
        capture_drain(list_entry(link, struct capture, link));
    if (w->yielding)
        take_admin(w, -1);
    w->draining = true;
    associations_end(w, NULL, "worker_ended"); /* the next worker opens them anew */
    uv_timer_start(&w->finish_timer, on_finish_timeout, for_ms, 0);
}

static void stop(struct worker *w, int status)
{
    w->exit_status = status;
    poller_stop(&w->poller);
}

/* ---- the channel ---- */

static unsigned flow_limit(const struct worker *w);

/* The monitor reads soon; should it not, it is stuck or gone, and we are of no use without it. */
void worker_answer(struct worker *w, uint32_t serial, int code)
{
    int r;
    struct pollfd polled = {.fd = w->channel, .events = POLLOUT};
    while ((r = channel_send_answer(w->channel, serial, code)) == -EAGAIN && poll(&polled, 1, ANSWER_MS) == 1)
        ;
    if (r < 0)
        stop(w, 1);
}

static void take_capture(struct worker *w, const struct channel_message *message,
                         struct capture_sockets *sockets)
{
    struct capture *known = message->serial ? capture_find(w, message->container_id) : NULL;
    int r = known ? capture_extend(known, sockets) : capture_add(w, message, sockets);
    if (r < 0)
        log_error("worker: cannot serve the container \"%s\": %s", message->container_id, strerror(-r));
    w->flow_limit = flow_limit(w);
    worker_answer(w, message->serial, -r);
}

/* `sockets` of a DOOR, `fd` of a PUBLISH. The last PUBLISH is answered, for all of them. */
static void publish(struct worker *w, const struct channel_message *message, struct capture_sockets *sockets, int fd)
{
    struct capture *capture = capture_find(w, message->container_id);
    int r = -ENOENT;
    if (!capture) {
        capture_sockets_close(sockets);
        fd_close(&fd);
    } else if (message->type == CHANNEL_DOOR) {
        r = inbound_take_door(capture, sockets);
    } else {
        r = inbound_take_listener(capture, message->port, fd);
    }
    if (r < 0)
        log_error("worker: cannot publish a port of \"%s\": %s", message->container_id, strerror(-r));
    if (message->serial)
        worker_answer(w, message->serial, -r);
}

static void withdraw(struct worker *w, const struct channel_message *message)
{
    struct capture *capture = capture_find(w, message->container_id);
    for (struct list *link = w->flows.next, *next; capture && link != &w->flows; link = next) {
        struct flow *flow = list_entry(link, struct flow, link);
        next = link->next;
        if (flow->capture == capture || flow->capture->network == capture)
            flow_end(flow, AUDIT_CLOSE_GATEWAY, "withdrawn", true);
    }
    if (capture) {
        associations_end(w, capture, "withdrawn");
        capture_remove(capture);
    }
    worker_answer(w, message->serial, capture ? 0 : ENOENT);
}

static void take_config(struct worker *w, const struct channel_message *message, int bundle)
{
    int r = reload_start(w, bundle, message->serial);
    if (r < 0)
        worker_answer(w, message->serial, -r);
}

static void take_changes(struct worker *w, const struct channel_message *message, int bundle)
{
    int r = reload_changes(w, bundle, message->serial);
    if (r < 0)
        worker_answer(w, message->serial, -r);
}

/* The configuration that comes with it says who may speak there, and how. */
static void take_admin(struct worker *w, int listener)
{
    fd_close(&w->admin_listener);
    if (!w->admin)
        fd_close(&listener);
    else if (w->reload && listener >= 0)
        w->admin_listener = listener;
    else
        admin_listen(w->admin, listener);
}

static const char *or_null(const char *text)
{
    return *text ? text : NULL;
}

static bool is_about_a_rule(uint32_t kind)
{
    return kind >= NOTE_ALLOW && kind <= NOTE_DENY_REMOVED;
}

/* What could not be recorded for want of room is counted in the next line: the change is in force. */
static void take_note(struct worker *w, const struct channel_message *message)
{
    const char *text = or_null(message->text);
    const struct audit_event event = {.action = AUDIT_CHANGE,
                                      .worker = w->seat.count > 1 ? w->seat.index + 1 : 0,
                                      .change = message->note,
                                      .allowed = !message->failed,
                                      .user = message->user,
                                      .container_id = or_null(message->container_id),
                                      .container_name = or_null(message->container_name),
                                      .policy = or_null(message->policy),
                                      .policy_version = or_null(message->version),
                                      .rule = is_about_a_rule(message->note) ? text : NULL,
                                      .detail = is_about_a_rule(message->note) ? NULL : text};
    (void)audit_submit(w->audit, &event);
    worker_answer(w, message->serial, 0);
}

static void obey(struct worker *w, const struct channel_message *message, struct capture_sockets *sockets,
                 int fd)
{
    switch (message->type) {
    case CHANNEL_CAPTURE:
    case CHANNEL_NETWORK:
        take_capture(w, message, sockets);
        break;
    case CHANNEL_DOOR:
    case CHANNEL_PUBLISH:
        publish(w, message, sockets, fd);
        break;
    case CHANNEL_LEARNED_DONE:
        learned_done(w, message->serial);
        dns_service_learned(w);
        break;
    case CHANNEL_WITHDRAW:
        withdraw(w, message);
        break;
    case CHANNEL_CONFIG:
        take_config(w, message, fd);
        break;
    case CHANNEL_CHANGES:
        take_changes(w, message, fd);
        break;
    case CHANNEL_AUDIT:
        audit_reopen(w->audit, fd);
        break;
    case CHANNEL_ADMIN:
        take_admin(w, fd);
        break;
    case CHANNEL_NOTE:
        take_note(w, message);
        break;
    case CHANNEL_PING:
        worker_answer(w, message->serial, 0);
        break;
    case CHANNEL_FINISH:
        w->yielding |= message->drain_ms && message->serial;
        if (message->drain_ms)
            drain(w, message->drain_ms);
        if (message->drain_ms && message->serial)
            worker_answer(w, message->serial, 0);
        if (!message->drain_ms)
            finish(w, message->summary);
        break;
    default:
        break;
    }
}

static void on_channel(uv_poll_t *watch, int status, int events)
{
    struct worker *w = watch->data;
    struct channel_message message;
    struct capture_sockets sockets = CAPTURE_SOCKETS_NONE;
    int fd = -1;
    (void)events;
    int r = status < 0 ? status : channel_receive(w->channel, &message, &sockets, &fd);
    if (r == -EAGAIN)
        return;
    if (r <= 0)
        stop(w, 1);
    else
        obey(w, &message, &sockets, fd);
}

/* ---- the beginning ---- */

static unsigned raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 1024;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur > 1u << 20 ? 1u << 20 : (unsigned)limit.rlim_cur;
}

static unsigned flow_limit(const struct worker *w)
{
    unsigned used = DESCRIPTORS_OF_OUR_OWN + w->capture_count * CAPTURE_SOCKETS;
    unsigned room = w->descriptors > used ? (w->descriptors - used) / DESCRIPTORS_PER_FLOW : 1;
    return w->limits->flows_total < room ? w->limits->flows_total : room;
}

static const struct config_resolver *name_servers(const struct worker *w, size_t *ret_count)
{
    const struct config_resolver *servers = config_resolvers(w->snapshot, ret_count);
    if (*ret_count > 0)
        return servers;
    *ret_count = w->host_server_count;
    return w->host_servers;
}

static void start_resolver(struct worker *w)
{
    size_t count;
    w->host_server_count =
        resolver_read_host_servers("/etc/resolv.conf", w->host_servers, RESOLVER_SERVERS_MAX);
    const struct config_resolver *servers = name_servers(w, &count);
    resolver_init(&w->resolver, &w->loop, &w->poller, w->authorities, servers, count);
    w->resolver.metrics = w->metrics;
}

void worker_apply_config(struct worker *w)
{
    size_t count;
    const struct config_resolver *servers = name_servers(w, &count);
    w->limits = config_limits(w->snapshot);
    w->flow_limit = flow_limit(w);
    deadline_queue_set_duration(&w->hello_timeouts, w->limits->hello_timeout_ms);
    deadline_queue_set_duration(&w->connect_timeouts, w->limits->connect_timeout_ms);
    deadline_queue_set_duration(&w->idle_timeouts, w->limits->idle_timeout_ms);
    deadline_queue_set_duration(&w->half_close_timeouts, w->limits->half_close_timeout_ms);
    associations_apply_config(w);
    resolver_set_servers(&w->resolver, servers, count);
    authorities_reset(w->authorities);
    verifier_reset(w->verifier);
}

void worker_apply_admin(struct worker *w)
{
    if (!w->admin)
        return;
    admin_configure(w->admin, w->snapshot);
    if (w->admin_listener >= 0)
        admin_listen(w->admin, fd_steal(&w->admin_listener));
}

static void start_deadlines(struct worker *w)
{
    const struct config_limits *l = w->limits;
    deadline_queue_init(&w->hello_timeouts, &w->loop, l->hello_timeout_ms, flow_hello_expired);
    deadline_queue_init(&w->connect_timeouts, &w->loop, l->connect_timeout_ms, flow_connect_expired);
    deadline_queue_init(&w->attempt_staggers, &w->loop, STAGGER_MS, dial_stagger_expired);
    deadline_queue_init(&w->idle_timeouts, &w->loop, l->idle_timeout_ms, flow_idle_expired);
    deadline_queue_init(&w->half_close_timeouts, &w->loop, l->half_close_timeout_ms, flow_half_close_expired);
    deadline_queue_init(&w->linger_timeouts, &w->loop, LINGER_MS, flow_linger_expired);
    deadline_queue_init(&w->dns_tcp_timeouts, &w->loop, DNS_TCP_IDLE_MS, dns_tcp_expired);
    deadline_queue_init(&w->tenant_timeouts, &w->loop, TENANT_IDLE_MS, tenants_expired);
    deadline_queue_init(&w->accept_pauses, &w->loop, ACCEPT_PAUSE_MS, capture_accept_expired);
    deadline_queue_init(&w->admin_timeouts, &w->loop, ADMIN_PATIENCE_MS, admin_connection_expired);
}

static int start_loop(struct worker *w, int channel, struct error *err)
{
    int r = uv_loop_init(&w->loop);
    if (r == 0)
        r = poller_init(&w->poller, &w->loop);
    if (r < 0)
        return error_errno(err, -r, "cannot start the loop");
    slab_init(&w->flow_slab, sizeof(struct flow));
    slab_init(&w->dial_slab, sizeof(struct dial));
    list_init(&w->captures);
    list_init(&w->flows);
    list_init(&w->ended_flows);
    list_init(&w->dns_questions);
    list_init(&w->dns_connections);
    w->poller.turned = turned;
    w->poller.arg = w;
    r = rejudge_init(w);
    if (r < 0)
        return error_errno(err, -r, "cannot start the loop");
    uv_timer_init(&w->loop, &w->finish_timer);
    w->finish_timer.data = w;
    w->channel = channel;
    fd_set_nonblocking(channel);
    r = uv_poll_init(&w->loop, &w->channel_watch, channel);
    if (r == 0)
        r = uv_poll_start(&w->channel_watch, UV_READABLE, on_channel);
    w->channel_watch.data = w;
    return r < 0 ? error_errno(err, -r, "cannot watch the channel") : 0;
}

static struct metrics_worker uncounted; /* where nobody asks: counting is the same everywhere */

#define NUMBERS_OF_A_SEAT UINT64_C(100000000000000) /* microseconds: three years; with 32 seats still exact in a double */

/* Several workers write one log at the same time (an upgrade does, too), and many do one after the other: each counts from the
 * microsecond of its start, those of another seat years away from that. So no number comes twice, and each tells whose it is. */
static uint64_t own_numbers(const struct worker *w)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000 + w->seat.index * NUMBERS_OF_A_SEAT;
}

static int start(struct worker *w, int channel, int audit_fd, const struct worker_options *options,
                 struct error *err)
{
    _cleanup_fd_ int audit = audit_fd;
    w->snapshot = options->snapshot;
    w->admin_listener = -1;
    w->limits = config_limits(w->snapshot);
    w->audit_only = options->audit_only;
    w->seat = options->seat;
    w->page = options->metrics;
    w->metrics = options->seat.metrics ? options->seat.metrics : &uncounted;
    metrics_worker_start(w->metrics);
    w->descriptors = raise_descriptor_limit();
    w->flow_limit = flow_limit(w);
    setenv("UV_USE_IO_URING", "0", 1); /* a newer libuv would take it, and the filter kills whoever does */
    if (getrandom(&w->id_prefix, sizeof(w->id_prefix), 0) < 0)
        return error_errno(err, errno, "cannot get random bytes");
    int r = start_loop(w, channel, err);
    if (r < 0)
        return r;
    w->routes = own_address_open(err);
    if (w->routes < 0)
        return w->routes;
    start_deadlines(w);
    associations_init(w);
    w->authorities = authorities_create(&w->snapshot);
    if (!w->authorities)
        return error_set(err, ENOMEM, "out of memory");
    start_resolver(w);
    w->forwarder = forwarder_create(&w->loop, &w->poller, &w->resolver, &w->snapshot);
    w->verifier = verifier_create(&w->loop, &w->poller, w->authorities, &w->snapshot);
    verifier_count_in(w->verifier, w->metrics);
    w->names = namebook_create(NAMEBOOK_PAIRS);
    w->report = report_create();
    if (!w->associations.buckets || !w->associations.batch || !w->forwarder || !w->verifier || !w->names || !w->report)
        return error_set(err, ENOMEM, "out of memory");
    if (options->metrics) {
        w->admin = admin_create(w, options->metrics);
        if (!w->admin)
            return error_set(err, ENOMEM, "out of memory");
        worker_apply_admin(w);
    }
    if (options->confine && (r = confine(err)) < 0)
        return error_prefix(err, "cannot confine the worker");
    w->audit = audit_create(fd_steal(&audit), config_on_full(w->snapshot) == CONFIG_ON_FULL_DROP, err);
    if (!w->audit)
        return -err->code;
    audit_count_in(w->audit, w->metrics);
    if (options->metrics)
        audit_begin_at(w->audit, own_numbers(w));
    return 0;
}

/* Hostile processes must not be able to stop the worker by a signal of the terminal; SIGPIPE is an errno
 * here. */
static void ignore_signals(void)
{
    static const int ignored[] = {SIGPIPE, SIGINT,  SIGQUIT, SIGTSTP, SIGHUP,
                                  SIGUSR1, SIGUSR2, SIGTTOU, SIGTTIN};
    for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
        signal(ignored[i], SIG_IGN);
}

static void say_summary(const struct worker *w)
{
    char line[2048];
    if (!w->summary || !*report_line(w->report, w->audit_only, line, sizeof(line) - 1))
        return;
    strcat(line, "\n");
    ssize_t ignored = write(STDERR_FILENO, line, strlen(line));
    (void)ignored;
}

static void finish_deadlines(struct worker *w)
{
    struct deadline_queue *const queues[] = {
        &w->hello_timeouts,      &w->connect_timeouts, &w->attempt_staggers, &w->idle_timeouts,
        &w->half_close_timeouts, &w->linger_timeouts,  &w->dns_tcp_timeouts, &w->accept_pauses, &w->tenant_timeouts};
    for (size_t i = 0; i < sizeof(queues) / sizeof(*queues); i++)
        deadline_queue_finish(queues[i]);
    deadline_queue_finish(&w->admin_timeouts);
}

/* Ends every flow with its event, then gives everything back. */
static void release(struct worker *w)
{
    w->finishing = w->draining = false; /* nobody is to stop the loop again */
    reload_abandon(w);
    admin_destroy(w->admin); /* before the log is written out: the next gateway may want the address */
    fd_close(&w->admin_listener);
    while (!list_empty(&w->flows))
        flow_end(list_entry(w->flows.next, struct flow, link), AUDIT_CLOSE_GATEWAY, "worker_ended", true);
    sweep(w);
    rejudge_finish(w);
    associations_end(w, NULL, "worker_ended");
    while (!list_empty(&w->captures))
        capture_remove(list_entry(w->captures.next, struct capture, link));
    uint64_t lost = audit_destroy(w->audit, AUDIT_FLUSH_MS);
    if (lost)
        log_error("worker: %llu audit events could not be written", (unsigned long long)lost);
    verifier_destroy(w->verifier);
    forwarder_destroy(w->forwarder);
    resolver_finish(&w->resolver);
    authorities_destroy(w->authorities);
    finish_deadlines(w);
    associations_finish(w);
    poller_finish(&w->poller);
    uv_close((uv_handle_t *)&w->finish_timer, NULL);
    uv_close((uv_handle_t *)&w->channel_watch, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    uv_loop_close(&w->loop);
    close(w->channel);
    close(w->routes);
    pipe_pool_finish(&w->pipes);
    slab_finish(&w->dial_slab);
    slab_finish(&w->flow_slab);
    namebook_destroy(w->names);
    report_destroy(w->report);
}

int worker_main(int channel, int audit_fd, void *options)
{
    struct error err = {0};
    struct worker *w = calloc(1, sizeof(*w));
    if (!w)
        return 1;
    ignore_signals();
    if (start(w, channel, audit_fd, options, &err) < 0) {
        log_error("worker: %s", err.text);
        return 1;
    }
    poller_run(&w->poller);
    say_summary(w);
    release(w);
    int status = w->exit_status;
    free(w);
#ifdef SALLYPORT_SANITIZED
    __lsan_do_leak_check(); /* this process ends by _exit() */
#endif
    return status;
}
