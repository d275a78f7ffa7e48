/*
 * Judging HTTP/1 requests, one head at a time.
 *
 * Two readers must agree about every head. The first is the scanner here: it looks at the raw bytes, line by
 * line as they arrive, and takes only what RFC 9110 and 9112 leave no choice about: CRLF ends every line, one
 * SP separates the three parts of the request line, a field name is a token with its colon right behind, no
 * control bytes, no folding, one length of one kind. The second is llhttp without lenient flags, run over the
 * finished head: method, framing and body length as it saw them must be the same. llhttp alone would not do:
 * built without strict mode it takes bare LF in places, skips empty lines in front of a request, and knows
 * nothing of Host.
 *
 * The body needs no second reader: a length is counted down, chunks are walked by http_chunked.
 *
 * Work is linear also when bytes come singly: `scanned` remembers how far the head in progress was looked at,
 * and what its lines said is kept as offsets, for the caller shows the same bytes again.
 *
 * States: HEAD → (LENGTH | CHUNKED) → END_DUE → HEAD, or WAIT behind an upgrade until it is refused; BAD ends
 * all.
 */
#include "gateway/http_gate.h"

#include "base/addr.h"
#include "gateway/http_bytes.h"
#include "gateway/http_chunked.h"

#include <llhttp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum state { HEAD, LENGTH, CHUNKED, END_DUE, WAIT, BAD };

struct span {
    const char *at;
    size_t length;
};

/* What the lines of the head in progress said. Offsets count from the head's first byte. */
struct head {
    uint32_t scanned;    /* bytes looked at */
    uint32_t line_start; /* of the line in progress */
    uint32_t host_at, host_length;
    uint32_t target_at, target_length; /* the authority of an absolute-form target; length 0: origin-form */
    uint64_t body_length;
    bool in_fields; /* the request line was read */
    bool complete;
    bool http_1_0, absolute;
    bool host_seen, host_again;
    bool length_seen, chunked;
    bool close, persist, http2;
};

struct http_gate {
    struct http_request request;
    struct head head;
    union {
        uint64_t left; /* LENGTH */
        struct http_chunked chunked;
    } body;
    const char *detail;
    enum acl_reason reason;
    uint16_t dialled_port;
    enum state state;
};

static bool refuse(struct http_gate *gate, enum acl_reason reason, const char *detail)
{
    gate->state = BAD;
    gate->reason = reason;
    gate->detail = detail;
    return false;
}

static bool malformed(struct http_gate *gate, const char *detail)
{
    return refuse(gate, ACL_MALFORMED_HTTP, detail);
}

static bool span_is(struct span s, const char *word)
{
    return s.length == strlen(word) && strncasecmp(s.at, word, s.length) == 0;
}

static bool span_begins(struct span s, const char *word)
{
    return s.length >= strlen(word) && strncasecmp(s.at, word, strlen(word)) == 0;
}

static struct span span_trim(struct span s)
{
    while (s.length && (s.at[0] == ' ' || s.at[0] == '\t'))
        s.at++, s.length--;
    while (s.length && (s.at[s.length - 1] == ' ' || s.at[s.length - 1] == '\t'))
        s.length--;
    return s;
}

/* Up to `byte`, or all of it; `rest` begins behind that byte (at = NULL: there was none). */
static struct span span_split(struct span s, char byte, struct span *rest)
{
    const char *found = s.length ? memchr(s.at, byte, s.length) : NULL;
    *rest = (struct span){0};
    if (!found)
        return s;
    *rest = (struct span){found + 1, s.length - (size_t)(found + 1 - s.at)};
    return (struct span){s.at, (size_t)(found - s.at)};
}

/* Calls `each` for every element of a comma-separated list. */
static void span_each(struct http_gate *gate, struct span list, void (*each)(struct http_gate *, struct span))
{
    while (list.at)
        each(gate, span_trim(span_split(list, ',', &list)));
}

/* ---- request line ---- */

static bool target_has_odd_bytes(struct span target)
{
    for (size_t i = 0; i < target.length; i++)
        if ((uint8_t)target.at[i] <= ' ' || target.at[i] == '#')
            return true;
    return false;
}

