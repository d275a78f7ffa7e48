/*
 * From the loops to the file: a queue of blocks under one lock, and one thread that writes.
 *
 * A submitter formats its line straight into the last block, under the lock: so the sequence in the line, the
 * order in the queue and the order in the file are one thing, nothing is copied, and nothing is allocated but
 * a block of 64 KiB when the writer lags behind (blocks are kept and used again). The writer takes all blocks
 * at once and hands them to one writev(); under load it waits a few milliseconds before, so that a wake-up
 * and a system call serve many events.
 *
 * How much may wait:
 *   QUEUE_MAX     for everything; above it, or while the file cannot be written, no flow is let through
 *   RESERVE_MAX   above that for events of what is refused, so that refusals for want of audit are still
 * recorded promised      the end event of each flow that was let through is always taken: as many lines as
 * there are flows What does not fit even there is counted, and the next line says how many
 * (sallyport.dropped_before).
 *
 * The file holds whole lines only, though several workers may append to it, each with a lock on it for the time of a write.
 * What the disk cut short is taken back before that lock is given up, and the whole line is written again later. Where it cannot be
 * taken back (a file that may only grow), the line goes on where it stopped; when the file is replaced or closed in between, the
 * whole line goes to the new one. A torn line that a crash left is ended by a newline, where the file can be read.
 *
 * A file is asked for room before anything relies on it: blocks for one line are reserved behind its end, where its file system
 * can do that. So a disk that is full from the start is known before the first flow, and not by it.
 *
 * Pipes and sockets are written in pieces that poll() promises not to block, so that the writer can always be
 * stopped.
 */
#include "gateway/audit_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define BLOCK_SIZE 65536
#define QUEUE_MAX (1u << 22)   /* what ten thousand flows a second write while a disk stalls for 200 ms */
#define RESERVE_MAX (1u << 18)
#define SPARE_BLOCKS 4 /* kept when idle */
#define GATHERED (4 * BLOCK_SIZE) /* does not wait for more */
#define BATCH_BLOCKS 64
#define GATHER_MS 5  /* an event waits so long for company */
#define RETRY_MS 200 /* a file that cannot be written is tried again */
#define POLL_MS 100  /* a pipe that is full is looked after so often */
#define LOCK_WAIT_MS 20 /* who reads the log may lock it, too, for ever: that must not hold it up */

struct block {
    struct block *next;
    size_t used;
    char text[BLOCK_SIZE - sizeof(struct block *) - sizeof(size_t)];
};

struct audit {
    pthread_mutex_t lock;
    pthread_cond_t wake; /* the writer's */
    pthread_t writer;
    atomic_bool ready;
    bool drop_when_full;
    struct metrics_worker *metrics; /* or NULL; written under the lock */

    /* under the lock */
    struct block *first, *last; /* accepted, not yet taken by the writer */
    struct block *spare;
    unsigned spares;
    size_t queued; /* bytes accepted and not written, the writer's batch included */
    uint64_t sequence;
    uint64_t promised;                /* end events to come of flows that were let through */
    uint64_t dropped_before, dropped; /* since the last line; ever */
    int error;                        /* errno of the last write, 0 when it worked */
    bool idle, gathering;             /* what the writer waits for: any event; company */
    bool stop;
    struct timespec stop_by;
    bool reopen;
    int next_fd;

    /* the writer's own */
    int fd;
    bool regular;
    struct block *batch;
    size_t written; /* of the batch's first block */
    bool busy;      /* there were events a moment ago: more are likely, so nobody needs to wake it for the first of them */
};

