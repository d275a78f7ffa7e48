/*
 * The rule grammar, and above all its errors: each says what to write instead.
 *
 *   rule    = [methods " "] [scheme "://"] host [":" ports] [path]
 *   methods = METHOD *("," METHOD)            with http:// only, as is path
 *   scheme  = "https" / "http" / "tcp" / "udp" / "icmp"
 *   host    = "*" / ["*." / "**."] name       by name
 *           / ADDR ["/" bits]                 by address; a V6 with ports stands in brackets: [V6]/bits:ports
 *           / "" / "*"                        any address, when ports follow and no scheme stands in front
 *   ports   = port / port "-" port / "*"
 *   path    = "/" …                           in normal form; "*" at its end, or as a whole segment
 *
 * Steps: bytes (printable ASCII, no spaces) → methods → scheme → path → split into host, "/…" and ports → an
 * address rule if the host can only be one, else a name rule. Nothing is guessed: a name with a port and no
 * scheme could be three rules, so it is an error naming the three.
 */
#include "acl/rule.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define RULE_TEXT_MAX \
    1024 /* "https://" "**." NAME "." ":65535-65535" has 285 bytes; the rest is for methods and a path */

struct slice {
    const char *at;
    size_t length;
};
#define SHOW(s) (int)(s).length, (s).at
#define SLICE(literal) ((struct slice){literal, sizeof(literal) - 1})

/* The rule being read, and where its error goes. */
struct source {
    struct slice text;
    struct error *err;
};

struct target {
    struct slice host;  /* without brackets */
    struct slice path;  /* of http:// and https://, from "/" on */
    struct slice extra; /* of all others, from "/" on: a prefix length, or a path that does not belong here */
    struct slice ports;
    bool has_ports;
    bool bracketed;
};

static int __attribute__((format(printf, 2, 3))) refuse(const struct source *src, const char *format, ...)
{
    char why[sizeof(src->err->text)];
    char shown[96];
    size_t n = 0;
    for (; n < src->text.length && n < sizeof(shown) - 4; n++)
        shown[n] = src->text.at[n] >= 0x20 && src->text.at[n] < 0x7f ? src->text.at[n] : '?';
    memcpy(shown + n, "...", 4);
    if (n == src->text.length)
        shown[n] = 0;
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    return error_set(src->err, EINVAL, "rule \"%s\": %s", shown, why);
}

static bool slice_is(struct slice s, struct slice literal)
{
    return s.length == literal.length && memcmp(s.at, literal.at, s.length) == 0;
}

static bool slice_starts(struct slice s, struct slice literal)
{
    return s.length >= literal.length && strncasecmp(s.at, literal.at, literal.length) == 0;
}

static struct slice slice_from(struct slice s, size_t first)
{
    return (struct slice){s.at + first, s.length - first};
}

static struct slice slice_to(struct slice s, size_t end)
{
    return (struct slice){s.at, end};
}

/* Index of `c`, or the length. */
static size_t slice_find(struct slice s, char c)
{
    const char *found = s.length ? memchr(s.at, c, s.length) : NULL;
    return found ? (size_t)(found - s.at) : s.length;
}

/* Index of "://", or the length. */
static size_t find_scheme_end(struct slice s)
{
    const char *found = s.length ? memmem(s.at, s.length, "://", 3) : NULL;
    return found ? (size_t)(found - s.at) : s.length;
}

/* After this every byte of the rule may be printed. */
static int check_bytes(const struct source *src)
{
    struct slice s = src->text;
    if (s.length == 0)
        return refuse(src, "it is empty; write a name such as example.com, or leave the entry out");
    if (s.length > RULE_TEXT_MAX)
        return refuse(src, "it is over %d bytes; write one name or network per rule", RULE_TEXT_MAX);
    for (size_t i = 0; i < s.length; i++) {
        unsigned char c = (unsigned char)s.at[i];
        if (c >= 0x80)
            return refuse(src, "it has a non-ASCII character; write the name as A-labels (xn--...)");
        if (c != ' ' && (c < 0x20 || c == 0x7f))
            return refuse(src, "it has a control character; write one name or network per rule");
    }
    return 0;
}

/* ---- methods ---- */