static bool absolute_target(struct http_gate *gate, struct span target, uint32_t at)
{
    struct span rest;
    if (span_begins(target, "https://"))
        return malformed(gate, "an https:// target on a connection without TLS");
    if (!span_begins(target, "http://"))
        return malformed(gate, "the request target is neither a path nor an http:// URL");
    size_t scheme = strlen("http://");
    target = span_split((struct span){target.at + scheme, target.length - scheme}, '/', &rest);
    gate->head.absolute = true;
    gate->head.target_at = at + (uint32_t)scheme;
    gate->head.target_length = (uint32_t)target.length;
    gate->request.target_at = gate->head.target_at + gate->head.target_length;
    gate->request.target_length = rest.at ? (uint32_t)rest.length + 1 : 0;
    return true;
}

static bool judge_target(struct http_gate *gate, struct span target, uint32_t at)
{
    if (target.length == 0 || target_has_odd_bytes(target))
        return malformed(gate, "the request target is empty or has bytes that no target has");
    gate->request.target_at = at;
    gate->request.target_length = (uint32_t)target.length;
    if (target.at[0] == '/')
        return true;
    if (span_is(target, "*")) {
        if (strcmp(gate->request.method, "OPTIONS") != 0)
            return malformed(gate, "the target * with a method other than OPTIONS");
        return true;
    }
    return absolute_target(gate, target, at);
}

static bool judge_method(struct http_gate *gate, struct span method)
{
    if (method.length == 0)
        return malformed(gate, "the request line does not begin with a method");
    for (size_t i = 0; i < method.length; i++)
        if (!http_is_token((uint8_t)method.at[i]))
            return malformed(gate, "the method is not a token");
    if (method.length >= sizeof(gate->request.method))
        return refuse(gate, ACL_METHOD_DENIED, "unknown method");
    memcpy(gate->request.method, method.at, method.length);
    gate->request.method[method.length] = 0;
    gate->request.is_head = strcmp(gate->request.method, "HEAD") == 0;
    return true;
}

static bool judge_version(struct http_gate *gate, struct span version)
{
    if (!version.at)
        return malformed(gate, "a request line without a version (HTTP/0.9)");
    if (version.length != 8 || memcmp(version.at, "HTTP/1.", 7) != 0 ||
        (version.at[7] != '0' && version.at[7] != '1'))
        return malformed(gate, "the version is neither HTTP/1.1 nor HTTP/1.0");
    gate->head.http_1_0 = version.at[7] == '0';
    return true;
}

static bool request_line(struct http_gate *gate, struct span line)
{
    struct span target, version;
    if (line.length == 0)
        return malformed(gate, "an empty line in front of the request");
    if (line.length == 14 && memcmp(line.at, "PRI * HTTP/2.0", 14) == 0)
        return refuse(gate, ACL_HTTP2_CLEARTEXT, "the HTTP/2 connection preface");
    struct span method = span_split(line, ' ', &target);
    if (!judge_method(gate, method))
        return false;
    if (!target.at)
        return malformed(gate, "the request line has no target");
    target = span_split(target, ' ', &version);
    if (!judge_version(gate, version))
        return false;
    if (strcmp(gate->request.method, "CONNECT") == 0)
        return refuse(gate, ACL_METHOD_DENIED, "CONNECT: this is no forward proxy");
    return judge_target(gate, target, (uint32_t)(target.at - line.at));
}

/* ---- fields ---- */

static bool field_host(struct http_gate *gate, struct span value, uint32_t at)
{
    gate->head.host_again = gate->head.host_seen;
    if (!gate->head.host_seen) {
        gate->head.host_at = at;
        gate->head.host_length = (uint32_t)value.length;
    }
    gate->head.host_seen = true;
    return true;
}

static bool field_content_length(struct http_gate *gate, struct span value, uint32_t at)
{
    (void)at;
    if (gate->head.length_seen)
        return malformed(gate, "more than one Content-Length");
    if (value.length == 0 || value.length > 18)
        return malformed(gate, "Content-Length is not a number");
    for (size_t i = 0; i < value.length; i++) {
        if (value.at[i] < '0' || value.at[i] > '9')
            return malformed(gate, "Content-Length is not a number");
        gate->head.body_length = gate->head.body_length * 10 + (unsigned)(value.at[i] - '0');
    }
    gate->head.length_seen = true;
    return true;
}

static bool field_transfer_encoding(struct http_gate *gate, struct span value, uint32_t at)
{
    (void)at;
    if (gate->head.chunked || !span_is(value, "chunked"))
        return malformed(gate, "Transfer-Encoding is something else than one \"chunked\"");
    if (gate->head.http_1_0)
        return malformed(gate, "Transfer-Encoding in an HTTP/1.0 request");
    gate->head.chunked = true;
    return true;
}

