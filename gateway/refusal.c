#include "gateway/refusal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
    ALERT_ACCESS_DENIED = 49,
    ALERT_DECODE_ERROR = 50,
    ALERT_INTERNAL_ERROR = 80,
    ALERT_UNRECOGNIZED_NAME = 112
};

static uint8_t alert_for(enum acl_reason reason)
{
    switch (reason) {
    case ACL_NO_SNI:
        return ALERT_UNRECOGNIZED_NAME;
    case ACL_MALFORMED_CLIENT_HELLO:
    case ACL_NOT_TLS:
    case ACL_HELLO_TOO_LARGE:
        return ALERT_DECODE_ERROR;
    case ACL_DNS_FAILED:
    case ACL_CONNECT_FAILED:
    case ACL_AUDIT_UNAVAILABLE:
        return ALERT_INTERNAL_ERROR;
    default:
        return ALERT_ACCESS_DENIED;
    }
}

void refusal_alert(enum acl_reason reason, uint8_t ret[REFUSAL_ALERT_SIZE])
{
    /* content type alert, legacy version 3.3, length 2, level fatal, description */
    const uint8_t record[REFUSAL_ALERT_SIZE] = {21, 3, 3, 0, 2, 2, alert_for(reason)};
    memcpy(ret, record, sizeof(record));
}

static const char *status_for(enum acl_reason reason)
{
    switch (reason) {
    case ACL_MALFORMED_HTTP:
    case ACL_HOST_MISSING:
    case ACL_HOST_AMBIGUOUS:
        return "400 Bad Request";
    case ACL_NOT_TLS:
        return "400 Bad Request";
    case ACL_HELLO_TIMEOUT:
        return "408 Request Timeout";
    case ACL_HELLO_TOO_LARGE:
        return "431 Request Header Fields Too Large";
    case ACL_DNS_FAILED:
    case ACL_CONNECT_FAILED:
        return "502 Bad Gateway";
    case ACL_AUDIT_UNAVAILABLE:
    case ACL_LIMIT_CONNECTIONS:
    case ACL_LIMIT_RATE:
        return "503 Service Unavailable";
    default:
        return "403 Forbidden";
    }
}

/* What would have to be written for this to pass. */
static void advice(const struct refusal *r, char *ret, size_t size)
{
    const struct acl_verdict *v = r->verdict;
    char line[16] = "";
    if (v && v->has_rule && v->rule.origin.line)
        snprintf(line, sizeof(line), ":%u", v->rule.origin.line);
    if (r->reason == ACL_RULE_DENY && v && v->has_rule)
        snprintf(ret, size, "It is denied by the rule \"%s\" (%s%s); deny beats allow, so that rule has to go.\n", v->rule.text,
                 v->rule.origin.file, line);
    else if (r->reason == ACL_NO_RULE && r->name[0] && r->port == 80)
        snprintf(ret, size, "No rule allows it. The rule needed:  allow: [%s]\n", r->name);
    else if (r->reason == ACL_NO_RULE && r->name[0])
        snprintf(ret, size, "No rule allows it. The rule needed:  allow: [\"http://%s:%u\"]\n", r->name,
                 r->port);
    else if ((r->reason == ACL_METHOD_DENIED || r->reason == ACL_PATH_DENIED) && r->name[0])
        snprintf(ret, size,
                 "Rules may allow other requests to it. A rule for this one:  allow: [\"METHOD "
                 "http://%s:%u/PATH\"]\n",
                 r->name, r->port);
    else if (r->reason == ACL_NOT_TLS)
        snprintf(ret, size, "Port %u expects TLS; use https://.\n", r->port);
    else if (r->reason == ACL_DESTINATION_GUARDED)
        snprintf(
            ret, size,
            "Its address is private or guarded; only a network named under destinations: allow opens it.\n");
    else
        ret[0] = 0;
}

ssize_t refusal_http(const struct refusal *r, bool head, char *ret, size_t size)
{
    char body[1536], what[ACL_NAME_MAX + 64], hint[768];
    if (r->name[0] && r->port != 80)
        snprintf(what, sizeof(what), "http://%s:%u", r->name, r->port);
    else if (r->name[0])
        snprintf(what, sizeof(what), "http://%s", r->name);
    else
        snprintf(what, sizeof(what), "this request");
    advice(r, hint, sizeof(hint));
    int body_length =
        snprintf(body, sizeof(body), "sallyport refused %s\nreason: %s%s%s%s\npolicy: %s\n%s", what,
                 acl_reason_name(r->reason), r->detail ? " (" : "", r->detail ? r->detail : "",
                 r->detail ? ")" : "", acl_policy_name(r->policy), hint);
    if (body_length < 0 || (size_t)body_length >= sizeof(body))
        body_length = (int)strlen(body);
    int length = snprintf(ret, size,
                          "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"
                          "Cache-Control: no-store\r\nConnection: close\r\nVia: 1.1 sallyport\r\n"
                          "Sallyport-Reason: %s\r\n\r\n%s",
                          status_for(r->reason), body_length, acl_reason_name(r->reason), head ? "" : body);
    return length < 0 || (size_t)length >= size ? -ENOSPC : length;
}
