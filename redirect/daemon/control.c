#include "redirect/daemon/control.h"

#include "base/fds.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#define BACKLOG 512
#define ANSWER_WAIT_S 60
#define ANSWER_MAX ((size_t)64 << 20)

/* ---- requests ---- */

static const char *const verbs[] = {
    [CONTROL_ENROLL] = "enroll", [CONTROL_WITHDRAW] = "withdraw", [CONTROL_VERIFY] = "verify",
    [CONTROL_LIST] = "list",     [CONTROL_RELOAD] = "reload",     [CONTROL_STATUS] = "status",
    [CONTROL_TAKE_OVER] = "take-over", [CONTROL_UPGRADE] = "upgrade",
    [CONTROL_ALLOW] = "allow",   [CONTROL_DENY] = "deny",         [CONTROL_SET] = "set",
    [CONTROL_FORGET] = "forget", [CONTROL_SHOW] = "show"};
#define VERBS (sizeof(verbs) / sizeof(*verbs))

static int take_text(const char *key, const char *text, char *ret, size_t size, struct error *err)
{
    if (!text)
        return 0;
    if (!state_text_valid(text, size))
        return error_set(err, EINVAL, "\"%s\" is longer than %zu bytes, or holds control characters", key, size - 1);
    memcpy(ret, text, strlen(text) + 1);
    return 0;
}

static int take_id(const char *id, struct state_record *record, struct error *err)
{
    if (!state_id_valid(id))
        return error_set(err, EINVAL,
                         "an id is 1 to %d letters, digits, \"_\", \".\" and \"-\", the first one a letter or a digit",
                         CHANNEL_ID_MAX - 1);
    return take_text("id", id, record->id, sizeof(record->id), err);
}

static int parse_enroll(json_t *root, struct state_record *record, struct error *err)
{
    json_error_t why;
    const char *verb, *id, *name = NULL, *image = NULL, *policy = NULL, *path = NULL, *pod = NULL, *pod_namespace = NULL,
               *attachment = NULL, *publish = NULL;
    int attached = -1;
    if (json_unpack_ex(root, &why, JSON_STRICT, "{s:s, s:s, s?s, s?s, s?s, s?s, s?b, s?s, s?s, s?s, s?s}", "do", &verb, "id", &id, "name",
                       &name, "image", &image, "policy", &policy, "path", &path, "attached", &attached, "pod", &pod,
                       "pod_namespace", &pod_namespace, "attachment", &attachment, "publish", &publish) < 0)
        return error_set(err, EINVAL, "%s", why.text);
    record->attached = attached == 1;
    record->any_capture = attached < 0;
    int r = take_id(id, record, err);
    if (r == 0)
        r = take_text("name", name, record->name, sizeof(record->name), err);
    if (r == 0)
        r = take_text("image", image, record->image, sizeof(record->image), err);
    if (r == 0)
        r = take_text("policy", policy, record->policy, sizeof(record->policy), err);
    if (r == 0)
        r = take_text("path", path, record->path, sizeof(record->path), err);
    if (r == 0)
        r = take_text("pod", pod, record->pod, sizeof(record->pod), err);
    if (r == 0)
        r = take_text("pod_namespace", pod_namespace, record->pod_namespace, sizeof(record->pod_namespace), err);
    if (r == 0)
        r = take_text("attachment", attachment, record->attachment, sizeof(record->attachment), err);
    if (r == 0)
        r = take_text("publish", publish, record->publish, sizeof(record->publish), err);
    return r;
}

static int take_rules(json_t *rules, struct control_request *ret, struct error *err)
{
    size_t i;
    const json_t *rule;
    json_array_foreach (rules, i, rule)
        if (!json_is_string(rule) || strlen(json_string_value(rule)) != json_string_length(rule))
            return error_set(err, EINVAL, "\"rules\" must be a list of texts");
    if (json_array_size(rules) == 0)
        return error_set(err, EINVAL, "\"rules\" must be a list of rules, at least one");
    ret->rules = json_incref(rules);
    return 0;
}