static void connection_option(struct http_gate *gate, struct span option)
{
    gate->head.close |= span_is(option, "close");
    gate->head.persist |= span_is(option, "keep-alive");
}

static bool field_connection(struct http_gate *gate, struct span value, uint32_t at)
{
    (void)at;
    span_each(gate, value, connection_option);
    return true;
}

/* A server may act on Upgrade although Connection does not name it, so its presence alone counts. */
static void upgrade_protocol(struct http_gate *gate, struct span protocol)
{
    struct span version, name = span_split(protocol, '/', &version);
    gate->head.http2 |= span_is(name, "h2c") || span_is(name, "h2") || span_is(name, "http");
    gate->request.upgrade = true;
}

static bool field_upgrade(struct http_gate *gate, struct span value, uint32_t at)
{
    (void)at;
    span_each(gate, value, upgrade_protocol);
    return true;
}

static bool field_http2_settings(struct http_gate *gate, struct span value, uint32_t at)
{
    (void)value, (void)at;
    gate->head.http2 = true;
    return true;
}

static bool field_expect(struct http_gate *gate, struct span value, uint32_t at)
{
    (void)at;
    gate->request.expect_continue |= span_is(value, "100-continue");
    return true;
}

static const struct {
    const char *name;
    bool (*judge)(struct http_gate *gate, struct span value, uint32_t at);
} fields[] = {
    {"host", field_host},
    {"content-length", field_content_length},
    {"transfer-encoding", field_transfer_encoding},
    {"connection", field_connection},
    {"upgrade", field_upgrade},
    {"http2-settings", field_http2_settings},
    {"expect", field_expect},
};

static bool field_line(struct http_gate *gate, struct span line, uint32_t line_at)
{
    struct span value;
    struct span name = span_split(line, ':', &value);
    if (line.at[0] == ' ' || line.at[0] == '\t')
        return malformed(gate, "a folded header line");
    if (!value.at || name.length == 0)
        return malformed(gate, "a header line without a name and a colon");
    for (size_t i = 0; i < name.length; i++)
        if (!http_is_token((uint8_t)name.at[i]))
            return malformed(gate, "a header name is not a token, or a space stands before its colon");
    value = span_trim(value);
    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
        if (span_is(name, fields[i].name))
            return fields[i].judge(gate, value, line_at + (uint32_t)(value.at - line.at));
    return true;
}

/* ---- the finished head ---- */

struct opinion {
    unsigned heads;
    uint64_t length;
    bool chunked;
};

static int on_headers_complete(llhttp_t *parser)
{
    struct opinion *opinion = parser->data;
    opinion->heads++;
    opinion->chunked = parser->flags & F_CHUNKED;
    opinion->length = parser->content_length;
    return 0;
}

/* llhttp must read the same head: all of it, and the same body behind it. */
static bool second_opinion(struct http_gate *gate, const uint8_t *bytes, size_t length)
{
    static const llhttp_settings_t settings = {.on_headers_complete = on_headers_complete};
    struct opinion opinion = {0};
    llhttp_t parser;
    llhttp_init(&parser, HTTP_REQUEST, &settings);
    parser.data = &opinion;
    llhttp_errno_t result = llhttp_execute(&parser, (const char *)bytes, length);
    if (result == HPE_INVALID_METHOD)
        return refuse(gate, ACL_METHOD_DENIED, "unknown method");
    if ((result != HPE_OK && result != HPE_PAUSED_UPGRADE) || opinion.heads != 1)
        return malformed(gate, "llhttp does not take the head");
    if (strcmp(llhttp_method_name(llhttp_get_method(&parser)), gate->request.method) != 0 ||
        opinion.chunked != gate->head.chunked ||
        (!opinion.chunked && opinion.length != gate->head.body_length))
        return malformed(gate, "the head can be read in two ways");
    return true;
}

static bool refuse_name(struct http_gate *gate, enum acl_name_kind kind)
{
    if (kind == ACL_NAME_IP_LITERAL)
        return refuse(gate, ACL_IP_LITERAL, "the host is an address, not a name");
    if (kind == ACL_NAME_BAD_BYTE)
        return refuse(gate, ACL_HOST_AMBIGUOUS, "the host has bytes that no name has");
    return refuse(gate, ACL_HOST_AMBIGUOUS, "the host is not a valid name");
}

