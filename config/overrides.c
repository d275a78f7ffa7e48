#include "config/overrides.h"
#include "config/hash.h"
#include "config/schema.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TARGETS_MAX 10000

struct overrides {
    atomic_uint references;
    struct arena arena; /* all that is pointed to */
    char *text;
    size_t length;
    struct override *list; /* sorted by kind and target */
    size_t count;
};

static int compare(bool a_policy, const char *a, bool b_policy, const char *b)
{
    return a_policy != b_policy ? a_policy - b_policy : strcmp(a, b);
}

static int compare_overrides(const void *a, const void *b)
{
    const struct override *l = a, *r = b;
    return compare(l->of_policy, l->target, r->of_policy, r->target);
}

struct overrides *overrides_ref(struct overrides *overrides)
{
    atomic_fetch_add_explicit(&overrides->references, 1, memory_order_relaxed);
    return overrides;
}

void overrides_unref(struct overrides *overrides)
{
    if (!overrides || atomic_fetch_sub_explicit(&overrides->references, 1, memory_order_acq_rel) != 1)
        return;
    arena_finish(&overrides->arena);
    free(overrides->text);
    free(overrides->list);
    free(overrides);
}

const char *overrides_text(const struct overrides *overrides, size_t *ret_length)
{
    *ret_length = overrides->length;
    return overrides->text;
}

const struct override *overrides_find(const struct overrides *overrides, bool of_policy, const char *target)
{
    const struct override key = {.of_policy = of_policy, .target = target};
    return overrides->count ? bsearch(&key, overrides->list, overrides->count, sizeof(key), compare_overrides)
                            : NULL;
}

const struct override *overrides_at(const struct overrides *overrides, size_t i)
{
    return i < overrides->count ? &overrides->list[i] : NULL;
}

/* ---- reading ---- */

struct rule_item {
    struct rule_item *next;
    struct override_rule rule;
};

struct target_item {
    struct target_item *next;
    struct override override;
    struct rule_item *rules;
    struct mark mark;
};

struct reading {
    struct target_item *targets;
    size_t count;
};

static const char *short_text(struct load *load, const struct node *node, const char *what)
{
    const char *text = schema_text(load, node, what);
    if (!text || strlen(text) < OVERRIDE_TEXT_MAX)
        return text;
    report(load, node->mark, "%s is longer than %d bytes", what, OVERRIDE_TEXT_MAX - 1);
    return NULL;
}

#define TEXT_FIELD(function, type, member, what)                                   \
    static void function(struct load *load, const struct node *node, void *object) \
    {                                                                              \
        ((type *)object)->member = short_text(load, node, what);                   \
    }
TEXT_FIELD(read_rule_by, struct rule_item, rule.by, "by")
TEXT_FIELD(read_rule_at, struct rule_item, rule.at, "at")
TEXT_FIELD(read_set_policy, struct target_item, override.policy, "policy")
TEXT_FIELD(read_set_by, struct target_item, override.by, "by")
TEXT_FIELD(read_set_at, struct target_item, override.at, "at")

static void read_rule_text(struct load *load, const struct node *node, struct rule_item *item, bool deny)
{
    const char *text = schema_text(load, node, deny ? "deny" : "allow");
    if (text && item->rule.text)
        report(load, node->mark, "a rule is either allow or deny");
    else if (text && check_rule(load, load->name, node->mark, text, node->length, deny))
        item->rule =
            (struct override_rule){.text = text, .deny = deny, .by = item->rule.by, .at = item->rule.at};
}

static void read_allow(struct load *load, const struct node *node, void *object)
{
    read_rule_text(load, node, object, false);
}

static void read_deny(struct load *load, const struct node *node, void *object)
{
    read_rule_text(load, node, object, true);
}

#define FIELDS(fields) fields, sizeof(fields) / sizeof(*(fields))

static void read_rule(struct load *load, const struct node *node, void *object)
{
    static const struct field fields[] = {
        {"allow", read_allow}, {"deny", read_deny}, {"by", read_rule_by}, {"at", read_rule_at}};
    struct target_item *target = object;
    struct rule_item **tail = &target->rules, *item = load_alloc(load, sizeof(*item));
    size_t reported = load->reported;
    if (!item)
        return;
    schema_map(load, node, "a rule", FIELDS(fields), item);
    if (load->reported == reported && (!item->rule.text || !item->rule.by || !item->rule.at))
        report(load, node->mark, "a rule needs allow or deny, by and at");
    if (++target->override.count > OVERRIDE_RULES_MAX)
        report(load, node->mark, "more than %d rules were added at run time: write them into the policy file",
               OVERRIDE_RULES_MAX);
    while (*tail)
        tail = &(*tail)->next;
    *tail = item;
}

