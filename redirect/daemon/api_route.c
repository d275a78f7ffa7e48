#include "redirect/daemon/api_route.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SEGMENTS_MAX 6
#define SEGMENT_MAX 256

/* A request on its way to its meaning. */
struct route {
    char segments[SEGMENTS_MAX][SEGMENT_MAX];
    size_t count;
    const char *name; /* what stands for "*" in the pattern */
    json_t *body;     /* an object, or NULL */
    struct api_call *call;
    struct api_refusal *refusal;
};

__attribute__((format(printf, 4, 5))) static int refuse(struct route *r, int status, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    r->refusal->status = status;
    r->refusal->code = code;
    vsnprintf(r->refusal->text, sizeof(r->refusal->text), format, args);
    va_end(args);
    return -EINVAL;
}

int api_status_of(const char *code)
{
    static const struct {
        const char *code;
        int status;
    } known[] = {{"invalid", 400}, {"refused", 403}, {"unknown", 404}, {"exists", 409}, {"busy", 503}, {"failed", 500}};
    for (size_t i = 0; code && i < sizeof(known) / sizeof(*known); i++)
        if (!strcmp(code, known[i].code))
            return known[i].status;
    return 500;
}

/* ---- the path ---- */

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool decode(const char *from, size_t length, char ret[SEGMENT_MAX])
{
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        char c = from[i];
        if (c == '%') {
            int high = i + 2 < length ? hex(from[i + 1]) : -1, low = i + 2 < length ? hex(from[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (c == 0 || used + 1 >= SEGMENT_MAX)
            return false;
        ret[used++] = c;
    }
    ret[used] = 0;
    return used > 0;
}

static bool split(struct route *r, const char *path)
{
    while (*path) {
        size_t length = strcspn(++path, "/"); /* behind the slash */
        if (r->count == SEGMENTS_MAX || !decode(path, length, r->segments[r->count]))
            return false;
        r->count++;
        path += length;
    }
    return r->count > 0;
}

static bool fits(struct route *r, const char *pattern)
{
    size_t i = 0;
    const char *name = NULL;
    while (*pattern) {
        size_t length = strcspn(++pattern, "/");
        if (i == r->count)
            return false;
        if (length == 1 && *pattern == '*')
            name = r->segments[i];
        else if (strlen(r->segments[i]) != length || memcmp(pattern, r->segments[i], length) != 0)
            return false;
        pattern += length;
        i++;
    }
    if (i != r->count)
        return false;
    r->name = name;
    return true;
}

/* ---- bodies ---- */

/* Only these keys; `known` ends with NULL. */
static int check_keys(struct route *r, const char *const *known)
{
    const char *key;
    json_t *value;
    json_object_foreach (r->body, key, value) {
        char list[160] = "";
        size_t i = 0;
        while (known[i] && strcmp(known[i], key))
            i++;
        if (known[i])
            continue;
        for (i = 0; known[i]; i++) {
            strcat(list, i ? ", " : "");
            strcat(list, known[i]);
        }
        return refuse(r, 400, "invalid", "unknown key \"%.40s\": the body can have %s", key, list);
    }
    return 0;
}

static int parse_body(struct route *r, const char *body, size_t length)
{
    json_error_t why;
    r->body = json_loadb(body, length, JSON_REJECT_DUPLICATES, &why);
    if (!r->body)
        return refuse(r, 400, "invalid", "the body is no JSON: line %d, column %d: %s", why.line, why.column, why.text);
    if (!json_is_object(r->body))
        return refuse(r, 400, "invalid", "the body has to be a JSON object");
    return 0;
}

/* ---- endpoints ---- */

/* The request of the control socket; takes nothing over. */
static int ask(struct route *r, json_t *request)
{
    if (!request)
        return refuse(r, 400, "invalid", "a word of the path is not UTF-8");
    r->call->request = request;
    return 0;
}

static int plain(struct route *r, const char *verb)
{
    return ask(r, json_pack("{s:s}", "do", verb));
}

static int about_one(struct route *r, const char *verb)
{
    return ask(r, json_pack("{s:s, s:s}", "do", verb, "id", r->name));
}

static int status(struct route *r)
{
    return plain(r, "status");
}

static int list(struct route *r)
{
    return plain(r, "list");
}

static int list_one(struct route *r)
{
    if (!state_id_valid(r->name))
        return refuse(r, 404, "unknown", "nothing is enrolled by that name");
    snprintf(r->call->one, sizeof(r->call->one), "%s", r->name);
    return plain(r, "list");
}

static int reload(struct route *r)
{
    return plain(r, "reload");
}

static int withdraw(struct route *r)
{
    return about_one(r, "withdraw");
}

static int verify(struct route *r)
{
    return about_one(r, "verify");
}

/* The namespace comes as a number or a path here, not as a descriptor: api.c opens it. */
static int enroll(struct route *r)
{
    static const char *const keys[] = {"id", "name", "image", "policy", "attached", "pid", "netns", NULL};
    const json_t *pid = json_object_get(r->body, "pid");
    const char *netns = json_string_value(json_object_get(r->body, "netns"));
    int failed = check_keys(r, keys);
    if (failed)
        return failed;
    if (!pid == !json_object_get(r->body, "netns"))
        return refuse(r, 400, "invalid", "name the container's first process or its network namespace: \"pid\": N or \"netns\": PATH");
    if (pid && (!json_is_integer(pid) || json_integer_value(pid) < 1 || json_integer_value(pid) > INT32_MAX))
        return refuse(r, 400, "invalid", "\"pid\" has to be the number of a process");
    if (!pid && (!netns || netns[0] != '/' || strlen(netns) >= sizeof(r->call->netns)))
        return refuse(r, 400, "invalid", "\"netns\" has to be an absolute path, as /run/netns/name");
    r->call->enrolls = true;
    r->call->status = 201;
    if (pid)
        r->call->pid = (pid_t)json_integer_value(pid);
    else
        snprintf(r->call->netns, sizeof(r->call->netns), "%s", netns);
    json_t *request = json_copy(r->body);
    json_object_del(request, "pid");
    json_object_del(request, "netns");
    json_object_set_new(request, "do", json_string("enroll"));
    if (!pid)
        json_object_set_new(request, "path", json_string(netns));
    return ask(r, request);
}

/* ---- run-time changes; "container" takes an id or a name ---- */

static const char *target_of(const struct route *r)
{
    return strcmp(r->segments[1], "policies") ? "container" : "policy";
}

static int show(struct route *r)
{
    return ask(r, json_pack("{s:s, s:s}", "do", "show", target_of(r), r->name));
}

static int forget(struct route *r)
{
    return ask(r, json_pack("{s:s, s:s}", "do", "forget", target_of(r), r->name));
}

static int set(struct route *r)
{
    static const char *const keys[] = {"policy", NULL};
    const char *policy = json_string_value(json_object_get(r->body, "policy"));
    int failed = check_keys(r, keys);
    if (failed)
        return failed;
    if (!policy)
        return refuse(r, 400, "invalid", "name the policy: {\"policy\": NAME}");
    return ask(r, json_pack("{s:s, s:s, s:s}", "do", "set", "container", r->name, "policy", policy));
}

static int unset(struct route *r)
{
    return ask(r, json_pack("{s:s, s:s, s:b}", "do", "set", "container", r->name, "remove", 1));
}

static int change_rules(struct route *r)
{
    static const char *const keys[] = {"allow", "deny", "remove", NULL};
    json_t *allow = json_object_get(r->body, "allow"), *deny = json_object_get(r->body, "deny");
    json_t *remove = json_object_get(r->body, "remove"), *rules = allow ? allow : deny;
    int failed = check_keys(r, keys);
    if (failed)
        return failed;
    if (!allow == !deny || !json_is_array(rules))
        return refuse(r, 400, "invalid", "give the rules as one list: {\"allow\": [RULE, …]} or {\"deny\": [RULE, …]}");
    if (remove && !json_is_boolean(remove))
        return refuse(r, 400, "invalid", "\"remove\" has to be true or false");
    json_t *request = json_pack("{s:s, s:s, s:O}", "do", allow ? "allow" : "deny", target_of(r), r->name, "rules", rules);
    if (request && json_is_true(remove))
        json_object_set_new(request, "remove", json_true());
    return ask(r, request);
}

/* ---- texts ---- */

static int tell_metrics(struct route *r)
{
    r->call->kind = API_METRICS;
    return 0;
}

static int tell_health(struct route *r)
{
    r->call->kind = API_HEALTH;
    return 0;
}

static int tell_ready(struct route *r)
{
    r->call->kind = API_READY;
    return 0;
}

static const struct endpoint {
    const char *method, *pattern;
    bool has_body;
    int (*take)(struct route *r);
} endpoints[] = {
    {"GET", "/metrics", false, tell_metrics},
    {"GET", "/healthz", false, tell_health},
    {"GET", "/readyz", false, tell_ready},
    {"GET", "/v1/status", false, status},
    {"GET", "/v1/containers", false, list},
    {"POST", "/v1/containers", true, enroll},
    {"GET", "/v1/containers/*", false, list_one},
    {"DELETE", "/v1/containers/*", false, withdraw},
    {"POST", "/v1/containers/*/verify", false, verify},
    {"POST", "/v1/reload", false, reload},
    {"GET", "/v1/containers/*/policy", false, show},
    {"PUT", "/v1/containers/*/policy", true, set},
    {"DELETE", "/v1/containers/*/policy", false, unset},
    {"POST", "/v1/containers/*/rules", true, change_rules},
    {"DELETE", "/v1/containers/*/changes", false, forget},
    {"GET", "/v1/policies/*", false, show},
    {"POST", "/v1/policies/*/rules", true, change_rules},
    {"DELETE", "/v1/policies/*/changes", false, forget},
};
#define ENDPOINTS (sizeof(endpoints) / sizeof(*endpoints))

static void add_method(char *list, size_t size, const char *method)
{
    size_t used = strlen(list);
    snprintf(list + used, size - used, "%s%s", used ? ", " : "", method);
}

static int find(struct route *r, const struct httpd_request *request, const struct endpoint **ret)
{
    const char *method = strcmp(request->method, "HEAD") ? request->method : "GET";
    char *allow = r->refusal->allow;
    if (!split(r, request->path))
        return refuse(r, 404, "unknown", "there is no such path");
    for (size_t i = 0; i < ENDPOINTS; i++) {
        if (!fits(r, endpoints[i].pattern))
            continue;
        *ret = &endpoints[i];
        if (!strcmp(endpoints[i].method, method)) {
            *allow = 0;
            return 0;
        }
        add_method(allow, sizeof(r->refusal->allow), endpoints[i].method);
        if (!strcmp(endpoints[i].method, "GET"))
            add_method(allow, sizeof(r->refusal->allow), "HEAD");
    }
    if (!*ret)
        return refuse(r, 404, "unknown", "there is no such path");
    return refuse(r, 405, "invalid", "the path does not take %s", request->method);
}

int api_route(const struct httpd_request *request, const char *body, struct api_call *ret, struct api_refusal *ret_refusal)
{
    struct api_call call = {.kind = API_CONTROL, .status = 200};
    struct route r = {.call = &call, .refusal = ret_refusal};
    const struct endpoint *endpoint = NULL;
    *ret_refusal = (struct api_refusal){0};
    int failed = find(&r, request, &endpoint);
    if (!failed && *request->query)
        failed = refuse(&r, 400, "invalid", "there is nothing to ask for behind \"?\"");
    if (!failed && !endpoint->has_body && request->body_length)
        failed = refuse(&r, 400, "invalid", "this takes no body");
    if (!failed && endpoint->has_body)
        failed = parse_body(&r, body, request->body_length);
    if (!failed)
        failed = endpoint->take(&r);
    json_decref(r.body);
    if (failed) {
        json_decref(call.request);
        return failed;
    }
    *ret = call;
    return 0;
}
