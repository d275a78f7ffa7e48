/*
 * The foreground monitor of `sallyport exec`: starts the worker and the enclosure side by side, brings them
 * together, passes on signals and the terminal, starts a dead worker anew with the same sockets, and ends
 * with the command.
 *
 * Signals. All are blocked and read from a signalfd. What a person or a program sends goes to the command,
 * what the terminal sends (to our process group, when it is the foreground one) goes to the command's whole
 * group, as the terminal would have done.
 *
 * The terminal. The command has a process group of its own: a kill(0, …) from inside must not reach ours.
 * Started at an interactive prompt (our group has the foreground, input and output are the terminal) the
 * command's group gets the foreground at once. In a pipeline it gets it when it stops for wanting it
 * (SIGTTIN, SIGTTOU), so that `sallyport exec … | less` leaves the terminal to less. When the command stops
 * for another reason we stop, too, with our own group, for the shell to see; when the shell continues us, the
 * foreground goes back to the group that had it.
 */
#include "redirect/exec/monitor.h"

#include "base/fds.h"
#include "base/log.h"
#include "redirect/monitor/channel.h"
#include "redirect/exec/enclosure.h"
#include "redirect/rules/packets.h"
#include "redirect/monitor/pulse.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FINISH_WAIT_MS 5000 /* from FINISH to its end */
#define FEW_FILES 64

struct monitor {
    const struct monitor_exec *options;
    sigset_t mask_before;
    int signals;
    int audit;
    int audit_folder; /* where a new audit file is made; -1 when there is none or it is no regular file */
    char *audit_name;
    bool audit_unprotected; /* a new one would be the command's to change */
    int terminal;           /* the controlling terminal, or -1 */
    bool lent_foreground;   /* the command's group was given it */
    pid_t foreground;       /* the group that had it when the command stopped, 0 when unknown */
    struct worker_process worker;
    struct pulse pulse; /* the worker's */
    uint64_t pulse_at;  /* when it is asked next */
    struct capture_sockets sockets;
    struct enclosure enclosure;
    bool ended;
    int wait_status; /* of the command */
    int exec_errno;
};

/* --- the audit file ------------------------------------------------------------------------------------- */

/* The command may rename what the path leads through, or put a link in the place of the file: once we have the
 * folder, the path is not followed again. */
static int find_audit_folder(struct monitor *monitor, char *path, struct error *err)
{
    char *slash = strrchr(path, '/');
    monitor->audit_name = strdup(slash + 1);
    slash[slash == path] = '\0';
    monitor->audit_unprotected = enclosure_works_in(path);
    monitor->audit_folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (!monitor->audit_name || monitor->audit_folder < 0)
        return error_errno(err, errno, "cannot open the folder %s", path);
    return 0;
}

static int open_audit(struct monitor *monitor, struct error *err)
{
    const char *path = monitor->options->audit_path;
    struct stat status;
    int failed = audit_file_open(path, &monitor->audit, err);
    if (failed || monitor->audit < 0 || fstat(monitor->audit, &status) < 0 || !S_ISREG(status.st_mode))
        return failed;
    char *real = realpath(path, NULL);
    failed = real ? find_audit_folder(monitor, real, err) : error_errno(err, errno, "cannot find %s", path);
    free(real);
    return failed;
}

/* A link, a pipe or a file with a second name is not what a rotation leaves. */
static int open_new_audit(const struct monitor *monitor, int *ret, struct error *err)
{
    const char *path = monitor->options->audit_path;
    const int flags = O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
    struct stat status;
    if (monitor->audit_folder < 0)
        return error_set(err, EINVAL, "%s is not a regular file and is not opened anew", path);
    int _cleanup_fd_ fd = openat(monitor->audit_folder, monitor->audit_name, flags | O_RDWR | O_CREAT, 0600);
    if (fd < 0 && errno == EACCES)
        fd = openat(monitor->audit_folder, monitor->audit_name, flags | O_WRONLY);
    if (fd < 0 || fstat(fd, &status) < 0)
        return error_errno(err, errno, "cannot open the audit file %s", path);
    if (!S_ISREG(status.st_mode) || status.st_nlink != 1)
        return error_set(err, EMLINK, "cannot open the audit file %s: there is something else in its place",
                         path);
    *ret = fd_steal(&fd);
    return 0;
}

