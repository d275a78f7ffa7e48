#include "cli/import.h"
#include "config/file.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define REPEATS_MAX 2000 /* longer lists are not searched for repeated entries */

/* ---- the model ---- */

static void list_add(struct import *in, struct import_list *list, unsigned line, const char *text)
{
    struct import_entry *entry = load_alloc(&in->load, sizeof(*entry));
    if (!entry)
        return;
    *entry = (struct import_entry){.text = text, .line = line};
    if (!list->tail)
        list->tail = &list->first;
    *list->tail = entry;
    list->tail = &entry->next;
    list->count++;
}

struct import_policy *import_policy_add(struct import *in, const char *name)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    struct import_policy *policy = load_alloc(&in->load, sizeof(*policy));
    char *own = load_copy(&in->load, name, strnlen(name, 48));
    if (!policy || !own)
        return NULL;
    for (char *c = own; *c; c++)
        if (!strchr(good, *c))
            *c = '-';
    *policy = (struct import_policy){.name = own};
    if (!*own || *own == '-' || profile_find(own) || !strcmp(own, "deny"))
        policy->name = arena_format(&in->load.arena, "imported-%s", own);
    for (const struct import_policy *other = in->policies; other && policy->name; other = other->next)
        if (!strcmp(other->name, policy->name))
            policy->name = arena_format(&in->load.arena, "%s-2", policy->name);
    in->load.out_of_memory |= !policy->name;
    if (!in->tail)
        in->tail = &in->policies;
    *in->tail = policy;
    in->tail = &policy->next;
    return policy->name ? policy : NULL;
}

void import_note(struct import *in, unsigned line, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    for (char *c = text; *c; c++) /* goes into a comment, and to the terminal */
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
    const char *copy = load_copy(&in->load, text, strlen(text));
    if (copy)
        list_add(in, &in->notes, line, copy);
}

static bool has_entry(const struct import_list *list, const char *text)
{
    for (const struct import_entry *e = list->first; e; e = e->next)
        if (!strcmp(e->text, text))
            return true;
    return false;
}

bool import_rule(struct import *in, struct import_list *to, unsigned line, const char *format, ...)
{
    char text[2048];
    struct acl_rule rule;
    struct error err;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    size_t length = n < 0 ? 0 : strlen(text);
    if (acl_rule_parse(text, length, false, &rule, &err) < 0) {
        import_note(in, line, "%s", err.text);
        return false;
    }
    const char *copy =
        to->count < REPEATS_MAX && has_entry(to, text) ? NULL : load_copy(&in->load, text, length);
    if (copy)
        list_add(in, to, line, copy);
    return true;
}

void import_word(struct import *in, struct import_list *to, unsigned line, const char *text, size_t length)
{
    const char *copy = load_copy(&in->load, text, length);
    if (copy && (to->count >= REPEATS_MAX || !has_entry(to, copy)))
        list_add(in, to, line, copy);
}

/* NAME:PORT, where the format does not say what is spoken there. */
static void import_name_and_port(struct import *in, struct import_list *to, unsigned line, const char *name,
                                 const char *port)
{
    if (!strcmp(port, "443"))
        import_rule(in, to, line, "https://%s", name);
    else if (!strcmp(port, "80"))
        import_rule(in, to, line, "http://%s", name);
    else
        import_rule(in, to, line, "tcp://%s:%s", name, port);
}

void import_host(struct import *in, struct import_list *to, unsigned line, const char *text, size_t length)
{
    struct acl_rule rule;
    char *host = load_copy(&in->load, text, length);
    if (!host || !*host)
        return;
    size_t end = strlen(host);
    bool is_url = strstr(host, "://") != NULL;
    if (is_url && host[end - 1] == '/') /* https://example.com/ means the site */
        host[--end] = 0;
    if (*host == '.') {
        import_rule(in, to, line, "*%s", host);
        return;
    }
    char *colon = strrchr(host, ':');
    bool name_and_port = colon && !is_url && strchr(host, ':') == colon && host[0] != '[' && colon > host &&
                         acl_rule_parse(host, end, false, &rule, NULL) < 0;
    if (!name_and_port) {
        import_rule(in, to, line, "%s", host);
        return;
    }
    *colon = 0;
    import_name_and_port(in, to, line, host, colon + 1);
}
