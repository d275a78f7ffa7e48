#include "redirect/daemon/loading.h"

#include "base/fds.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#define LOADING_NICE 10

void loading_init(struct loading *l)
{
    *l = (struct loading){.event = -1, .bundle = -1, .watch = WATCH_NONE};
}

static void *load(void *arg)
{
    struct loading *l = arg;
    (void)setpriority(PRIO_PROCESS, 0, LOADING_NICE); /* this thread's: the loops go first where processors are scarce */
    l->status = config_load_file_noted(l->path, &l->snapshot, &l->bundle, &l->errors, &l->files);
    ssize_t ignored = write(l->event, &(uint64_t){1}, sizeof(uint64_t));
    (void)ignored; /* a counter of 64 bits has room */
    return NULL;
}

static void clean_up(struct loading *l)
{
    if (!l->joined)
        pthread_join(l->thread, NULL);
    watch_stop(l->loop, &l->watch);
    fd_close(&l->event);
    l->running = false;
}

static void loaded(struct watch *watch, uint32_t events)
{
    struct loading *l = list_entry(watch, struct loading, watch);
    (void)events;
    clean_up(l);
    l->done(l);
}

/* Signals are the loop's: it has them blocked, and the thread inherits that. */
int loading_start(struct loading *l, struct loop *loop, const char *path,
                  void (*done)(struct loading *loading))
{
    loading_init(l);
    l->loop = loop;
    l->path = path;
    l->done = done;
    l->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = l->event < 0 ? -errno : watch_start(loop, &l->watch, l->event, EPOLLIN, loaded);
    if (r == 0 && (r = -pthread_create(&l->thread, NULL, load, l)) < 0)
        watch_stop(loop, &l->watch);
    if (r < 0)
        fd_close(&l->event);
    l->running = r == 0;
    return r;
}

void loading_before_fork(struct loading *l)
{
#ifdef SALLYPORT_SANITIZED
    if (l->running && !l->joined)
        pthread_join(l->thread, NULL);
    l->joined = l->running;
#else
    (void)l;
#endif
}

void loading_abandon(struct loading *l)
{
    if (!l->running)
        return;
    clean_up(l);
    if (l->status == 0)
        config_unref(l->snapshot);
    fd_close(&l->bundle);
    config_errors_finish(&l->errors);
    config_files_finish(&l->files);
}
