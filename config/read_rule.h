/*
 * Rules in map form.
 */
#pragma once

#include "config/tree.h"

/* Gets each rule string that the map stands for, not yet checked; it lives as long as the load. */
typedef void rule_taker(struct load *load, struct mark mark, const char *text, void *arg);

void read_rule_map(struct load *load, const struct node *node, rule_taker *take, void *arg);
