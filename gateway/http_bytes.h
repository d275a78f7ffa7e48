/*
 * Classes of bytes in HTTP/1 messages: what a strict server takes (RFC 9110 sections 5.5 and 5.6.2, RFC
 * 9112).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* tchar: what methods and field names are made of. */
static inline bool http_is_token(uint8_t byte)
{
    static const bool token[256] = {
        ['!'] = true,         ['#' ... '\''] = true, ['*' ... '+'] = true,
        ['-' ... '.'] = true, ['0' ... '9'] = true,  ['A' ... 'Z'] = true,
        ['^' ... 'z'] = true, ['|'] = true,          ['~'] = true,
    };
    return token[byte];
}

/* field-vchar, SP, HTAB and obs-text; never CR, LF, NUL, DEL or another control byte. */
static inline bool http_is_text(uint8_t byte)
{
    return (byte >= ' ' && byte != 0x7f) || byte == '\t';
}
