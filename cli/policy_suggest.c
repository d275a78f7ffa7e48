/*
 * `policy suggest`: the smallest clear policy under which what an audit log saw would pass.
 *
 * Each flow that was let through becomes the narrowest rule for it: https://NAME, http://NAME, both together
 * as NAME, other ports as tcp://NAME:PORT or udp://NAME:PORT, ping as icmp://NAME, and an address only where no name was seen. Where several siblings
 * were reached in the same way (3, or --siblings), one wildcard over their parent replaces them, unless the
 * parent is a public suffix: under such a name anyone can have one. What was denied is listed as a comment,
 * to be moved up by hand, or becomes rules with --denied.
 *
 * A log tells what a client did, and the client may be hostile: names are checked as rules are, and nothing
 * else of the log is copied into the policy, not even into its comments. The result is loaded before it is
 * printed.
 */
#include "cli/audit_log.h"
#include "cli/policy_internal.h"

#include <errno.h>
#include <getopt.h>
#include <libpsl.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define SIBLINGS_DEFAULT 3
#define SIBLINGS_MAX 1000
#define COMMENTS_MAX 200
#define SEEN_MAX 200000 /* different rules and denials; a log of more is not a policy */

/* WEB: only looked up, and refused; RULE: the host is a whole rule. */
enum form { FORM_TLS, FORM_HTTP, FORM_TCP, FORM_UDP, FORM_ICMP, FORM_WEB, FORM_RULE };

/* How often, from when, to when. */
struct tally {
    uint64_t count;
    char first[AUDIT_TIME_SIZE], last[AUDIT_TIME_SIZE];
};

/* Something that was let through. */
struct seen {
    UT_hash_handle hh;
    struct tally tally;
    enum form form;
    uint16_t port;
    bool merged; /* into a rule for both web ports */
    char host[ACL_NAME_MAX + 64];
    char key[ACL_NAME_MAX + 80];
};

/* Something that was not, and why. */
struct denial {
    UT_hash_handle hh;
    struct tally tally;
    char subject[ACL_NAME_MAX + 16], reason[40];
    char key[ACL_NAME_MAX + 64];
};

struct proposal {
    struct tally tally;
    char prefix[16], suffix[8]; /* of the rule, around the name */
    char host[ACL_NAME_MAX + 64];
    size_t siblings; /* that a wildcard stands for; 0: no wildcard */
    char examples[160];
    bool is_name, looked_up, gone;
};

struct suggestion {
    const char *name, *container;
    unsigned siblings;
    bool with_denied;

    struct seen *seen;
    struct denial *denials;
    struct tally period;
    uint64_t unusable, broken;
    struct proposal *proposals;
    size_t count, room;
    bool failed, full;
};

/* ---- what was seen ---- */

static void count_time(struct tally *tally, const char *time)
{
    if (tally->count++ == 0 || strcmp(time, tally->first) < 0)
        snprintf(tally->first, sizeof(tally->first), "%s", time);
    if (strcmp(time, tally->last) > 0)
        snprintf(tally->last, sizeof(tally->last), "%s", time);
}

static void add_tally(struct tally *to, const struct tally *from)
{
    uint64_t count = to->count + from->count;
    count_time(to, from->first);
    count_time(to, from->last);
    to->count = count;
}

static void note_seen(struct suggestion *s, enum form form, const char *host, unsigned port, const char *time)
{
    struct seen *seen = NULL;
    char key[sizeof(seen->key)];
    snprintf(key, sizeof(key), "%d %u %s", form, port, host);
    HASH_FIND_STR(s->seen, key, seen);
    if (!seen && HASH_COUNT(s->seen) < SEEN_MAX && (seen = calloc(1, sizeof(*seen)))) {
        seen->form = form;
        seen->port = (uint16_t)port;
        snprintf(seen->host, sizeof(seen->host), "%s", host);
        strcpy(seen->key, key);
        HASH_ADD_STR(s->seen, key, seen);
    }
    if (seen)
        count_time(&seen->tally, time);
    s->full |= !seen;
}

