/*
 * The monitor: the process that keeps the privileges, holds the listeners, and never reads a byte a container sent.
 * Here in its foreground form for `sallyport exec`: one command, one namespace, one worker.
 */
#pragma once

#include "acl/policy.h"
#include "base/error.h"
#include "redirect/rules/sealed.h"
#include "redirect/monitor/supervisor.h"

struct monitor_exec {
    char *const *argv;             /* the command, NULL-terminated */
    const struct acl_policy *policy;
    bool every_port;               /* capture all TCP ports, not only those that rules name: for audit mode */
    const char *audit_path;        /* NULL: none; reopened on SIGUSR1 */
    const char *const *keep;       /* unix socket paths not to mask */
    size_t keep_count;
    enum sealed_link link;
    bool summary;                  /* the worker prints it at the end */
    monitor_worker_fn worker;
    void *worker_arg;
};

#define MONITOR_EXIT_FAILURE 125 /* our own failure; 126 cannot be executed, 127 not found, 128+n killed by signal n */

/* Runs the command sealed; returns the exit status to pass on. Our own failures are said on standard error. */
int monitor_exec(const struct monitor_exec *options);