/* name [":" port]. The name comes out in normal form; the port is 0 when none is written. */
static bool judge_authority(struct http_gate *gate, struct span text, char name[ACL_NAME_MAX + 1],
                            size_t *ret_length, uint16_t *ret_port)
{
    struct addr literal;
    struct span port, host = span_split(text, ':', &port);
    *ret_port = 0;
    if (text.length && (text.at[0] == '[' || addr_parse(text.at, text.length, &literal)))
        return refuse_name(gate, ACL_NAME_IP_LITERAL);
    if (port.at && !addr_parse_port(port.at, port.length, ret_port))
        return refuse(gate, ACL_HOST_AMBIGUOUS, "what follows the host's colon is not a port");
    enum acl_name_kind kind = acl_name_normalise(host.at, host.length, name, ret_length);
    return kind == ACL_NAME_OK || refuse_name(gate, kind);
}

static bool judge_port(struct http_gate *gate, uint16_t port)
{
    if (port && port != gate->dialled_port)
        return refuse(gate, ACL_HOST_MISMATCH, "the port in Host or target is not the port that was dialled");
    if (port)
        gate->request.port = port;
    return true;
}

static bool judge_host(struct http_gate *gate, const uint8_t *bytes)
{
    struct span host = {(const char *)bytes + gate->head.host_at, gate->head.host_length};
    size_t length;
    uint16_t port;
    if (gate->head.host_again)
        return refuse(gate, ACL_HOST_AMBIGUOUS, "more than one Host");
    if (!gate->head.host_seen || host.length == 0)
        return refuse(gate, ACL_HOST_MISSING, "no Host, or an empty one");
    if (!judge_authority(gate, host, gate->request.host, &length, &port))
        return false;
    gate->request.host_length = (uint8_t)length;
    return judge_port(gate, port);
}

static bool judge_agreement(struct http_gate *gate, const uint8_t *bytes)
{
    struct span authority = {(const char *)bytes + gate->head.target_at, gate->head.target_length};
    char name[ACL_NAME_MAX + 1];
    size_t length;
    uint16_t port;
    if (!gate->head.absolute)
        return true;
    if (!judge_authority(gate, authority, name, &length, &port))
        return false;
    if (strcmp(name, gate->request.host) != 0)
        return refuse(gate, ACL_HOST_MISMATCH, "Host and the request target name different hosts");
    return judge_port(gate, port);
}

static bool judge_head(struct http_gate *gate, const uint8_t *bytes, size_t length)
{
    if (gate->head.chunked && gate->head.length_seen)
        return malformed(gate, "both Content-Length and Transfer-Encoding");
    if (gate->head.http2)
        return refuse(gate, ACL_HTTP2_CLEARTEXT, "an upgrade to HTTP/2");
    if (!judge_host(gate, bytes) || !judge_agreement(gate, bytes) || !second_opinion(gate, bytes, length))
        return false;
    gate->request.keep_alive = !gate->head.close && (!gate->head.http_1_0 || gate->head.persist);
    gate->head.complete = true;
    return true;
}

/* ---- lines ---- */

static bool refuse_byte(struct http_gate *gate, uint8_t byte)
{
    if (byte == '\n')
        return malformed(gate, "a line feed without a carriage return");
    if (byte == '\r')
        return malformed(gate, "a carriage return without a line feed");
    return malformed(gate, "a control byte in the head");
}

/* The next whole line, without its CRLF, when there is one. Remembers how far it looked; may refuse. */
static bool next_line(struct http_gate *gate, const uint8_t *bytes, size_t length, struct span *ret_line)
{
    size_t at = gate->head.scanned;
    while (at < length && http_is_text(bytes[at]))
        at++;
    gate->head.scanned = (uint32_t)at;
    if (at == length || (bytes[at] == '\r' && at + 1 == length))
        return false;
    if (bytes[at] != '\r' || bytes[at + 1] != '\n')
        return refuse_byte(gate, bytes[at]);
    *ret_line = (struct span){(const char *)bytes + gate->head.line_start, at - gate->head.line_start};
    gate->head.scanned = (uint32_t)at + 2;
    return true;
}

static bool judge_line(struct http_gate *gate, const uint8_t *bytes, struct span line)
{
    uint32_t line_at = gate->head.line_start;
    gate->head.line_start = gate->head.scanned;
    if (!gate->head.in_fields) {
        gate->head.in_fields = true;
        return request_line(gate, line);
    }
    if (line.length)
        return field_line(gate, line, line_at);
    return judge_head(gate, bytes, gate->head.scanned);
}