static void note_denial(struct suggestion *s, const char *subject, const char *reason, const char *time)
{
    struct denial *denial = NULL;
    char key[sizeof(denial->key)];
    snprintf(key, sizeof(key), "%s %s", subject, reason);
    HASH_FIND_STR(s->denials, key, denial);
    if (!denial && HASH_COUNT(s->denials) < SEEN_MAX && (denial = calloc(1, sizeof(*denial)))) {
        snprintf(denial->subject, sizeof(denial->subject), "%s", subject);
        snprintf(denial->reason, sizeof(denial->reason), "%s", reason);
        strcpy(denial->key, key);
        HASH_ADD_STR(s->denials, key, denial);
    }
    if (denial)
        count_time(&denial->tally, time);
    s->full |= !denial;
}

/* ---- one event ---- */

static bool name_of(const char *text, char ret[ACL_NAME_MAX + 1])
{
    size_t length;
    return text && acl_name_normalise(text, strlen(text), ret, &length) == ACL_NAME_OK;
}

/* "192.0.2.1:22", "[2001:db8::1]:22"; without a port the address alone. */
static bool address_of(const struct audit_record *r, char *ret, size_t size)
{
    char text[ADDR_TEXT_MAX];
    struct addr a;
    if (!r->ip || !addr_parse(r->ip, strlen(r->ip), &a))
        return false;
    a.port = (uint16_t)r->port;
    snprintf(ret, size, "%s", a.port ? addr_format_with_port(&a, text) : addr_format(&a, text));
    return true;
}

static bool is_one_of(const char *word, const char *const *words)
{
    for (; *words; words++)
        if (!strcmp(word, *words))
            return true;
    return false;
}

/* A rule for the name lets it pass: the name was well said. */
static bool name_counts(const struct audit_record *r)
{
    static const char *const reasons[] = {"rule_allow",  "no_rule",    "method_denied",       "path_denied",
                                          "port_denied", "ech_denied", "destination_unbound", NULL};
    return !r->protocol || is_one_of(r->reason, reasons);
}

static bool is_rule(const char *text)
{
    struct acl_rule rule;
    size_t length = strlen(text);
    return length < ACL_NAME_MAX && acl_rule_parse(text, length, false, &rule, NULL) == 0;
}

static bool want_request(struct suggestion *s, const struct audit_record *r, const char *name)
{
    char rule[ACL_NAME_MAX + 64], port[8] = "";
    if (!r->method || !acl_method_bit(r->method, strlen(r->method)) ||
        (strcmp(r->reason, "method_denied") != 0 && strcmp(r->reason, "path_denied") != 0))
        return false;
    if (r->port != 80)
        snprintf(port, sizeof(port), ":%u", r->port);
    snprintf(rule, sizeof(rule), "%s http://%s%s", r->method, name, port);
    note_seen(s, FORM_RULE, rule, 0, r->time);
    return true;
}

static bool is_transport(const struct audit_record *r, const char *name)
{
    return r->transport && !strcmp(r->transport, name);
}

static bool is_icmp(const struct audit_record *r)
{
    return is_transport(r, "icmp") || is_transport(r, "ipv6-icmp");
}

static enum form form_of(const struct audit_record *r)
{
    if (is_icmp(r))
        return FORM_ICMP;
    if (is_transport(r, "udp"))
        return FORM_UDP;
    return !r->protocol                   ? FORM_TCP
           : !strcmp(r->protocol, "tls")  ? FORM_TLS
           : !strcmp(r->protocol, "http") ? FORM_HTTP
                                          : FORM_TCP;
}

/* A flow that should pass: the narrowest rule for it. */
static void want(struct suggestion *s, const struct audit_record *r)
{
    char name[ACL_NAME_MAX + 1], address[ADDR_TEXT_MAX], rule[ADDR_TEXT_MAX + 8];
    bool has_ports = !is_icmp(r);
    if (r->binding && !strcmp(r->binding, "address") && r->rule && is_rule(r->rule)) {
        note_seen(s, FORM_RULE, r->rule, 0, r->time);
    } else if ((r->port || !has_ports) && name_of(r->domain, name) && name_counts(r)) {
        if (!want_request(s, r, name))
            note_seen(s, form_of(r), name, has_ports ? r->port : 0, r->time);
    } else if ((r->port || !has_ports) && address_of(r, address, sizeof(address))) {
        snprintf(rule, sizeof(rule), "%s%s",
                 !has_ports                ? "icmp://"
                 : is_transport(r, "udp") ? "udp://"
                                           : "",
                 address);
        note_seen(s, FORM_RULE, rule, 0, r->time);
    } else {
        s->unusable++;
    }
}

