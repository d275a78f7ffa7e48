/*
 * Following an origin's answers: which request is answered, and whether the connection turned into a tunnel.
 *
 * Nothing is judged here and no byte is held back, so origins may be sloppy: llhttp runs with its lenient
 * flags. What a hostile origin gains by confusing this parser is that no further request reaches it (LOST).
 * The tunnel is the one thing to be strict about: it begins only when a 101 answers a request that asked for
 * an upgrade.
 *
 * HEAD, 1xx, 204 and 304 have no body whatever their headers say (RFC 9112 section 6.3), which llhttp is told
 * when their headers are complete. A close-delimited response never ends: nothing can follow it on the
 * connection.
 */
#include "gateway/http_gate.h"

#include <errno.h>
#include <llhttp.h>
#include <stdlib.h>

#define OUTSTANDING_MAX 64 /* one bit each */

struct http_answers {
    llhttp_t parser;
    uint64_t heads, upgrades; /* one bit per outstanding request, the oldest is bit 0 */
    uint8_t outstanding;
    bool message_done; /* llhttp paused behind a response */
    bool mid_response;
    bool end_due; /* REFUSED was told, END not yet */
    bool lost, switched;
};

enum {
    HAS_BODY = 0,
    NO_BODY = 1,
    NOT_HTTP_FROM_HERE = 2
}; /* what llhttp wants on_headers_complete to return */

static int on_headers_complete(llhttp_t *parser)
{
    struct http_answers *answers = parser->data;
    int status = llhttp_get_status_code(parser);
    if (status == 101)
        return NOT_HTTP_FROM_HERE;
    return (answers->heads & 1) || status / 100 == 1 || status == 204 || status == 304 ? NO_BODY : HAS_BODY;
}

static int on_message_complete(llhttp_t *parser)
{
    struct http_answers *answers = parser->data;
    answers->message_done = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_headers_complete = on_headers_complete,
    .on_message_complete = on_message_complete,
};

struct http_answers *http_answers_create(void)
{
    struct http_answers *answers = calloc(1, sizeof(*answers));
    if (!answers)
        return NULL;
    llhttp_init(&answers->parser, HTTP_RESPONSE, &settings);
    answers->parser.data = answers;
    llhttp_set_lenient_headers(&answers->parser, 1);
    llhttp_set_lenient_keep_alive(&answers->parser, 1);
    llhttp_set_lenient_chunked_length(&answers->parser, 1);
    llhttp_set_lenient_transfer_encoding(&answers->parser, 1);
    return answers;
}

void http_answers_destroy(struct http_answers *answers)
{
    free(answers);
}

int http_answers_expect(struct http_answers *answers, bool is_head, bool upgrade)
{
    if (answers->outstanding == OUTSTANDING_MAX)
        return -ENOSPC;
    answers->heads |= (uint64_t)is_head << answers->outstanding;
    answers->upgrades |= (uint64_t)upgrade << answers->outstanding;
    answers->outstanding++;
    return 0;
}

static void pop(struct http_answers *answers)
{
    answers->heads >>= 1;
    answers->upgrades >>= 1;
    answers->outstanding--;
}

static enum http_answers_event lose(struct http_answers *answers, size_t length, size_t *ret_consumed)
{
    answers->lost = true;
    *ret_consumed = length;
    return HTTP_ANSWERS_LOST;
}

static enum http_answers_event end(struct http_answers *answers)
{
    answers->end_due = false;
    pop(answers);
    return HTTP_ANSWERS_END;
}

/* A response is complete: interim ones (1xx) leave the request outstanding. */
static enum http_answers_event complete(struct http_answers *answers)
{
    bool interim = llhttp_get_status_code(&answers->parser) / 100 == 1;
    answers->message_done = false;
    answers->mid_response = false;
    if (interim)
        return HTTP_ANSWERS_MORE;
    if (!(answers->upgrades & 1))
        return end(answers);
    answers->end_due = true;
    return HTTP_ANSWERS_REFUSED;
}

static enum http_answers_event switch_protocols(struct http_answers *answers)
{
    answers->mid_response = false;
    answers->switched = true;
    pop(answers);
    return HTTP_ANSWERS_SWITCHED;
}

/* Parses up to the end of one response, or of the bytes. */
static enum http_answers_event parse(struct http_answers *answers, const uint8_t *bytes, size_t length,
                                     size_t *ret_consumed)
{
    llhttp_t *parser = &answers->parser;
    llhttp_errno_t result = llhttp_execute(parser, (const char *)bytes, length);
    *ret_consumed = length;
    answers->mid_response = true;
    if (result == HPE_OK)
        return HTTP_ANSWERS_MORE;
    *ret_consumed = (size_t)((const uint8_t *)llhttp_get_error_pos(parser) - bytes);
    if (llhttp_get_status_code(parser) == 101 && (answers->message_done || result == HPE_PAUSED_UPGRADE))
        return answers->upgrades & 1 ? switch_protocols(answers) : lose(answers, length, ret_consumed);
    if (result != HPE_PAUSED || !answers->message_done)
        return lose(answers, length, ret_consumed);
    llhttp_resume(parser);
    return complete(answers);
}

enum http_answers_event http_answers_feed(struct http_answers *answers, const uint8_t *bytes, size_t length,
                                          size_t *ret_consumed)
{
    size_t used = 0, n;
    *ret_consumed = 0;
    if (answers->end_due)
        return end(answers);
    while (used < length && !answers->lost && !answers->switched) {
        if (answers->outstanding == 0)
            return lose(answers, length, ret_consumed);
        enum http_answers_event event = parse(answers, bytes + used, length - used, &n);
        used += n;
        *ret_consumed = used;
        if (event != HTTP_ANSWERS_MORE)
            return event;
    }
    *ret_consumed = length;
    return HTTP_ANSWERS_MORE;
}

unsigned http_answers_outstanding(const struct http_answers *answers)
{
    return answers->outstanding;
}

bool http_answers_lost(const struct http_answers *answers)
{
    return answers->lost;
}

bool http_answers_mid_response(const struct http_answers *answers)
{
    return answers->mid_response;
}
