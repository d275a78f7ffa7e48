/*
 * `sallyport log`: the audit log for people. One line an event, or with --summary one line for every name
 * that was denied to a container. What it prints came from clients: nothing of it reaches the terminal as
 * control characters.
 *
 * -f waits by inotify on the file and on its folder, so that it goes on with the next file when the log is
 * rotated.
 */
#include "cli/audit_log.h"
#include "cli/policy_internal.h"
#include "base/json.h"

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <uthash.h>

#define SUMMARY_MAX 1000000 /* rows; what comes after is counted together */

/* What was denied to whom, and why. */
struct row {
    UT_hash_handle hh;
    uint64_t count;
    char first[AUDIT_TIME_SIZE], last[AUDIT_TIME_SIZE];
    const char *subject, *reason; /* in key, behind the container */
    size_t key_length;
    char key[]; /* container NUL subject NUL reason NUL */
};

struct log_view {
    const char *config, *container;
    char since[AUDIT_TIME_SIZE];
    bool follow, denied, json, summary, help;
    char **files;
    int file_count;

    struct row *rows;
    uint64_t beyond; /* denials that found no row */
    bool failed;     /* a file could not be read */
};

/* ---- one event ---- */

static bool is_denied(const struct audit_record *r)
{
    bool ended = !strcmp(r->action, "flow-ended");
    return !ended && !r->change && (!r->allowed || r->would_deny);
}

static bool is_wanted(const struct log_view *v, const struct audit_record *r)
{
    if ((v->denied || v->summary) && !is_denied(r))
        return false;
    if (v->since[0] && strcmp(r->time, v->since) < 0)
        return false;
    return !v->container || (r->container_name && !strcmp(r->container_name, v->container)) ||
           (r->container_id && !strcmp(r->container_id, v->container));
}

static const char *verdict_word(const struct audit_record *r)
{
    if (!strcmp(r->action, "flow-ended"))
        return "end";
    if (r->would_deny)
        return "would-deny";
    if (r->change)
        return r->allowed ? "change" : "failure";
    return r->allowed ? "allow" : "deny";
}

static void print_pair(const char *before, const char *text)
{
    if (!text || !*text)
        return;
    printf("%s", before);
    audit_print(stdout, text);
}

static void print_end(const struct audit_record *r)
{
    printf("  %llu bytes up, %llu down, %.3f s", (unsigned long long)r->bytes_sent,
           (unsigned long long)r->bytes_received, (double)r->duration_ns / 1e9);
    print_pair(", ", r->close_by);
    print_pair(" ", r->close_reason);
}

static void print_change(const struct audit_record *r)
{
    print_pair("  ", r->action);
    print_pair("  ", r->rule);
    print_pair("  policy ", r->policy);
    print_pair("  by uid ", r->user);
    print_pair("  (", r->detail);
    printf("%s\n", r->detail && *r->detail ? ")" : "");
}

static void print_event(const struct audit_record *r)
{
    char target[AUDIT_TARGET_SIZE];
    printf("%.19s  %-10s  ", r->time, verdict_word(r));
    audit_print(stdout, audit_record_container(r));
    if (r->change) {
        print_change(r);
        return;
    }
    print_pair("  ", r->protocol ? r->protocol : r->transport);
    print_pair(" ", r->method);
    print_pair(" ", audit_record_target(r, target));
    if (r->domain && *r->domain)
        print_pair(" at ", r->nat_ip ? r->nat_ip : r->ip);
    if (!strcmp(r->action, "flow-ended")) {
        print_end(r);
    } else {
        print_pair("  ", r->reason);
        print_pair("  rule ", r->rule);
        print_pair(" in ", r->rule_origin);
        print_pair("  (", r->detail);
        printf("%s", r->detail && *r->detail ? ")" : "");
    }
    printf("\n");
}

/* ---- the summary ---- */

static struct row *add_row(struct log_view *v, const char *key, size_t length)
{
    struct row *row = NULL;
    HASH_FIND(hh, v->rows, key, length, row);
    if (row || HASH_COUNT(v->rows) >= SUMMARY_MAX)
        return row;
    row = calloc(1, sizeof(*row) + length);
    if (!row)
        return NULL;
    memcpy(row->key, key, length);
    row->key_length = length;
    row->subject = row->key + strlen(row->key) + 1;
    row->reason = row->subject + strlen(row->subject) + 1;
    HASH_ADD_KEYPTR(hh, v->rows, row->key, length, row);
    return row;
}

