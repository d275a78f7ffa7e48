#include "gateway/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHAT_MAX 128
#define SHOWN_MAX 5

struct report_entry {
    char what[WHAT_MAX];
    uint32_t hash; /* of it: most others are told apart by a number */
    enum acl_reason reason;
    uint64_t count;
};

struct report {
    struct report_entry entries[REPORT_MAX];
    size_t used;
    uint64_t total;
    uint64_t unlisted; /* denials of things that found no room */
};

struct report *report_create(void)
{
    return calloc(1, sizeof(struct report));
}

void report_destroy(struct report *report)
{
    free(report);
}

/* Returns its hash. */
static uint32_t copy_printable(const char *text, char ret[WHAT_MAX])
{
    size_t i = 0;
    uint32_t hash = 0x811c9dc5u;
    for (; text[i] && i < WHAT_MAX - 1; i++) {
        ret[i] = (text[i] > 0x1f && text[i] < 0x7f) ? text[i] : '?';
        hash = (hash ^ (uint8_t)ret[i]) * 0x01000193u;
    }
    ret[i] = 0;
    return hash;
}

void report_denied(struct report *report, const char *what, enum acl_reason reason)
{
    char shown[WHAT_MAX];
    uint32_t hash = copy_printable(what, shown);
    report->total++;
    for (size_t i = 0; i < report->used; i++) {
        if (report->entries[i].hash == hash && report->entries[i].reason == reason &&
            !strcmp(report->entries[i].what, shown)) {
            report->entries[i].count++;
            return;
        }
    }
    if (report->used == REPORT_MAX) {
        report->unlisted++;
        return;
    }
    struct report_entry *entry = &report->entries[report->used++];
    memcpy(entry->what, shown, strlen(shown) + 1);
    entry->hash = hash;
    entry->reason = reason;
    entry->count = 1;
}

static int by_count(const void *a, const void *b)
{
    const struct report_entry *left = *(const struct report_entry *const *)a;
    const struct report_entry *right = *(const struct report_entry *const *)b;
    if (left->count != right->count)
        return left->count < right->count ? 1 : -1;
    return left < right ? -1 : 1; /* then in the order seen */
}

static void append(char *ret, size_t size, const char *text)
{
    size_t used = strlen(ret);
    snprintf(ret + used, size - used, "%s", text);
}

const char *report_line(const struct report *report, int would, char *ret, size_t size)
{
    const struct report_entry *order[REPORT_MAX];
    char part[WHAT_MAX + 96];
    ret[0] = 0;
    if (report->total == 0)
        return ret;
    for (size_t i = 0; i < report->used; i++)
        order[i] = &report->entries[i];
    qsort(order, report->used, sizeof(*order), by_count);
    snprintf(ret, size, "sallyport: %llu %s: ", (unsigned long long)report->total,
             would ? "would have been denied" : "denied");
    for (size_t i = 0; i < report->used && i < SHOWN_MAX; i++) {
        char times[32] = "";
        if (order[i]->count > 1)
            snprintf(times, sizeof(times), " x%llu", (unsigned long long)order[i]->count);
        snprintf(part, sizeof(part), "%s%s%s (%s)", i ? ", " : "", order[i]->what, times,
                 acl_reason_name(order[i]->reason));
        append(ret, size, part);
    }
    if (report->used > SHOWN_MAX || report->unlisted) {
        snprintf(part, sizeof(part), ", and %s%zu more", report->unlisted ? "at least " : "",
                 report->used > SHOWN_MAX ? report->used - SHOWN_MAX : 1);
        append(ret, size, part);
    }
    return ret;
}
