#include "cli/audit_log.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 65536

struct audit_log {
    char *path;
    int fd;
    unsigned line;
    json_t *root; /* of the record that was handed out last */
    size_t start, end;
    bool skipping; /* the line in progress is too long: its rest is passed over */
    char bytes[LINE_MAX_BYTES + 1];
};

struct audit_log *audit_log_open(const char *path, struct error *err)
{
    struct audit_log *log = calloc(1, sizeof(*log));
    int fd = strcmp(path, "-") ? open(path, O_RDONLY | O_CLOEXEC) : dup(STDIN_FILENO);
    int code = errno;
    if (log && fd >= 0 && (log->path = strdup(strcmp(path, "-") ? path : "standard input"))) {
        log->fd = fd;
        return log;
    }
    error_errno(err, fd < 0 ? code : ENOMEM, "%s: cannot read it", path);
    if (fd >= 0)
        close(fd);
    free(log);
    return NULL;
}

void audit_log_close(struct audit_log *log)
{
    if (!log)
        return;
    json_decref(log->root);
    close(log->fd);
    free(log->path);
    free(log);
}

int audit_log_fd(const struct audit_log *log)
{
    return log->fd;
}

void audit_log_rewind_if_truncated(struct audit_log *log)
{
    struct stat st;
    off_t at = lseek(log->fd, 0, SEEK_CUR);
    if (at < 0 || fstat(log->fd, &st) < 0 || st.st_size >= at)
        return;
    lseek(log->fd, 0, SEEK_SET);
    log->start = log->end = 0;
    log->skipping = false;
    log->line = 0;
}

/* ---- one line ---- */

