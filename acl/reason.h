/*
 * The fixed reasons of DESIGN section 9. One goes with every verdict, into the audit event and the metrics.
 * Programs match on the names: they never change meaning, new ones are only added.
 */
#pragma once

enum acl_reason {
    ACL_RULE_ALLOW,             /* a rule allows it */
    ACL_RULE_DENY,              /* a deny rule matches; deny beats allow */
    ACL_NO_RULE,                /* no rule names it */
    ACL_NO_SNI,                 /* a ClientHello without a server name */
    ACL_MALFORMED_CLIENT_HELLO, /* TLS, but not as a strict server would take it */
    ACL_NOT_TLS,                /* neither TLS nor HTTP where TLS was expected */
    ACL_ECH_DENIED,             /* policy `ech: deny` */
    ACL_HOST_MISSING,           /* HTTP without Host */
    ACL_HOST_AMBIGUOUS,         /* more than one Host, or one that is not a host */
    ACL_HOST_MISMATCH,          /* Host against absolute-form target, or against the port dialled */
    ACL_MALFORMED_HTTP,
    ACL_METHOD_DENIED,       /* CONNECT, or a method that no rule allows */
    ACL_HTTP2_CLEARTEXT,     /* the HTTP/2 preface, or Upgrade: h2c */
    ACL_IP_LITERAL,          /* an address where a name belongs */
    ACL_DESTINATION_UNBOUND, /* the address does not belong to the name */
    ACL_DESTINATION_GUARDED, /* loopback, link-local, metadata, private */
    ACL_DNS_FAILED,
    ACL_CONNECT_FAILED,
    ACL_HELLO_TIMEOUT,
    ACL_HELLO_TOO_LARGE,
    ACL_LIMIT_CONNECTIONS,
    ACL_LIMIT_RATE,
    ACL_PORT_DENIED,
    ACL_POLICY_CHANGED,
    ACL_LOOP,
    ACL_AUDIT_UNAVAILABLE,
    ACL_PATH_DENIED, /* an HTTP path that no rule allows, or that can be read in several ways */
    ACL_REASON_COUNT
};

/* "rule_allow", "no_sni", … never NULL. */
const char *acl_reason_name(enum acl_reason reason);
