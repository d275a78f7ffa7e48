/*
 * HTTP/1 as a small server needs it: one request out of a buffer, and the head of an answer. Pure: who reads and writes is the
 * caller's business (gateway/admin.c over TCP and TLS, redirect/daemon/api.c over a unix socket).
 *
 * A request is taken when two readers agree: a scan of the raw bytes (CRLF ends every line, no other control bytes, no folding)
 * and llhttp without lenient flags. What is not needed is refused, each with its status: bodies without a length, upgrades,
 * expectations, targets that are not a path.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define HTTPD_HEAD_MAX 8192
#define HTTPD_PATH_MAX 511

struct httpd_request {
    char method[16];
    char path[HTTPD_PATH_MAX + 1];  /* without the query, as sent */
    char query[HTTPD_PATH_MAX + 1]; /* "" when there is none */
    size_t head_length, body_length;
    bool keep_alive;
    bool wants_text; /* it accepts text/plain, and no OpenMetrics */
};

enum httpd_read {
    HTTPD_MORE,  /* the request is not whole yet */
    HTTPD_WHOLE, /* head and body are in the buffer */
    HTTPD_BAD,   /* answer with *ret_status and *ret_why, and close */
};

/* `bytes` begin with a request; its body may have up to `body_max` bytes. */
enum httpd_read httpd_read(const void *bytes, size_t length, size_t body_max, struct httpd_request *ret, int *ret_status,
                           const char **ret_why);

/* The head of an answer. `more` is whole further lines, each with its CRLF, or "". Its length, or -ENOSPC. */
ssize_t httpd_head(int status, const char *content_type, size_t content_length, bool keep_alive, const char *more, char *ret,
                   size_t size);
#define HTTPD_ANSWER_HEAD_MAX 512
