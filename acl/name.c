/*
 * Names from hostile bytes (SNI, Host, DNS questions) and from policies into one normal form.
 *
 * What two programs could read differently is refused rather than repaired: the name that is judged must be
 * the name that the origin's side will see. So no percent-decoding, no Unicode mapping, one trailing dot at
 * most.
 *
 * Addresses in disguise: the WHATWG URL standard ("ends in a number" checker) decides that a host whose last
 * label is a number is an IPv4 address, and inet_aton() readers take 0x7f.1, 0177.0.0.1 and 2130706433 for
 * one. No public top level domain is numeric (RFC 3696 section 2), so nothing is lost by refusing all of
 * them. Lengths: RFC 1035 section 2.3.4; underscores are no host name characters but appear in DNS names that
 * people do use.
 */
#include "acl/name.h"

#include "base/addr.h"

#include <string.h>

#define LABEL_MAX 63

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
    return is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* The normal form of one byte of a name; 0 for a byte that no name has. */
static char normal_byte(char c)
{
    if (c >= 'A' && c <= 'Z')
        return (char)(c | 0x20);
    if ((c >= 'a' && c <= 'z') || is_digit(c) || c == '-' || c == '_' || c == '.')
        return c;
    return 0;
}

/* IPv6 with or without brackets or a zone. Without brackets only what parses: "a:b" is just a bad byte. */
static bool is_ipv6_literal(const char *text, size_t length)
{
    if (length >= 2 && text[0] == '[' && text[length - 1] == ']')
        return true;
    const char *zone = memchr(text, '%', length);
    struct addr a;
    return addr_parse(text, zone ? (size_t)(zone - text) : length, &a) && a.family == AF_INET6;
}

bool acl_name_ends_in_number(const char *text, size_t length)
{
    const char *dot = memrchr(text, '.', length);
    const char *label = dot ? dot + 1 : text;
    size_t size = (size_t)(text + length - label);
    bool hex = size >= 2 && label[0] == '0' && (label[1] == 'x' || label[1] == 'X');
    for (size_t i = hex ? 2 : 0; i < size; i++) {
        if (hex ? !is_hex(label[i]) : !is_digit(label[i]))
            return false;
    }
    return size > 0;
}

/* Bytes and labels of `text`, lower case into `ret`. */
static enum acl_name_kind copy_labels(const char *text, size_t length, char *ret)
{
    size_t label = 0;
    for (size_t i = 0; i < length; i++) {
        ret[i] = normal_byte(text[i]);
        if (!ret[i])
            return ACL_NAME_BAD_BYTE;
        if (ret[i] != '.')
            label++;
        else if (label == 0)
            return ACL_NAME_BAD_LABEL;
        else
            label = 0;
        if (label > LABEL_MAX)
            return ACL_NAME_TOO_LONG;
    }
    return label ? ACL_NAME_OK : ACL_NAME_BAD_LABEL;
}

enum acl_name_kind acl_name_normalise(const void *text, size_t length, char ret[ACL_NAME_MAX + 1],
                                      size_t *ret_length)
{
    const char *at = text;
    if (length == 0)
        return ACL_NAME_EMPTY;
    if (length > ACL_NAME_MAX + 1)
        return ACL_NAME_TOO_LONG;
    if (is_ipv6_literal(at, length))
        return ACL_NAME_IP_LITERAL;
    if (at[length - 1] == '.' && --length == 0)
        return ACL_NAME_EMPTY; /* "." is the root, and nobody's host */
    if (length > ACL_NAME_MAX)
        return ACL_NAME_TOO_LONG;
    char name[ACL_NAME_MAX + 1];
    enum acl_name_kind kind = copy_labels(at, length, name);
    if (kind != ACL_NAME_OK)
        return kind;
    if (acl_name_ends_in_number(name, length))
        return ACL_NAME_IP_LITERAL;
    memcpy(ret, name, length);
    ret[length] = 0;
    *ret_length = length;
    return ACL_NAME_OK;
}

const char *acl_name_kind_text(enum acl_name_kind kind)
{
    switch (kind) {
    case ACL_NAME_OK:
        return "a name";
    case ACL_NAME_EMPTY:
        return "an empty name";
    case ACL_NAME_TOO_LONG:
        return "a name over 253 bytes or a label over 63";
    case ACL_NAME_BAD_LABEL:
        return "an empty label (two dots together, or one in front)";
    case ACL_NAME_BAD_BYTE:
        return "a byte other than letters, digits, \"-\", \"_\" and \".\"";
    case ACL_NAME_IP_LITERAL:
        return "an IP address where a name belongs";
    }
    return "not a name";
}
