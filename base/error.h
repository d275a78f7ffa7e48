/*
 * An error that a person will read: an errno for programs, one sentence for people.
 *
 * Set-up code (config, redirect, cli) fills one of these; the data path returns a negative errno alone.
 * A function that takes `struct error *` fills it exactly when it fails, and returns the same negative errno.
 */
#pragma once

#include <stdarg.h>
#include <stddef.h>

struct error {
    int code;       /* positive errno, 0 when nothing failed */
    char text[512]; /* one line, no control characters ("?" in their place), not capitalised; says what to do where it can */
};

/* Fill `err` (may be NULL) with errno `code` (positive) and a formatted sentence. Returns -code. */
int error_set(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* As error_set(), with ": strerror(code)" appended. */
int error_errno(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Put "text: " in front of what `err` says already. Returns -err->code. */
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
