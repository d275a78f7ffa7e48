/*
 * One audit event as one line of JSON, with the names of the Elastic Common Schema 8.11 as nested objects.
 *
 * What a client sent goes in as bytes: json_bytes() escapes control characters and replaces what is not
 * UTF-8. Overlong texts are cut, and sallyport.truncated says so. A line has room for texts of 255 bytes
 * under any usual content; should escaping blow up so many of them that it has not, the event is written
 * again with all of them cut short, for a line that says less is better than a flow that is not recorded.
 *
 * Never written: paths, queries, header values other than Host. They are not in the event at all.
 */
#include "gateway/audit_internal.h"

#include "base/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ECS_VERSION "8.11.0"
#define CATEGORY_OF_CHANGES "configuration"
#define CUT 255 /* bytes of one text: every name fits */
#define CUT_SHORT \
    40 /* 20 texts of 40 bytes, each byte escaped as six, and 2 KiB of our own: below AUDIT_LINE_MAX */

struct line {
    struct json json;
    size_t cut;
    bool truncated;
};

static const struct {
    const char *denied, *allowed; /* event.action */
    const char *type[2];          /* event.type; where the second is NULL: "allowed" or "denied" */
} actions[] = {
    [AUDIT_FLOW_DECISION] = {"flow-denied", "flow-allowed", {"connection"}},
    [AUDIT_FLOW_END] = {"flow-ended", "flow-ended", {"connection", "end"}},
    [AUDIT_HTTP_REQUEST] = {"request-denied", "request-allowed", {"protocol"}},
    [AUDIT_DNS_DENIED] = {"dns-denied", "dns-allowed", {"protocol"}},
    [AUDIT_DNS_SUSPECTED] = {"dns-suspected", "dns-suspected", {"protocol", "info"}},
    [AUDIT_PACKET_DENIED] = {"packet-denied", "packet-allowed", {"connection"}},
};

/* event.action of what was done, and of what could not be; event.type. */
static const struct {
    const char *done, *failed, *type;
} changes[NOTE_KINDS] = {
    [NOTE_STARTED] = {"gateway-started", NULL, "info"},
    [NOTE_TOOK_OVER] = {"gateway-upgraded", NULL, "info"},
    [NOTE_STOPPED] = {"gateway-stopped", NULL, "info"},
    [NOTE_POLICY_LOADED] = {"policy-loaded", "policy-refused", "change"},
    [NOTE_ALLOW] = {"allow-added", NULL, "change"},
    [NOTE_ALLOW_REMOVED] = {"allow-removed", NULL, "change"},
    [NOTE_DENY] = {"deny-added", NULL, "change"},
    [NOTE_DENY_REMOVED] = {"deny-removed", NULL, "change"},
    [NOTE_SET] = {"policy-set", NULL, "change"},
    [NOTE_SET_REMOVED] = {"policy-unset", NULL, "change"},
    [NOTE_FORGET] = {"changes-forgotten", NULL, "change"},
    [NOTE_ENROLLED] = {"container-enrolled", NULL, "creation"},
    [NOTE_WITHDRAWN] = {"container-withdrawn", NULL, "deletion"},
    [NOTE_ENDED] = {"container-ended", NULL, "deletion"},
};

static const char *const closers[] = {
    [AUDIT_CLOSE_CLIENT] = "client",
    [AUDIT_CLOSE_ORIGIN] = "origin",
    [AUDIT_CLOSE_GATEWAY] = "gateway",
};

static void put_bytes(struct line *line, const char *key, const void *bytes, size_t length)
{
    if (!bytes || length == 0)
        return;
    if (length > line->cut) {
        line->truncated = true;
        length = line->cut;
    }
    json_bytes(&line->json, key, bytes, length);
}

static void put_text(struct line *line, const char *key, const char *text)
{
    if (text)
        put_bytes(line, key, text, strlen(text));
}

static void put_ip(struct line *line, const struct addr *a)
{
    char text[ADDR_TEXT_MAX];
    if (a->family)
        json_constant(&line->json, "ip", addr_format(a, text));
}

static void put_digits(char *to, int width, long value)
{
    for (; width--; value /= 10)
        to[width] = (char)('0' + value % 10);
}

/* RFC 3339 in UTC with microseconds. By hand, and the seconds only when they change: with strftime() and snprintf() an event costs
 * a tenth more. */
static void put_time(struct line *line, const char *key, const struct timespec *t)
{
    static _Thread_local struct {
        time_t second;
        char text[sizeof("0000-00-00T00:00:00.000000Z")];
    } last = {.text = "1970-01-01T00:00:00.000000Z"};
    if (t->tv_sec != last.second) {
        struct tm tm;
        if (!gmtime_r(&t->tv_sec, &tm))
            return;
        last.second = t->tv_sec;
        put_digits(last.text, 4, tm.tm_year + 1900);
        put_digits(last.text + 5, 2, tm.tm_mon + 1);
        put_digits(last.text + 8, 2, tm.tm_mday);
        put_digits(last.text + 11, 2, tm.tm_hour);
        put_digits(last.text + 14, 2, tm.tm_min);
        put_digits(last.text + 17, 2, tm.tm_sec);
    }
    put_digits(last.text + 20, 6, t->tv_nsec / 1000);
    json_constant(&line->json, key, last.text);
}