static void reopen_audit(struct monitor *monitor)
{
    struct error err;
    int fd = -1;
    if (monitor->audit < 0)
        return;
    if (open_new_audit(monitor, &fd, &err) < 0) {
        log_error("%s; the old one stays in use", err.text);
        return;
    }
    if (monitor->audit_unprotected)
        log_warning("the command works in the folder of %s, and may change what is there from now on",
                    monitor->options->audit_path);
    monitor->audit_unprotected = false; /* said */
    fd_close(&monitor->audit);
    monitor->audit = fd;
    if (monitor->worker.channel >= 0)
        channel_send_audit(monitor->worker.channel, fd);
}

/* --- the worker ----------------------------------------------------------------------------------------- */

static int start_worker(struct monitor *monitor, struct error *err)
{
    monitor->pulse = (struct pulse){0};
    monitor->pulse_at = monotonic_ms() + PULSE_MS;
    return worker_process_start(&monitor->worker, monitor->options->worker, monitor->options->worker_arg,
                                monitor->audit, &monitor->mask_before, err);
}

static int hand_over(struct monitor *monitor)
{
    const char *policy = acl_policy_name(monitor->options->policy);
    char id[32];
    snprintf(id, sizeof(id), "exec-%d", (int)getpid());
    return channel_send_capture(monitor->worker.channel, id, monitor->options->argv[0], policy,
                                &monitor->sockets);
}

/* Wait for something to read, while the command does not run yet. A person who presses Ctrl-C now means us.
 */
static int await_input(struct monitor *monitor, int fd, const char *what, struct error *err)
{
    uint64_t until = monotonic_ms() + WORKER_READY_WAIT_MS;
    for (;;) {
        struct pollfd polled[] = {{.fd = fd, .events = POLLIN}, {.fd = monitor->signals, .events = POLLIN}};
        struct signalfd_siginfo info;
        uint64_t now = monotonic_ms();
        int got = poll(polled, 2, until > now ? (int)(until - now) : 0);
        if (got < 0 && errno != EINTR)
            return error_errno(err, errno, "cannot wait for %s", what);
        if (got == 0)
            return error_set(err, ETIMEDOUT, "%s does not get ready", what);
        if (got > 0 && polled[0].revents)
            return 0;
        if (got > 0 && read(monitor->signals, &info, sizeof(info)) == sizeof(info) &&
            (info.ssi_signo == SIGINT || info.ssi_signo == SIGTERM || info.ssi_signo == SIGHUP ||
             info.ssi_signo == SIGQUIT))
            return error_set(err, EINTR, "interrupted while %s got ready", what);
    }
}

/* It has said why, unless it was the one reason for which it could not. */
static int worker_ended(struct error *err)
{
    struct rlimit files;
    bool few = getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < FEW_FILES;
    return error_set(err, EIO, "the worker ended at its start%s",
                     few ? "; the limit of open files is very low (ulimit -n)" : "");
}

static int await_ready(struct monitor *monitor, struct error *err)
{
    struct channel_message message;
    struct capture_sockets none = CAPTURE_SOCKETS_NONE;
    int unused = -1, failed = await_input(monitor, monitor->worker.channel, "the worker", err);
    if (failed)
        return failed;
    if (channel_receive(monitor->worker.channel, &message, &none, &unused) == 1 &&
        message.type == CHANNEL_READY)
        return 0;
    capture_sockets_close(&none);
    fd_close(&unused);
    return worker_ended(err);
}

/* The monitor takes nothing from the worker once it is ready; whatever it says is thrown away, but for the sign that it lives. */
static void drain_channel(struct monitor *monitor)
{
    struct worker_process *worker = &monitor->worker;
    struct channel_message message;
    struct capture_sockets none = CAPTURE_SOCKETS_NONE;
    int unused = -1;
    int got = channel_receive(worker->channel, &message, &none, &unused);
    capture_sockets_close(&none);
    fd_close(&unused);
    if (got == 1)
        pulse_answered(&monitor->pulse, message.serial);
    if (got == 0 || (got < 0 && got != -EAGAIN && got != -EINTR && got != -EBADMSG))
        fd_close(&worker->channel); /* SIGCHLD will follow */
}

static void feel_pulse(struct monitor *monitor)
{
    static uint32_t serial;
    uint64_t now = monotonic_ms();
    if (monitor->worker.channel < 0 || now < monitor->pulse_at)
        return;
    monitor->pulse_at = now + PULSE_MS;
    serial += serial == UINT32_MAX ? 2 : 1;
    pulse_turn(&monitor->pulse, &monitor->worker, serial);
}