/* "GET …", "get,HEAD http://…": are the words in front of the space meant for methods? */
static bool looks_like_methods(struct slice list, struct slice rest)
{
    bool capitals = true;
    for (size_t i = 0; i < list.length; i++) {
        bool capital = list.at[i] >= 'A' && list.at[i] <= 'Z';
        if (!capital && list.at[i] != ',' && (list.at[i] < 'a' || list.at[i] > 'z'))
            return false;
        capitals &= capital || list.at[i] == ',';
    }
    return list.length > 0 && (capitals || find_scheme_end(rest) < rest.length);
}

static int refuse_method(const struct source *src, struct slice method)
{
    if (slice_is(method, SLICE("CONNECT")))
        return refuse(src, "CONNECT is refused always: the gateway is no forward proxy; write https://NAME");
    if (method.length == 0)
        return refuse(src, "a method is missing beside a \",\"; write them as GET,HEAD");
    return refuse(src, "\"%.*s\" is no method that rules know; write %s", SHOW(method), acl_method_names());
}

/* Takes "GET,HEAD " off the text. */
static int parse_methods(const struct source *src, struct acl_rule *rule, struct slice *ret_rest)
{
    size_t space = slice_find(src->text, ' ');
    struct slice list = slice_to(src->text, space), rest = src->text;
    if (space < rest.length) {
        rest = slice_from(rest, space + 1);
        if (slice_find(rest, ' ') < rest.length || !looks_like_methods(list, rest))
            return refuse(src, "it has a space; write one name or network per rule, without spaces");
        for (bool more = true; more;) {
            size_t comma = slice_find(list, ',');
            uint16_t bit = acl_method_bit(list.at, comma);
            if (!bit)
                return refuse_method(src, slice_to(list, comma));
            rule->methods |= bit;
            more = comma < list.length;
            list = slice_from(list, comma + more);
        }
    }
    *ret_rest = rest;
    return 0;
}

static int refuse_scheme(const struct source *src, struct slice scheme)
{
    if (scheme.length == 0)
        return refuse(src, "the scheme is missing in front of \"://\"; write https://, http:// or tcp://");
    return refuse(src,
                  "\"%.*s://\" is no scheme of a rule; write https://NAME:PORT, http://NAME:PORT, "
                  "tcp://NAME:PORT, udp://NAME:PORT or icmp://NAME",
                  SHOW(scheme));
}

/* "https:/x", "http//x", "https:x", but not "http:80": that is a name with a port. */
static bool is_scheme_slip(struct slice behind)
{
    if (behind.length == 0 || (behind.at[0] != ':' && behind.at[0] != '/'))
        return false;
    if (behind.at[0] == '/' || behind.length == 1)
        return true;
    return behind.at[1] != '*' && (behind.at[1] < '0' || behind.at[1] > '9');
}

static int refuse_slip(const struct source *src, const char *word, struct slice behind)
{
    while (behind.length && (behind.at[0] == ':' || behind.at[0] == '/'))
        behind = slice_from(behind, 1);
    if (behind.length == 0)
        behind = SLICE("NAME");
    return refuse(src, "the scheme is not followed by \"://\"; write %s://%.*s", word, SHOW(behind));
}

/* Takes "scheme://" off the text. */
static int parse_scheme(const struct source *src, struct slice text, enum acl_scheme *ret_scheme,
                        struct slice *ret_rest)
{
    static const struct {
        struct slice word;
        enum acl_scheme scheme;
    } schemes[] = {{{"https", 5}, ACL_SCHEME_HTTPS},
                   {{"http", 4}, ACL_SCHEME_HTTP},
                   {{"tcp", 3}, ACL_SCHEME_TCP},
                   {{"udp", 3}, ACL_SCHEME_UDP},
                   {{"icmp", 4}, ACL_SCHEME_ICMP}};
    size_t end = find_scheme_end(text);
    for (size_t i = 0; i < sizeof(schemes) / sizeof(*schemes); i++) {
        size_t length = schemes[i].word.length;
        if (!slice_starts(text, schemes[i].word))
            continue;
        if (end == length && end < text.length) {
            *ret_scheme = schemes[i].scheme;
            *ret_rest = slice_from(text, end + 3);
            return 0;
        }
        if (is_scheme_slip(slice_from(text, length)))
            return refuse_slip(src, schemes[i].word.at, slice_from(text, length));
    }
    if (end < text.length)
        return refuse_scheme(src, slice_to(text, end));
    *ret_scheme = ACL_SCHEME_WEB;
    *ret_rest = text;
    return 0;
}