/* Could a rule change it? */
static bool rule_would_help(const struct audit_record *r)
{
    static const char *const reasons[] = {"no_rule",         "port_denied",  "no_sni",         "not_tls",
                                          "ip_literal",      "host_missing", "method_denied",  "path_denied",
                                          "http2_cleartext", "ech_denied",   "malformed_http", NULL};
    return is_one_of(r->reason, reasons) && (is_transport(r, "tcp") || is_transport(r, "udp") || is_icmp(r));
}

static void deny(struct suggestion *s, const struct audit_record *r)
{
    char name[ACL_NAME_MAX + 1], subject[ACL_NAME_MAX + 16], address[ADDR_TEXT_MAX];
    if (strspn(r->reason, "abcdefghijklmnopqrstuvwxyz_0123456789") != strlen(r->reason)) {
        s->unusable++;
    } else if (name_of(r->dns_name ? r->dns_name : r->domain, name)) {
        bool plain = r->dns_name || !r->port || r->port == 443 || r->port == 80;
        snprintf(subject, sizeof(subject), plain ? "%s" : "%s:%u", name, r->port);
        note_denial(s, subject, r->reason, r->time);
    } else if (address_of(r, address, sizeof(address))) {
        snprintf(subject, sizeof(subject), "%s%s",
                 is_transport(r, "udp") ? "udp "
                 : is_icmp(r)           ? "icmp "
                                        : "",
                 address);
        note_denial(s, subject, r->reason, r->time);
    } else {
        s->unusable++;
    }
}

static void take(struct suggestion *s, const struct audit_record *r)
{
    bool is_dns = r->dns_name != NULL;
    char name[ACL_NAME_MAX + 1];
    if (r->change || !strcmp(r->action, "flow-ended") ||
        (s->container && strcmp(audit_record_container(r), s->container) != 0 &&
         (!r->container_id || strcmp(r->container_id, s->container) != 0)))
        return;
    count_time(&s->period, r->time);
    if (is_dns && r->allowed)
        return; /* what was looked up in order to be reached is in a flow of its own */
    if (is_dns && s->with_denied && !strcmp(r->reason, "no_rule") && name_of(r->dns_name, name))
        note_seen(s, FORM_WEB, name, 0, r->time);
    else if (is_dns || (r->would_deny && !strcmp(r->reason, "rule_deny")))
        deny(s, r);
    else if (r->allowed || (s->with_denied && rule_would_help(r)))
        want(s, r);
    else
        deny(s, r);
}

/* ---- rules of it ---- */

static struct proposal *propose(struct suggestion *s, const char *prefix, const char *host,
                                const char *suffix, const struct tally *tally)
{
    if (s->count == s->room) {
        size_t room = s->room * 2 + 64;
        struct proposal *grown = realloc(s->proposals, room * sizeof(*grown));
        if (!grown) {
            s->failed = true;
            return NULL;
        }
        s->proposals = grown;
        s->room = room;
    }
    struct proposal *p = &s->proposals[s->count++];
    *p = (struct proposal){.tally = *tally};
    snprintf(p->prefix, sizeof(p->prefix), "%s", prefix);
    snprintf(p->host, sizeof(p->host), "%s", host);
    snprintf(p->suffix, sizeof(p->suffix), "%s", suffix);
    return p;
}

static struct seen *find_seen(struct suggestion *s, enum form form, unsigned port, const char *host)
{
    char key[sizeof(((struct seen *)NULL)->key)];
    struct seen *found = NULL;
    snprintf(key, sizeof(key), "%d %u %s", form, port, host);
    HASH_FIND_STR(s->seen, key, found);
    return found;
}

/* The same name by HTTP on 80. */
static struct seen *plain_twin(struct suggestion *s, const struct seen *seen)
{
    return seen->form == FORM_TLS && seen->port == 443 ? find_seen(s, FORM_HTTP, 80, seen->host) : NULL;
}

/* A look-up that was refused, of a name that was reached all the same. */
static bool is_redundant(struct suggestion *s, const struct seen *seen)
{
    return seen->form == FORM_WEB &&
           (find_seen(s, FORM_TLS, 443, seen->host) || find_seen(s, FORM_HTTP, 80, seen->host));
}

