#include "redirect/monitor/supervisor.h"

#include "base/fds.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define PAUSE_FIRST_MS 20
#define PAUSE_FORGET_MS 30000 /* the pause begins anew when a worker has lived so long */

uint64_t monotonic_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int audit_file_open(const char *path, int *ret, struct error *err)
{
    *ret = -1;
    if (!path)
        return 0;
    /* Readable too where that is possible: a line torn by a crash is then mended. */
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd < 0 && errno == EACCES)
        fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return error_errno(err, errno, "cannot open the audit file %s", path);
    *ret = fd;
    return 0;
}

/* Only the standard error, the channel and the audit file go with it; a session of its own keeps the terminal's signals
 * away. */
__attribute__((noreturn)) static void become_worker(monitor_worker_fn run, void *arg, int channel, int audit,
                                                    const sigset_t *mask)
{
    setsid();
    prctl(PR_SET_NAME, "sallyport-work");
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    channel = fcntl(channel, F_DUPFD_CLOEXEC, 5); /* past 3 and 4, wherever they were */
    audit = audit >= 0 ? fcntl(audit, F_DUPFD_CLOEXEC, 5) : -1;
    dup3(channel, 3, O_CLOEXEC);
    if (audit >= 0)
        dup3(audit, 4, O_CLOEXEC);
    syscall(SYS_close_range, audit >= 0 ? 5u : 4u, ~0u, 0u);
    sigprocmask(SIG_SETMASK, mask, NULL);
    _exit(run(3, audit >= 0 ? 4 : -1, arg));
}

int worker_process_start(struct worker_process *worker, monitor_worker_fn run, void *arg, int audit, const sigset_t *mask,
                         struct error *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return error_errno(err, errno, "cannot make a socket pair");
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        error_errno(err, errno, "cannot fork the worker");
        close(pair[0]);
        close(pair[1]);
        return -err->code;
    }
    if (pid == 0)
        become_worker(run, arg, pair[1], audit, mask);
    close(pair[1]);
    worker->pid = pid;
    worker->channel = pair[0];
    worker->started = monotonic_ms();
    return 0;
}

static uid_t user_of(pid_t pid)
{
    char path[64], line[128];
    unsigned uid = 0;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file) && sscanf(line, "Uid: %u", &uid) != 1)
        ;
    if (file)
        fclose(file);
    return uid;
}

/* Without CAP_KILL it takes its own user to kill it: a child becomes that for a moment (the caller reaps it). */
void worker_process_kill(const struct worker_process *worker)
{
    if (worker->pid <= 0 || kill(worker->pid, SIGKILL) == 0 || errno != EPERM)
        return;
    uid_t user = user_of(worker->pid);
    pid_t child = user ? fork() : -1;
    if (child == 0)
        _exit(setresuid(user, user, user) < 0 || kill(worker->pid, SIGKILL) < 0);
    if (child < 0)
        log_error("cannot kill the worker: %s", strerror(errno));
}

void worker_process_died(struct worker_process *worker)
{
    uint64_t now = monotonic_ms();
    worker->pid = -1;
    fd_close(&worker->channel);
    if (worker->pause_ms == 0 || now - worker->started > PAUSE_FORGET_MS)
        worker->pause_ms = PAUSE_FIRST_MS;
    else if (worker->pause_ms < WORKER_PAUSE_LONGEST_MS)
        worker->pause_ms *= 2;
    worker->start_at = now + worker->pause_ms;
}

void worker_process_log_death(const struct worker_process *worker, int status)
{
    char how[256];
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        snprintf(how, sizeof(how), "was killed by its seccomp filter, for a system call that it has no need of (a line of its own names it, else the "
                                   "kernel's log)");
    else if (WIFSIGNALED(status))
        snprintf(how, sizeof(how), "was killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(how, sizeof(how), "ended with status %d", WEXITSTATUS(status));
    log_error("the worker %s; the next one starts in %u ms, connections wait%s", how, worker->pause_ms, worker->which);
}

int worker_process_due(const struct worker_process *worker)
{
    uint64_t now = monotonic_ms();
    if (worker->pid >= 0)
        return -1;
    return worker->start_at <= now ? 0 : (int)(worker->start_at - now);
}
