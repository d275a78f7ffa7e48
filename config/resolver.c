/*
 * How a name server is written: ADDR, ADDR:PORT, or tls://ADDR[:PORT]#NAME (port 853), where NAME is what the
 * server's certificate has to be for (RFC 8310, strict privacy): an address alone would prove nothing.
 */
#include "config/snapshot.h"

#include <stdio.h>
#include <string.h>

#define TLS "tls://"

static bool parse_tls(const char *text, struct config_resolver *ret)
{
    char place[ADDR_TEXT_MAX];
    const char *name = strchr(text, '#'), *from = text;
    size_t length = name ? (size_t)(name - text) : 0, name_length;
    if (!name || length >= sizeof(place))
        return false;
    if (text[0] == '[' && text[length - 1] == ']') { /* no port behind the brackets */
        from++;
        length -= 2;
    }
    memcpy(place, from, length);
    place[length] = 0;
    return addr_parse_with_port(place, 853, &ret->address) &&
           acl_name_normalise(name + 1, strlen(name + 1), ret->name, &name_length) == ACL_NAME_OK;
}

bool config_resolver_parse(const char *text, struct config_resolver *ret)
{
    struct config_resolver read = {0};
    bool tls = !strncmp(text, TLS, strlen(TLS));
    if (!(tls ? parse_tls(text + strlen(TLS), &read) : addr_parse_with_port(text, 53, &read.address)))
        return false;
    *ret = read;
    return true;
}

const char *config_resolver_advice(const char *text)
{
    return strncmp(text, TLS, strlen(TLS))
               ? "write an address, or ADDR:PORT ([ADDR]:PORT for IPv6)"
               : "write tls://ADDR#NAME or tls://ADDR:PORT#NAME, where NAME is what the server's certificate "
                 "is for, as tls://192.0.2.53#dns.example.com";
}

const char *config_resolver_format(const struct config_resolver *resolver,
                                   char text[CONFIG_RESOLVER_TEXT_MAX])
{
    char place[ADDR_TEXT_MAX];
    addr_format_with_port(&resolver->address, place);
    snprintf(text, CONFIG_RESOLVER_TEXT_MAX, "%s%s%s%s", *resolver->name ? TLS : "", place,
             *resolver->name ? "#" : "", resolver->name);
    return text;
}

bool config_resolvers_mixed(const struct config_resolver *resolvers, size_t count)
{
    for (size_t i = 1; i < count; i++)
        if (!*resolvers[i].name != !*resolvers[0].name)
            return true;
    return false;
}