/* What has to be there, and what has not, beside the verb. */
static int check_change(const struct control_request *request, const char *container, const char *policy, const json_t *rules,
                        struct error *err)
{
    bool adds = request->verb == CONTROL_ALLOW || request->verb == CONTROL_DENY, forgets = request->verb == CONTROL_FORGET;
    if (!adds != !rules)
        return error_set(err, EINVAL, adds ? "\"rules\" must be a list of rules, at least one" : "only allow and deny have \"rules\"");
    if (request->remove && !adds && request->verb != CONTROL_SET)
        return error_set(err, EINVAL, "only allow, deny and set have \"remove\"");
    if (request->gone && (!forgets || container || policy))
        return error_set(err, EINVAL, "\"gone\" goes with forget, and with no name beside it");
    if (request->verb == CONTROL_SET)
        return container && !policy == request->remove
                   ? 0
                   : error_set(err, EINVAL, "set needs \"container\", and \"policy\" or \"remove\": true");
    if (request->verb == CONTROL_SHOW && !container && !policy)
        return 0;
    return request->gone || !container == !!policy
               ? 0
               : error_set(err, EINVAL, "say whom it is about: \"container\" or \"policy\"");
}

static int parse_change(json_t *root, struct control_request *ret, struct error *err)
{
    json_error_t why;
    const char *verb, *container = NULL, *policy = NULL;
    json_t *rules = NULL;
    int remove = 0, gone = 0;
    if (json_unpack_ex(root, &why, JSON_STRICT, "{s:s, s?s, s?s, s?b, s?b, s?o}", "do", &verb, "container", &container, "policy",
                       &policy, "remove", &remove, "gone", &gone, "rules", &rules) < 0)
        return error_set(err, EINVAL, "%s", why.text);
    ret->remove = remove;
    ret->gone = gone;
    ret->of_policy = !container;
    int r = check_change(ret, container, policy, rules, err);
    if (r == 0)
        r = take_text(container ? "container" : "policy", container ? container : policy, ret->target, sizeof(ret->target), err);
    if (r == 0 && container)
        r = take_text("policy", policy, ret->record.policy, sizeof(ret->record.policy), err);
    if (r == 0 && (container || policy) && !*ret->target)
        r = error_set(err, EINVAL, "the name is empty");
    return r == 0 && rules ? take_rules(rules, ret, err) : r;
}

static int parse_object(json_t *root, struct control_request *ret, struct error *err)
{
    json_error_t why;
    const char *verb = json_string_value(json_object_get(root, "do")), *id, *attachment = NULL;
    size_t i = 0;
    while (verb && i < VERBS && strcmp(verb, verbs[i]))
        i++;
    if (!verb || i == VERBS)
        return error_set(err, EINVAL, "\"do\" must be enroll, withdraw, verify, list, reload, status, upgrade, take-over, allow, deny, set, forget or show");
    ret->verb = (enum control_verb)i;
    if (ret->verb == CONTROL_ENROLL)
        return parse_enroll(root, &ret->record, err);
    if (ret->verb == CONTROL_WITHDRAW || ret->verb == CONTROL_VERIFY) {
        const char *form = ret->verb == CONTROL_WITHDRAW ? "{s:s, s:s, s?s}" : "{s:s, s:s}";
        if (json_unpack_ex(root, &why, JSON_STRICT, form, "do", &verb, "id", &id, "attachment", &attachment) < 0)
            return error_set(err, EINVAL, "%s", why.text);
        int r = take_id(id, &ret->record, err);
        return r < 0 ? r : take_text("attachment", attachment, ret->record.attachment, sizeof(ret->record.attachment), err);
    }
    if (ret->verb >= CONTROL_ALLOW)
        return parse_change(root, ret, err);
    if (json_unpack_ex(root, &why, JSON_STRICT, "{s:s}", "do", &verb) < 0)
        return error_set(err, EINVAL, "%s", why.text);
    return 0;
}

int control_parse(const char *text, size_t length, struct control_request *ret, struct error *err)
{
    json_error_t why;
    struct control_request request = {0};
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return error_set(err, EINVAL, "the request is no JSON object: %s", why.text);
    int r = parse_object(root, &request, err);
    json_decref(root);
    if (r == 0)
        *ret = request;
    return r;
}

void control_request_finish(struct control_request *request)
{
    json_decref(request->rules);
    request->rules = NULL;
}

/* ---- the socket ---- */

static int address_of(const char *path, struct sockaddr_un *ret, struct error *err)
{
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(ret->sun_path))
        return error_set(err, ENAMETOOLONG, "the path of the control socket is longer than %zu bytes: %s",
                         sizeof(ret->sun_path) - 1, path);
    memcpy(ret->sun_path, path, strlen(path));
    return 0;
}