static void propose_seen(struct suggestion *s, struct seen *seen)
{
    static const char *const prefixes[] = {[FORM_TLS] = "https://",
                                           [FORM_HTTP] = "http://",
                                           [FORM_TCP] = "tcp://",
                                           [FORM_UDP] = "udp://",
                                           [FORM_ICMP] = "icmp://",
                                           [FORM_WEB] = "",
                                           [FORM_RULE] = ""};
    static const uint16_t usual[] = {
        [FORM_TLS] = 443, [FORM_HTTP] = 80, [FORM_RULE] = 0};
    struct seen *twin = plain_twin(s, seen);
    struct tally tally = seen->tally;
    char suffix[8] = "";
    if (twin) {
        twin->merged = true;
        add_tally(&tally, &twin->tally);
    }
    if (seen->port != usual[seen->form])
        snprintf(suffix, sizeof(suffix), ":%u", seen->port);
    struct proposal *p = propose(s, twin ? "" : prefixes[seen->form], seen->host, suffix, &tally);
    if (p) {
        p->is_name = seen->form != FORM_RULE;
        p->looked_up = seen->form == FORM_WEB;
    }
}

static void propose_all(struct suggestion *s)
{
    struct seen *seen, *next;
    HASH_ITER(hh, s->seen, seen, next)
    if (seen->form == FORM_TLS)
        propose_seen(s, seen);
    HASH_ITER(hh, s->seen, seen, next)
    if (seen->form != FORM_TLS && !seen->merged && !is_redundant(s, seen))
        propose_seen(s, seen);
}

/* ---- wildcards ---- */

static const char *parent_of(const char *name)
{
    const char *dot = strchr(name, '.');
    return dot ? dot + 1 : "";
}

/* Names above rules for addresses; then by prefix and suffix, parent, name. */
static int compare_siblings(const void *left, const void *right)
{
    const struct proposal *a = left, *b = right;
    int order = b->is_name - a->is_name;
    if (order == 0)
        order = strcmp(a->prefix, b->prefix);
    if (order == 0)
        order = strcmp(a->suffix, b->suffix);
    if (order == 0)
        order = strcmp(parent_of(a->host), parent_of(b->host));
    return order ? order : strcmp(a->host, b->host);
}

static bool are_siblings(const struct proposal *a, const struct proposal *b)
{
    return a->is_name && b->is_name && !strcmp(a->prefix, b->prefix) && !strcmp(a->suffix, b->suffix) &&
           !strcmp(parent_of(a->host), parent_of(b->host));
}

/* Somebody's own domain, as far as anyone knows: names on no list are taken for public. */
static bool may_have_wildcard(const char *parent)
{
    const psl_ctx_t *psl = psl_builtin();
    return strchr(parent, '.') && psl && !psl_is_public_suffix2(psl, parent, PSL_TYPE_ANY);
}

static bool is_below(const char *name, const char *parent)
{
    size_t length = strlen(name), parent_length = strlen(parent);
    return length > parent_length && name[length - parent_length - 1] == '.' &&
           !strcmp(name + length - parent_length, parent);
}

/* One wildcard for proposals[first..end), and for all below the same parent. */
static void join_siblings(struct suggestion *s, size_t first, size_t end, size_t total)
{
    struct proposal wildcard = s->proposals[first];
    size_t used = 0;
    snprintf(wildcard.host, sizeof(wildcard.host), "*.%s", parent_of(s->proposals[first].host));
    wildcard.tally = (struct tally){0};
    wildcard.siblings = 0;
    for (size_t i = 0; i < total; i++) {
        struct proposal *p = &s->proposals[i];
        if (p->gone || !p->is_name || p->siblings || strcmp(p->prefix, wildcard.prefix) ||
            strcmp(p->suffix, wildcard.suffix) || !is_below(p->host, wildcard.host + 2))
            continue;
        if (used + strlen(p->host) + 3 < sizeof(wildcard.examples) && i >= first && i < end)
            used += (size_t)snprintf(wildcard.examples + used, sizeof(wildcard.examples) - used, "%s%s",
                                     used ? ", " : "", p->host);
        add_tally(&wildcard.tally, &p->tally);
        wildcard.siblings++;
        p->gone = true;
    }
    struct proposal *added = propose(s, "", "", "", &wildcard.tally);
    if (added)
        *added = wildcard;
}