static struct timespec now_plus_ms(unsigned ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

static bool is_past(const struct timespec *t)
{
    struct timespec now = now_plus_ms(0);
    return now.tv_sec > t->tv_sec || (now.tv_sec == t->tv_sec && now.tv_nsec >= t->tv_nsec);
}

static void update_ready(struct audit *audit)
{
    bool ready = audit->drop_when_full || (!audit->error && audit->queued + AUDIT_LINE_MAX <= QUEUE_MAX);
    atomic_store_explicit(&audit->ready, ready, memory_order_relaxed);
    if (!audit->metrics)
        return;
    metric_set(&audit->metrics->audit_queued_bytes, audit->queued);
    metric_set(&audit->metrics->audit_failing, audit->error != 0);
}

void audit_count_in(struct audit *audit, struct metrics_worker *metrics)
{
    pthread_mutex_lock(&audit->lock);
    audit->metrics = metrics;
    update_ready(audit);
    pthread_mutex_unlock(&audit->lock);
}

bool audit_ready(const struct audit *audit)
{
    return atomic_load_explicit(&audit->ready, memory_order_relaxed);
}

/* ---- the submitter's side, all under the lock ---- */

static bool lets_through(const struct audit_event *event)
{
    return event->allowed && event->action != AUDIT_FLOW_END && event->action != AUDIT_CHANGE;
}

static bool has_room(struct audit *audit, const struct audit_event *event)
{
    if (event->action == AUDIT_FLOW_END && event->allowed && audit->promised) {
        audit->promised--;
        return true;
    }
    if (!lets_through(event))
        return audit->queued + AUDIT_LINE_MAX <= QUEUE_MAX + RESERVE_MAX;
    if (audit->error && !audit->drop_when_full)
        return false;
    return audit->queued + AUDIT_LINE_MAX <= QUEUE_MAX;
}

/* Whole pages of their own: a burst gives them back to the system, not to the heap between the flows. */
static struct block *map_block(void)
{
    void *block = mmap(NULL, sizeof(struct block), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return block == MAP_FAILED ? NULL : block;
}

static void unmap_block(struct block *block)
{
    munmap(block, sizeof(*block));
}

static struct block *new_block(struct audit *audit)
{
    struct block *block = audit->spare;
    if (block) {
        audit->spare = block->next;
        audit->spares--;
    } else {
        block = map_block();
    }
    if (block) {
        block->next = NULL;
        block->used = 0;
    }
    return block;
}

static void release_block(struct audit *audit, struct block *block)
{
    if (audit->spares == SPARE_BLOCKS) {
        unmap_block(block);
        return;
    }
    block->next = audit->spare;
    audit->spare = block;
    audit->spares++;
}

/* A block with room for any line, NULL when out of memory. */
static struct block *last_block(struct audit *audit)
{
    if (audit->last && sizeof(audit->last->text) - audit->last->used >= AUDIT_LINE_MAX)
        return audit->last;
    struct block *block = new_block(audit);
    if (!block)
        return NULL;
    if (audit->last)
        audit->last->next = block;
    else
        audit->first = block;
    audit->last = block;
    return block;
}

static bool append(struct audit *audit, const struct audit_event *event)
{
    struct timespec now;
    struct block *block = last_block(audit);
    if (!block)
        return false;
    clock_gettime(CLOCK_REALTIME, &now);
    ssize_t length = audit_format_line(event, audit->sequence + 1, audit->dropped_before, &now,
                                       block->text + block->used, AUDIT_LINE_MAX);
    if (length < 0)
        return false;
    block->text[block->used + (size_t)length] = '\n'; /* where the NUL was */
    block->used += (size_t)length + 1;
    audit->queued += (size_t)length + 1;
    audit->sequence++;
    audit->dropped_before = 0;
    if (event->action == AUDIT_FLOW_DECISION && event->allowed)
        audit->promised++;
    return true;
}

/* An event that would let something through is not lost when it is refused: the caller denies that instead.
 */
static int leave_out(struct audit *audit, const struct audit_event *event)
{
    if (!audit->drop_when_full && lets_through(event))
        return -ENOBUFS;
    audit->dropped_before++;
    audit->dropped++;
    return audit->drop_when_full ? 0 : -ENOBUFS;
}

static enum metrics_protocol protocol_of(const struct audit_event *event)
{
    const char *protocol = event->protocol ? event->protocol : event->transport ? event->transport : "";
    return !strcmp(protocol, "tls")    ? METRICS_TLS
           : !strcmp(protocol, "http") ? METRICS_HTTP
           : !strcmp(protocol, "dns")  ? METRICS_DNS
           : !strcmp(protocol, "udp")  ? METRICS_UDP
           : !strncmp(protocol, "icmp", 4) || !strcmp(protocol, "ipv6-icmp") ? METRICS_ICMP
                                                                             : METRICS_TCP;
}

/* What was decided counts even where there was no room to record it; what is refused for want of room comes again, as a
 * denial. */
static void count(const struct audit *audit, const struct audit_event *event, int result, uint64_t sequence_before,
                  uint64_t dropped_before)
{
    struct metrics_worker *m = audit->metrics;
    if (audit->sequence != sequence_before)
        metric_add(&m->audit_events, 1);
    metric_add(&m->audit_dropped, audit->dropped - dropped_before);
    bool decides = event->action == AUDIT_FLOW_DECISION || event->action == AUDIT_HTTP_REQUEST || event->action == AUDIT_DNS_DENIED;
    if (decides && (result == 0 || !lets_through(event)))
        metric_add(&m->decisions[protocol_of(event)][event->would_deny ? METRICS_WOULD_DENY
                                                     : event->allowed  ? METRICS_ALLOWED
                                                                       : METRICS_DENIED][event->reason],
                   1);
}

static bool writer_must_wake(struct audit *audit)
{
    if (!audit->idle && !(audit->gathering && audit->queued >= GATHERED))
        return false;
    audit->idle = audit->gathering = false;
    return true;
}

int audit_submit(struct audit *audit, const struct audit_event *event)
{
    int result = 0;
    pthread_mutex_lock(&audit->lock);
    uint64_t sequence = audit->sequence, dropped = audit->dropped;
    if (!has_room(audit, event) || !append(audit, event))
        result = leave_out(audit, event);
    update_ready(audit);
    if (audit->metrics)
        count(audit, event, result, sequence, dropped);
    bool wake = writer_must_wake(audit);
    pthread_mutex_unlock(&audit->lock);
    if (wake)
        pthread_cond_signal(&audit->wake);
    return result;
}

/* ---- the writer's side ---- */

/* Bytes of the batch that belong to a line of which the file has only a part. */
static size_t torn_length(const struct audit *audit)
{
    size_t at = audit->written;
    while (audit->batch && at > 0 && audit->batch->text[at - 1] != '\n')
        at--;
    return audit->written - at;
}

static bool cut_file(const struct audit *audit, size_t torn)
{
    struct stat st;
    return audit->regular && fstat(audit->fd, &st) == 0 && st.st_size >= (off_t)torn &&
           ftruncate(audit->fd, st.st_size - (off_t)torn) == 0;
}

/* Takes a line back that was written in part: it is whole in the batch again. `anyway`: also when the piece has to stay at the end
 * of the file, which is given up. False: there is none, or it goes on where it stopped. */
static bool cut_torn_line(struct audit *audit, bool anyway)
{
    size_t torn = torn_length(audit);
    if (torn == 0 || (!cut_file(audit, torn) && !anyway))
        return false;
    audit->written -= torn;
    audit->queued += torn;
    return true;
}

/* Nobody else appends to the file until it is given back; unless it takes too long, then without. */
static void take_file(const struct audit *audit)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    for (int i = 0; audit->regular && fcntl(audit->fd, F_SETLK, &whole) < 0 && i < LOCK_WAIT_MS; i++) {
        if (errno != EAGAIN && errno != EACCES)
            return;
        poll(NULL, 0, 1);
    }
}

static void give_file(const struct audit *audit)
{
    struct flock whole = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    if (audit->regular)
        fcntl(audit->fd, F_SETLK, &whole);
}

static void end_torn_line(const struct audit *audit)
{
    char last;
    struct stat st;
    take_file(audit); /* else it might be another worker's line that is being written */
    if (fstat(audit->fd, &st) == 0 && st.st_size > 0 && pread(audit->fd, &last, 1, st.st_size - 1) == 1 && last != '\n' &&
        write(audit->fd, "\n", 1) < 0) {
        /* The disk is full already; the first line will meet that as well. */
    }
    give_file(audit);
}

/* Room for one more line: 0, or a negative errno when there is none. What cannot be asked is found out by writing. */
static int reserve_line(const struct audit *audit)
{
    struct stat st;
    if (!audit->regular || fstat(audit->fd, &st) < 0 ||
        fallocate(audit->fd, FALLOC_FL_KEEP_SIZE, st.st_size, AUDIT_LINE_MAX) == 0)
        return 0;
    return errno == ENOSPC || errno == EDQUOT || errno == EFBIG || errno == EROFS || errno == EIO ? -errno : 0;
}

static void use_fd(struct audit *audit, int fd)
{
    struct stat st;
    audit->fd = fd;
    audit->regular = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    if (audit->regular)
        end_torn_line(audit);
    audit->error = -reserve_line(audit);
    update_ready(audit);
}

static void use_next_fd(struct audit *audit)
{
    audit->reopen = false;
    cut_torn_line(audit, true);
    if (audit->fd >= 0)
        close(audit->fd);
    use_fd(audit, audit->next_fd);
}

/* Waits a little for more events, unless there are many already. */
static void gather(struct audit *audit)
{
    struct timespec until = now_plus_ms(GATHER_MS);
    audit->gathering = audit->queued < GATHERED;
    while (audit->gathering && !audit->stop && !audit->reopen)
        if (pthread_cond_timedwait(&audit->wake, &audit->lock, &until) == ETIMEDOUT)
            break;
    audit->gathering = false;
}

static void take_batch(struct audit *audit)
{
    audit->batch = audit->first;
    audit->first = audit->last = NULL;
    audit->written = 0;
}

/* A file without room is looked after meanwhile: nobody might come to find out that there is some again. */
static void wait_for_events(struct audit *audit)
{
    struct timespec until = now_plus_ms(RETRY_MS);
    audit->idle = true;
    if (!audit->error) {
        pthread_cond_wait(&audit->wake, &audit->lock);
    } else if (pthread_cond_timedwait(&audit->wake, &audit->lock, &until) == ETIMEDOUT) {
        audit->error = -reserve_line(audit);
        update_ready(audit);
    }
    audit->idle = false;
}

/* Returns with a batch to write; false when it is time to go. */
static bool wait_for_batch(struct audit *audit)
{
    for (;;) {
        if (audit->reopen)
            use_next_fd(audit);
        if (audit->stop && ((!audit->batch && !audit->first) || is_past(&audit->stop_by)))
            return false;
        if (audit->batch)
            return true;
        if (audit->first || audit->busy) {
            audit->busy = audit->first != NULL;
            gather(audit);
            take_batch(audit);
            continue;
        }
        wait_for_events(audit);
    }
}

static void wait_for_retry(struct audit *audit)
{
    struct timespec until = now_plus_ms(RETRY_MS);
    if (audit->stop && (until.tv_sec > audit->stop_by.tv_sec ||
                        (until.tv_sec == audit->stop_by.tv_sec && until.tv_nsec > audit->stop_by.tv_nsec)))
        until = audit->stop_by;
    bool stopping = audit->stop; /* once more at once when that is asked for now */
    while (!audit->reopen && audit->stop == stopping)
        if (pthread_cond_timedwait(&audit->wake, &audit->lock, &until) == ETIMEDOUT)
            break;
}

static ssize_t write_blocks(const struct audit *audit)
{
    struct iovec pieces[BATCH_BLOCKS];
    int n = 0;
    size_t skip = audit->written;
    for (struct block *b = audit->batch; b && n < BATCH_BLOCKS; b = b->next, skip = 0)
        pieces[n++] = (struct iovec){b->text + skip, b->used - skip};
    return writev(audit->fd, pieces, n);
}

/* 0 when the reader is slow: that is no error, the queue tells when it is too much. */
static ssize_t write_piece(const struct audit *audit)
{
    struct pollfd p = {.fd = audit->fd, .events = POLLOUT};
    size_t length = audit->batch->used - audit->written;
    int n = poll(&p, 1, POLL_MS);
    if (n <= 0)
        return n;
    ssize_t written =
        write(audit->fd, audit->batch->text + audit->written, length < PIPE_BUF ? length : PIPE_BUF);
    return written < 0 && errno == EAGAIN ? 0 : written;
}

/* Bytes written (maybe 0), or a negative errno. */
static ssize_t write_batch(const struct audit *audit)
{
    ssize_t n;
    if (audit->fd < 0)
        return (ssize_t)(audit->batch->used - audit->written);
    n = audit->regular ? write_blocks(audit) : write_piece(audit);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    return n;
}

static void advance(struct audit *audit, size_t length)
{
    audit->queued -= length;
    audit->written += length;
    while (audit->batch && audit->written >= audit->batch->used) {
        struct block *done = audit->batch;
        audit->written -= done->used;
        audit->batch = done->next;
        release_block(audit, done);
    }
}

static void *write_lines(void *arg)
{
    struct audit *audit = arg;
    pthread_mutex_lock(&audit->lock);
    while (wait_for_batch(audit)) {
        pthread_mutex_unlock(&audit->lock);
        take_file(audit);
        ssize_t n = write_batch(audit);
        pthread_mutex_lock(&audit->lock);
        audit->error = n < 0 ? (int)-n : 0;
        if (n > 0)
            advance(audit, (size_t)n);
        if (audit->regular && n > 0 && cut_torn_line(audit, false))
            audit->error = ENOSPC; /* or a quota: the next attempt will say */
        give_file(audit);
        update_ready(audit);
        if (audit->error)
            wait_for_retry(audit);
    }
    cut_torn_line(audit, true);
    pthread_mutex_unlock(&audit->lock);
    return NULL;
}

/* ---- life ---- */

/* The writer takes no signals: those are the loops', and SIGPIPE must come out as EPIPE. */
static int start_writer(struct audit *audit)
{
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGSYS); /* by which the seccomp filter tells of a call */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = pthread_create(&audit->writer, NULL, write_lines, audit);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

struct audit *audit_create(int fd, bool drop_when_full, struct error *err)
{
    pthread_condattr_t monotonic;
    struct audit *audit = calloc(1, sizeof(*audit));
    if (!audit) {
        error_set(err, ENOMEM, "no memory for the audit log");
        return NULL;
    }
    audit->drop_when_full = drop_when_full;
    use_fd(audit, fd);
    pthread_mutex_init(&audit->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&audit->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int result = start_writer(audit);
    if (result) {
        error_errno(err, result, "cannot start the writer of the audit log");
        pthread_cond_destroy(&audit->wake);
        pthread_mutex_destroy(&audit->lock);
        free(audit);
        return NULL;
    }
    return audit;
}

void audit_begin_at(struct audit *audit, uint64_t sequence)
{
    audit->sequence = sequence - 1;
}

void audit_reopen(struct audit *audit, int fd)
{
    pthread_mutex_lock(&audit->lock);
    if (audit->reopen && audit->next_fd >= 0)
        close(audit->next_fd); /* it never came to be used */
    audit->reopen = true;
    audit->next_fd = fd;
    pthread_mutex_unlock(&audit->lock);
    pthread_cond_signal(&audit->wake);
}

int audit_error(struct audit *audit)
{
    pthread_mutex_lock(&audit->lock);
    int error = audit->error;
    pthread_mutex_unlock(&audit->lock);
    return error;
}

uint64_t audit_dropped(struct audit *audit)
{
    pthread_mutex_lock(&audit->lock);
    uint64_t dropped = audit->dropped;
    pthread_mutex_unlock(&audit->lock);
    return dropped;
}

/* Frees the blocks and counts the lines from `skip` of the first one on. */
static uint64_t free_blocks(struct block *block, size_t skip)
{
    uint64_t lines = 0;
    while (block) {
        struct block *next = block->next;
        for (size_t i = skip; i < block->used; i++)
            lines += block->text[i] == '\n';
        unmap_block(block);
        block = next;
        skip = 0;
    }
    return lines;
}

uint64_t audit_destroy(struct audit *audit, unsigned wait_ms)
{
    if (!audit)
        return 0;
    pthread_mutex_lock(&audit->lock);
    audit->stop = true;
    audit->stop_by = now_plus_ms(wait_ms);
    pthread_mutex_unlock(&audit->lock);
    pthread_cond_signal(&audit->wake);
    pthread_join(audit->writer, NULL);
    uint64_t lost = audit->dropped_before;
    lost += free_blocks(audit->batch, audit->written) + free_blocks(audit->first, 0);
    while (audit->spare) {
        struct block *next = audit->spare->next;
        unmap_block(audit->spare);
        audit->spare = next;
    }
    if (audit->fd >= 0)
        close(audit->fd);
    if (audit->reopen && audit->next_fd >= 0)
        close(audit->next_fd);
    pthread_cond_destroy(&audit->wake);
    pthread_mutex_destroy(&audit->lock);
    free(audit);
    return lost;
}
