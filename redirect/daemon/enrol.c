#include "redirect/daemon/enrol.h"
#include "redirect/daemon/publish.h"

#include "base/fds.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

static void send_result(int passage, struct enrol_result *result, const struct capture_sockets *sockets)
{
    int all[CAPTURE_SOCKETS], fds[CAPTURE_SOCKETS];
    size_t count = 0;
    memcpy(all, sockets, sizeof(all));
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++) {
        if (all[i] < 0)
            continue;
        result->present |= (uint16_t)(1u << i);
        fds[count++] = all[i];
    }
    fds_send(passage, result, sizeof(*result), fds, count);
}

/* For the sockets that are there, and those that the plan wants besides. */
static int again(const struct enrol_plan *plan, struct capture_sockets *more, struct enrol_result *result, struct error *err)
{
    int r = sealed_open_more(&plan->sealed, plan->sockets, more, err);
    struct capture_sockets all = *plan->sockets, borrowed = *more;
    capture_sockets_join(&all, &borrowed);
    if (r == 0 && plan->job == ENROL_RENEW)
        return sealed_renew(&plan->sealed, plan->past, plan->same_plan, &all, &result->fingerprint, err);
    if (r == 0)
        r = sealed_update(&plan->sealed, &all, plan->past->group, err);
    return r < 0 ? r : sealed_fingerprint(&result->fingerprint, err);
}

static int work(const struct enrol_plan *plan, struct capture_sockets *sockets, struct enrol_result *result,
                struct error *err)
{
    int r = 0;
    if (setns(plan->netns, CLONE_NEWNET) < 0)
        return error_errno(err, errno, "cannot enter the network namespace");
    switch (plan->job) {
    case ENROL_BUILD:
        result->group = -1;
        if (plan->past && plan->same_plan && sealed_resume(&plan->sealed, plan->past, sockets, NULL) == 0) {
            result->group = plan->past->group;
            result->fingerprint = plan->past->fingerprint;
            return 0;
        }
        r = sealed_capture(&plan->sealed, sockets, &result->group, err);
        if (r == 0 && (r = sealed_fingerprint(&result->fingerprint, err)) < 0 && !plan->past)
            sealed_remove(plan->sealed.attached, NULL); /* what was captured before stays closed instead */
        return r;
    case ENROL_RENEW:
    case ENROL_UPDATE:
        return again(plan, sockets, result, err);
    case ENROL_VERIFY:
        return sealed_verify(plan->sealed.attached, plan->past, err);
    case ENROL_REMOVE:
        return sealed_remove(plan->sealed.attached, err);
    case ENROL_DOOR:
        return publish_open_door(sockets, err);
    }
    return r;
}

static void visit(const struct enrol_plan *plan, int passage)
{
    struct capture_sockets sockets = CAPTURE_SOCKETS_NONE;
    struct enrol_result result = {0};
    struct error err = {0};
    if (work(plan, &sockets, &result, &err) < 0) {
        result.code = err.code;
        snprintf(result.text, sizeof(result.text), "%s", err.text);
        capture_sockets_close(&sockets);
    }
    send_result(passage, &result, &sockets);
    capture_sockets_close(&sockets);
}

__attribute__((noreturn)) static void child(const struct enrol_plan *plans, size_t count, int passage, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    for (size_t i = 0; i < count; i++)
        visit(&plans[i], passage);
    _exit(0);
}

int enrol_start(const struct enrol_plan *plans, size_t count, pid_t *ret_pid, int *ret_passage, struct error *err)
{
    int pair[2];
    pid_t parent = getpid();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return error_errno(err, errno, "cannot make a socket pair");
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        child(plans, count, pair[1], parent);
    int code = errno;
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return error_errno(err, code, "cannot fork");
    }
    *ret_pid = pid;
    *ret_passage = pair[0];
    return 0;
}

static void fail(struct enrol_result *result, int code, const char *text)
{
    *result = (struct enrol_result){.code = code};
    snprintf(result->text, sizeof(result->text), "%s", text);
}

bool enrol_receive(int passage, struct enrol_result *ret, struct capture_sockets *ret_sockets)
{
    int fds[FDS_MAX], all[CAPTURE_SOCKETS];
    size_t count = 0;
    ssize_t got = fds_receive(passage, ret, sizeof(*ret), fds, &count);
    const int *next = fds;
    *ret_sockets = (struct capture_sockets)CAPTURE_SOCKETS_NONE;
    if (got != (ssize_t)sizeof(*ret) || __builtin_popcount(ret->present) != (int)count || ret->present >> CAPTURE_SOCKETS) {
        for (size_t i = 0; i < count; i++)
            close(fds[i]);
        fail(ret, ECHILD, "the process that was to do it was killed");
        return false;
    }
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++)
        all[i] = ret->present & 1u << i ? *next++ : -1;
    memcpy(ret_sockets, all, sizeof(all));
    return true;
}