/* Milliseconds until there is something to do without being told. */
static int patience(const struct monitor *monitor)
{
    uint64_t now = monotonic_ms();
    if (monitor->worker.pid < 0 || monitor->worker.channel < 0)
        return worker_process_due(&monitor->worker);
    return monitor->pulse_at <= now ? 0 : (int)(monitor->pulse_at - now);
}

static void worker_died(struct monitor *monitor, int status)
{
    worker_process_died(&monitor->worker);
    if (!monitor->ended)
        worker_process_log_death(&monitor->worker, status);
}

/* The sockets are still ours, so connections that came meanwhile are in their queues. */
static void replace_worker(struct monitor *monitor)
{
    struct error err;
    if (start_worker(monitor, &err) < 0) {
        monitor->worker.start_at = monotonic_ms() + WORKER_PAUSE_LONGEST_MS;
        log_error("%s", err.text);
        return;
    }
    hand_over(monitor); /* if it fails the worker is dead again, and SIGCHLD says so */
}

/* Let the worker say its summary and write what is queued, for a bounded time. */
static void finish_worker(struct monitor *monitor, bool summary)
{
    struct worker_process *worker = &monitor->worker;
    uint64_t until = monotonic_ms() + FINISH_WAIT_MS;
    if (worker->pid > 0)
        channel_send_finish(worker->channel, summary); /* if it cannot be told it is about to end anyway */
    while (worker->pid > 0) {
        uint64_t now = monotonic_ms();
        struct pollfd polled = {.fd = monitor->signals, .events = POLLIN};
        struct signalfd_siginfo info;
        if (waitpid(worker->pid, NULL, WNOHANG) != 0) {
            worker->pid = -1;
            break;
        }
        if (now >= until) {
            log_error("the worker does not finish; killed");
            kill(worker->pid, SIGKILL);
            waitpid(worker->pid, NULL, 0);
            break;
        }
        if (poll(&polled, 1, (int)(until - now)) == 1 &&
            read(monitor->signals, &info, sizeof(info)) == sizeof(info) &&
            (info.ssi_signo == SIGINT || info.ssi_signo == SIGTERM))
            until = 0;
    }
    fd_close(&worker->channel);
}

/* --- the terminal --------------------------------------------------------------------------------------- */

static bool has_foreground(const struct monitor *monitor)
{
    return monitor->terminal >= 0 && tcgetpgrp(monitor->terminal) == getpgrp();
}

static void find_terminal(struct monitor *monitor)
{
    monitor->terminal = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    monitor->lent_foreground = has_foreground(monitor) && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
}

/* Stop with our whole group, as Ctrl-Z would have it: a script that runs us stops, too. In an orphaned group,
 * where nobody could continue us, the kernel ignores this and we return at once. The SIGCONT that ends the
 * stop is spent here: passed on later, it would undo the next stop of the command. */
static void stop_with_group(void)
{
    const struct timespec at_once = {0};
    sigset_t stop, resume;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTSTP);
    sigemptyset(&resume);
    sigaddset(&resume, SIGCONT);
    kill(0, SIGTSTP);
    sigprocmask(SIG_UNBLOCK, &stop, NULL); /* here we stop */
    sigprocmask(SIG_BLOCK, &stop, NULL);
    sigtimedwait(&resume, NULL, &at_once);
}

static void lend_foreground(struct monitor *monitor)
{
    if (monitor->foreground > 0 && tcsetpgrp(monitor->terminal, monitor->foreground) == 0)
        return;
    enclosure_order(&monitor->enclosure, ENCLOSURE_FOREGROUND, 0);
}

static void command_stopped(struct monitor *monitor, int signal_number)
{
    bool wants_terminal = signal_number == SIGTTIN || signal_number == SIGTTOU;
    if (monitor->terminal < 0)
        return; /* whoever continues us continues it */
    if (wants_terminal && has_foreground(monitor)) {
        monitor->lent_foreground = true;
    } else {
        if (monitor->lent_foreground && !wants_terminal) {
            pid_t group = tcgetpgrp(monitor->terminal);
            monitor->foreground = group > 0 ? group : 0;
            tcsetpgrp(monitor->terminal, getpgrp());
        }
        stop_with_group();
    }
    if (has_foreground(monitor) && (monitor->lent_foreground || wants_terminal)) {
        monitor->lent_foreground = true;
        lend_foreground(monitor);
    }
    enclosure_order(&monitor->enclosure, ENCLOSURE_SIGNAL_GROUP, SIGCONT);
}

