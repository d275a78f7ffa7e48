/*
 * The address guard (DESIGN section 6): where no flow goes, whatever a name resolves to.
 *
 * never     loopback, link-local, unspecified, multicast, broadcast, cloud metadata: no configuration opens them
 * private   RFC 1918, ULA, CGNAT, special-purpose and documentation ranges (IANA special-purpose registries): only
 *           when `destinations.allow` or a rule's CIDR names the network
 * embedded  IPv4 inside IPv6 (mapped, compatible, NAT64, 6to4, Teredo): judged as the IPv4 address it carries, and
 *           never better than private itself
 */
#pragma once

#include "base/addr.h"

enum acl_guard_class { ACL_GUARD_PUBLIC, ACL_GUARD_PRIVATE, ACL_GUARD_NEVER };

enum acl_guard_class acl_guard_classify(const struct addr *a);
/* Every network that is not public, for rulesets: those of a class may lie in each other. An address that a translator or a tunnel would
 * read (embedded) is private here, whatever it carries. */
void acl_guard_each(void (*each)(const struct cidr *net, enum acl_guard_class class, void *arg), void *arg);
/* "cloud metadata", "private (RFC 1918)", … a static string; "public" when it is. */
const char *acl_guard_range_name(const struct addr *a);