static void count_event(struct log_view *v, const struct audit_record *r)
{
    char key[1024], target[AUDIT_TARGET_SIZE];
    const char *subject = audit_record_subject(r);
    if (!r->dns_name && !r->domain) /* an address says little without its port */
        subject = audit_record_target(r, target);
    int n = snprintf(key, sizeof(key), "%.255s%c%.500s%c%.60s", audit_record_container(r), 0, subject, 0,
                     r->reason);
    struct row *row = n > 0 && (size_t)n < sizeof(key) ? add_row(v, key, (size_t)n + 1) : NULL;
    if (!row) {
        v->beyond++;
        return;
    }
    if (row->count++ == 0)
        snprintf(row->first, sizeof(row->first), "%s", r->time);
    snprintf(row->last, sizeof(row->last), "%s", r->time);
}

static int most_first(const struct row *a, const struct row *b)
{
    if (a->count != b->count)
        return a->count > b->count ? -1 : 1;
    size_t length = a->key_length < b->key_length ? a->key_length : b->key_length;
    return memcmp(a->key, b->key, length);
}

static void print_row(const struct row *row)
{
    printf("%7llu  ", (unsigned long long)row->count);
    audit_print(stdout, row->key);
    print_pair("  ", row->subject);
    print_pair("  ", row->reason);
    printf("  last %.19s\n", row->last);
}

static void print_row_json(const struct row *row)
{
    char text[8192];
    struct json j;
    json_begin(&j, text, sizeof(text));
    json_object(&j, NULL);
    json_unsigned(&j, "count", row->count);
    json_string(&j, "container", row->key);
    json_string(&j, "subject", row->subject);
    json_string(&j, "reason", row->reason);
    json_string(&j, "first", row->first);
    json_string(&j, "last", row->last);
    json_object_end(&j);
    if (json_end(&j) >= 0)
        puts(text);
}

static void print_summary(struct log_view *v)
{
    struct row *row, *next;
    HASH_SORT(v->rows, most_first);
    HASH_ITER(hh, v->rows, row, next)
    {
        if (v->json)
            print_row_json(row);
        else
            print_row(row);
        HASH_DEL(v->rows, row);
        free(row);
    }
    if (v->beyond)
        fprintf(stderr, "sallyport log: %llu denials more, of other names\n", (unsigned long long)v->beyond);
}

/* ---- a file ---- */

static void show(struct log_view *v, const struct audit_record *r)
{
    if (!is_wanted(v, r))
        return;
    if (v->summary)
        count_event(v, r);
    else if (v->json)
        printf("%.*s\n", (int)r->line_length, r->line);
    else
        print_event(r);
}

/* All that is there now. False when the file cannot be read. */
static bool show_available(struct log_view *v, struct audit_log *log)
{
    struct audit_record record;
    struct error err;
    int got;
    while ((got = audit_log_next(log, &record, &err)) != 0) {
        if (got > 0)
            show(v, &record);
        else
            fprintf(stderr, "sallyport log: %s\n", err.text);
        if (got < 0 && got != -EBADMSG)
            return false;
    }
    fflush(stdout);
    return true;
}

static void show_file(struct log_view *v, const char *path)
{
    struct audit_record record;
    struct error err;
    struct audit_log *log = audit_log_open(path, &err);
    if (!log || !show_available(v, log)) {
        if (!log)
            fprintf(stderr, "sallyport log: %s\n", err.text);
        v->failed = true;
        audit_log_close(log);
        return;
    }
    int got = audit_log_finish(log, &record, &err);
    if (got > 0)
        show(v, &record);
    else if (got < 0)
        fprintf(stderr, "sallyport log: %s\n", err.text);
    audit_log_close(log);
}

/* ---- following ---- */

/* Does `path` name another file by now? (While it names none, the old one may still be written to.) */
static bool was_replaced(int fd, const char *path)
{
    struct stat open_one, named;
    return fstat(fd, &open_one) == 0 && stat(path, &named) == 0 &&
           (open_one.st_ino != named.st_ino || open_one.st_dev != named.st_dev);
}

