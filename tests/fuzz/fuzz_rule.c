/*
 * Rule strings, names and paths: what is accepted is in normal form, and stays what it is when it goes
 * through again.
 */
#include "tests/fuzz/fuzz.h"

#include "acl/rule.h"

#include <errno.h>

static void check_name(const uint8_t *data, size_t size)
{
    char name[ACL_NAME_MAX + 1], again[ACL_NAME_MAX + 1];
    size_t length, again_length;
    if (acl_name_normalise(data, size, name, &length) != ACL_NAME_OK)
        return;
    CHECK(length > 0 && length <= ACL_NAME_MAX && strlen(name) == length);
    CHECK(acl_name_normalise(name, length, again, &again_length) == ACL_NAME_OK);
    CHECK(length == again_length && !strcmp(name, again));
}

static void check_path(const uint8_t *data, size_t size)
{
    char path[ACL_PATH_MAX + 1], again[ACL_PATH_MAX + 1];
    size_t length, again_length;
    if (acl_path_normalise((const char *)data, size, path, &length))
        return;
    CHECK(length > 0 && length <= ACL_PATH_MAX && strlen(path) == length && path[0] == '/');
    CHECK(!strstr(path, "//") && !strstr(path, "/../") && !strstr(path, "/./") && !strchr(path, '\\'));
    CHECK(!acl_path_normalise(path, length, again, &again_length));
    CHECK(length == again_length && !strcmp(path, again));
    CHECK(acl_path_matches("/*", 2, path, length));
    CHECK(memchr(path, '*', length) || acl_path_matches(path, length, path, length));
}

static void check_rule(const uint8_t *data, size_t size, bool deny)
{
    struct acl_rule rule;
    struct error err = {0};
    int r = acl_rule_parse((const char *)data, size, deny, &rule, &err);
    if (r < 0) {
        CHECK(r == -EINVAL && err.code == EINVAL && err.text[0]);
        for (const char *c = err.text; *c; c++)
            CHECK((unsigned char)*c >= 0x20 && *c != 0x7f);
        return;
    }
    CHECK(rule.deny == deny && rule.port_low <= rule.port_high);
    CHECK(rule.path_at + rule.path_length <= size);
    CHECK((!rule.methods && !rule.path_length) || rule.scheme == ACL_SCHEME_HTTP);
    if (rule.path_length) {
        char path[ACL_PATH_MAX + 1];
        size_t length;
        CHECK(!acl_path_normalise((const char *)data + rule.path_at, rule.path_length, path, &length));
        CHECK(length == rule.path_length && !memcmp(path, data + rule.path_at, length));
    }
    CHECK(rule.by_address || (rule.scheme != ACL_SCHEME_ADDRESS && !rule.net.base.family));
    if (rule.by_address) {
        CHECK(!rule.name[0] && !rule.wildcard);
    } else {
        char name[ACL_NAME_MAX + 1];
        size_t length;
        CHECK(rule.name[0] || rule.wildcard);
        if (rule.name[0]) {
            CHECK(acl_name_normalise(rule.name, strlen(rule.name), name, &length) == ACL_NAME_OK);
            CHECK(!strcmp(name, rule.name));
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1); /* no NUL behind it */
    memcpy(copy, data, size);
    check_name(copy, size);
    check_path(copy, size);
    check_rule(copy, size, false);
    check_rule(copy, size, true);
    free(copy);
    return 0;
}