/* Behind the host: nothing, or ":" ports. */
static int split_ports(const struct source *src, struct slice rest, struct target *t)
{
    if (rest.length == 0)
        return 0;
    if (rest.at[0] != ':')
        return refuse(src, "\"%.*s\" does not belong behind \"]\"; write [ADDR]:PORT or [ADDR]/LEN:PORT",
                      SHOW(rest));
    t->has_ports = true;
    t->ports = slice_from(rest, 1);
    return 0;
}

static int split_bracketed(const struct source *src, struct slice text, struct target *t)
{
    size_t close = slice_find(text, ']');
    if (close == text.length)
        return refuse(src, "a \"[\" has no \"]\"; write [ADDR]:PORT");
    t->bracketed = true;
    t->host = slice_from(slice_to(text, close), 1);
    struct slice rest = slice_from(text, close + 1);
    if (rest.length && rest.at[0] == '/') {
        t->extra = slice_to(rest, slice_find(rest, ':'));
        rest = slice_from(rest, t->extra.length);
    }
    return split_ports(src, rest, t);
}

static int split_target(const struct source *src, enum acl_scheme scheme, struct slice text,
                        struct target *ret)
{
    struct target t = {.path = SLICE(""), .extra = SLICE(""), .ports = SLICE("")};
    int r = 0;
    if (scheme == ACL_SCHEME_HTTP || scheme == ACL_SCHEME_HTTPS) { /* a path may have colons */
        size_t slash = slice_find(text, '/');
        t.path = slice_from(text, slash);
        text = slice_to(text, slash);
    }
    size_t colon = slice_find(text, ':');
    if (text.length && text.at[0] == '[') {
        r = split_bracketed(src, text, &t);
    } else if (colon < text.length &&
               slice_find(slice_from(text, colon + 1), ':') < text.length - colon - 1) {
        t.host = text; /* two colons: IPv6 or a mistake */
    } else {
        t.host = slice_to(text, colon);
        r = split_ports(src, slice_from(text, colon), &t);
    }
    if (r < 0)
        return r;
    if (!t.bracketed) {
        size_t slash = slice_find(t.host, '/');
        t.extra = slice_from(t.host, slash);
        t.host = slice_to(t.host, slash);
    }
    *ret = t;
    return 0;
}

static int parse_port(const struct source *src, struct slice text, uint16_t *ret)
{
    if (addr_parse_port(text.at, text.length, ret))
        return 0;
    if (slice_find(text, '/') < text.length)
        return refuse(
            src,
            "\"%.*s\" is not a port; only http:// rules have a path, and a prefix length stands in front of "
            "the port (10.0.0.0/8:443)",
            SHOW(text));
    if (slice_find(text, ',') < text.length)
        return refuse(src,
                      "\"%.*s\" is not a port; write one rule for each port, or a range such as 8000-8010",
                      SHOW(text));
    return refuse(src,
                  "\"%.*s\" is not a port; write a number from 1 to 65535, a range such as 8000-8010, or *",
                  SHOW(text));
}

static int parse_ports(const struct source *src, struct slice text, struct acl_rule *rule)
{
    if (text.length == 0)
        return refuse(src, "the port is missing behind \":\"; write a number from 1 to 65535");
    if (slice_is(text, SLICE("*"))) {
        rule->port_low = 1;
        rule->port_high = 65535;
        return 0;
    }
    size_t dash = slice_find(text, '-');
    int r = parse_port(src, slice_to(text, dash), &rule->port_low);
    rule->port_high = rule->port_low;
    if (r == 0 && dash < text.length)
        r = parse_port(src, slice_from(text, dash + 1), &rule->port_high);
    if (r == 0 && rule->port_low > rule->port_high)
        return refuse(src, "the port range is reversed; write %u-%u", rule->port_high, rule->port_low);
    return r;
}

/* ---- by address ---- */

/* Can this host be nothing but an address, well written or not? */
static bool is_address(const struct target *t, enum acl_scheme scheme)
{
    char name[ACL_NAME_MAX + 1];
    size_t length;
    if (t->bracketed || slice_find(t->host, ':') < t->host.length)
        return true;
    if (scheme == ACL_SCHEME_WEB && t->has_ports && (t->host.length == 0 || slice_is(t->host, SLICE("*"))))
        return true;
    return acl_name_normalise(t->host.at, t->host.length, name, &length) == ACL_NAME_IP_LITERAL;
}