static void put_event(struct line *line, const struct audit_event *event, uint64_t sequence)
{
    struct json *j = &line->json;
    json_object(j, "event");
    json_members(j, "\"kind\":\"event\",\"category\":[\"network\"]");
    const char *second_type = actions[event->action].type[1];
    if (!second_type)
        second_type = event->allowed ? "allowed" : "denied";
    json_array(j, "type");
    json_constant(j, NULL, actions[event->action].type[0]);
    json_constant(j, NULL, second_type);
    json_array_end(j);
    json_constant(j, "action", event->allowed ? actions[event->action].allowed : actions[event->action].denied);
    json_constant(j, "outcome", event->allowed ? "success" : "failure");
    if (event->action != AUDIT_FLOW_END || event->allowed) /* a client may leave before anything was decided */
        json_constant(j, "reason", acl_reason_name(event->reason));
    put_text(line, "id", event->flow_id);
    json_unsigned(j, "sequence", sequence);
    if (event->start.tv_sec)
        put_time(line, "start", &event->start);
    if (event->action == AUDIT_FLOW_END)
        json_unsigned(j, "duration", event->duration_ns);
    json_object_end(j);
}

/* No flow, nobody's address: who did it. */
static void put_change(struct line *line, const struct audit_event *event, uint64_t sequence)
{
    struct json *j = &line->json;
    const char *failed = changes[event->change].failed;
    char user[16];
    json_object(j, "event");
    json_constant(j, "kind", "event");
    json_array(j, "category");
    json_constant(j, NULL, CATEGORY_OF_CHANGES);
    json_array_end(j);
    json_array(j, "type");
    json_constant(j, NULL, changes[event->change].type);
    json_array_end(j);
    json_constant(j, "action", event->allowed || !failed ? changes[event->change].done : failed);
    json_constant(j, "outcome", event->allowed ? "success" : "failure");
    json_unsigned(j, "sequence", sequence);
    json_object_end(j);
    if (event->user == NOTE_NOBODY)
        return;
    snprintf(user, sizeof(user), "%u", event->user);
    json_object(j, "user");
    json_string(j, "id", user);
    json_object_end(j);
}

static void put_source(struct line *line, const struct audit_event *event)
{
    struct json *j = &line->json;
    json_object(j, "source");
    put_ip(line, &event->source);
    if (event->source.port)
        json_unsigned(j, "port", event->source.port);
    if (event->action == AUDIT_FLOW_END)
        json_unsigned(j, "bytes", event->bytes_sent);
    json_object_end(j);
}

static void put_destination(struct line *line, const struct audit_event *event)
{
    struct json *j = &line->json;
    json_object(j, "destination");
    put_ip(line, &event->destination);
    if (event->destination.port)
        json_unsigned(j, "port", event->destination.port);
    put_bytes(line, "domain", event->domain, event->domain_length);
    if (event->action == AUDIT_FLOW_END)
        json_unsigned(j, "bytes", event->bytes_received);
    if (event->nat.family) {
        json_object(j, "nat");
        put_ip(line, &event->nat);
        json_object_end(j);
    }
    json_object_end(j);
}

static void put_network(struct line *line, const struct audit_event *event)
{
    struct json *j = &line->json;
    json_object(j, "network");
    put_text(line, "name", event->network_name);
    put_text(line, "transport", event->transport);
    put_text(line, "protocol", event->protocol);
    if (event->inbound)
        json_constant(j, "direction", "ingress");
    else
        json_constant(j, "direction", "egress");
    json_object_end(j);
}

static void put_tls(struct line *line, const struct audit_event *event)
{
    struct json *j = &line->json;
    if (!event->tls)
        return;
    json_object(j, "tls");
    if (event->domain_length) {
        json_object(j, "client");
        put_bytes(line, "server_name", event->domain, event->domain_length);
        json_object_end(j);
    }
    put_text(line, "next_protocol", event->alpn);
    if (event->certificate_end) {
        json_object(j, "server");
        put_text(line, "issuer", event->certificate_issuer);
        put_time(line, "not_after", &(struct timespec){.tv_sec = event->certificate_end});
        json_object_end(j);
    }
    json_object_end(j);
}

static void put_http(struct line *line, const struct audit_event *event)
{
    struct json *j = &line->json;
    if (!event->http_method || !event->http_method[0])
        return;
    json_object(j, "http");
    json_object(j, "request");
    put_text(line, "method", event->http_method);
    json_object_end(j);
    json_object_end(j);
}

static void put_dns(struct line *line, const struct audit_event *event)
{
    struct json *j = &line->json;
    if (!event->dns_name_length && !event->dns_type)
        return;
    json_object(j, "dns");
    json_object(j, "question");
    put_bytes(line, "name", event->dns_name, event->dns_name_length);
    put_text(line, "type", event->dns_type);
    json_object_end(j);
    json_object_end(j);
}

