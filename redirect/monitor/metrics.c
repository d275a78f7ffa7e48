#include "redirect/monitor/metrics.h"

#include "base/fds.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))
#define US 1000u
#define MS (1000u * US)

/* ---- the page ---- */

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static int page = -1; /* one a process */

struct metrics *metrics_create(void)
{
    struct metrics *metrics = MAP_FAILED;
    page = memfd_create("sallyport-metrics", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (page >= 0 && ftruncate(page, sizeof(*metrics)) == 0 && fcntl(page, F_ADD_SEALS, SEALS) == 0)
        metrics = mmap(NULL, sizeof(*metrics), PROT_READ | PROT_WRITE, MAP_SHARED, page, 0);
    if (metrics == MAP_FAILED) {
        fd_close(&page);
        return NULL;
    }
    metric_set(&metrics->form, METRICS_FORM);
    metric_set(&metrics->worker_count, 1);
    metric_set(&metrics->started_s, (uint64_t)time(NULL));
    metric_set(&metrics->reload_s, (uint64_t)time(NULL));
    return metrics;
}

void metrics_destroy(struct metrics *metrics)
{
    if (metrics)
        munmap(metrics, sizeof(*metrics));
    fd_close(&page);
}

int metrics_descriptor(void)
{
    return page;
}

bool metrics_adopt(struct metrics *metrics, int fd)
{
    _cleanup_fd_ int other = fd;
    struct stat status;
    uint64_t form = 0;
    int seals = fcntl(other, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || fstat(other, &status) < 0 || status.st_size != sizeof(*metrics) ||
        pread(other, &form, sizeof(form), offsetof(struct metrics, form)) != sizeof(form) || form != METRICS_FORM)
        return false;
    if (mmap(metrics, sizeof(*metrics), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, other, 0) == MAP_FAILED)
        return false;
    fd_close(&page);
    page = fd_steal(&other);
    metric_set(&metrics->first, (metric_get(&metrics->first) + metric_get(&metrics->worker_count)) % METRICS_WORKERS);
    return true;
}

void metrics_detach(struct metrics *metrics)
{
    /* Should there be no memory for it, the old one stays: two write a few gauges. */
    (void)!mmap(metrics, sizeof(*metrics), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

struct metrics_worker *metrics_worker_slot(struct metrics *metrics, unsigned index)
{
    uint64_t slot = (metric_get(&metrics->first) + index) % METRICS_WORKERS;
    if (slot >= metric_get(&metrics->used))
        metric_set(&metrics->used, slot + 1);
    return &metrics->workers[slot];
}

static size_t used(const struct metrics *metrics)
{
    uint64_t count = metric_get(&metrics->used);
    return count == 0 ? 1 : count < METRICS_WORKERS ? count : METRICS_WORKERS;
}

static bool is_ours(const struct metrics *metrics, uint64_t slot)
{
    uint64_t index = (slot + METRICS_WORKERS - metric_get(&metrics->first)) % METRICS_WORKERS;
    return index < metric_get(&metrics->worker_count);
}

void metrics_elders_gone(struct metrics *metrics)
{
    for (size_t i = 0; i < used(metrics); i++)
        if (!is_ours(metrics, i))
            metrics_worker_start(&metrics->workers[i]);
}

void metrics_worker_start(struct metrics_worker *worker)
{
    metric_set(&worker->flows_active, 0);
    metric_set(&worker->audit_queued_bytes, 0);
    metric_set(&worker->audit_failing, 0);
    metric_set(&worker->lag_max_ns, 0);
}

/* ---- counting ---- */

struct bounds {
    size_t count;
    uint64_t ns[METRICS_BUCKETS_MAX];
};

static const struct bounds flow_bounds = {13, {100 * US, 250 * US, 500 * US, 1 * MS, 2500 * US, 5 * MS, 10 * MS, 25 * MS, 100 * MS,
                                               250 * MS, 1000 * MS, 2500 * MS, 10000ull * MS}};
static const struct bounds lag_bounds = {10, {1 * MS, 2 * MS, 5 * MS, 10 * MS, 25 * MS, 50 * MS, 100 * MS, 250 * MS, 1000 * MS,
                                              5000ull * MS}};

static void observe(struct metric_histogram *histogram, const struct bounds *bounds, uint64_t ns)
{
    size_t i = 0;
    while (i < bounds->count && ns > bounds->ns[i])
        i++;
    metric_add(&histogram->buckets[i], 1);
    metric_add(&histogram->sum_ns, ns);
}

void metrics_observe_sniff(struct metrics_worker *worker, uint64_t ns)
{
    observe(&worker->sniff, &flow_bounds, ns);
}

void metrics_observe_setup(struct metrics_worker *worker, uint64_t ns)
{
    observe(&worker->setup, &flow_bounds, ns);
}

void metrics_observe_dns(struct metrics_worker *worker, uint64_t ns)
{
    observe(&worker->dns, &flow_bounds, ns);
}

void metrics_observe_lag(struct metrics_worker *worker, uint64_t ns)
{
    observe(&worker->lag, &lag_bounds, ns);
    if (ns > metric_get(&worker->lag_max_ns))
        metric_set(&worker->lag_max_ns, ns);
}

void metrics_upstream_failed(struct metrics_worker *worker, int error)
{
    enum metrics_upstream_error which;
    switch (-error) {
    case ECONNREFUSED:
        which = METRICS_REFUSED;
        break;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
        which = METRICS_UNREACHABLE;
        break;
    case ECONNRESET:
    case EPIPE:
        which = METRICS_RESET;
        break;
    case ETIMEDOUT:
        which = METRICS_TIMEOUT;
        break;
    default:
        which = METRICS_OTHER_ERROR;
        break;
    }
    metric_add(&worker->upstream_errors[which], 1);
}

/* ---- telling: families ---- */

/* Where in a slot a value is. */
#define AT(field) offsetof(struct metrics_worker, field)

static const metric *value_at(const struct metrics_worker *worker, size_t at)
{
    return (const metric *)((const char *)worker + at);
}

static uint64_t sum(const struct metrics *metrics, size_t at)
{
    uint64_t total = 0;
    for (size_t i = 0; i < used(metrics); i++)
        total += metric_get(value_at(&metrics->workers[i], at));
    return total;
}

static uint64_t greatest(const struct metrics *metrics, size_t at)
{
    uint64_t most = 0;
    for (size_t i = 0; i < used(metrics); i++) {
        uint64_t value = metric_get(value_at(&metrics->workers[i], at));
        most = value > most ? value : most;
    }
    return most;
}

bool metrics_audit_failing(const struct metrics *metrics)
{
    return greatest(metrics, AT(audit_failing)) != 0;
}

uint64_t metrics_flows_active(const struct metrics *metrics)
{
    return sum(metrics, AT(flows_active));
}

struct text {
    FILE *file;
    bool plain; /* Prometheus' text format 0.0.4: there a counter's family is named with its _total, and there are no units */
};

static void family(struct text *to, const char *name, const char *type, const char *unit, const char *help)
{
    const char *suffix = to->plain && !strcmp(type, "counter") ? "_total" : "";
    fprintf(to->file, "# TYPE sallyport_%s%s %s\n", name, suffix, type);
    if (unit && !to->plain)
        fprintf(to->file, "# UNIT sallyport_%s %s\n", name, unit);
    fprintf(to->file, "# HELP sallyport_%s%s %s\n", name, suffix, help);
}

static void gauge(struct text *to, const char *name, const char *help, uint64_t value)
{
    family(to, name, "gauge", NULL, help);
    fprintf(to->file, "sallyport_%s %" PRIu64 "\n", name, value);
}

static void counter(struct text *to, const char *name, const char *help, uint64_t value)
{
    family(to, name, "counter", NULL, help);
    fprintf(to->file, "sallyport_%s_total %" PRIu64 "\n", name, value);
}

/* One value for each word; `at` is the first one's place. */
static void counters(struct text *to, const struct metrics *metrics, const char *name, const char *unit, const char *help, const char *label,
                     const char *const *words, size_t count, size_t at)
{
    family(to, name, "counter", unit, help);
    for (size_t i = 0; i < count; i++)
        fprintf(to->file, "sallyport_%s_total{%s=\"%s\"} %" PRIu64 "\n", name, label, words[i], sum(metrics, at + i * sizeof(metric)));
}

static double seconds(uint64_t ns)
{
    return (double)ns / 1e9;
}

static void histogram(struct text *to, const struct metrics *metrics, const char *name, const char *help, const struct bounds *bounds, size_t at)
{
    uint64_t so_far = 0;
    family(to, name, "histogram", "seconds", help);
    for (size_t i = 0; i <= bounds->count; i++) {
        so_far += sum(metrics, at + offsetof(struct metric_histogram, buckets) + i * sizeof(metric));
        char bound[32] = "+Inf";
        if (i < bounds->count)
            snprintf(bound, sizeof(bound), bounds->ns[i] % (1000 * MS) ? "%g" : "%.1f", seconds(bounds->ns[i]));
        fprintf(to->file, "sallyport_%s_bucket{le=\"%s\"} %" PRIu64 "\n", name, bound, so_far);
    }
    fprintf(to->file, "sallyport_%s_sum %.9f\n", name, seconds(sum(metrics, at + offsetof(struct metric_histogram, sum_ns))));
    fprintf(to->file, "sallyport_%s_count %" PRIu64 "\n", name, so_far);
}

/* ---- telling: all of it ---- */

static const char *const protocols[] = {[METRICS_TLS] = "tls", [METRICS_HTTP] = "http", [METRICS_TCP] = "tcp",
                                        [METRICS_UDP] = "udp", [METRICS_ICMP] = "icmp", [METRICS_DNS] = "dns"};
static const char *const decision_words[] = {
    [METRICS_ALLOWED] = "allowed", [METRICS_DENIED] = "denied", [METRICS_WOULD_DENY] = "would_deny"};
static const char *const error_words[] = {[METRICS_REFUSED] = "refused", [METRICS_UNREACHABLE] = "unreachable",
                                          [METRICS_RESET] = "reset",     [METRICS_TIMEOUT] = "timeout",
                                          [METRICS_NO_NAME] = "dns",     [METRICS_OTHER_ERROR] = "other"};
static const char *const query_words[] = {[METRICS_QUERY_ALLOWED] = "allowed", [METRICS_QUERY_DENIED] = "denied",
                                          [METRICS_QUERY_LIMITED] = "limited", [METRICS_QUERY_MALFORMED] = "malformed"};
static const char *const limit_words[] = {[METRICS_LIMIT_CONTAINER_FLOWS] = "container_flows",
                                          [METRICS_LIMIT_TOTAL_FLOWS] = "total_flows",
                                          [METRICS_LIMIT_FLOW_RATE] = "flow_rate",
                                          [METRICS_LIMIT_NEW_FLOWS] = "new_flows",
                                          [METRICS_LIMIT_DNS_QUERIES] = "dns_queries",
                                          [METRICS_LIMIT_MEMORY] = "memory"};
static const char *const verification_words[] = {
    [METRICS_PROVEN] = "proven", [METRICS_NOT_PROVEN] = "refused", [METRICS_NOT_SEEN] = "no_certificate"};
static const char *const direction_words[] = {"up", "down"};
_Static_assert(COUNT(protocols) == METRICS_PROTOCOLS && COUNT(decision_words) == METRICS_DECISIONS &&
                   COUNT(error_words) == METRICS_UPSTREAM_ERRORS && COUNT(query_words) == METRICS_QUERIES &&
                   COUNT(limit_words) == METRICS_LIMITS && COUNT(verification_words) == METRICS_VERIFICATIONS,
               "a word for each value");
_Static_assert(offsetof(struct metrics_worker, bytes_down) == offsetof(struct metrics_worker, bytes_up) + sizeof(metric),
               "neighbours, for counters()");

/* Hundreds of combinations are possible, a few happen. What the protocols usually come to is there from the start: a
 * series that begins with its first event hides that event from rate(). */
static bool shown_at_zero(int protocol, int decision, int reason)
{
    return (decision == METRICS_ALLOWED && reason == ACL_RULE_ALLOW && protocol <= METRICS_TCP) ||
           (decision == METRICS_DENIED && reason == ACL_NO_RULE && (protocol <= METRICS_TCP || protocol == METRICS_DNS));
}

static void render_decisions(struct text *to, const struct metrics *metrics)
{
    family(to, "decisions", "counter", NULL, "Flows, further HTTP requests and refused DNS questions, by what was decided and why.");
    for (int p = 0; p < METRICS_PROTOCOLS; p++)
        for (int d = 0; d < METRICS_DECISIONS; d++)
            for (int r = 0; r < ACL_REASON_COUNT; r++) {
                uint64_t value = sum(metrics, AT(decisions) + (size_t)((p * METRICS_DECISIONS + d) * ACL_REASON_COUNT + r) * sizeof(metric));
                if (value || shown_at_zero(p, d, r))
                    fprintf(to->file, "sallyport_decisions_total{protocol=\"%s\",decision=\"%s\",reason=\"%s\"} %" PRIu64 "\n",
                            protocols[p], decision_words[d], acl_reason_name((enum acl_reason)r), value);
            }
}

static void render_flows(struct text *to, const struct metrics *m)
{
    render_decisions(to, m);
    counter(to, "flows", "Connections accepted from containers.", sum(m, AT(flows)));
    gauge(to, "flows_active", "Connections that are up.", sum(m, AT(flows_active)));
    counters(to, m, "transferred_bytes", "bytes", "Bytes passed on: up to origins, down to containers.", "direction", direction_words,
             2, AT(bytes_up));
    histogram(to, m, "sniff_duration_seconds", "From accept until it is known who is wanted.", &flow_bounds, AT(sniff));
    histogram(to, m, "setup_duration_seconds", "From accept until bytes may go to the origin.", &flow_bounds, AT(setup));
    counters(to, m, "upstream_errors", NULL, "Attempts to reach an origin that failed.", "error", error_words, METRICS_UPSTREAM_ERRORS,
             AT(upstream_errors));
    counter(to, "packets_denied", "Packets that the rules in the containers' namespaces refused and logged.",
            sum(m, AT(packets_denied)));
    counters(to, m, "limit_hits", NULL, "Flows and questions refused because a limit was reached.", "limit", limit_words, METRICS_LIMITS,
             AT(limits));
}

static void render_service(struct text *to, const struct metrics *m)
{
    counters(to, m, "dns_queries", NULL, "DNS questions of containers, by what the policy says of the name.", "decision", query_words,
             METRICS_QUERIES, AT(dns_queries));
    counter(to, "dns_cache_hits", "DNS questions answered from the cache.", sum(m, AT(dns_cache_hits)));
    histogram(to, m, "dns_upstream_duration_seconds", "From a question to a name server until its answer.", &flow_bounds, AT(dns));
    counter(to, "dns_upstream_failures", "Questions that a name server did not answer.", sum(m, AT(dns_upstream_failures)));
    counters(to, m, "origin_verifications", NULL, "Certificates of origins looked at, by what they showed.", "result", verification_words,
             METRICS_VERIFICATIONS, AT(verifications));
    counter(to, "audit_events", "Audit events accepted.", sum(m, AT(audit_events)));
    counter(to, "audit_dropped", "Audit events left out because the queue was full or the file could not be written.",
            sum(m, AT(audit_dropped)));
    family(to, "audit_queued_bytes", "gauge", "bytes", "Audit events that wait to be written.");
    fprintf(to->file, "sallyport_audit_queued_bytes %" PRIu64 "\n", sum(m, AT(audit_queued_bytes)));
    gauge(to, "audit_failing", "1 while the audit file cannot be written.", greatest(m, AT(audit_failing)));
    histogram(to, m, "loop_lag_seconds", "How long an event may have waited for the turn of the loop before it.", &lag_bounds, AT(lag));
    family(to, "loop_lag_max_seconds", "gauge", "seconds", "The longest turn of the loop since its worker started.");
    fprintf(to->file, "sallyport_loop_lag_max_seconds %.9f\n", seconds(greatest(m, AT(lag_max_ns))));
}

static void render_monitor(struct text *to, const struct metrics *m)
{
    gauge(to, "containers", "Containers that are enrolled.", metric_get(&m->containers));
    counter(to, "worker_restarts", "Workers that died and were replaced.", metric_get(&m->worker_restarts));
    gauge(to, "workers", "Workers that there are to be.", metric_get(&m->worker_count));
    gauge(to, "worker_ready", "1 while all workers serve.", metric_get(&m->worker_ready));
    family(to, "policy_reloads", "counter", NULL, "Policies loaded anew, and those refused because of errors.");
    fprintf(to->file, "sallyport_policy_reloads_total{result=\"success\"} %" PRIu64 "\n", metric_get(&m->reloads));
    fprintf(to->file, "sallyport_policy_reloads_total{result=\"failure\"} %" PRIu64 "\n", metric_get(&m->reloads_failed));
    gauge(to, "policy_last_reload_successful", "1 when the policy file was taken the last time it was read.",
          !metric_get(&m->reload_failed_last));
    family(to, "policy_last_reload_timestamp_seconds", "gauge", "seconds", "When the policy in force was loaded.");
    fprintf(to->file, "sallyport_policy_last_reload_timestamp_seconds %" PRIu64 "\n", metric_get(&m->reload_s));
    family(to, "start_time_seconds", "gauge", "seconds", "When the gateway was started.");
    fprintf(to->file, "sallyport_start_time_seconds %" PRIu64 "\n", metric_get(&m->started_s));
    family(to, "build_info", "gauge", NULL, "1, with the version of the program.");
    fprintf(to->file, "sallyport_build_info{version=\"" SALLYPORT_VERSION "\"} 1\n");
}

char *metrics_render(const struct metrics *metrics, bool plain, size_t *ret_length)
{
    char *text = NULL;
    struct text to = {.file = open_memstream(&text, ret_length), .plain = plain};
    if (!to.file)
        return NULL;
    render_monitor(&to, metrics);
    render_flows(&to, metrics);
    render_service(&to, metrics);
    if (!plain)
        fputs("# EOF\n", to.file);
    if (fclose(to.file) == 0)
        return text;
    free(text);
    return NULL;
}
