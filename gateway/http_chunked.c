/*
 * The framing of a chunked body, byte by byte between chunks and in one step over their data.
 *
 * Not left to llhttp: built without its strict mode (as Debian does) it skips the two bytes behind a chunk's
 * data unseen, and takes a bare LF or CR where servers differ; that difference is how a second request is
 * smuggled past a gateway. Here every line ends in CRLF, whitespace behind the size is refused, and a trailer
 * may not be one of the fields that frame or route a message (RFC 9110 section 6.5.1).
 *
 *   5;ext=1 CRLF  hello CRLF  0 CRLF  Trailer: value CRLF  CRLF
 */
#include "gateway/http_chunked.h"

#include "gateway/http_bytes.h"

#include <string.h>
#include <strings.h>

#define SIZE_LINE_MAX 4096 /* a size with its extensions */
/* No client sends larger chunks, and a server whose number wraps around reads data as the next request. */
#define SIZE_BITS 31
#define DIGITS_MAX 15 /* with leading zeros */
#define TRAILERS_MAX 65536

enum {
    SIZE_FIRST, /* the first digit of a size */
    SIZE,
    EXTENSION, /* behind ';', skipped */
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER_FIRST, /* the first byte of a trailer, or the CR of the empty line */
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    LAST_LF,
    DONE,
};

void http_chunked_start(struct http_chunked *chunked)
{
    *chunked = (struct http_chunked){.state = SIZE_FIRST};
}

bool http_chunked_done(const struct http_chunked *chunked)
{
    return chunked->state == DONE;
}

static int hex_digit(uint8_t byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    if ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f')
        return (byte | 0x20) - 'a' + 10;
    return -1;
}

static const char *size_digit(struct http_chunked *chunked, uint8_t byte)
{
    int digit = hex_digit(byte);
    if (digit < 0)
        return "a chunk size is not a hexadecimal number";
    if (chunked->left >> (SIZE_BITS - 4) || chunked->line_bytes >= DIGITS_MAX)
        return "a chunk size is too large";
    chunked->left = chunked->left << 4 | (unsigned)digit;
    chunked->state = SIZE;
    return NULL;
}

static const char *expect(struct http_chunked *chunked, uint8_t byte, uint8_t wanted, uint8_t next)
{
    if (byte != wanted)
        return "a line of chunk framing does not end in CR LF";
    chunked->state = next;
    return NULL;
}

static const char *size_rest(struct http_chunked *chunked, uint8_t byte)
{
    if (++chunked->line_bytes > SIZE_LINE_MAX)
        return "a chunk extension is too long";
    if (byte == '\r')
        return expect(chunked, byte, '\r', SIZE_LF);
    if (chunked->state == SIZE && byte != ';')
        return size_digit(chunked, byte);
    chunked->state = EXTENSION;
    return http_is_text(byte) ? NULL : "a control byte in a chunk extension";
}

static const char *size_end(struct http_chunked *chunked, uint8_t byte)
{
    chunked->line_bytes = 0;
    return expect(chunked, byte, '\n', chunked->left ? DATA : TRAILER_FIRST);
}

static bool trailer_is_forbidden(const struct http_chunked *chunked)
{
    static const char *const names[] = {"host", "content-length", "transfer-encoding"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (strlen(names[i]) == chunked->name_length &&
            strncasecmp(names[i], chunked->name, chunked->name_length) == 0)
            return true;
    return false;
}

static const char *trailer_name(struct http_chunked *chunked, uint8_t byte)
{
    if (byte == ':' && chunked->name_length) {
        chunked->state = TRAILER_VALUE;
        return trailer_is_forbidden(chunked) ? "a trailer that frames or routes the message" : NULL;
    }
    if (!http_is_token(byte))
        return "a trailer's name is not a token";
    if (chunked->name_length < sizeof(chunked->name))
        chunked->name[chunked->name_length++] = (char)byte;
    chunked->state = TRAILER_NAME;
    return NULL;
}

static const char *trailer(struct http_chunked *chunked, uint8_t byte)
{
    if (++chunked->line_bytes > TRAILERS_MAX)
        return "the trailers are too long";
    switch (chunked->state) {
    case TRAILER_FIRST:
        chunked->name_length = 0;
        if (byte == '\r')
            return expect(chunked, byte, '\r', LAST_LF);
        return trailer_name(chunked, byte);
    case TRAILER_NAME:
        return trailer_name(chunked, byte);
    case TRAILER_VALUE:
        if (byte == '\r')
            return expect(chunked, byte, '\r', TRAILER_LF);
        return http_is_text(byte) ? NULL : "a control byte in a trailer";
    default:
        return expect(chunked, byte, '\n', TRAILER_FIRST);
    }
}

/* One byte that is not data: NULL, or why it does not fit. */
static const char *step(struct http_chunked *chunked, uint8_t byte)
{
    switch (chunked->state) {
    case SIZE_FIRST:
        return size_digit(chunked, byte);
    case SIZE:
    case EXTENSION:
        return size_rest(chunked, byte);
    case SIZE_LF:
        return size_end(chunked, byte);
    case DATA_CR:
        return expect(chunked, byte, '\r', DATA_LF);
    case DATA_LF:
        return expect(chunked, byte, '\n', SIZE_FIRST);
    case LAST_LF:
        return expect(chunked, byte, '\n', DONE);
    default:
        return trailer(chunked, byte);
    }
}

static size_t skip_data(struct http_chunked *chunked, size_t length)
{
    size_t n = length < chunked->left ? length : (size_t)chunked->left;
    chunked->left -= n;
    if (chunked->left == 0)
        chunked->state = DATA_CR;
    return n;
}

size_t http_chunked_advance(struct http_chunked *chunked, const uint8_t *bytes, size_t length)
{
    size_t at = 0;
    while (at < length && chunked->state != DONE && !chunked->fault) {
        if (chunked->state == DATA) {
            at += skip_data(chunked, length - at);
            continue;
        }
        chunked->fault = step(chunked, bytes[at]);
        if (!chunked->fault)
            at++;
    }
    return at;
}
