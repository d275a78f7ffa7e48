/*
 * One rule string, parsed (DESIGN section 8).
 *
 *   example.com              web: TLS SNI on 443, HTTP Host on 80
 *   *.example.com            one or more labels in front, never the apex; "**." is a synonym
 *   *                        every name (web)
 *   https://NAME[:PORT]      TLS on PORT (443)        http://NAME[:PORT]   HTTP on PORT (80)
 *   tcp://NAME:PORT[-PORT]   any TCP, by name, through the DNS binding; also tcp://ADDR:PORT
 *   NET[:PORT[-PORT]]        by address: 10.0.0.0/8:5432, [2001:db8::]/32:443, 192.0.2.1 (then all TCP ports)
 *   :PORT                    any address, that TCP port        NET:* or *:* style "host:*": any port
 *
 * A deny rule without scheme (`deny: [name]`) denies the name for every protocol, port and DNS; one with a scheme
 * only that.
 */
#pragma once

#include "base/addr.h"
#include "base/error.h"
#include "acl/name.h"

#include <stdbool.h>
#include <stdint.h>

enum acl_scheme { ACL_SCHEME_WEB, ACL_SCHEME_HTTPS, ACL_SCHEME_HTTP, ACL_SCHEME_TCP, ACL_SCHEME_ADDRESS };

struct acl_rule {
    enum acl_scheme scheme;
    bool deny;
    bool wildcard;              /* by name: `name` is the part behind "*."; with an empty `name`: every name */
    uint16_t port_low;          /* inclusive range; WEB: 0 (80 and 443 are implied); */
    uint16_t port_high;         /* ADDRESS with any port: 1..65535 */
    char name[ACL_NAME_MAX + 1]; /* normal form, or empty for ADDRESS and "*" */
    struct cidr net;            /* ADDRESS only; base.family AF_UNSPEC = any address of both families (":port") */
};

/* `text` as a person wrote it. On failure the error says what is wrong and what to write (a U-label prints its A-label
 * where libidn2 can tell: that is the config's work, here a non-ASCII byte is an error by itself). 0 or -EINVAL. */
int acl_rule_parse(const char *text, size_t length, bool deny, struct acl_rule *ret, struct error *err);