/* Until something happens in the folder or to the file. */
static bool wait_for_change(int inotify)
{
    char events[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t got;
    do
        got = read(inotify, events, sizeof(events));
    while (got < 0 && errno == EINTR);
    return got > 0;
}

/* The file that `path` names now, from its beginning; NULL while there is none. */
static struct audit_log *next_file(int inotify, const char *path)
{
    struct error err;
    struct audit_log *log = audit_log_open(path, &err);
    if (log)
        inotify_add_watch(inotify, path, IN_MODIFY | IN_ATTRIB);
    return log;
}

static bool follow(struct log_view *v, const char *path)
{
    char folder[PATH_MAX];
    int inotify = inotify_init1(IN_CLOEXEC);
    snprintf(folder, sizeof(folder), "%s", path);
    if (inotify < 0 || inotify_add_watch(inotify, dirname(folder),
                                         IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE) < 0) {
        fprintf(stderr, "sallyport log: cannot watch %s: %s\n", path, strerror(errno));
        close(inotify);
        return false;
    }
    struct audit_log *log = next_file(inotify, path);
    if (log && !v->since[0])
        lseek(audit_log_fd(log), 0, SEEK_END);
    do {
        if (log) {
            audit_log_rewind_if_truncated(log);
            show_available(v, log);
        }
        if (log && was_replaced(audit_log_fd(log), path)) {
            show_available(v, log);
            audit_log_close(log);
            log = NULL;
        }
        if (!log && (log = next_file(inotify, path)))
            show_available(v, log);
    } while (wait_for_change(inotify));
    audit_log_close(log);
    close(inotify);
    return true;
}

/* ---- the command ---- */

static int take_option(const struct command *self, struct log_view *v, int option, char **argv)
{
    switch (option) {
    case 'h':
        v->help = true;
        return EXIT_YES;
    case 'c':
        v->config = optarg;
        return EXIT_YES;
    case 'f':
        v->follow = true;
        return EXIT_YES;
    case 'd':
        v->denied = true;
        return EXIT_YES;
    case 'n':
        v->container = optarg;
        return EXIT_YES;
    case 'j':
        v->json = true;
        return EXIT_YES;
    case 'S':
        v->summary = true;
        return EXIT_YES;
    case 's':
        if (audit_time_parse(optarg, time(NULL), v->since))
            return EXIT_YES;
        return command_misuse(self,
                              "--since %s: write a time in UTC, as 2026-11-22T04:00:00Z, or how long ago, as "
                              "90s, 10m, 2h or 1d",
                              optarg);
    case ':':
        return command_misuse(self, "%s needs a value", argv[optind - 1]);
    default:
        return command_misuse(self, "there is no option \"%s\"", argv[optind - 1]);
    }
}

static int read_options(const struct command *self, int argc, char **argv, struct log_view *v)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"follow", no_argument, NULL, 'f'},
                                            {"denied", no_argument, NULL, 'd'},
                                            {"container", required_argument, NULL, 'n'},
                                            {"since", required_argument, NULL, 's'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"summary", no_argument, NULL, 'S'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    int option, status;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":c:fh", options, NULL)) != -1)
        if ((status = take_option(self, v, option, argv)) != EXIT_YES)
            return status;
    v->files = argv + optind;
    v->file_count = argc - optind;
    if (v->follow && v->summary)
        return command_misuse(self, "--summary counts what is there: leave out -f");
    if (v->follow && v->file_count > 1)
        return command_misuse(self, "-f follows one file");
    if (v->follow && v->file_count && !strcmp(v->files[0], "-"))
        return command_misuse(self, "-f needs a file: standard input is read to its end without it");
    return EXIT_YES;
}

/* The configured audit file; NULL after a message. To be freed. */
static char *default_file(const struct log_view *v)
{
    struct config_snapshot *snapshot = policy_load(v->config);
    if (!snapshot)
        return NULL;
    const char *file = config_audit_file(snapshot);
    char *copy = strdup(file ? file : AUDIT_LOG_DEFAULT);
    config_unref(snapshot);
    return copy;
}

static int run(const struct command *self, int argc, char **argv)
{
    struct log_view v = {0};
    int status = read_options(self, argc, argv, &v);
    if (status != EXIT_YES)
        return status;
    if (v.help)
        return command_help(self);
    char *only = v.file_count ? NULL : default_file(&v);
    if (!v.file_count && !only)
        return EXIT_WRONG;
    if (v.follow) {
        v.failed = !follow(&v, only ? only : v.files[0]);
    } else {
        for (int i = 0; i < v.file_count; i++)
            show_file(&v, v.files[i]);
        if (only)
            show_file(&v, only);
    }
    free(only);
    if (v.summary)
        print_summary(&v);
    return v.failed ? EXIT_WRONG : EXIT_YES;
}

const struct command command_log = {
    .name = "log",
    .arguments = "[options] [FILE…]",
    .summary = "reads the audit log",
    .run = run,
    .help =
        "  -f, --follow       go on with what is written from now on, also into the next file after a "
        "rotation\n"
        "  --denied           only what was denied, or would have been in audit mode\n"
        "  --container NAME   only of this container, by name or id\n"
        "  --since TIME       only from then on: 2026-11-22T04:00:00Z, or 90s, 10m, 2h, 1d ago\n"
        "  --summary          count what was denied, by container, name and reason; most frequent first\n"
        "  --json             the events as they were written; with --summary an object a line\n"
        "  -c, --config FILE  the policy file that names the audit file; without it " POLICY_DEFAULT_FILE "\n"
        "\n"
        "FILE is an audit log, - standard input. Lines that are no audit events are told and passed over.\n"
        "\n"
        "Exit status: 0; 2 wrong use, or a file that cannot be read.\n",
};