static void read_rules(struct load *load, const struct node *node, void *object)
{
    schema_list(load, node, "rules", read_rule, object);
}

static void read_set(struct load *load, const struct node *node, void *object)
{
    static const struct field fields[] = {
        {"policy", read_set_policy}, {"by", read_set_by}, {"at", read_set_at}};
    struct target_item *target = object;
    size_t reported = load->reported;
    schema_map(load, node, "set", FIELDS(fields), target);
    if (load->reported == reported &&
        (!target->override.policy || !target->override.by || !target->override.at))
        report(load, node->mark, "set needs policy, by and at");
}

static void read_target(struct load *load, const struct node *node, struct target_item *item, bool of_policy)
{
    const char *text = short_text(load, node, of_policy ? "policy" : "container");
    if (text && item->override.target)
        report(load, node->mark, "a change is either of a container or of a policy");
    item->override.target = text;
    item->override.of_policy = of_policy;
}

static void read_container(struct load *load, const struct node *node, void *object)
{
    read_target(load, node, object, false);
}

static void read_policy(struct load *load, const struct node *node, void *object)
{
    read_target(load, node, object, true);
}

static void read_change(struct load *load, const struct node *node, void *object)
{
    static const struct field fields[] = {
        {"container", read_container}, {"policy", read_policy}, {"set", read_set}, {"rules", read_rules}};
    struct reading *reading = object;
    struct target_item *item = load_alloc(load, sizeof(*item));
    size_t reported = load->reported;
    if (!item)
        return;
    item->mark = node->mark;
    schema_map(load, node, "a change", FIELDS(fields), item);
    if (load->reported == reported && !item->override.target)
        report(load, node->mark, "a change needs a container or a policy");
    if (item->override.of_policy && item->override.policy)
        report(load, node->mark, "only a container can be set to a policy");
    if (++reading->count == TARGETS_MAX)
        report(load, node->mark, "more than %d containers and policies were changed at run time: sallyport forget --gone takes "
               "back what is for nobody",
               TARGETS_MAX);
    item->next = reading->targets;
    reading->targets = item;
}

static void read_changes(struct load *load, const struct node *node, void *object)
{
    schema_list(load, node, "changes", read_change, object);
}

static void read_version(struct load *load, const struct node *node, void *object)
{
    unsigned version;
    (void)object;
    schema_count(load, node, "version", 1, 1, &version);
}

static bool take_rules(struct load *load, const struct target_item *item, struct override *ret)
{
    struct override_rule *rules = load_alloc(load, (item->override.count + 1) * sizeof(*rules));
    size_t i = 0;
    if (!rules)
        return false;
    for (const struct rule_item *rule = item->rules; rule; rule = rule->next)
        rules[i++] = rule->rule;
    *ret = item->override;
    ret->rules = rules;
    return true;
}

static void take_targets(struct load *load, const struct reading *reading, struct overrides *overrides)
{
    overrides->list = calloc(reading->count + 1, sizeof(*overrides->list));
    load->out_of_memory |= !overrides->list;
    for (const struct target_item *item = reading->targets; item && overrides->list; item = item->next)
        if (take_rules(load, item, &overrides->list[overrides->count]))
            overrides->count++;
    if (overrides->count > 1)
        qsort(overrides->list, overrides->count, sizeof(*overrides->list), compare_overrides);
    for (size_t i = 1; i < overrides->count; i++)
        if (compare_overrides(&overrides->list[i - 1], &overrides->list[i]) == 0)
            report(load, (struct mark){0}, "\"%s\" is there twice", overrides->list[i].target);
}

static void read_text(struct load *load, const char *text, size_t length, struct overrides *overrides)
{
    static const struct field fields[] = {{"version", read_version}, {"changes", read_changes}};
    struct reading reading = {0};
    if (length > OVERRIDES_MAX_BYTES) {
        report(load, (struct mark){0},
               "more than %u KiB were changed at run time: write a policy into the policy file",
               OVERRIDES_MAX_BYTES >> 10);
        return;
    }
    const struct node *root = tree_read(load, text, length);
    if (!root)
        return;
    schema_map(load, root, "the file", FIELDS(fields), &reading);
    if (load->reported == 0 && !load->out_of_memory)
        take_targets(load, &reading, overrides);
}

