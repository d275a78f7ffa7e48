/*
 * What a rule may say about one plain HTTP request: its method and its path.
 *
 * A path is judged in one normal form, and only when every server would read it as the same resource. What
 * servers are known to read differently is not repaired but called ambiguous, and then no rule for a path
 * allows it: dot segments also behind percent-encoding (RFC 3986 section 6.2.2.3; servers differ in the order
 * of decoding and removing), "//" (kept by some, merged by others), "\" (a "/" to some), %2F and %5C (decoded
 * by some), ";" (path parameters, stripped by Java servers), %25 in front of two hex digits (decoded twice by
 * some), NUL, control and non-ASCII bytes, and a "%" that encodes nothing.
 *
 * Limits: case matters, though some origins ignore it, so deny rules for paths are a convenience and allow
 * rules the protection. The query is not looked at. A client's X-HTTP-Method-Override and the like are not
 * seen.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACL_PATH_MAX 2048 /* longer paths are ambiguous: no rule is so long */

/* The bit of a method that rules may name; 0 for any other. Methods are case-sensitive (RFC 9110
 * section 9.1). */
uint16_t acl_method_bit(const char *name, size_t length);
/* "GET, HEAD, …": every method that has a bit, for messages. */
const char *acl_method_names(void);

/*
 * The path of a request target (origin-form, "/…", a query behind it is left out) in normal form: escapes of
 * printable characters decoded, all others in upper case. NULL, or why it can be read in more than one way: a
 * static text; then the outputs are untouched.
 */
const char *acl_path_normalise(const char *target, size_t length, char ret[ACL_PATH_MAX + 1],
                               size_t *ret_length);

/* A "*" at the end of a pattern is any rest, also none; one between slashes is one segment. Linear. */
bool acl_path_matches(const char *pattern, size_t pattern_length, const char *path, size_t length);