static void return_terminal(struct monitor *monitor)
{
    if (monitor->lent_foreground)
        tcsetpgrp(monitor->terminal, getpgrp());
}

/* --- signals and events --------------------------------------------------------------------------------- */

static void reap(struct monitor *monitor)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == monitor->worker.pid)
            worker_died(monitor, status);
        else if (pid == monitor->enclosure.init)
            monitor->enclosure.init = -1;
    }
}

static void handle_signal(struct monitor *monitor, const struct signalfd_siginfo *info)
{
    int number = (int)info->ssi_signo;
    switch (number) {
    case SIGCHLD:
        reap(monitor);
        break;
    case SIGUSR1:
        reopen_audit(monitor);
        break;
    case SIGPIPE:
    case SIGTTIN:
    case SIGTTOU:
        break; /* ours, not the command's */
    default:
        enclosure_order(&monitor->enclosure, info->ssi_code > 0 ? ENCLOSURE_SIGNAL_GROUP : ENCLOSURE_SIGNAL,
                        number);
        break;
    }
}

/* One signal at a time: command_stopped() may stop us in between. */
static void read_signal(struct monitor *monitor)
{
    struct signalfd_siginfo info;
    if (read(monitor->signals, &info, sizeof(info)) == sizeof(info))
        handle_signal(monitor, &info);
}

static void read_event(struct monitor *monitor)
{
    struct enclosure_message message;
    if (enclosure_event(&monitor->enclosure, &message) != 1) {
        monitor->ended = true; /* init was killed from outside, and with it everything in its namespace */
        monitor->wait_status = SIGKILL;
        return;
    }
    switch (message.type) {
    case ENCLOSURE_STOPPED:
        command_stopped(monitor, message.value);
        break;
    case ENCLOSURE_EXEC_FAILED:
        monitor->exec_errno = message.value;
        monitor->ended = true;
        break;
    case ENCLOSURE_EXITED:
        monitor->wait_status = message.value;
        monitor->ended = true;
        break;
    }
}

static void supervise(struct monitor *monitor)
{
    reap(monitor); /* a SIGCHLD may have come while we waited for the start */
    while (!monitor->ended) {
        struct pollfd polled[] = {{.fd = monitor->enclosure.control, .events = POLLIN},
                                  {.fd = monitor->signals, .events = POLLIN},
                                  {.fd = monitor->worker.channel, .events = POLLIN}};
        int got = poll(polled, 3, patience(monitor));
        if (got < 0 && errno != EINTR)
            break;
        /* Signals first: a command that stops and continues itself without end must not shut out a SIGTERM.
         */
        if (got > 0 && polled[1].revents)
            read_signal(monitor);
        else if (got > 0 && polled[0].revents)
            read_event(monitor);
        else if (got > 0 && polled[2].revents)
            drain_channel(monitor);
        feel_pulse(monitor);
        if (!monitor->ended && worker_process_due(&monitor->worker) == 0)
            replace_worker(monitor);
    }
}

/* --- start and end -------------------------------------------------------------------------------------- */

/* A closed 0, 1 or 2 would be taken by the next file that is opened, one of ours. */
static void fill_standard_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd < 3);
    if (fd >= 0)
        close(fd);
}

static int take_signals(struct monitor *monitor, struct error *err)
{
    sigset_t all;
    signal(SIGCHLD, SIG_DFL); /* an inherited SIG_IGN would reap for us */
    sigfillset(&all);
    if (sigprocmask(SIG_SETMASK, &all, &monitor->mask_before) < 0)
        return error_errno(err, errno, "cannot block signals");
    /* Faults and what only the kernel sends stay blocked but are not passed on. */
    for (const int *number = (const int[]){SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS, 0};
         *number; number++)
        sigdelset(&all, *number);
    monitor->signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    return monitor->signals < 0 ? error_errno(err, errno, "cannot make a signalfd") : 0;
}

