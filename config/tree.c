#include "config/tree.h"
#include "config/syntax.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define DEPTH_MAX 32
#define NODES_MAX 500000

struct level {
    struct node *container;
    struct node **tail; /* where the next item or key goes */
    struct node *key;   /* MAP: read, and waiting for its value */
    size_t count;
};

struct builder {
    struct load *load;
    struct node *root;
    struct level levels[DEPTH_MAX];
    size_t depth, nodes;
    bool stopped;
};

static struct mark mark_of(yaml_mark_t at)
{
    return (struct mark){(unsigned)at.line + 1, (unsigned)at.column + 1};
}

static void stop(struct builder *b, yaml_mark_t at, const char *message)
{
    report(b->load, mark_of(at), "%s", message);
    b->stopped = true;
}

/* Hang `node` where the text put it: the root, an item, a key, or the value of the key before it. */
static void attach(struct builder *b, struct node *node)
{
    if (b->depth == 0) {
        b->root = node;
        return;
    }
    struct level *level = &b->levels[b->depth - 1];
    if (level->container->kind == NODE_MAP && level->key) {
        level->key->value = node;
        level->key = NULL;
        return;
    }
    if (level->container->kind == NODE_MAP) {
        if (node->kind != NODE_SCALAR && node->kind != NODE_BAD)
            report(b->load, node->mark, "a key has to be a word, not a list or a map");
        level->key = node;
    }
    *level->tail = node;
    level->tail = &node->next;
    level->count++;
}

static struct node *add_node(struct builder *b, enum node_kind kind, const yaml_event_t *event)
{
    struct node *node = load_alloc(b->load, sizeof(*node));
    if (!node || ++b->nodes > NODES_MAX) {
        if (node)
            stop(b, event->start_mark,
                 "too many values: put long lists of names into allow_files and deny_files");
        b->stopped = true;
        return NULL;
    }
    node->kind = kind;
    node->mark = mark_of(event->start_mark);
    attach(b, node);
    return node;
}

static void open_container(struct builder *b, enum node_kind kind, const yaml_event_t *event)
{
    if (b->depth == DEPTH_MAX) {
        stop(b, event->start_mark, "nested too deeply");
        return;
    }
    struct node *node = add_node(b, kind, event);
    if (node)
        b->levels[b->depth++] = (struct level){.container = node, .tail = &node->first};
}

static void add_scalar(struct builder *b, const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;
    struct node *node = add_node(b, NODE_SCALAR, event);
    if (!node)
        return;
    if (memchr(text, 0, length)) {
        report(b->load, node->mark, "a NUL character has no place here");
        node->kind = NODE_BAD;
    }
    node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    node->length = length;
    node->text = load_copy(b->load, text, length);
    if (!node->text)
        b->stopped = true;
}

static int compare_keys(const void *left, const void *right)
{
    const struct node *a = *(const struct node *const *)left, *b = *(const struct node *const *)right;
    int order = strcmp(a->text, b->text);
    if (order)
        return order;
    if (a->mark.line != b->mark.line)
        return a->mark.line < b->mark.line ? -1 : 1;
    return a->mark.column < b->mark.column ? -1 : 1;
}

/* Sorted rather than compared pair by pair: a map may hold thousands of policies. */
static void refuse_repeated_keys(struct builder *b, const struct level *level)
{
    struct node **keys = level->count > 1 ? malloc(level->count * sizeof(*keys)) : NULL;
    size_t count = 0;
    if (!keys) {
        b->stopped |= level->count > 1;
        b->load->out_of_memory |= level->count > 1;
        return;
    }
    for (struct node *key = level->container->first; key; key = key->next)
        if (key->kind == NODE_SCALAR)
            keys[count++] = key;
    qsort(keys, count, sizeof(*keys), compare_keys);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(keys[i - 1]->text, keys[i]->text))
            continue;
        report(b->load, keys[i]->mark, "the key \"%s\" was already given in line %u: keep one of them",
               keys[i]->text, keys[i - 1]->mark.line);
        keys[i]->kind = NODE_BAD;
    }
    free(keys);
}

static void close_container(struct builder *b)
{
    const struct level *level = &b->levels[--b->depth];
    if (level->container->kind == NODE_MAP)
        refuse_repeated_keys(b, level);
}

static void refuse_decoration(struct builder *b, const yaml_event_t *event, const yaml_char_t *anchor,
                              const yaml_char_t *tag)
{
    static const char core[] = "tag:yaml.org,2002:";
    struct mark at = mark_of(event->start_mark);
    bool is_core = tag && !strncmp((const char *)tag, core, sizeof(core) - 1);
    if (anchor)
        report(b->load, at, "anchors are not supported: remove \"&%s\", and write the value where it is used",
               anchor);
    if (tag)
        report(b->load, at, "tags are not supported: remove \"%s%s\"", is_core ? "!!" : "",
               (const char *)tag + (is_core ? sizeof(core) - 1 : 0));
}

static void start_document(struct builder *b, const yaml_event_t *event)
{
    if (b->root)
        stop(b, event->start_mark,
             "only one document: remove the \"---\" and what follows, or merge the two");
    else if (event->data.document_start.tag_directives.start != event->data.document_start.tag_directives.end)
        stop(b, event->start_mark, "tags are not supported: remove the %TAG line");
}

static void take_event(struct builder *b, const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        start_document(b, event);
        break;
    case YAML_ALIAS_EVENT:
        report(b->load, mark_of(event->start_mark),
               "an unquoted * makes \"*%s\" an alias, which is not supported; if a rule is meant, quote it: "
               "\"*%s\"",
               event->data.alias.anchor, event->data.alias.anchor);
        add_node(b, NODE_BAD, event);
        break;
    case YAML_SCALAR_EVENT:
        refuse_decoration(b, event, event->data.scalar.anchor, event->data.scalar.tag);
        add_scalar(b, event);
        break;
    case YAML_SEQUENCE_START_EVENT:
        refuse_decoration(b, event, event->data.sequence_start.anchor, event->data.sequence_start.tag);
        open_container(b, NODE_LIST, event);
        break;
    case YAML_MAPPING_START_EVENT:
        refuse_decoration(b, event, event->data.mapping_start.anchor, event->data.mapping_start.tag);
        open_container(b, NODE_MAP, event);
        break;
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        close_container(b);
        break;
    default:
        break;
    }
}

static void read_events(struct builder *b, yaml_parser_t *parser, const char *text, size_t length)
{
    yaml_event_type_t type = YAML_NO_EVENT;
    while (!b->stopped && type != YAML_STREAM_END_EVENT) {
        yaml_event_t event;
        if (!yaml_parser_parse(parser, &event)) {
            syntax_report(b->load, parser, text, length);
            b->stopped = true;
            return;
        }
        type = event.type;
        take_event(b, &event);
        yaml_event_delete(&event);
    }
}

const struct node *tree_read(struct load *load, const char *text, size_t length)
{
    static const char bom[] = "\xef\xbb\xbf";
    struct builder b = {.load = load};
    yaml_parser_t parser;
    if (length >= 3 && !memcmp(text, bom, 3)) { /* libyaml would count it as a column */
        text += 3;
        length -= 3;
    }
    if (!yaml_parser_initialize(&parser)) {
        load->out_of_memory = true;
        return NULL;
    }
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, length);
    read_events(&b, &parser, text, length);
    yaml_parser_delete(&parser);
    if (b.stopped)
        return NULL;
    if (!b.root)
        report(load, (struct mark){1, 1}, "there is nothing in it: a policy file starts with \"version: 1\"");
    return b.root;
}