static int dial(const struct sockaddr_un *address, int type, int *ret)
{
    _cleanup_fd_ int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    const struct timeval patience = {.tv_sec = ANSWER_WAIT_S}; /* a hook must not hang for ever */
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
        return -errno;
    *ret = fd_steal(&fd);
    return 0;
}

static void make_folders(const char *path)
{
    char folder[sizeof(((struct sockaddr_un *)0)->sun_path)];
    snprintf(folder, sizeof(folder), "%s", path);
    for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(folder, 0755); /* what is wrong with it bind() will say */
        *slash = '/';
    }
}

int control_listen(const char *path, int *ret, struct error *err)
{
    return control_listen_at(path, SOCK_SEQPACKET, ret, err);
}

int control_listen_at(const char *path, int type, int *ret, struct error *err)
{
    struct sockaddr_un address;
    _cleanup_fd_ int other = -1;
    int r = address_of(path, &address, err);
    if (r < 0)
        return r;
    make_folders(path);
    if (dial(&address, type, &other) == 0)
        return error_set(err, EADDRINUSE, "another gateway answers at %s", path);
    struct stat status;
    if (lstat(path, &status) == 0 && !S_ISSOCK(status.st_mode))
        return error_set(err, EEXIST, "%s is there and is no socket: remove it, or name another path", path);
    unlink(path);
    _cleanup_fd_ int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t before = umask(0177);
    r = fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, BACKLOG) < 0 ? -errno : 0;
    umask(before);
    if (r < 0)
        return error_errno(err, -r, "cannot listen on %s", path);
    *ret = fd_steal(&fd);
    return 0;
}

bool control_is_at(int listener, const char *path)
{
    struct sockaddr_un own = {0};
    socklen_t length = sizeof(own);
    int listening = 0;
    socklen_t size = sizeof(listening);
    struct stat there;
    if (getsockname(listener, (struct sockaddr *)&own, &length) < 0 || own.sun_family != AF_UNIX ||
        getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0 || !listening)
        return false;
    return !strncmp(own.sun_path, path, sizeof(own.sun_path)) && lstat(path, &there) == 0 && S_ISSOCK(there.st_mode);
}

bool control_peer_allowed(int fd)
{
    struct ucred peer;
    socklen_t length = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && (peer.uid == 0 || peer.uid == geteuid());
}

/* ---- the client ---- */

/* It also hangs up on whom it does not talk to: anybody but root and its own user. */
static int hung_up(struct error *err)
{
    return error_set(err, EPROTO, "the gateway closed the connection without an answer (only root and its own user may ask)");
}

static int read_answer(int fd, json_t **ret, struct error *err)
{
    json_error_t why;
    char *text = NULL;
    size_t used = 0;
    ssize_t got;
    for (;;) {
        char *grown = used < ANSWER_MAX ? realloc(text, used + CONTROL_PACKET_MAX) : NULL;
        if (!grown) {
            free(text);
            return error_set(err, ENOMEM, "the gateway's answer is too long");
        }
        text = grown;
        got = recv(fd, text + used, CONTROL_PACKET_MAX, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    *ret = got == 0 && used > 0 ? json_loadb(text, used, 0, &why) : NULL;
    free(text);
    return *ret ? 0 : hung_up(err);
}

int control_dial(const char *path, int *ret, struct error *err)
{
    struct sockaddr_un address;
    int r = address_of(path, &address, err);
    if (r < 0)
        return r;
    r = dial(&address, SOCK_SEQPACKET, ret);
    return r < 0 ? error_set(err, -r, "no gateway answers at %s: %s", path, strerror(-r)) : 0;
}

int control_call(const char *path, json_t *request, const int *fds, size_t count, json_t **ret_answer, struct error *err)
{
    _cleanup_fd_ int fd = -1;
    int r = control_dial(path, &fd, err);
    if (r < 0)
        return r;
    char *text = json_dumps(request, JSON_COMPACT);
    r = text ? fds_send(fd, text, strlen(text), fds, count) : -EINVAL;
    free(text);
    if (r == -EPIPE || r == -ECONNRESET)
        return hung_up(err);
    if (r < 0)
        return error_errno(err, -r, "cannot send the request to %s", path);
    return read_answer(fd, ret_answer, err);
}
