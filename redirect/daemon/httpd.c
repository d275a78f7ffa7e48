#include "redirect/daemon/httpd.h"

#include <errno.h>
#include <llhttp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct reader {
    struct httpd_request *request;
    int status;
    const char *why;
    const char *target;
    size_t target_length;
    bool headers_complete;
};

static int refuse(struct reader *r, int status, const char *why)
{
    r->status = status;
    r->why = why;
    return -1;
}

/* ---- the first reader: bytes ---- */

/* Where the empty line behind the head ends; 0: not here yet. */
static size_t head_end(const char *bytes, size_t length)
{
    const char *end = memmem(bytes, length, "\r\n\r\n", 4);
    return end ? (size_t)(end - bytes) + 4 : 0;
}

static int check_bytes(struct reader *r, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        uint8_t c = (uint8_t)bytes[i];
        if (c == '\r' && i + 1 < length && bytes[i + 1] == '\n') {
            i++;
            if (i + 1 < length && (bytes[i + 1] == ' ' || bytes[i + 1] == '\t'))
                return refuse(r, 400, "a line of the head is folded");
        } else if ((c < ' ' && c != '\t') || c == 0x7f) {
            return refuse(r, 400, "there is a control byte in the head, or a line that does not end in CRLF");
        }
    }
    return 0;
}

