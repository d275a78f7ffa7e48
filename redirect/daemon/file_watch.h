/*
 * Tells when a set of files may have changed, however that is done: written in place, renamed over, or by the exchange of a
 * symbolic link anywhere on the way to them (as Kubernetes does with "..data" for its volumes).
 *
 * Folders are watched, not files: a file that is replaced is another one. Of what happens in them, only what has a name on the
 * way to a file counts. Whether a file has really changed its reader has to see: this only wakes it, once when a burst of events
 * has been over for a moment.
 */
#pragma once

#include "config/snapshot.h"
#include "redirect/monitor/loop.h"

struct file_watch {
    struct loop *loop;
    int inotify; /* -1: nothing is watched */
    struct watch watch;
    struct loop_timer timer;
    uint64_t first_ms;         /* of the burst */
    struct config_files names; /* that count */
    void (*changed)(struct file_watch *watch);
};

void file_watch_init(struct file_watch *watch, struct loop *loop, void (*changed)(struct file_watch *watch));
/* Watch these from now on, instead of what was watched. 0 or a negative errno. */
int file_watch_set(struct file_watch *watch, const struct config_files *files);
void file_watch_finish(struct file_watch *watch);