int overrides_parse(const char *name, const char *text, size_t length, struct overrides **ret,
                    struct config_errors *errors)
{
    struct overrides *overrides = calloc(1, sizeof(*overrides));
    struct load load = {.name = name, .folder = ".", .errors = errors, .record = {-1}, .hash = HASH_START};
    *errors = (struct config_errors){0};
    if (overrides) {
        atomic_init(&overrides->references, 1);
        overrides->text = malloc(length + 1);
    }
    if (overrides && overrides->text) {
        memcpy(overrides->text, text, length);
        overrides->text[length] = 0;
        overrides->length = length;
        read_text(&load, overrides->text, length, overrides);
        overrides->arena = load.arena;
    } else {
        load.out_of_memory = true;
    }
    if (load.out_of_memory)
        report(&load, (struct mark){0}, "out of memory");
    if (load.reported || load.out_of_memory) {
        overrides_unref(overrides);
        return load.out_of_memory ? -ENOMEM : -EINVAL;
    }
    *ret = overrides;
    return 0;
}

/* ---- writing ---- */

static const char head[] =
    "# What was changed at run time (sallyport allow, deny, set). The gateway writes this file;\n"
    "# sallyport forget NAME takes back what was changed for NAME.\n"
    "version: 1\n";

struct overrides *overrides_none(void)
{
    struct config_errors errors;
    struct overrides *none = NULL;
    overrides_parse("", head, sizeof(head) - 1, &none, &errors);
    config_errors_finish(&errors);
    return none;
}

static void put_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static void put_member(FILE *out, const char *before, const char *text, const char *after)
{
    fputs(before, out);
    put_text(out, text);
    fputs(after, out);
}

static void put_override(FILE *out, const struct override *o)
{
    put_member(out, o->of_policy ? "  - policy: " : "  - container: ", o->target, "\n");
    if (o->policy) {
        put_member(out, "    set: {policy: ", o->policy, "");
        put_member(out, ", by: ", o->by, "");
        put_member(out, ", at: ", o->at, "}\n");
    }
    if (o->count)
        fputs("    rules:\n", out);
    for (size_t i = 0; i < o->count; i++) {
        put_member(out, o->rules[i].deny ? "      - {deny: " : "      - {allow: ", o->rules[i].text, "");
        put_member(out, ", by: ", o->rules[i].by, "");
        put_member(out, ", at: ", o->rules[i].at, "}\n");
    }
}

/* The text of `old` with `changed` instead of what it says of that target. */
static int format(const struct overrides *old, const struct override *changed, char **ret, size_t *ret_length)
{
    bool gone = !changed->policy && changed->count == 0, placed = gone, any = false;
    FILE *out = open_memstream(ret, ret_length);
    if (!out)
        return -ENOMEM;
    fputs(head, out);
    for (size_t i = 0; i <= old->count; i++) {
        const struct override *o = i < old->count ? &old->list[i] : NULL;
        int order = o ? compare_overrides(changed, o) : -1;
        const struct override *put[2] = {order <= 0 && !placed ? changed : NULL, o && order != 0 ? o : NULL};
        placed |= put[0] != NULL;
        for (size_t k = 0; k < 2; k++) {
            if (put[k] && !any)
                fputs("changes:\n", out);
            any |= put[k] != NULL;
            if (put[k])
                put_override(out, put[k]);
        }
    }
    if (fclose(out) == 0)
        return 0;
    free(*ret);
    return -ENOMEM;
}

/* ---- changing ---- */

static bool is_among(const struct override_rule *rule, const struct override_change *change)
{
    for (size_t i = 0; i < change->count; i++)
        if (!strcmp(rule->text, change->rules[i]))
            return true;
    return false;
}

static bool has_rule(const struct override *o, const char *text, bool deny)
{
    for (size_t i = 0; i < o->count; i++)
        if (o->rules[i].deny == deny && !strcmp(o->rules[i].text, text))
            return true;
    return false;
}