static const char *text_at(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static uint64_t number_at(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

static void read_places(const json_t *root, struct audit_record *r)
{
    const json_t *container = json_object_get(root, "container"), *source = json_object_get(root, "source"),
                 *destination = json_object_get(root, "destination");
    uint64_t port = number_at(destination, "port");
    r->container_id = text_at(container, "id");
    r->container_name = text_at(container, "name");
    r->bytes_sent = number_at(source, "bytes");
    r->domain = text_at(destination, "domain");
    r->ip = text_at(destination, "ip");
    r->port = port <= UINT16_MAX ? (unsigned)port : 0;
    r->bytes_received = number_at(destination, "bytes");
    r->nat_ip = text_at(json_object_get(destination, "nat"), "ip");
}

static void read_words(const json_t *root, struct audit_record *r)
{
    const json_t *network = json_object_get(root, "network"), *rule = json_object_get(root, "rule"),
                 *own = json_object_get(root, "sallyport"),
                 *question = json_object_get(json_object_get(root, "dns"), "question");
    r->transport = text_at(network, "transport");
    r->protocol = text_at(network, "protocol");
    r->method = text_at(json_object_get(json_object_get(root, "http"), "request"), "method");
    r->dns_name = text_at(question, "name");
    r->dns_type = text_at(question, "type");
    r->rule = text_at(rule, "name");
    r->policy = text_at(rule, "ruleset");
    r->rule_origin = text_at(own, "rule_origin");
    r->binding = text_at(own, "binding");
    r->detail = text_at(own, "detail");
    r->close_by = text_at(own, "close_by");
    r->close_reason = text_at(own, "close_reason");
    r->would_deny = json_is_true(json_object_get(own, "would_deny"));
}

/* Times are compared and shown as texts. */
static bool is_time(const char *text)
{
    return strlen(text) < AUDIT_TIME_SIZE && strlen(text) >= 19 &&
           strspn(text, "0123456789-:.TZ") == strlen(text);
}

/* Of what was done to the gateway, not by a container. */
static bool is_change(const json_t *event)
{
    const char *category = json_string_value(json_array_get(json_object_get(event, "category"), 0));
    return category && !strcmp(category, "configuration");
}

/* NULL, or why it is no event. */
static const char *read_record(const json_t *root, struct audit_record *r)
{
    const json_t *event = json_object_get(root, "event");
    if (!json_is_object(root))
        return "a line has to be a JSON object";
    r->time = text_at(root, "@timestamp");
    r->action = text_at(event, "action");
    r->outcome = text_at(event, "outcome");
    r->reason = text_at(event, "reason");
    r->duration_ns = number_at(event, "duration");
    r->change = is_change(event);
    r->user = text_at(json_object_get(root, "user"), "id");
    if (!r->reason && r->change)
        r->reason = "";
    if (!r->time || !r->action || !r->outcome || !r->reason)
        return "no audit event: it has no @timestamp, event.action, event.outcome or event.reason";
    if (!is_time(r->time))
        return "no audit event: @timestamp is no time in UTC";
    r->allowed = !strcmp(r->outcome, "success");
    read_places(root, r);
    read_words(root, r);
    return NULL;
}

static int take_line(struct audit_log *log, const char *line, size_t length, struct audit_record *ret,
                     struct error *err)
{
    json_error_t why;
    struct audit_record record = {.line = line, .line_length = length};
    json_decref(log->root);
    log->root = json_loadb(line, length, JSON_REJECT_DUPLICATES, &why);
    if (!log->root)
        return error_set(err, EBADMSG, "%s:%u: not JSON at column %d", log->path, log->line, why.column);
    const char *wrong = read_record(log->root, &record);
    if (wrong)
        return error_set(err, EBADMSG, "%s:%u: %s", log->path, log->line, wrong);
    record.root = log->root;
    *ret = record;
    return 1;
}

/* ---- lines ---- */

/* More bytes behind what is there. 0 at the end of the file. */
static ssize_t fill(struct audit_log *log)
{
    ssize_t got;
    memmove(log->bytes, log->bytes + log->start, log->end - log->start);
    log->end -= log->start;
    log->start = 0;
    do
        got = read(log->fd, log->bytes + log->end, LINE_MAX_BYTES - log->end);
    while (got < 0 && errno == EINTR);
    if (got > 0)
        log->end += (size_t)got;
    return got < 0 ? -errno : got;
}

static bool is_blank(const char *line, size_t length)
{
    return strspn(line, " \t\r") >= length;
}

/* A whole line is at start: 1 and *ret_line; 0 when there is none yet; -EBADMSG when it is too long. */
static int next_line(struct audit_log *log, char **ret_line, size_t *ret_length, struct error *err)
{
    char *line = log->bytes + log->start, *newline = memchr(line, '\n', log->end - log->start);
    if (newline) {
        bool skipped = log->skipping;
        log->start = (size_t)(newline + 1 - log->bytes);
        log->line++;
        log->skipping = false;
        *newline = 0;
        *ret_line = line;
        *ret_length = skipped ? 0 : (size_t)(newline - line);
        return 1;
    }
    if (log->end - log->start < LINE_MAX_BYTES)
        return 0;
    bool first = !log->skipping;
    log->start = log->end;
    log->skipping = true;
    return first ? error_set(err, EBADMSG, "%s:%u: a line over 64 KiB is no audit event", log->path,
                             log->line + 1)
                 : 0;
}

int audit_log_next(struct audit_log *log, struct audit_record *ret, struct error *err)
{
    char *line = NULL;
    size_t length = 0;
    for (;;) {
        int found = next_line(log, &line, &length, err);
        if (found < 0)
            return found;
        if (found && is_blank(line, length))
            continue;
        if (found)
            return take_line(log, line, length, ret, err);
        ssize_t got = fill(log);
        if (got < 0)
            return error_errno(err, (int)-got, "%s: cannot read it", log->path);
        if (got == 0)
            return 0;
    }
}

int audit_log_finish(struct audit_log *log, struct audit_record *ret, struct error *err)
{
    char *line = log->bytes + log->start;
    size_t length = log->end - log->start;
    line[length] = 0;
    log->start = log->end;
    if (length == 0 || log->skipping || is_blank(line, length))
        return 0;
    log->line++;
    return take_line(log, line, length, ret, err);
}

/* ---- words ---- */

const char *audit_record_subject(const struct audit_record *r)
{
    const char *names[] = {r->dns_name, r->domain, r->ip};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (names[i] && names[i][0])
            return names[i];
    return "-";
}

const char *audit_record_target(const struct audit_record *r, char ret[AUDIT_TARGET_SIZE])
{
    const char *subject = audit_record_subject(r);
    if (r->dns_name)
        snprintf(ret, AUDIT_TARGET_SIZE, "%s %s", subject, r->dns_type ? r->dns_type : "");
    else if (r->port)
        snprintf(ret, AUDIT_TARGET_SIZE, strchr(subject, ':') ? "[%s]:%u" : "%s:%u", subject, r->port);
    else
        snprintf(ret, AUDIT_TARGET_SIZE, "%s", subject);
    return ret;
}

const char *audit_record_container(const struct audit_record *r)
{
    if (r->container_name && r->container_name[0])
        return r->container_name;
    return r->container_id && r->container_id[0] ? r->container_id : "-";
}

static void format_time(int64_t seconds, char ret[AUDIT_TIME_SIZE])
{
    struct tm tm;
    time_t t = (time_t)seconds;
    gmtime_r(&t, &tm);
    strftime(ret, AUDIT_TIME_SIZE, "%Y-%m-%dT%H:%M:%S.000000Z", &tm);
}

/* "90s", "10m", "2h", "1d" before `now`. */
static bool parse_ago(const char *text, int64_t now, char ret[AUDIT_TIME_SIZE])
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    char *end;
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 9 || strlen(text) != digits + 1)
        return false;
    int64_t count = strtoll(text, &end, 10);
    for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
        if (units[i].unit != *end)
            continue;
        format_time(now - count * units[i].seconds, ret);
        return true;
    }
    return false;
}

bool audit_time_parse(const char *text, int64_t now, char ret[AUDIT_TIME_SIZE])
{
    static const char *const forms[] = {"%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"};
    char head[20], whole[AUDIT_TIME_SIZE];
    size_t length = strcspn(text, ".Z"); /* fractions are compared as they are written */
    if (parse_ago(text, now, ret))
        return true;
    if (length >= sizeof(head))
        return false;
    snprintf(head, sizeof(head), "%.*s", (int)length, text);
    for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
        struct tm tm = {0};
        const char *end = strptime(head, forms[i], &tm), *rest = text + length;
        if (!end || *end)
            continue;
        size_t digits = *rest == '.' ? strspn(rest + 1, "0123456789") : 0;
        if ((*rest == '.' && (digits == 0 || digits > 9 || i != 2)) ||
            strcmp(rest + (*rest == '.') + digits, *rest ? "Z" : "") != 0)
            return false;
        format_time((int64_t)timegm(&tm), whole);
        snprintf(ret, AUDIT_TIME_SIZE, "%.19s.%.*s%.*sZ", whole, (int)(digits > 6 ? 6 : digits), rest + 1,
                 (int)(digits > 6 ? 0 : 6 - digits), "000000");
        return true;
    }
    return false;
}

void audit_print(FILE *to, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text, next = (unsigned char)text[1];
        bool c1 = c == 0xc2 && next >= 0x80 && next <= 0x9f;
        putc(c < 0x20 || c == 0x7f || c1 ? '?' : c, to);
        text += c1;
    }
}
