/*
 * Reading audit logs: JSON Lines as gateway/audit_format.c writes them, for `sallyport log` and `policy
 * suggest`.
 *
 * What is in a log came from clients, and maybe from whoever can write the file: a line that is no audit
 * event is told with its place and passed over, never trusted. A line is at most 64 KiB. The last line of a
 * file that is being written may be incomplete: it stays in the reader until its rest is there.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define AUDIT_LOG_DEFAULT "/var/log/sallyport/audit.jsonl"

struct json_t;

/* Texts are NULL, and numbers 0, where the event does not say. They may hold anything but NUL. */
struct audit_record {
    struct json_t *root; /* jansson: for fields that are not below */
    const char *line;    /* as written, without the newline */
    size_t line_length;
    const char *time, *action, *outcome, *reason;
    bool allowed;    /* event.outcome is success */
    bool would_deny; /* sallyport.would_deny */
    bool change;     /* of the gateway, by order of `user` (a uid): no flow of anybody; `reason` is "" */
    const char *user;
    const char *container_id, *container_name;
    const char *domain, *ip, *nat_ip, *transport, *protocol;
    unsigned port;
    const char *dns_name, *dns_type, *method;
    const char *rule, *rule_origin, *policy, *binding, *detail, *close_by, *close_reason;
    uint64_t bytes_sent, bytes_received, duration_ns;
};

struct audit_log;

/* "-" is standard input. NULL with a reason. */
struct audit_log *audit_log_open(const char *path, struct error *err);
void audit_log_close(struct audit_log *log); /* accepts NULL */
/* The next event: 1, and `ret` is good until the next call; 0 when there are no more whole lines now;
 * -EBADMSG for a line that is no audit event, and -errno when the file cannot be read, with "FILE:LINE: why"
 * in err. */
int audit_log_next(struct audit_log *log, struct audit_record *ret, struct error *err);
/* The file has ended: what is left without a newline is a line too. As audit_log_next(). */
int audit_log_finish(struct audit_log *log, struct audit_record *ret, struct error *err);
int audit_log_fd(const struct audit_log *log);
/* The file is shorter than what was read of it: begins anew. */
void audit_log_rewind_if_truncated(struct audit_log *log);

/* The name or address that an event is about, and its port (0: none); never NULL. */
const char *audit_record_subject(const struct audit_record *record);
/* The same with its port, or the type of a DNS question: "api.example.com:443", "[2001:db8::1]:22",
 * "example.com AAAA". */
#define AUDIT_TARGET_SIZE 512
const char *audit_record_target(const struct audit_record *record, char ret[AUDIT_TARGET_SIZE]);
/* What stands for the container: its name, else its id, else "-". */
const char *audit_record_container(const struct audit_record *record);

/* A time as people write it ("2026-11-22", "2026-11-22T04:00", RFC 3339 in UTC, "90s", "10m", "2h", "1d"
 * ago), in the form of an event's, so that they can be compared as texts. False when it is none. */
#define AUDIT_TIME_SIZE 32
bool audit_time_parse(const char *text, int64_t now, char ret[AUDIT_TIME_SIZE]);

/* Prints text from a log: what a terminal might obey comes out as "?". */
void audit_print(FILE *to, const char *text);
