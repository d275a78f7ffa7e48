/*
 * Walking a tree against a table of known keys, and reading single values. Every reader reports what is wrong
 * by itself, and what to write; a node that was reported already is passed over in silence.
 */
#pragma once

#include "config/tree.h"

/* What one key of a map means. */
struct field {
    const char *key;
    void (*read)(struct load *load, const struct node *value, void *object);
};

/* `what` is how messages call the map: "gateway", "a policy", …. */
void schema_map(struct load *load, const struct node *node, const char *what, const struct field *fields,
                size_t count, void *object);
/* Calls `item` for each item of a list. */
void schema_list(struct load *load, const struct node *node, const char *what,
                 void (*item)(struct load *load, const struct node *node, void *object), void *object);

/* Text that is not empty; NULL after a report. */
const char *schema_text(struct load *load, const struct node *node, const char *what);
/* One of `words`: its index, or -1 after a report. */
int schema_choice(struct load *load, const struct node *node, const char *what, const char *const *words,
                  size_t count);
/* A network as ADDR/LEN; a bare address is a network of one. False after a report. */
bool schema_network(struct load *load, const struct node *node, const char *what, struct cidr *ret);
/* Numbers without quotes: "200"; times with their unit: "10s". False after a report. */
bool schema_count(struct load *load, const struct node *node, const char *what, unsigned low, unsigned high,
                  unsigned *ret);
bool schema_duration(struct load *load, const struct node *node, const char *what, unsigned low_ms,
                     unsigned high_ms, unsigned *ret_ms);

/* The word that was probably meant: NULL when none is near. */
const char *schema_nearest(const char *written, const char *const *words, size_t count);
/* "a, b and c" in load's arena, for messages; "?" when out of memory. */
const char *schema_words(struct load *load, const char *const *words, size_t count, const char *last_joint);
