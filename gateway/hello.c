/*
 * TLS ClientHello: the reader behind gateway/hello.h.
 *
 * Two layers, in stream order, so that how the bytes were cut into segments can never change the verdict:
 *
 *   records    type(1) version(2) length(2) fragment        RFC 8446 section 5.1
 *   message    type(1) length(3) body                       section 4; cut anywhere into fragments
 *   body       version(2) random(32) session_id<0..32> cipher_suites<2..> compression<1..>
 * extensions<..>   4.1.2
 *
 * hello_feed() walks complete records once; the reader remembers where it stopped, so each byte of the stream
 * is looked at a bounded number of times however it arrives. Only when the last record of the message is
 * complete is the body parsed: in place when one record holds it, else from a copy on the stack (at most
 * HELLO_MAX bytes).
 *
 * What is refused and why: an origin with a lenient parser could read a second name, a name behind a lying
 * length or the fragments in another order; then the name we judged is not the name it serves. So everything
 * that touches framing is exact: each vector fills its enclosing length, nothing follows the message in its
 * last record. Values that only the two ends negotiate (suites, groups, GREASE of RFC 8701, unknown
 * extensions) are not judged.
 */
#include "gateway/hello.h"

#include "base/cursor.h"

#include <string.h>

enum { RECORD_HEAD = 5, RECORD_MAX = 16384, MESSAGE_HEAD = 4 };
enum { CONTENT_HANDSHAKE = 22, HANDSHAKE_CLIENT_HELLO = 1 };
enum {
    EXTENSION_SERVER_NAME = 0,
    EXTENSION_ALPN = 16,
    EXTENSION_PRE_SHARED_KEY = 41,
    EXTENSION_SUPPORTED_VERSIONS = 43,
    EXTENSION_KEY_SHARE = 51,
    EXTENSION_ECH = 0xfe0d
};
#define TLS_1_3 0x0304

void hello_reader_init(struct hello_reader *reader)
{
    *reader = (struct hello_reader){0};
}

static enum hello_status bad(struct hello *hello, enum acl_reason reason, const char *detail)
{
    hello->reason = reason;
    hello->detail = detail;
    return HELLO_BAD;
}

static enum hello_status malformed(struct hello *hello, const char *detail)
{
    return bad(hello, ACL_MALFORMED_CLIENT_HELLO, detail);
}

/* --- the body
 * ------------------------------------------------------------------------------------------------- */

/* What the walk over the extensions leaves for judging. Malformed parts are named by `wrong`, the first one
 * wins. */
struct body {
    struct hello *hello;
    const char *wrong;
    const uint8_t *name; /* host_name as sent, NULL without server_name */
    size_t name_length;
    bool only_null_compression;
};

/* RFC 6066 section 3: ServerNameList<1..2^16-1> of { name_type(1), HostName<1..2^16-1> }. The RFC allows one
 * name of a type and defines one type; whoever sends more counts on being read differently. */
static void read_server_name(struct body *body, struct cursor data)
{
    struct cursor list = cursor_sub(&data, cursor_u16(&data));
    if (!cursor_done(&data) || !list.left) {
        body->wrong = "the server_name list is empty or does not fill its extension";
        return;
    }
    if (cursor_u8(&list) != 0) {
        body->wrong = "a server_name of unknown type";
        return;
    }
    size_t length = cursor_u16(&list);
    const uint8_t *name = cursor_take(&list, length);
    if (!name || !length)
        body->wrong = "a server_name that is empty or runs past its list";
    else if (list.left)
        body->wrong = "more than one entry in the server_name list";
    body->name = name;
    body->name_length = length;
}

/* Appends one protocol name to the comma-separated text; what does not fit is cut. */
static void append_alpn(struct hello *hello, const uint8_t *protocol, size_t length)
{
    size_t used = strlen(hello->alpn);
    if (used && used < sizeof(hello->alpn) - 1)
        hello->alpn[used++] = ',';
    for (size_t i = 0; i < length && used < sizeof(hello->alpn) - 1; i++) {
        bool printable = protocol[i] > 0x20 && protocol[i] < 0x7f && protocol[i] != ',';
        hello->alpn[used++] = printable ? (char)protocol[i] : '?';
    }
    hello->alpn[used] = '\0';
}

