/*
 * Domain names as they are matched: A-labels, lower case, no trailing dot.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define ACL_NAME_MAX 253 /* octets of text, RFC 1035 section 3.1 less the length bytes */

enum acl_name_kind {
    ACL_NAME_OK,
    ACL_NAME_EMPTY,
    ACL_NAME_TOO_LONG,   /* > 253, or a label > 63 */
    ACL_NAME_BAD_LABEL,  /* empty label: "..", leading dot, two trailing dots */
    ACL_NAME_BAD_BYTE,   /* outside letters, digits, '-', '_', '.' */
    ACL_NAME_IP_LITERAL, /* anything that some resolver would read as an address: dotted quads, decimal, octal and hex
                            forms (a last label that is all digits or 0x…: WHATWG URL "ends in a number"), IPv6, [..] */
};

/*
 * Check `text` (any bytes, from a client or a policy) and write its normal form to `ret` (NUL-terminated) and its
 * length to *ret_length: ASCII lower case, one trailing dot dropped. On anything but ACL_NAME_OK `ret` is untouched.
 */
enum acl_name_kind acl_name_normalise(const void *text, size_t length, char ret[ACL_NAME_MAX + 1], size_t *ret_length);

/* Is the last label a number, decimal or 0x… (WHATWG URL, "ends in a number")? No name is judged that is. */
bool acl_name_ends_in_number(const char *text, size_t length);

/* "an empty label", … for error messages. */
const char *acl_name_kind_text(enum acl_name_kind kind);