/* The host is no address: which one may have been meant? */
static int refuse_address(const struct source *src, const struct target *t)
{
    if (slice_find(t->host, '%') < t->host.length)
        return refuse(src, "an address has no zone here; write it without \"%%...\"");
    if (t->bracketed)
        return refuse(
            src, "only an IPv6 address stands in brackets, as in [2001:db8::1]:443 or [2001:db8::]/32:443");
    if (slice_find(t->host, ':') < t->host.length)
        return refuse(src,
                      "\"%.*s\" has several \":\" but is not an IPv6 address; write NAME, [V6ADDR]:PORT or "
                      "tcp://NAME:PORT",
                      SHOW(t->host));
    return refuse(
        src,
        "\"%.*s\" would be read as an address by some programs, but is not written as one; write four "
        "decimal numbers without leading zeros, such as 192.0.2.1",
        SHOW(t->host));
}

static int refuse_net(const struct source *src, const struct target *t, const struct addr *base,
                      const char *text)
{
    char shown[ADDR_TEXT_MAX], host[ADDR_TEXT_MAX];
    struct cidr net;
    bool v6 = base->family == AF_INET6;
    if (slice_find(t->extra, ':') < t->extra.length)
        return refuse(src, "an IPv6 network with a port needs brackets; write [%s]/LEN:PORT",
                      addr_format(base, host));
    if (!cidr_parse(text, strlen(text), true, &net))
        return refuse(src, "\"%.*s\" is not a prefix length; write /0 to /%d without leading zeros",
                      SHOW(t->extra), v6 ? 128 : 32);
    addr_format(&net.base, host);
    snprintf(shown, sizeof(shown), v6 && t->has_ports ? "[%.46s]/%u" : "%.46s/%u", host, net.length);
    return refuse(
        src,
        "it has bits behind the prefix; write %s%s%.*s for the network, or leave \"%.*s\" out for the one "
        "address",
        shown, t->has_ports ? ":" : "", SHOW(t->ports), SHOW(t->extra));
}

/* IPv4 destinations never come as ::ffff:a.b.c.d, so a rule written so would never match. */
static bool is_mapped(const struct cidr *net)
{
    static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
    return net->base.family == AF_INET6 && memcmp(net->base.bytes, prefix, sizeof(prefix)) == 0;
}

static int parse_net(const struct source *src, const struct target *t, struct cidr *ret)
{
    char text[ADDR_TEXT_MAX];
    struct addr base;
    if (!addr_parse(t->host.at, t->host.length, &base) || (t->bracketed && base.family != AF_INET6))
        return refuse_address(src, t);
    if (t->extra.length > 40)
        return refuse(src, "\"%.*s\" is not a prefix length", SHOW(t->extra));
    snprintf(text, sizeof(text), "%.*s%.*s", SHOW(t->host), SHOW(t->extra));
    if (strlen(text) != t->host.length + t->extra.length || !cidr_parse(text, strlen(text), false, ret))
        return refuse_net(src, t, &base, text);
    if (is_mapped(ret)) {
        struct addr v4 = {.family = AF_INET};
        char shown[ADDR_TEXT_MAX];
        memcpy(v4.bytes, ret->base.bytes + 12, 4);
        return refuse(src, "it is an IPv4 network inside IPv6; write %s/%u", addr_format(&v4, shown),
                      ret->length - 96u);
    }
    return 0;
}