static int start(struct monitor *monitor, struct error *err)
{
    const struct monitor_exec *options = monitor->options;
    struct enclosure_plan plan = {.argv = options->argv,
                                  .keep = options->keep,
                                  .keep_count = options->keep_count,
                                  .read_only_file = options->audit_path,
                                  .signal_mask = &monitor->mask_before};
    int failed;
    sealed_plan_policy(options->policy, options->every_port, &plan.sealed);
    plan.sealed.link = options->link;
    if ((failed = take_signals(monitor, err)) || (failed = open_audit(monitor, err)))
        return failed;
    find_terminal(monitor);
    plan.terminal = monitor->terminal;
    plan.foreground = monitor->lent_foreground;
    /* Worker, network and mounts get ready at the same time. */
    if ((failed = start_worker(monitor, err)) ||
        (failed = enclosure_start(&plan, &monitor->enclosure, err)) ||
        (failed = await_input(monitor, monitor->enclosure.passage, "the sealed network", err)) ||
        (failed = enclosure_sockets(&monitor->enclosure, &monitor->sockets, err)))
        return failed;
    packets_widen(&monitor->sockets);
    if (hand_over(monitor) < 0)
        return worker_ended(err);
    if ((failed = await_ready(monitor, err)) ||
        (failed = await_input(monitor, monitor->enclosure.control, "the enclosure", err)) ||
        (failed = enclosure_prepared(&monitor->enclosure, err)))
        return failed;
    if (enclosure_order(&monitor->enclosure, ENCLOSURE_GO, 0) < 0)
        return error_set(err, EIO, "the enclosure's init ended before the command started");
    return 0;
}

static int exit_status(const struct monitor *monitor)
{
    if (monitor->exec_errno) {
        log_error("cannot execute %s: %s", monitor->options->argv[0], strerror(monitor->exec_errno));
        return monitor->exec_errno == ENOENT || monitor->exec_errno == ENOTDIR ? 127 : 126;
    }
    return WIFSIGNALED(monitor->wait_status) ? 128 + WTERMSIG(monitor->wait_status)
                                             : WEXITSTATUS(monitor->wait_status);
}

/* A script that runs us would have got the Ctrl-C itself, had the command not had the terminal: let it have
 * it. */
static void pass_interrupt_to_group(const struct monitor *monitor)
{
    int number = WIFSIGNALED(monitor->wait_status) ? WTERMSIG(monitor->wait_status) : 0;
    if (monitor->exec_errno || !monitor->lent_foreground || getpgrp() == getpid() ||
        (number != SIGINT && number != SIGQUIT))
        return;
    const struct rlimit no_core = {0, 0};
    sigset_t one;
    setrlimit(RLIMIT_CORE, &no_core);
    sigemptyset(&one);
    sigaddset(&one, number);
    signal(number, SIG_DFL);
    kill(0, number);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
}

/* Init ends by itself when the control socket closes; then nothing lives inside any more. */
static void await_init(struct monitor *monitor)
{
    enclosure_close(&monitor->enclosure);
    while (monitor->enclosure.init > 0 && waitpid(monitor->enclosure.init, NULL, 0) < 0 && errno == EINTR)
        ;
    monitor->enclosure.init = -1;
}

static void finish(struct monitor *monitor, bool summary)
{
    monitor->ended = true;
    await_init(monitor);
    return_terminal(monitor);
    finish_worker(monitor, summary);
    capture_sockets_close(&monitor->sockets);
    fd_close(&monitor->audit);
    fd_close(&monitor->audit_folder);
    free(monitor->audit_name);
    fd_close(&monitor->terminal);
    fd_close(&monitor->signals);
}

int monitor_exec(const struct monitor_exec *options)
{
    struct monitor monitor = {.options = options,
                              .signals = -1,
                              .audit = -1,
                              .audit_folder = -1,
                              .terminal = -1,
                              .worker = WORKER_PROCESS_NONE,
                              .sockets = CAPTURE_SOCKETS_NONE,
                              .enclosure = ENCLOSURE_NONE};
    struct error err;
    int status = MONITOR_EXIT_FAILURE;
    fill_standard_streams();
    if (start(&monitor, &err) < 0) {
        log_error("%s", err.text);
        finish(&monitor, false);
    } else {
        supervise(&monitor);
        finish(&monitor, options->summary);
        status = exit_status(&monitor);
        pass_interrupt_to_group(&monitor);
    }
    sigprocmask(SIG_SETMASK, &monitor.mask_before, NULL);
    return status;
}
