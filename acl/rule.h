/*
 * One rule string, parsed (DESIGN section 8).
 *
 *   example.com              web: TLS SNI on 443, HTTP Host on 80
 *   *.example.com            one or more labels in front, never the apex; "**." is a synonym
 *   *                        every name (web)
 *   https://NAME[:PORTS]     TLS on PORTS (443)        http://NAME[:PORTS]   HTTP on PORTS (80)
 *   [METHODS ]http://NAME[:PORTS][/PATH]
 *                            only these requests, as GET,HEAD http://example.com/index.html; the path
 *                            may end in a star, or have one as a whole segment: acl/request.h
 *   tcp://NAME:PORTS         any TCP, by name, through the DNS binding; also tcp://ADDR:PORTS
 *   NET[:PORTS]              by address: 10.0.0.0/8:5432, [2001:db8::]/32:443, 192.0.2.1 (then all TCP ports)
 *   :PORTS                   any address, that TCP port        NET:* or *:* style "host:*": any port
 *   udp://NAME:PORTS         UDP, by name, through the DNS binding; also udp://NET:PORTS
 *   icmp://NAME, icmp://NET  echo (ping), by name through the DNS binding, or by address
 *
 * PORTS is a port, a range LOW-HIGH, or *.
 * A deny rule without scheme (`deny: [name]`) denies the name for every protocol, port and DNS; one with a
 * scheme only that. By address it denies TCP and UDP to its ports, and ICMP when it names no ports.
 */
#pragma once

#include "base/addr.h"
#include "base/error.h"
#include "acl/name.h"
#include "acl/request.h"

#include <stdbool.h>
#include <stdint.h>

enum acl_scheme {
    ACL_SCHEME_WEB,
    ACL_SCHEME_HTTPS,
    ACL_SCHEME_HTTP,
    ACL_SCHEME_TCP,
    ACL_SCHEME_ADDRESS, /* without scheme, by address: TCP when it allows */
    ACL_SCHEME_UDP,
    ACL_SCHEME_ICMP
};

struct acl_rule {
    enum acl_scheme scheme;
    bool deny;
    bool by_address;    /* `net` counts, not `name` */
    bool wildcard;      /* by name: `name` is the part behind "*."; with an empty `name`: every name */
    uint16_t port_low;  /* inclusive range; WEB: 0 (80 and 443 are implied); ICMP: 0 */
    uint16_t port_high; /* ADDRESS with any port: 1..65535 */
    char name[ACL_NAME_MAX + 1]; /* normal form, or empty by address and for "*" */
    struct cidr net;  /* by address: base.family AF_UNSPEC = any address of both families (":port") */
    uint16_t methods; /* HTTP: acl_method_bit()s; 0: every method */
    uint16_t
        path_at; /* HTTP: the pattern of paths in the rule's text, in normal form, "*" at its end or as a */
    uint16_t path_length; /* whole segment; length 0: every path */
};

/* `text` as a person wrote it. On failure the error says what is wrong and what to write (a U-label prints
 * its A-label where libidn2 can tell: that is the config's work, here a non-ASCII byte is an error by
 * itself). 0 or -EINVAL. */
int acl_rule_parse(const char *text, size_t length, bool deny, struct acl_rule *ret, struct error *err);
