/* The names of the reasons. Written to audit logs and metrics: they may be added to, never renamed. */
#include "acl/reason.h"

#include <assert.h>
#include <stddef.h>

static const char *const names[] = {
    [ACL_RULE_ALLOW] = "rule_allow",
    [ACL_RULE_DENY] = "rule_deny",
    [ACL_NO_RULE] = "no_rule",
    [ACL_NO_SNI] = "no_sni",
    [ACL_MALFORMED_CLIENT_HELLO] = "malformed_client_hello",
    [ACL_NOT_TLS] = "not_tls",
    [ACL_ECH_DENIED] = "ech_denied",
    [ACL_HOST_MISSING] = "host_missing",
    [ACL_HOST_AMBIGUOUS] = "host_ambiguous",
    [ACL_HOST_MISMATCH] = "host_mismatch",
    [ACL_MALFORMED_HTTP] = "malformed_http",
    [ACL_METHOD_DENIED] = "method_denied",
    [ACL_HTTP2_CLEARTEXT] = "http2_cleartext",
    [ACL_IP_LITERAL] = "ip_literal",
    [ACL_DESTINATION_UNBOUND] = "destination_unbound",
    [ACL_DESTINATION_GUARDED] = "destination_guarded",
    [ACL_DNS_FAILED] = "dns_failed",
    [ACL_CONNECT_FAILED] = "connect_failed",
    [ACL_HELLO_TIMEOUT] = "hello_timeout",
    [ACL_HELLO_TOO_LARGE] = "hello_too_large",
    [ACL_LIMIT_CONNECTIONS] = "limit_connections",
    [ACL_LIMIT_RATE] = "limit_rate",
    [ACL_PORT_DENIED] = "port_denied",
    [ACL_POLICY_CHANGED] = "policy_changed",
    [ACL_LOOP] = "loop",
    [ACL_AUDIT_UNAVAILABLE] = "audit_unavailable",
    [ACL_PATH_DENIED] = "path_denied",
};

static_assert(sizeof(names) / sizeof(*names) == ACL_REASON_COUNT, "every reason has a name");

const char *acl_reason_name(enum acl_reason reason)
{
    if ((unsigned)reason >= ACL_REASON_COUNT || !names[reason])
        return "unknown";
    return names[reason];
}
