/*
 * Why libyaml gave up, in words that say what to write. Its own messages name grammar rules; the mistakes
 * that people make in a policy are few: an unquoted *, a tab, an unquoted [IPv6 address], a missing quote or
 * bracket.
 */
#pragma once

#include "config/load.h"

#include <yaml.h>

void syntax_report(struct load *load, const yaml_parser_t *parser, const char *text, size_t length);
