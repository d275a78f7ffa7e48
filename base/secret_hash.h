/*
 * uthash for keys that a client may choose: hashed with SipHash-1-3 and a key that nobody knows, so that no set of names or
 * addresses can be chosen that falls into one bucket. Include this in place of <uthash.h>.
 *
 * When memory for a table is out, the element is not added, and its hh.tbl is NULL.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* The same for equal bytes in this process and its forks, and in no other. */
uint32_t secret_hash(const void *bytes, size_t length);

#define HASH_FUNCTION(key, length, value) ((value) = secret_hash((key), (length)))
#define HASH_NONFATAL_OOM 1
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#include <uthash.h>
#pragma GCC diagnostic pop