static int parse_address_rule(const struct source *src, enum acl_scheme scheme, const struct target *t,
                              struct acl_rule *rule)
{
    if (scheme == ACL_SCHEME_HTTPS || scheme == ACL_SCHEME_HTTP)
        return refuse(src,
                      "an address stands where http:// and https:// need a name; by address write ADDR:PORT "
                      "without scheme, [ADDR]:PORT for IPv6");
    if (rule->methods)
        return refuse(src, "methods go with http://NAME only; an address rule lets every request through");
    rule->scheme = scheme == ACL_SCHEME_WEB ? ACL_SCHEME_ADDRESS : scheme;
    rule->by_address = true;
    if (t->host.length == 0 || slice_is(t->host, SLICE("*"))) {
        if (t->extra.length || t->bracketed)
            return refuse(src, "the address is missing; write ADDR/LEN:PORT, or :PORT for any address");
        return parse_ports(src, t->ports, rule);
    }
    int r = parse_net(src, t, &rule->net);
    if (r < 0)
        return r;
    if (t->has_ports && scheme == ACL_SCHEME_ICMP)
        return refuse(src, "ICMP has no ports; write icmp://%.*s%.*s", SHOW(t->host), SHOW(t->extra));
    if (t->has_ports)
        return parse_ports(src, t->ports, rule);
    if (scheme == ACL_SCHEME_TCP || scheme == ACL_SCHEME_UDP)
        return refuse(src,
                      "%s:// needs a port; write %s://ADDR:PORT ([ADDR]:PORT for IPv6), or :* for all ports",
                      scheme == ACL_SCHEME_TCP ? "tcp" : "udp", scheme == ACL_SCHEME_TCP ? "tcp" : "udp");
    if (scheme == ACL_SCHEME_ICMP)
        return 0;
    rule->port_low = 1;
    rule->port_high = 65535;
    return 0;
}

/* ---- by name ---- */

static int refuse_name(const struct source *src, struct slice name, enum acl_name_kind kind)
{
    switch (kind) {
    case ACL_NAME_EMPTY:
        return refuse(src, "the name is missing; write one, such as example.com");
    case ACL_NAME_BAD_LABEL:
        if (name.at[0] == '.' && name.length > 1 && name.at[1] != '.')
            return refuse(
                src, "a name does not start with a dot; write *%.*s for the names under it, %.*s for itself",
                SHOW(name), SHOW(slice_from(name, 1)));
        return refuse(src, "two dots stand together; write single dots between the labels");
    case ACL_NAME_IP_LITERAL:
        return refuse(src,
                      "\"%.*s\" is read as an address; write a name whose last label is not a number, or by "
                      "address ADDR:PORT",
                      SHOW(name));
    case ACL_NAME_TOO_LONG:
        return refuse(src, "a name has up to 253 bytes and a label up to 63; write a shorter one");
    default:
        if (name.at[0] == '!')
            return refuse(src, "a rule has no \"!\"; write the name under deny");
        return refuse(src,
                      "a name has letters, digits, \"-\", \"_\" and \".\" only; write it like example.com");
    }
}

static int refuse_star(const struct source *src, struct slice host)
{
    if (slice_is(host, SLICE("**")) || slice_is(host, SLICE("*.")) || slice_is(host, SLICE("**.")))
        return refuse(src, "write * for every name, or *.example.com for the names under one");
    if (host.at[0] == '*' && slice_find(slice_from(host, 1), '*') == host.length - 1 && host.at[1] != '.')
        return refuse(src,
                      "a dot belongs behind the *; write *.%.*s (and %.*s itself, which it does not cover)",
                      SHOW(slice_from(host, 1)), SHOW(slice_from(host, 1)));
    return refuse(src, "a * stands alone or once in front, with a dot behind; write *.example.com");
}

/* "*", "*.name", "**.name" or "name". */
static int parse_pattern(const struct source *src, struct slice host, struct acl_rule *rule)
{
    if (slice_is(host, SLICE("*"))) {
        rule->wildcard = true;
        return 0;
    }
    struct slice name = host;
    if (slice_starts(host, SLICE("**.")))
        name = slice_from(host, 3);
    else if (slice_starts(host, SLICE("*.")))
        name = slice_from(host, 2);
    rule->wildcard = name.length < host.length;
    if (slice_find(name, '*') < name.length || (rule->wildcard && name.length == 0))
        return refuse_star(src, host);
    size_t length;
    enum acl_name_kind kind = acl_name_normalise(name.at, name.length, rule->name, &length);
    if (kind == ACL_NAME_OK && rule->wildcard && length + 2 > ACL_NAME_MAX)
        kind = ACL_NAME_TOO_LONG; /* no name under it would fit */
    return kind == ACL_NAME_OK ? 0 : refuse_name(src, name, kind);
}

/* ---- paths ---- */

/* Is each "*" at the end, or a segment of its own? */
static bool stars_stand_alone(struct slice path)
{
    for (size_t i = 1; i + 1 < path.length; i++)
        if (path.at[i] == '*' && (path.at[i - 1] != '/' || path.at[i + 1] != '/'))
            return false;
    return true;
}