/* RFC 7301 section 3.1: ProtocolName<1..2^8-1> in a list<2..2^16-1>. */
static void read_alpn(struct body *body, struct cursor data)
{
    struct cursor list = cursor_sub(&data, cursor_u16(&data));
    if (!cursor_done(&data) || !list.left) {
        body->wrong = "the ALPN list is empty or does not fill its extension";
        return;
    }
    while (list.left) {
        size_t length = cursor_u8(&list);
        const uint8_t *protocol = cursor_take(&list, length);
        if (!protocol || !length) {
            body->wrong = "an ALPN name that is empty or runs past its list";
            return;
        }
        append_alpn(body->hello, protocol, length);
    }
}

/* RFC 8446 section 4.2.1: ProtocolVersion list<2..254>. Only 0x03.. are versions of TLS; GREASE and drafts
 * are not. */
static void read_supported_versions(struct body *body, struct cursor data)
{
    struct cursor list = cursor_sub(&data, cursor_u8(&data));
    if (!cursor_done(&data) || !list.left || list.left % 2) {
        body->wrong = "the supported_versions list does not have its shape";
        return;
    }
    uint16_t highest = 0;
    while (list.left) {
        uint16_t version = cursor_u16(&list);
        if (version >> 8 == 3 && version > highest)
            highest = version;
    }
    if (highest)
        body->hello->version = highest;
}

/* RFC 8446 section 4.2.8: { group(2), key_exchange<1..2^16-1> } in a list that may be empty (it asks for a
 * retry). */
static void read_key_share(struct body *body, struct cursor data)
{
    struct cursor list = cursor_sub(&data, cursor_u16(&data));
    bool whole = cursor_done(&data);
    while (whole && list.left) {
        cursor_u16(&list);
        size_t length = cursor_u16(&list);
        whole = cursor_take(&list, length) && length;
    }
    if (!whole)
        body->wrong = "the key_share list does not have its shape";
}

static void read_extension(struct body *body, uint16_t type, struct cursor data)
{
    switch (type) {
    case EXTENSION_SERVER_NAME:
        read_server_name(body, data);
        break;
    case EXTENSION_ALPN:
        read_alpn(body, data);
        break;
    case EXTENSION_SUPPORTED_VERSIONS:
        read_supported_versions(body, data);
        break;
    case EXTENSION_KEY_SHARE:
        read_key_share(body, data);
        break;
    case EXTENSION_ECH:
        body->hello->ech_offered = true;
        break;
    }
}

/* Marks `type` as seen; false when it was. One bit for each of the 65536 types keeps thousands of extensions
 * linear. */
static bool mark_seen(uint8_t seen[65536 / 8], uint16_t type)
{
    uint8_t bit = (uint8_t)(1u << type % 8);
    bool fresh = !(seen[type / 8] & bit);
    seen[type / 8] |= bit;
    return fresh;
}

static void read_extensions(struct body *body, struct cursor list)
{
    uint8_t seen[65536 / 8] = {0};
    while (list.left && !body->wrong) {
        uint16_t type = cursor_u16(&list);
        struct cursor data = cursor_sub(&list, cursor_u16(&list));
        if (!cursor_ok(&list))
            body->wrong = "an extension runs past the list of extensions";
        else if (!mark_seen(seen, type))
            body->wrong =
                type == EXTENSION_SERVER_NAME ? "two server_name extensions" : "an extension comes twice";
        else if (type == EXTENSION_PRE_SHARED_KEY && list.left)
            body->wrong = "pre_shared_key is not the last extension"; /* RFC 8446 section 4.2.11 */
        else
            read_extension(body, type, data);
    }
}

