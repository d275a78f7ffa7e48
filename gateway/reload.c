/*
 * Reading a million names takes a second, so a thread does it; the loop is told (uv_async) and swaps the pointer. Run-time
 * changes are small and laid over what is there at once. Either way rejudge.c then judges the live flows by what is new.
 *
 * Limits: audit.on_full stays what it was at the worker's start.
 */
#include "gateway/reload.h"

#include "base/fds.h"
#include "base/log.h"
#include "config/bundle.h"
#include "config/overrides.h"
#include "gateway/flow.h"
#include "gateway/rejudge.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>

#define LOADING_NICE 10

struct reload {
    struct worker *worker;
    uv_thread_t thread;
    uv_async_t loaded;
    int bundle;
    uint32_t serial;
    struct config_snapshot *snapshot; /* NULL: it failed */
    struct config_errors errors;
    int status;
};

/* ---- loading ---- */

static void load(void *arg)
{
    struct reload *reload = arg;
    (void)setpriority(PRIO_PROCESS, 0, LOADING_NICE); /* this thread's: the loop goes first where processors are scarce */
    reload->status = config_load_bundle(reload->bundle, &reload->snapshot, &reload->errors);
    uv_async_send(&reload->loaded);
}

static void freed(uv_handle_t *handle)
{
    free(handle->data);
}

/* The thread was joined. */
static void forget(struct reload *reload)
{
    reload->worker->reload = NULL;
    fd_close(&reload->bundle);
    config_errors_finish(&reload->errors);
    uv_close((uv_handle_t *)&reload->loaded, freed);
}

/* A file that was loaded, with the changes that are in force now: others may have come while it was. */
static int put_in_force(struct worker *w, struct config_snapshot *file, uint32_t serial)
{
    struct config_snapshot *derived = file;
    struct overrides *changes = config_overrides(w->snapshot);
    if (changes && config_derive(file, changes, &derived) < 0) {
        config_unref_aside(file);
        return -ENOMEM;
    }
    if (changes)
        config_unref(file);
    rejudge_by(w, derived, serial);
    worker_apply_admin(w);
    return 0;
}

static void on_loaded(uv_async_t *async)
{
    struct reload *reload = async->data;
    struct worker *w = reload->worker;
    int r = reload->status;
    uv_thread_join(&reload->thread);
    if (r == 0)
        r = put_in_force(w, reload->snapshot, reload->serial);
    else
        log_error("worker: cannot take the new configuration: %s",
                  reload->errors.count ? reload->errors.lines[0] : "out of memory");
    if (r < 0)
        worker_answer(w, reload->serial, -r);
    forget(reload);
}

/* The text is in the only file of the bundle. */
static int parse_changes(int bundle, struct overrides **ret)
{
    struct bundle files;
    struct bundle_file file;
    struct config_errors errors = {0};
    struct error err;
    int r = bundle_open(bundle, &files, &err);
    if (r < 0)
        return r;
    r = bundle_find(&files, NULL, &file) ? overrides_parse("run-time changes", file.bytes, file.length, ret, &errors) : -EINVAL;
    config_errors_finish(&errors);
    bundle_close(&files);
    return r;
}

int reload_changes(struct worker *worker, int bundle, uint32_t serial)
{
    _cleanup_fd_ int fd = bundle;
    struct overrides *changes;
    struct config_snapshot *derived;
    int r = parse_changes(fd, &changes);
    if (r < 0)
        return r;
    r = config_derive(worker->snapshot, changes, &derived);
    overrides_unref(changes);
    if (r == 0)
        rejudge_by(worker, derived, serial);
    return r;
}

int reload_start(struct worker *worker, int bundle, uint32_t serial)
{
    _cleanup_fd_ int fd = bundle;
    struct reload *reload = worker->reload ? NULL : calloc(1, sizeof(*reload));
    if (!reload)
        return worker->reload ? -EBUSY : -ENOMEM;
    *reload = (struct reload){.worker = worker, .bundle = fd, .serial = serial};
    int r = uv_async_init(&worker->loop, &reload->loaded, on_loaded);
    if (r < 0) {
        free(reload);
        return r;
    }
    reload->loaded.data = reload;
    r = uv_thread_create(&reload->thread, load, reload);
    if (r < 0) {
        uv_close((uv_handle_t *)&reload->loaded, freed);
        return r;
    }
    fd_steal(&fd);
    worker->reload = reload;
    return 0;
}

void reload_abandon(struct worker *worker)
{
    struct reload *reload = worker->reload;
    if (!reload)
        return;
    uv_thread_join(&reload->thread);
    config_unref(reload->snapshot);
    forget(reload);
}
