#include "redirect/daemon/notes.h"

#include "base/log.h"
#include "redirect/daemon/daemon_internal.h"

#include <stdio.h>
#include <stdlib.h>

struct waiting {
    struct list link;
    uint32_t serial;          /* under which the worker was told, and has not answered; 0: it was not */
    struct channel_note note; /* its texts are these: */
    char id[CHANNEL_ID_MAX], name[CHANNEL_ID_MAX], policy[CHANNEL_ID_MAX], version[CHANNEL_VERSION_MAX], text[CHANNEL_IMAGE_MAX];
};

void notes_init(struct daemon *d)
{
    list_init(&d->notes);
}

static void copy(char *to, size_t size, const char **text)
{
    snprintf(to, size, "%s", *text ? *text : "");
    *text = to;
}

void notes_add(struct daemon *d, const struct channel_note *note)
{
    struct waiting *w = d->note_count < NOTES_MAX ? calloc(1, sizeof(*w)) : NULL;
    if (!w) {
        log_error("a change is not noted in the audit log: %s", d->note_count < NOTES_MAX ? "out of memory" : "too many wait for a worker");
        return;
    }
    w->note = *note;
    if (!w->note.version)
        w->note.version = config_version(d->snapshot);
    copy(w->id, sizeof(w->id), &w->note.id);
    copy(w->name, sizeof(w->name), &w->note.name);
    copy(w->policy, sizeof(w->policy), &w->note.policy);
    copy(w->version, sizeof(w->version), &w->note.version);
    copy(w->text, sizeof(w->text), &w->note.text);
    list_append(&d->notes, &w->link);
    d->note_count++;
    workers_feed_one(&d->workers[0]);
}

static void forget(struct daemon *d, struct waiting *w)
{
    list_remove(&w->link);
    d->note_count--;
    free(w);
}

static struct waiting *at(struct list *link)
{
    return list_entry(link, struct waiting, link);
}

int notes_feed(struct daemon_worker *worker)
{
    struct daemon *d = worker->daemon;
    for (struct list *link = d->notes.next; worker->index == 0 && worker->ready && link != &d->notes; link = link->next) {
        uint32_t serial = at(link)->serial ? 0 : daemon_next_serial(d);
        int r = serial ? channel_send_note(worker->process.channel, serial, &at(link)->note) : 0;
        if (r < 0)
            return r;
        at(link)->serial = serial ? serial : at(link)->serial;
    }
    return 0;
}

bool notes_answered(struct daemon_worker *worker, uint32_t serial)
{
    struct daemon *d = worker->daemon;
    for (struct list *link = d->notes.next; worker->index == 0 && link != &d->notes; link = link->next) {
        if (at(link)->serial != serial)
            continue;
        forget(d, at(link));
        return true;
    }
    return false;
}

void notes_worker_died(struct daemon_worker *worker)
{
    struct daemon *d = worker->daemon;
    for (struct list *link = d->notes.next; worker->index == 0 && link != &d->notes; link = link->next)
        at(link)->serial = 0;
}

void notes_finish(struct daemon *d)
{
    while (!list_empty(&d->notes))
        forget(d, list_entry(d->notes.next, struct waiting, link));
}