/* Everything before the extensions. RFC 8446 section 4.1.2 and appendix D. */
static void read_fixed_part(struct body *body, struct cursor *message)
{
    uint16_t version = cursor_u16(message);
    cursor_take(message, 32);
    size_t session_id = cursor_u8(message);
    cursor_take(message, session_id);
    size_t suites = cursor_u16(message);
    cursor_take(message, suites);
    size_t compressions = cursor_u8(message);
    const uint8_t *compression = cursor_take(message, compressions);

    body->hello->version = version;
    body->only_null_compression = compression && compressions == 1 && compression[0] == 0;
    if (!cursor_ok(message))
        body->wrong = "the hello ends inside its fixed part";
    else if (version >> 8 != 3 || (version & 0xff) > 4)
        body->wrong = "a legacy_version that no TLS has";
    else if (session_id > 32)
        body->wrong = "a session id longer than 32 bytes";
    else if (!suites || suites % 2)
        body->wrong = "the list of cipher suites is empty or odd";
    else if (!compressions || !memchr(compression, 0, compressions))
        body->wrong = "null compression is not offered";
}

static void read_body(struct body *body, struct cursor message)
{
    read_fixed_part(body, &message);
    if (body->wrong || !message.left)
        return; /* no extensions at all is well-formed, and has no name */
    struct cursor extensions = cursor_sub(&message, cursor_u16(&message));
    if (!cursor_done(&message))
        body->wrong = "the extensions do not fill the hello";
    else
        read_extensions(body, extensions);
    /* A TLS 1.3 server must refuse other methods; an older one would not. */
    if (!body->wrong && body->hello->version >= TLS_1_3 && !body->only_null_compression)
        body->wrong = "TLS 1.3 with a compression method";
}

static enum hello_status judge_name(struct body *body)
{
    if (!body->name)
        return bad(body->hello, ACL_NO_SNI, "no server_name");
    size_t length;
    enum acl_name_kind kind = acl_name_normalise(body->name, body->name_length, body->hello->name, &length);
    switch (kind) {
    case ACL_NAME_OK:
        body->hello->name_length = (uint8_t)length;
        return HELLO_DONE;
    case ACL_NAME_IP_LITERAL:
        return bad(body->hello, ACL_IP_LITERAL, "the server_name is an address");
    case ACL_NAME_EMPTY:
        return malformed(body->hello, "the server_name is empty");
    case ACL_NAME_TOO_LONG:
        return malformed(body->hello, "the server_name or a label of it is too long");
    case ACL_NAME_BAD_LABEL:
        return malformed(body->hello, "the server_name has an empty label");
    case ACL_NAME_BAD_BYTE:
        break;
    }
    return malformed(body->hello, "the server_name has a byte that no host name has");
}

static enum hello_status judge_message(const uint8_t *message, size_t length, struct hello *hello)
{
    struct body body = {.hello = hello};
    read_body(&body, cursor_over(message + MESSAGE_HEAD, length - MESSAGE_HEAD));
    return body.wrong ? malformed(hello, body.wrong) : judge_name(&body);
}

/* --- the records
 * ---------------------------------------------------------------------------------------------- */

static size_t fragment_length(const uint8_t *record)
{
    return (size_t)record[3] << 8 | record[4];
}

/* The hello lies in several records: put its fragments together. They were all checked by hello_feed(). */
static enum hello_status judge_fragments(const uint8_t *bytes, size_t end, struct hello *hello)
{
    uint8_t message[HELLO_MAX];
    size_t length = 0;
    for (size_t at = 0; at < end; at += RECORD_HEAD + fragment_length(bytes + at)) {
        memcpy(message + length, bytes + at + RECORD_HEAD, fragment_length(bytes + at));
        length += fragment_length(bytes + at);
    }
    return judge_message(message, length, hello);
}

/* Not a handshake record: is it an SSLv2 ClientHello (two length bytes with the top bit set, then message
 * type 1)? */
static enum hello_status judge_first_bytes(const uint8_t *bytes, size_t length, struct hello *hello)
{
    if (!(bytes[0] & 0x80))
        return bad(hello, ACL_NOT_TLS, "the first byte is not that of a TLS handshake");
    if (length < 3)
        return HELLO_MORE;
    if (bytes[2] == 1)
        return malformed(hello, "an SSLv2 hello");
    return bad(hello, ACL_NOT_TLS, "the first byte is not that of a TLS handshake");
}