static void put_rule(struct line *line, const struct audit_event *event)
{
    struct json *j = &line->json;
    bool has_rule = event->verdict && event->verdict->has_rule;
    if (!event->policy && !event->policy_version && !has_rule)
        return;
    json_object(j, "rule");
    put_text(line, "ruleset", event->policy);
    put_text(line, "name", event->rule);
    if (has_rule)
        put_text(line, "name", event->verdict->rule.text);
    put_text(line, "version", event->policy_version);
    json_object_end(j);
}

static void put_container(struct line *line, const struct audit_event *event)
{
    if (!event->container_id && !event->container_name)
        return;
    json_object(&line->json, "container");
    put_text(line, "id", event->container_id);
    put_text(line, "name", event->container_name);
    if (event->container_image) {
        json_object(&line->json, "image");
        put_text(line, "name", event->container_image);
        json_object_end(&line->json);
    }
    json_object_end(&line->json);
}

static void put_orchestrator(struct line *line, const struct audit_event *event)
{
    struct json *j = &line->json;
    if (!event->pod && !event->pod_namespace)
        return;
    json_object(j, "orchestrator");
    json_string(j, "type", "kubernetes");
    put_text(line, "namespace", event->pod_namespace);
    if (event->pod) {
        json_object(j, "resource");
        json_string(j, "type", "pod");
        put_text(line, "name", event->pod);
        json_object_end(j);
    }
    json_object_end(j);
}

static void put_rule_origin(struct line *line, const struct audit_event *event)
{
    char text[CUT + 16], digits[12], *first = digits + sizeof(digits);
    if (!event->verdict || !event->verdict->has_rule || !event->verdict->rule.origin.file)
        return;
    const struct acl_origin *origin = &event->verdict->rule.origin;
    if (!origin->line) {
        put_text(line, "rule_origin", origin->file);
        return;
    }
    size_t length = strnlen(origin->file, CUT);
    unsigned number = origin->line;
    do
        *--first = (char)('0' + number % 10);
    while (number /= 10);
    *--first = ':';
    memcpy(text, origin->file, length);
    memcpy(text + length, first, (size_t)(digits + sizeof(digits) - first));
    put_bytes(line, "rule_origin", text, length + (size_t)(digits + sizeof(digits) - first));
}

static void put_own(struct line *line, const struct audit_event *event, uint64_t dropped_before)
{
    struct json *j = &line->json;
    json_object(j, "sallyport");
    if (event->would_deny)
        json_bool(j, "would_deny", true);
    if (event->tls)
        json_bool(j, "ech_offered", event->ech_offered);
    put_text(line, "binding", event->binding);
    put_text(line, "certificate", event->certificate);
    put_rule_origin(line, event);
    put_text(line, "detail", event->detail);
    if (event->close_by != AUDIT_CLOSE_NONE)
        json_constant(j, "close_by", closers[event->close_by]);
    put_text(line, "close_reason", event->close_reason);
    if (event->left_out)
        json_unsigned(j, "left_out", event->left_out);
    if (dropped_before)
        json_unsigned(j, "dropped_before", dropped_before);
    if (event->worker)
        json_unsigned(j, "worker", event->worker);
    if (line->truncated) /* last: it is about everything before it */
        json_bool(j, "truncated", true);
    json_object_end(j);
}

static void put_flow(struct line *line, const struct audit_event *event, uint64_t sequence)
{
    put_event(line, event, sequence);
    put_source(line, event);
    put_destination(line, event);
    put_network(line, event);
    put_tls(line, event);
    put_http(line, event);
    put_dns(line, event);
}

static ssize_t put_line(struct line *line, const struct audit_event *event, uint64_t sequence,
                        uint64_t dropped_before, const struct timespec *now)
{
    struct json *j = &line->json;
    json_object(j, NULL);
    put_time(line, "@timestamp", now);
    json_members(j, "\"ecs\":{\"version\":\"" ECS_VERSION "\"}");
    if (event->action == AUDIT_CHANGE)
        put_change(line, event, sequence);
    else
        put_flow(line, event, sequence);
    put_rule(line, event);
    put_container(line, event);
    put_orchestrator(line, event);
    json_members(j, "\"observer\":{\"name\":\"sallyport\",\"version\":\"" SALLYPORT_VERSION "\"}");
    put_own(line, event, dropped_before);
    json_object_end(j);
    return json_end(j);
}

ssize_t audit_format_line(const struct audit_event *event, uint64_t sequence, uint64_t dropped_before,
                          const struct timespec *now, char *ret, size_t size)
{
    static const size_t cuts[] = {CUT, CUT_SHORT};
    ssize_t length = -ENOSPC;
    for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts) && length < 0; i++) {
        struct line line = {.cut = cuts[i]};
        json_begin(&line.json, ret, size);
        length = put_line(&line, event, sequence, dropped_before, now);
    }
    return length;
}

ssize_t audit_format(const struct audit_event *event, uint64_t sequence, struct timespec now, char *ret,
                     size_t size)
{
    return audit_format_line(event, sequence, 0, &now, ret, size);
}