/* A field's name is a token, with its colon right behind (RFC 9112 section 5.1); llhttp lets a space pass. */
static int check_names(struct reader *r, const char *head, size_t length)
{
    static const char token[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    const char *end = head + length - 2, *line = memmem(head, length, "\r\n", 2);
    for (line += 2; line < end; line = (const char *)memmem(line, (size_t)(end + 2 - line), "\r\n", 2) + 2) {
        size_t name = 0;
        while (line[name] && strchr(token, line[name]))
            name++;
        if (name == 0 || line[name] != ':')
            return refuse(r, 400, "a line of the head is no field");
    }
    return 0;
}

/* The first field of this name; NULL: there is none. */
static const char *find_field(const char *head, size_t length, const char *name, size_t *ret_length)
{
    const char *line = head, *end = head + length, *next;
    for (; (next = memmem(line, (size_t)(end - line), "\r\n", 2)); line = next + 2) {
        if ((size_t)(next - line) <= strlen(name) || strncasecmp(line, name, strlen(name)) || line[strlen(name)] != ':')
            continue;
        *ret_length = (size_t)(next - line) - strlen(name) - 1;
        return line + strlen(name) + 1;
    }
    return NULL;
}

/* OpenMetrics is what we speak; the older text is for tools that ask for it and know nothing else. */
static bool wants_text(const char *head, size_t length)
{
    static const char ours[] = "application/openmetrics-text", older[] = "text/plain";
    size_t size;
    const char *accept = find_field(head, length, "Accept", &size);
    return accept && memmem(accept, size, older, strlen(older)) && !memmem(accept, size, ours, strlen(ours));
}

/* ---- the second: llhttp ---- */

static int on_url(llhttp_t *parser, const char *at, size_t length)
{
    struct reader *r = parser->data;
    if (!r->target)
        r->target = at;
    r->target_length += length; /* one buffer, so the pieces are neighbours */
    return 0;
}

static int on_headers_complete(llhttp_t *parser)
{
    struct reader *r = parser->data;
    r->headers_complete = true;
    r->request->keep_alive = llhttp_should_keep_alive(parser);
    if (parser->http_major != 1 || parser->http_minor > 1)
        return refuse(r, 505, "speak HTTP/1.1");
    if (parser->upgrade || parser->method == HTTP_CONNECT)
        return refuse(r, 501, "there is nothing to upgrade to");
    if (parser->flags & F_TRANSFER_ENCODING)
        return refuse(r, 411, "send the body with a Content-Length");
    if (parser->content_length > SIZE_MAX / 2)
        return refuse(r, 413, "the body is too long");
    r->request->body_length = (size_t)parser->content_length;
    return 0;
}

static int parse_head(struct reader *r, const char *bytes, size_t length)
{
    static const llhttp_settings_t settings = {.on_url = on_url, .on_headers_complete = on_headers_complete};
    llhttp_t parser;
    llhttp_init(&parser, HTTP_REQUEST, &settings);
    parser.data = r;
    llhttp_errno_t result = llhttp_execute(&parser, bytes, length);
    if (r->status)
        return -1;
    if (result != HPE_OK || !r->headers_complete)
        return refuse(r, 400, "this is no HTTP/1.1 request");
    snprintf(r->request->method, sizeof(r->request->method), "%s", llhttp_method_name((llhttp_method_t)parser.method));
    return 0;
}

static int take_target(struct reader *r)
{
    const char *mark = r->target ? memchr(r->target, '?', r->target_length) : NULL;
    size_t path = mark ? (size_t)(mark - r->target) : r->target_length, query = mark ? r->target_length - path - 1 : 0;
    if (path == 0 || r->target[0] != '/')
        return refuse(r, 400, "the target of a request is a path here, as /metrics");
    if (path > HTTPD_PATH_MAX || query > HTTPD_PATH_MAX)
        return refuse(r, 414, "the path is too long");
    memcpy(r->request->path, r->target, path);
    memcpy(r->request->query, mark ? mark + 1 : "", query);
    return 0;
}

static int read_head(struct reader *r, const char *bytes, size_t length)
{
    if (check_bytes(r, bytes, length) < 0 || check_names(r, bytes, length) < 0 || parse_head(r, bytes, length) < 0)
        return -1;
    size_t size;
    if (find_field(bytes, length, "Expect", &size))
        return refuse(r, 417, "send the body at once, without Expect");
    r->request->wants_text = wants_text(bytes, length);
    return take_target(r);
}

enum httpd_read httpd_read(const void *bytes, size_t length, size_t body_max, struct httpd_request *ret, int *ret_status,
                           const char **ret_why)
{
    struct httpd_request request = {0};
    struct reader r = {.request = &request};
    request.head_length = head_end(bytes, length < HTTPD_HEAD_MAX ? length : HTTPD_HEAD_MAX);
    if (request.head_length == 0 && length < HTTPD_HEAD_MAX)
        return HTTPD_MORE;
    if (request.head_length == 0)
        refuse(&r, 431, "the head is too long");
    else if (read_head(&r, bytes, request.head_length) == 0 && request.body_length > body_max)
        refuse(&r, 413, "the body is too long");
    if (r.status) {
        *ret_status = r.status;
        *ret_why = r.why;
        return HTTPD_BAD;
    }
    if (length - request.head_length < request.body_length)
        return HTTPD_MORE;
    *ret = request;
    return HTTPD_WHOLE;
}

/* ---- answers ---- */

static const char *phrase(int status)
{
    static const struct {
        int status;
        const char *phrase;
    } known[] = {{200, "OK"},
                 {201, "Created"},
                 {400, "Bad Request"},
                 {403, "Forbidden"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {408, "Request Timeout"},
                 {409, "Conflict"},
                 {411, "Length Required"},
                 {413, "Content Too Large"},
                 {414, "URI Too Long"},
                 {417, "Expectation Failed"},
                 {431, "Request Header Fields Too Large"},
                 {500, "Internal Server Error"},
                 {501, "Not Implemented"},
                 {503, "Service Unavailable"},
                 {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (known[i].status == status)
            return known[i].phrase;
    return "Unknown";
}

ssize_t httpd_head(int status, const char *content_type, size_t content_length, bool keep_alive, const char *more, char *ret,
                   size_t size)
{
    int n = snprintf(ret, size,
                     "HTTP/1.1 %d %s\r\nServer: sallyport\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n"
                     "%s%s\r\n",
                     status, phrase(status), content_type, content_length, keep_alive ? "" : "Connection: close\r\n", more);
    return n < 0 || (size_t)n >= size ? -ENOSPC : n;
}
