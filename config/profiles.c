#include "config/profiles.h"

#include <string.h>

const struct profile profiles[] = {
    {"unrestricted",
     "permissive",
     "every name and every TCP port, except what the address guard refuses",
     "profile unrestricted",
     NULL,
     {"*", "*:*"},
     ACL_DNS_ALLOWED},
    {"agent",
     "standard",
     "what agent work fetches from: registries, git hosting, model APIs (preset agent)",
     "profile agent",
     "agent",
     {NULL},
     ACL_DNS_ALLOWED},
    {"allowlist",
     "strict",
     "only the rules of the policy that extends it",
     "profile allowlist",
     NULL,
     {NULL},
     ACL_DNS_ALLOWED},
    {"airgapped", NULL, "nothing, not even DNS", "profile airgapped", NULL, {NULL}, ACL_DNS_OFF},
};
const size_t profile_count = sizeof(profiles) / sizeof(*profiles);

const struct profile *profile_find(const char *name)
{
    for (size_t i = 0; i < profile_count; i++)
        if (!strcmp(profiles[i].name, name) || (profiles[i].synonym && !strcmp(profiles[i].synonym, name)))
            return &profiles[i];
    return NULL;
}