/* The rules that are there afterwards, into `ret`, which has room; false when they are the same as before. */
static bool change_rules(const struct override *before, const struct override_change *change,
                         struct override_rule *ret, size_t *ret_count)
{
    bool deny = change->verb == OVERRIDE_DENY, changed = false;
    size_t count = 0;
    for (size_t i = 0; i < before->count; i++) {
        bool goes = is_among(&before->rules[i], change) && (before->rules[i].deny == deny) == change->remove;
        changed |= goes;
        if (!goes)
            ret[count++] = before->rules[i];
    }
    for (size_t i = 0; i < change->count && !change->remove; i++) {
        const struct override so_far = {.rules = ret, .count = count};
        if (has_rule(&so_far, change->rules[i], deny))
            continue;
        ret[count++] = (struct override_rule){change->rules[i], deny, change->by, change->at};
        changed = true;
    }
    *ret_count = count;
    return changed;
}

/* Rules are checked before they are written among the others: so the error is about them, and calls them by the command. */
static int check_rules(const struct override_change *change, struct error *err)
{
    struct config_errors errors = {0};
    struct load load = {.name = "", .folder = ".", .errors = &errors, .record = {-1}};
    for (size_t i = 0; i < change->count; i++)
        check_rule(&load, "", (struct mark){0}, change->rules[i], strlen(change->rules[i]),
                   change->verb == OVERRIDE_DENY);
    int r = 0;
    if (load.reported || load.out_of_memory) /* without the ": " of a file that has no name */
        r = error_set(err, EINVAL, "%s", errors.count ? errors.lines[0] + strlen(": ") : "out of memory");
    config_errors_finish(&errors);
    arena_finish(&load.arena);
    return r;
}

/* Takes over `text`. */
static int parse_own(char *text, size_t length, struct overrides **ret, struct error *err)
{
    struct config_errors errors;
    int r = overrides_parse("changed at run time", text, length, ret, &errors);
    if (r < 0)
        error_set(err, -r, "%s", errors.count ? errors.lines[0] : "out of memory");
    config_errors_finish(&errors);
    free(text);
    return r;
}

static int reparse(const struct overrides *old, const struct override *changed, struct overrides **ret,
                   struct error *err)
{
    char *text;
    size_t length;
    int r = format(old, changed, &text, &length);
    return r < 0 ? error_set(err, ENOMEM, "out of memory") : parse_own(text, length, ret, err);
}

int overrides_keep(struct overrides *old, bool (*keep)(const struct override *one, void *arg), void *arg,
                   struct overrides **ret, struct error *err)
{
    char *text;
    size_t length, kept = 0;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return error_set(err, ENOMEM, "out of memory");
    fputs(head, out);
    for (size_t i = 0; i < old->count; i++) {
        if (!keep(&old->list[i], arg))
            continue;
        if (kept++ == 0)
            fputs("changes:\n", out);
        put_override(out, &old->list[i]);
    }
    if (fclose(out) != 0) {
        free(text);
        return error_set(err, ENOMEM, "out of memory");
    }
    if (kept < old->count)
        return parse_own(text, length, ret, err);
    free(text);
    *ret = overrides_ref(old);
    return 0;
}

/* What is said of the target afterwards; false when that is nothing new. */
static bool apply(const struct override_change *change, struct override *o, struct override_rule *room)
{
    switch (change->verb) {
    case OVERRIDE_FORGET: {
        bool any = o->policy || o->count;
        o->policy = NULL;
        o->count = 0;
        return any;
    }
    case OVERRIDE_SET: {
        const char *policy = change->remove ? NULL : change->policy;
        if (o->policy == policy || (o->policy && policy && !strcmp(o->policy, policy)))
            return false;
        o->policy = policy;
        o->by = change->by;
        o->at = change->at;
        return true;
    }
    default: {
        bool changed = change_rules(o, change, room, &o->count);
        o->rules = room;
        return changed;
    }
    }
}

int overrides_change(struct overrides *old, const struct override_change *change, struct overrides **ret,
                     struct error *err)
{
    const struct override *before = overrides_find(old, change->of_policy, change->target);
    struct override after =
        before ? *before : (struct override){.of_policy = change->of_policy, .target = change->target};
    int r = check_rules(change, err);
    if (r < 0)
        return r;
    struct override_rule *room = calloc(after.count + change->count + 1, sizeof(*room));
    if (!room)
        return error_set(err, ENOMEM, "out of memory");
    if (apply(change, &after, room))
        r = reparse(old, &after, ret, err);
    else
        *ret = overrides_ref(old);
    free(room);
    return r;
}