static void begin_body(struct http_gate *gate)
{
    if (gate->head.chunked) {
        gate->state = CHUNKED;
        http_chunked_start(&gate->body.chunked);
    } else {
        gate->state = gate->head.body_length ? LENGTH : END_DUE;
        gate->body.left = gate->head.body_length;
    }
}

static void begin_head(struct http_gate *gate)
{
    gate->head = (struct head){0};
    gate->state = HEAD; /* the request stays readable until the next head begins */
}

/* ---- the stream ---- */

static enum http_gate_event feed_head(struct http_gate *gate, const uint8_t *bytes, size_t length,
                                      size_t *ret_consumed)
{
    struct span line;
    size_t limit = length < HTTP_HEAD_MAX ? length : HTTP_HEAD_MAX;
    if (length && gate->head.scanned == 0)
        gate->request = (struct http_request){0};
    while (!gate->head.complete && next_line(gate, bytes, limit, &line))
        if (!judge_line(gate, bytes, line))
            break;
    if (gate->state == BAD)
        return HTTP_GATE_BAD;
    if (gate->head.complete) {
        *ret_consumed = gate->head.scanned;
        begin_body(gate);
        return HTTP_GATE_REQUEST;
    }
    if (length < HTTP_HEAD_MAX)
        return HTTP_GATE_MORE;
    refuse(gate, ACL_HELLO_TOO_LARGE, "the request line and headers are larger than 64 KiB");
    return HTTP_GATE_BAD;
}

static enum http_gate_event feed_length(struct http_gate *gate, size_t length, size_t *ret_consumed)
{
    if (length == 0)
        return HTTP_GATE_MORE;
    *ret_consumed = length < gate->body.left ? length : (size_t)gate->body.left;
    gate->body.left -= *ret_consumed;
    if (gate->body.left == 0)
        gate->state = END_DUE;
    return HTTP_GATE_BODY;
}

/* What comes in front of a wrong byte is told first, so that events do not depend on how the bytes were
 * split. */
static enum http_gate_event feed_chunked(struct http_gate *gate, const uint8_t *bytes, size_t length,
                                         size_t *ret_consumed)
{
    struct http_chunked *chunked = &gate->body.chunked;
    *ret_consumed = http_chunked_advance(chunked, bytes, length);
    if (*ret_consumed == 0 && chunked->fault) {
        malformed(gate, chunked->fault);
        return HTTP_GATE_BAD;
    }
    if (http_chunked_done(chunked))
        gate->state = END_DUE;
    return *ret_consumed ? HTTP_GATE_BODY : HTTP_GATE_MORE;
}

static enum http_gate_event end_request(struct http_gate *gate)
{
    if (gate->request.upgrade)
        gate->state = WAIT;
    else
        begin_head(gate);
    return HTTP_GATE_END;
}

enum http_gate_event http_gate_feed(struct http_gate *gate, const uint8_t *bytes, size_t length,
                                    size_t *ret_consumed)
{
    *ret_consumed = 0;
    switch (gate->state) {
    case HEAD:
        return feed_head(gate, bytes, length, ret_consumed);
    case LENGTH:
        return feed_length(gate, length, ret_consumed);
    case CHUNKED:
        return feed_chunked(gate, bytes, length, ret_consumed);
    case END_DUE:
        return end_request(gate);
    case WAIT:
        return HTTP_GATE_MORE;
    case BAD:
        break;
    }
    return HTTP_GATE_BAD;
}

void http_gate_upgrade_refused(struct http_gate *gate)
{
    if (gate->state == WAIT)
        begin_head(gate);
}

bool http_gate_finish(struct http_gate *gate)
{
    return gate->state == END_DUE || gate->state == WAIT || (gate->state == HEAD && gate->head.scanned == 0);
}

struct http_gate *http_gate_create(uint16_t dialled_port)
{
    struct http_gate *gate = calloc(1, sizeof(*gate));
    if (gate)
        gate->dialled_port = dialled_port;
    return gate;
}

void http_gate_destroy(struct http_gate *gate)
{
    free(gate);
}

const struct http_request *http_gate_request(const struct http_gate *gate)
{
    return &gate->request;
}

enum acl_reason http_gate_reason(const struct http_gate *gate)
{
    return gate->reason;
}

const char *http_gate_detail(const struct http_gate *gate)
{
    return gate->detail;
}

bool http_gate_looks_like(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length && i < HTTP_METHOD_MAX; i++) {
        if (bytes[i] == ' ')
            return i > 0;
        if (!http_is_token(bytes[i]))
            return false;
    }
    return length < HTTP_METHOD_MAX;
}