static void find_siblings(struct suggestion *s)
{
    size_t total = s->count;
    qsort(s->proposals, total, sizeof(*s->proposals), compare_siblings);
    for (size_t first = 0, end; first < total && !s->failed; first = end) {
        for (end = first + 1; end < total && are_siblings(&s->proposals[first], &s->proposals[end]);)
            end++;
        if (s->proposals[first].is_name && !s->proposals[first].gone && s->siblings &&
            end - first >= s->siblings && may_have_wildcard(parent_of(s->proposals[first].host)))
            join_siblings(s, first, end, total);
    }
}

/* ---- the file ---- */

/* By domain, from the right, so that what belongs together stands together; addresses last. */
static int compare_domains(const void *left, const void *right)
{
    const struct proposal *a = left, *b = right;
    if (a->is_name != b->is_name)
        return a->is_name ? -1 : 1;
    const char *x = a->host + strlen(a->host), *y = b->host + strlen(b->host);
    while (a->is_name && x > a->host && y > b->host) {
        char c = *--x, d = *--y;
        if (c != d)
            return c == '.' ? -1 : d == '.' ? 1 : c < d ? -1 : 1;
    }
    int order = a->is_name ? (x > a->host) - (y > b->host) : strcmp(a->host, b->host);
    if (order == 0)
        order = strcmp(a->prefix, b->prefix);
    return order ? order : strcmp(a->suffix, b->suffix);
}

static void print_tally(FILE *to, const struct tally *tally, const char *what)
{
    fprintf(to, "%llu %s%s, %.19sZ", (unsigned long long)tally->count, what, tally->count == 1 ? "" : "s",
            tally->first);
    if (strncmp(tally->first, tally->last, 19))
        fprintf(to, " to %.19sZ", tally->last);
}

static void print_proposal(FILE *to, const struct proposal *p)
{
    char rule[sizeof(p->prefix) + sizeof(p->host) + sizeof(p->suffix) + 2];
    const char *quote = strchr("*[:", p->prefix[0] ? p->prefix[0] : p->host[0]) ? "\"" : "";
    snprintf(rule, sizeof(rule), "%s%s%s%s%s", quote, p->prefix, p->host, p->suffix, quote);
    fprintf(to, "      - %-44s # ", rule);
    print_tally(to, &p->tally, p->looked_up ? "look-up" : "flow");
    if (p->siblings)
        fprintf(to, "; %zu names, such as %s", p->siblings, p->examples);
    fprintf(to, "\n");
}

static int most_first(const struct denial *a, const struct denial *b)
{
    if (a->tally.count != b->tally.count)
        return a->tally.count > b->tally.count ? -1 : 1;
    return strcmp(a->key, b->key);
}

static void print_denials(FILE *to, struct suggestion *s)
{
    struct denial *denial, *next;
    size_t left = COMMENTS_MAX;
    HASH_SORT(s->denials, most_first);
    if (s->denials)
        fprintf(to, "    # Denied, and not in this policy:\n");
    HASH_ITER(hh, s->denials, denial, next)
    {
        if (left-- == 0) {
            fprintf(to, "    #   and %u more\n", HASH_COUNT(s->denials) - COMMENTS_MAX);
            return;
        }
        fprintf(to, "    #   %-44s # %s, ", denial->subject, denial->reason);
        print_tally(to, &denial->tally, "time");
        fprintf(to, "\n");
    }
}

static void print_policy(FILE *to, struct suggestion *s)
{
    size_t rules = 0;
    fprintf(to, "# Suggested by sallyport policy suggest, of ");
    print_tally(to, &s->period, "event");
    fprintf(to, ".\n# Read before use: what was seen is not always what should be allowed.\n");
    if (s->broken)
        fprintf(to, "# %llu lines of the log could not be read.\n", (unsigned long long)s->broken);
    if (s->unusable)
        fprintf(to, "# %llu events name nothing that a rule could name.\n", (unsigned long long)s->unusable);
    fprintf(to, "version: 1\npolicies:\n  %s:\n    allow:", s->name);
    for (size_t i = 0; i < s->count; i++) {
        if (s->proposals[i].gone)
            continue;
        fprintf(to, "%s", rules++ ? "" : "\n");
        print_proposal(to, &s->proposals[i]);
    }
    fprintf(to, "%s", rules ? "" : " []\n");
    print_denials(to, s);
}