/* The pattern has to be written as paths are judged: what is not would never match. */
static int parse_path(const struct source *src, struct slice path, struct acl_rule *rule)
{
    char normal[ACL_PATH_MAX + 1];
    size_t length;
    if (slice_find(path, '?') < path.length)
        return refuse(src, "the query is not looked at; end the rule in front of the \"?\"");
    if (slice_find(path, '#') < path.length)
        return refuse(src, "a fragment is never sent; end the rule in front of the \"#\"");
    const char *why = acl_path_normalise(path.at, path.length, normal, &length);
    if (why)
        return refuse(src, "%s: servers may read it in several ways, so no request with it is ever allowed",
                      why);
    if (!slice_is(path, (struct slice){normal, length}))
        return refuse(src, "paths are compared with escapes decoded; write %.*s", (int)length, normal);
    if (!stars_stand_alone(path))
        return refuse(src, "a * in a path stands at its end or alone between slashes; write /v1/* or /*/raw");
    rule->path_at = (uint16_t)(path.at - src->text.at);
    rule->path_length = (uint16_t)path.length;
    return 0;
}

/* Methods and paths are only seen in plain HTTP. */
static int parse_request(const struct source *src, const struct target *t, struct acl_rule *rule)
{
    if (rule->scheme == ACL_SCHEME_HTTP)
        return t->path.length ? parse_path(src, t->path, rule) : 0;
    const char *part = t->path.length || t->extra.length ? "path" : "method";
    if (rule->scheme == ACL_SCHEME_HTTPS && (t->path.length || rule->methods))
        return refuse(src, "inside TLS nobody sees a %s; write it without, or http:// if it is plain HTTP",
                      part);
    if (t->extra.length || rule->methods)
        return refuse(src, "only http:// rules have a %s; write http://NAME%s, or leave the %s out", part,
                      t->extra.length ? "/PATH" : "", part);
    return 0;
}

/* ---- rules ---- */

static int require_port(const struct source *src, const char *scheme, struct slice host)
{
    return refuse(src, "%s:// needs a port; write %s://%.*s:PORT, for example %s://%.*s:%s", scheme, scheme,
                  SHOW(host), scheme, SHOW(host), scheme[0] == 't' ? "22" : "123");
}

static int parse_name_rule(const struct source *src, enum acl_scheme scheme, const struct target *t,
                           struct acl_rule *rule)
{
    rule->scheme = scheme;
    int r = parse_pattern(src, t->host, rule);
    if (r == 0)
        r = parse_request(src, t, rule);
    if (r < 0)
        return r;
    if (scheme == ACL_SCHEME_WEB && t->has_ports)
        return refuse(src,
                      "a name with a port needs a scheme; write https://%.*s:PORT, http://%.*s:PORT or "
                      "tcp://%.*s:PORT",
                      SHOW(t->host), SHOW(t->host), SHOW(t->host));
    if (t->has_ports && scheme == ACL_SCHEME_ICMP)
        return refuse(src, "ICMP has no ports; write icmp://%.*s", SHOW(t->host));
    if (t->has_ports)
        return parse_ports(src, t->ports, rule);
    if (scheme == ACL_SCHEME_TCP || scheme == ACL_SCHEME_UDP)
        return require_port(src, scheme == ACL_SCHEME_TCP ? "tcp" : "udp", t->host);
    rule->port_low = scheme == ACL_SCHEME_HTTPS ? 443 : scheme == ACL_SCHEME_HTTP ? 80 : 0;
    rule->port_high = rule->port_low;
    return 0;
}

int acl_rule_parse(const char *text, size_t length, bool deny, struct acl_rule *ret, struct error *err)
{
    const struct source src = {.text = {text, length}, .err = err};
    struct acl_rule rule = {.deny = deny};
    enum acl_scheme scheme = ACL_SCHEME_WEB;
    struct slice rest = src.text;
    struct target target = {0};
    int r = check_bytes(&src);
    if (r == 0)
        r = parse_methods(&src, &rule, &rest);
    if (r == 0)
        r = parse_scheme(&src, rest, &scheme, &rest);
    if (r == 0)
        r = split_target(&src, scheme, rest, &target);
    if (r == 0)
        r = is_address(&target, scheme) ? parse_address_rule(&src, scheme, &target, &rule)
                                        : parse_name_rule(&src, scheme, &target, &rule);
    if (r == 0)
        *ret = rule;
    return r;
}
