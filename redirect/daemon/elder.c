/* Workers of gateways that we took the place of (takeover.h). */
#include "redirect/daemon/daemon_internal.h"

#include "base/fds.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct elder {
    struct list link;
    struct daemon *daemon;
    int channel;
    bool same_form;
    struct watch watch;
    uint32_t serial; /* of the configuration it has not answered; 0: none */
    int config;      /* another one, for when it has; or -1 */
};

static struct elder *elder_at(struct list *link)
{
    return list_entry(link, struct elder, link);
}

/* Without its channel it ends, and its flows with it. */
static void elder_destroy(struct elder *elder)
{
    watch_stop(&elder->daemon->loop, &elder->watch);
    list_remove(&elder->link);
    elder->daemon->elder_count--;
    fd_close(&elder->channel);
    fd_close(&elder->config);
    free(elder);
}

static void dismiss(struct elder *elder, const char *why)
{
    struct daemon *d = elder->daemon;
    char byte;
    if (recv(elder->channel, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
        log_info("a worker of before the upgrade has ended");
    else
        log_warning("a worker of before the upgrade %s; its flows end", why);
    elder_destroy(elder);
    enrolment_elder_answered(d, 0);
}

static void send_config(struct elder *elder)
{
    uint32_t serial = daemon_next_serial(elder->daemon);
    _cleanup_fd_ int bundle = fd_steal(&elder->config);
    if (channel_send_config(elder->channel, serial, bundle) < 0)
        dismiss(elder, "cannot be told the new configuration");
    else
        elder->serial = serial;
}

static void elder_ready(struct watch *watch, uint32_t events)
{
    struct elder *elder = list_entry(watch, struct elder, watch);
    struct daemon *d = elder->daemon;
    struct channel_message message;
    struct capture_sockets none = CAPTURE_SOCKETS_NONE;
    int unused = -1;
    (void)events;
    int got = channel_receive(watch->fd, &message, &none, &unused);
    capture_sockets_close(&none);
    fd_close(&unused);
    if (got == -EAGAIN || (got == -EBADMSG && !elder->same_form))
        return;
    if (got != 1) {
        log_info("a worker of before the upgrade has ended");
        elder_destroy(elder);
        enrolment_elder_answered(d, 0);
        daemon_elder_gone(d);
    } else if (message.type == CHANNEL_FAILED && message.serial == elder->serial) {
        dismiss(elder, "does not take the new configuration");
        daemon_elder_gone(d);
    } else if (message.serial == elder->serial) {
        elder->serial = 0;
        if (elder->config >= 0)
            send_config(elder);
    } else {
        enrolment_elder_answered(d, message.serial);
    }
}

void elder_add(struct daemon *d, int channel, bool same_form)
{
    struct elder *elder = calloc(1, sizeof(*elder));
    if (!elder) {
        close(channel);
        return;
    }
    *elder = (struct elder){
        .daemon = d, .channel = channel, .same_form = same_form, .config = -1, .watch = WATCH_NONE};
    fd_set_nonblocking(channel);
    list_append(&d->elders, &elder->link);
    d->elder_count++;
    if (d->heir.step != HEIR_SERVES &&
        watch_start(&d->loop, &elder->watch, channel, EPOLLIN, elder_ready) < 0)
        dismiss(elder, "cannot be watched");
}

void elders_listen(struct daemon *d, bool on)
{
    for (struct list *link = d->elders.next; link != &d->elders; link = link->next) {
        watch_stop(&d->loop, &elder_at(link)->watch);
        if (on)
            watch_start(&d->loop, &elder_at(link)->watch, elder_at(link)->channel, EPOLLIN, elder_ready);
    }
}

void elders_tell_config(struct daemon *d, int bundle)
{
    for (struct list *link = d->elders.next, *next; link != &d->elders; link = next) {
        struct elder *elder = elder_at(link);
        next = link->next;
        fd_close(&elder->config);
        if (!elder->same_form || (elder->config = fcntl(bundle, F_DUPFD_CLOEXEC, 3)) < 0)
            dismiss(elder, "cannot be told the new configuration");
        else if (!elder->serial)
            send_config(elder);
    }
}

void elders_tell_changes(struct daemon *d, int bundle)
{
    for (struct list *link = d->elders.next, *next; link != &d->elders; link = next) {
        struct elder *elder = elder_at(link);
        next = link->next;
        if (!elder->same_form || channel_send_changes(elder->channel, daemon_next_serial(d), bundle) < 0)
            dismiss(elder, "cannot be told the changes");
    }
}

/* Without it they write on where they are. */
void elders_tell_audit(struct daemon *d)
{
    for (struct list *link = d->elders.next; d->audit >= 0 && link != &d->elders; link = link->next)
        if (elder_at(link)->same_form)
            channel_send_audit(elder_at(link)->channel, d->audit);
}

unsigned elders_tell_withdraw(struct daemon *d, uint32_t serial, const char *id, bool it_lives)
{
    unsigned told = 0;
    for (struct list *link = d->elders.next, *next; link != &d->elders; link = next) {
        struct elder *elder = elder_at(link);
        next = link->next;
        if (!elder->same_form && !it_lives)
            continue; /* who is gone has no flows */
        if (!elder->same_form || channel_send_withdraw(elder->channel, serial, id) < 0)
            dismiss(elder, "cannot be told of a withdrawal");
        else
            told++;
    }
    return told;
}

void elders_drain(struct daemon *d, unsigned for_ms)
{
    for (struct list *link = d->elders.next, *next; link != &d->elders; link = next) {
        struct elder *elder = elder_at(link);
        next = link->next;
        if (!elder->same_form || channel_send_drain(elder->channel, 0, for_ms) < 0)
            dismiss(elder, "cannot be told to end");
    }
}

void elders_finish(struct daemon *d)
{
    while (!list_empty(&d->elders))
        elder_destroy(elder_at(d->elders.next));
}

int elders_each_channel(struct daemon *d, int (*each)(int channel, void *arg), void *arg)
{
    int r = 0;
    for (struct list *link = d->elders.next; r == 0 && link != &d->elders; link = link->next)
        r = each(elder_at(link)->channel, arg);
    return r;
}
