/*
 * YAML text as a tree whose nodes know where they were written.
 *
 * Only what a policy needs: maps, lists and scalars of one document. Anchors, aliases, tags and repeated keys
 * are reported, not followed: what a policy allows must be readable in place. Depth and number of nodes are
 * bounded, and no function recurses on the input.
 */
#pragma once

#include "config/load.h"

enum node_kind {
    NODE_BAD, /* already reported: readers skip it silently */
    NODE_SCALAR,
    NODE_LIST,
    NODE_MAP,
};

struct node {
    enum node_kind kind;
    bool plain; /* SCALAR: written without quotes */
    struct mark mark;
    const char *text; /* SCALAR: UTF-8 without NUL bytes */
    size_t length;
    struct node *first; /* LIST: items; MAP: keys (scalars) */
    struct node *next;  /* the item or key behind this one */
    struct node *value; /* of a key; never NULL */
};

/* NULL, with a report, when the text is no YAML document at all. Nodes live in load->arena. */
const struct node *tree_read(struct load *load, const char *text, size_t length);