/* What is printed has to load. */
static bool is_valid(const char *text, size_t length)
{
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    bool valid = config_load_text("suggestion", text, length, &snapshot, &errors) == 0;
    policy_print_errors(&errors);
    config_unref(snapshot);
    return valid;
}

static int print_suggestion(struct suggestion *s)
{
    char *text = NULL;
    size_t length;
    FILE *to = open_memstream(&text, &length);
    if (!to)
        return EXIT_WRONG;
    propose_all(s);
    find_siblings(s);
    qsort(s->proposals, s->count, sizeof(*s->proposals), compare_domains);
    print_policy(to, s);
    bool good = fclose(to) == 0 && !s->failed && is_valid(text, length);
    if (good)
        fwrite(text, 1, length, stdout);
    else
        fprintf(stderr, "sallyport policy: suggest: no policy could be made of this log\n");
    free(text);
    return good ? EXIT_YES : EXIT_WRONG;
}

/* ---- the command ---- */

static int read_log(struct suggestion *s, const char *path)
{
    struct audit_record record;
    struct error err;
    struct audit_log *log = audit_log_open(path, &err);
    int got = log ? 1 : -EIO;
    while (got > 0 || got == -EBADMSG) {
        got = audit_log_next(log, &record, &err);
        if (got == 0)
            got = audit_log_finish(log, &record, &err);
        if (got > 0)
            take(s, &record);
        if (got == -EBADMSG) {
            fprintf(stderr, "sallyport policy: suggest: %s; passed over\n", err.text);
            s->broken++;
        }
    }
    audit_log_close(log);
    if (got < 0)
        fprintf(stderr, "sallyport policy: suggest: %s\n", err.text);
    return got;
}

static void finish(struct suggestion *s)
{
    struct seen *seen, *next_seen;
    struct denial *denial, *next_denial;
    HASH_ITER(hh, s->seen, seen, next_seen)
    {
        HASH_DEL(s->seen, seen);
        free(seen);
    }
    HASH_ITER(hh, s->denials, denial, next_denial)
    {
        HASH_DEL(s->denials, denial);
        free(denial);
    }
    free(s->proposals);
}

static int read_options(const struct command *self, int argc, char **argv, struct suggestion *s)
{
    static const struct option options[] = {{"policy", required_argument, NULL, 'p'},
                                            {"container", required_argument, NULL, 'n'},
                                            {"denied", no_argument, NULL, 'd'},
                                            {"siblings", required_argument, NULL, 's'},
                                            {0}};
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (option == 'p')
            s->name = optarg;
        else if (option == 'n')
            s->container = optarg;
        else if (option == 'd')
            s->with_denied = true;
        else if (option != 's')
            return command_misuse(
                self, option == ':' ? "suggest: %s needs a value" : "suggest: there is no option \"%s\"",
                argv[optind - 1]);
        else if (strspn(optarg, "0123456789") != strlen(optarg) || !*optarg || strlen(optarg) > 4 ||
                 atoi(optarg) == 1 || atoi(optarg) > SIBLINGS_MAX)
            return command_misuse(
                self, "suggest: --siblings %s: write a number from 2 to %d, or 0 for no wildcards", optarg,
                SIBLINGS_MAX);
        else
            s->siblings = (unsigned)atoi(optarg);
    }
    if (optind == argc)
        return command_misuse(self, "suggest: name at least one audit log, or - for standard input");
    return EXIT_YES;
}

int policy_suggest(const struct command *self, int argc, char **argv)
{
    struct suggestion s = {.name = "suggested", .siblings = SIBLINGS_DEFAULT};
    int status = read_options(self, argc, argv, &s);
    for (int i = optind; i < argc && status == EXIT_YES; i++)
        if (read_log(&s, argv[i]) < 0)
            status = EXIT_WRONG;
    if (status == EXIT_YES && s.full)
        fprintf(stderr,
                "sallyport policy: suggest: the log has more than %d different destinations; the rest is "
                "left out\n",
                SEEN_MAX);
    if (status == EXIT_YES)
        status = print_suggestion(&s);
    finish(&s);
    return status;
}