/* Judges as much of the record header at `record_at` as is there; HELLO_DONE when it is whole and acceptable.
 */
static enum hello_status check_record_head(size_t record_at, const uint8_t *bytes, size_t length,
                                           struct hello *hello)
{
    const uint8_t *head = bytes + record_at;
    size_t there = length - record_at;
    if (record_at + RECORD_HEAD + 1 > HELLO_MAX)
        return bad(hello, ACL_HELLO_TOO_LARGE, "the hello is longer than 64 KiB");
    if (there >= 1 && head[0] != CONTENT_HANDSHAKE) {
        if (record_at == 0)
            return judge_first_bytes(bytes, length, hello);
        return malformed(hello, "a record of another type inside the hello");
    }
    if ((there >= 2 && head[1] != 3) || (there >= 3 && head[2] > 4))
        return malformed(hello, "a record version that no TLS has");
    if (there < RECORD_HEAD)
        return HELLO_MORE;
    if (fragment_length(head) == 0)
        return malformed(hello, "an empty handshake record");
    if (fragment_length(head) > RECORD_MAX)
        return malformed(hello, "a record longer than 16384 bytes");
    if (record_at + RECORD_HEAD + fragment_length(head) > HELLO_MAX)
        return bad(hello, ACL_HELLO_TOO_LARGE, "the hello is longer than 64 KiB");
    return HELLO_DONE;
}

/* Counts a whole record's fragment; the message header may itself be spread over several. HELLO_DONE when
 * sound. */
static enum hello_status count_fragment(struct hello_reader *reader, const uint8_t *fragment, size_t length,
                                        struct hello *hello)
{
    uint8_t *head = reader->message_head;
    for (size_t i = 0; i < length && reader->message_bytes + i < MESSAGE_HEAD; i++)
        head[reader->message_bytes + i] = fragment[i];
    reader->message_bytes += length;
    if (head[0] != HANDSHAKE_CLIENT_HELLO)
        return malformed(hello, "the handshake does not begin with a ClientHello");
    if (reader->message_bytes < MESSAGE_HEAD)
        return HELLO_DONE;
    reader->message_need = MESSAGE_HEAD + ((size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3]);
    if (RECORD_HEAD + reader->message_need > HELLO_MAX)
        return bad(hello, ACL_HELLO_TOO_LARGE, "the hello is longer than 64 KiB");
    if (reader->message_bytes > reader->message_need)
        return malformed(hello, "bytes behind the hello in its last record");
    return HELLO_DONE;
}

/* HELLO_DONE when the next record was whole, and has been taken in. */
static enum hello_status take_record(struct hello_reader *reader, const uint8_t *bytes, size_t length,
                                     struct hello *hello)
{
    enum hello_status status = check_record_head(reader->record_at, bytes, length, hello);
    if (status != HELLO_DONE)
        return status;
    const uint8_t *record = bytes + reader->record_at;
    size_t fragment = fragment_length(record);
    if (length - reader->record_at < RECORD_HEAD + fragment)
        return HELLO_MORE;
    reader->record_at += RECORD_HEAD + fragment;
    return count_fragment(reader, record + RECORD_HEAD, fragment, hello);
}

enum hello_status hello_feed(struct hello_reader *reader, const uint8_t *bytes, size_t length,
                             struct hello *ret)
{
    struct hello hello = {0};
    enum hello_status status;
    do
        status = take_record(reader, bytes, length, &hello);
    while (status == HELLO_DONE && reader->message_bytes != reader->message_need);

    if (status == HELLO_DONE) {
        bool one_record = reader->record_at == RECORD_HEAD + reader->message_need;
        hello.length = reader->record_at;
        status = one_record ? judge_message(bytes + RECORD_HEAD, reader->message_need, &hello)
                            : judge_fragments(bytes, reader->record_at, &hello);
    }
    if (status != HELLO_MORE)
        *ret = hello;
    return status;
}
