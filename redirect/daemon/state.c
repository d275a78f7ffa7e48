#include "redirect/daemon/state.h"

#include "base/fds.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define SUFFIX ".json"
#define TEMPORARY ".new"
#define FILE_MAX 16384
#define VERSION 1

bool state_id_valid(const char *id)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    size_t length = strlen(id);
    return length > 0 && length < CHANNEL_ID_MAX && strspn(id, letters) == length && !strchr("_.-", id[0]);
}

bool state_text_valid(const char *text, size_t size)
{
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return false;
    return strlen(text) < size;
}

/* ---- text ---- */

static json_t *numbers(const struct sealed_past *past, bool cookies)
{
    json_t *array = json_array();
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++)
        json_array_append_new(array, json_integer(cookies ? (json_int_t)past->cookies[i] : past->ports[i]));
    return array;
}

static json_t *format_past(const struct sealed_past *past)
{
    return json_pack("{s:o, s:o, s:i, s:I, s:I, s:b}", "ports", numbers(past, false), "cookies", numbers(past, true), "group",
                     past->group, "fingerprint", (json_int_t)past->fingerprint, "plan", (json_int_t)past->plan, "transparent",
                     past->transparent);
}

/* Of another version, with other sockets, or not there: it stays all zero, and the namespace is captured from the start. */
static void parse_past(json_t *root, struct sealed_past *ret)
{
    json_t *ports, *cookies;
    json_int_t fingerprint, plan;
    int transparent = 0; /* as before there were such */
    struct sealed_past past = {0};
    if (!root || json_unpack(root, "{s:o, s:o, s:i, s:I, s:I, s?b}", "ports", &ports, "cookies", &cookies, "group", &past.group,
                             "fingerprint", &fingerprint, "plan", &plan, "transparent", &transparent) < 0)
        return;
    if (json_array_size(ports) != CAPTURE_SOCKETS || json_array_size(cookies) != CAPTURE_SOCKETS)
        return;
    for (size_t i = 0; i < CAPTURE_SOCKETS; i++) {
        past.ports[i] = (uint16_t)json_integer_value(json_array_get(ports, i));
        past.cookies[i] = (uint64_t)json_integer_value(json_array_get(cookies, i));
    }
    past.fingerprint = (uint64_t)fingerprint;
    past.plan = (uint64_t)plan;
    past.transparent = transparent;
    *ret = past;
}

/* What most have not. */
static void put_more(json_t *root, const char *key, const char *text)
{
    if (root && *text)
        json_object_set_new(root, key, json_string(text));
}

char *state_format(const struct state_record *r, const char *boot)
{
    json_t *root = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:i, s:I, s:I, s:I, s:I}", "version", VERSION, "boot", boot,
                             "id", r->id, "name", r->name, "image", r->image, "policy", r->policy, "path", r->path, "attached",
                             r->attached, "pid", (int)r->pid, "start_time", (json_int_t)r->start_time, "netns_device",
                             (json_int_t)r->netns.device, "netns_inode", (json_int_t)r->netns.inode, "since",
                             (json_int_t)r->since);
    if (root && r->past.plan)
        json_object_set_new(root, "past", format_past(&r->past));
    put_more(root, "pod", r->pod);
    put_more(root, "pod_namespace", r->pod_namespace);
    put_more(root, "attachment", r->attachment);
    put_more(root, "publish", r->publish);
    char *text = root ? json_dumps(root, JSON_INDENT(1) | JSON_ENSURE_ASCII) : NULL;
    json_decref(root);
    return text;
}

static bool take_text(const char *text, char *ret, size_t size)
{
    if (!state_text_valid(text, size))
        return false;
    memcpy(ret, text, strlen(text) + 1);
    return true;
}

int state_parse(const char *text, size_t length, const char *boot, struct state_record *ret, struct error *err)
{
    json_error_t why;
    int version, attached, pid;
    const char *of_boot, *id, *name, *image, *policy, *path, *pod = "", *pod_namespace = "", *attachment = "", *publish = "";
    json_int_t start_time, device, inode, since;
    struct state_record r = {0};
    json_t *past = NULL, *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);
    if (!root || json_unpack_ex(root, &why, 0,
                                "{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:i, s:I, s:I, s:I, s:I, s?o, s?s, s?s, s?s, s?s}",
                                "version", &version, "boot", &of_boot, "id", &id, "name", &name, "image", &image, "policy",
                                &policy, "path", &path, "attached", &attached, "pid", &pid, "start_time", &start_time,
                                "netns_device", &device, "netns_inode", &inode, "since", &since, "past", &past, "pod", &pod,
                                "pod_namespace", &pod_namespace, "attachment", &attachment, "publish", &publish) < 0) {
        json_decref(root);
        return error_set(err, EINVAL, "%s", why.text);
    }
    bool valid = version == VERSION && state_id_valid(id) && take_text(id, r.id, sizeof(r.id)) &&
                 take_text(name, r.name, sizeof(r.name)) && take_text(image, r.image, sizeof(r.image)) &&
                 take_text(policy, r.policy, sizeof(r.policy)) && take_text(path, r.path, sizeof(r.path)) &&
                 take_text(pod, r.pod, sizeof(r.pod)) && take_text(pod_namespace, r.pod_namespace, sizeof(r.pod_namespace)) &&
                 take_text(attachment, r.attachment, sizeof(r.attachment)) &&
                 take_text(publish, r.publish, sizeof(r.publish)) && pid >= 0 &&
                 (pid > 0 || path[0] == '/');
    bool stale = strcmp(of_boot, boot) != 0;
    parse_past(past, &r.past);
    json_decref(root);
    if (!valid)
        return error_set(err, EINVAL, "it holds values that no gateway writes");
    if (stale)
        return error_set(err, ESTALE, "it is from before the machine was started");
    r.attached = attached;
    r.pid = pid;
    r.start_time = (uint64_t)start_time;
    r.netns = (struct namespace_id){(uint64_t)device, (uint64_t)inode};
    r.since = since;
    *ret = r;
    return 0;
}

/* ---- files ---- */

static const char *boot_id(char text[64])
{
    _cleanup_fd_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, text, 63);
    text[got > 0 ? got : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return text;
}

static int check_folder(int fd, const char *path, struct error *err)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return error_errno(err, errno, "cannot read %s", path);
    if (status.st_uid != geteuid())
        return error_set(err, EPERM, "the state folder %s belongs to uid %u: use one of your own", path, status.st_uid);
    if (status.st_mode & (S_IWGRP | S_IWOTH))
        return error_set(err, EPERM, "the state folder %s can be written by others: chmod go-w %s", path, path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return error_set(err, EBUSY, "another gateway uses the state folder %s", path);
    return 0;
}

int state_open(const char *path, struct error *err)
{
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_errno(err, errno, "cannot make the state folder %s", path);
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
        return error_set(err, ENOTDIR, "the state folder %s is a symbolic link, or no folder: name the folder itself", path);
    if (fd < 0)
        return error_errno(err, errno, "cannot open the state folder %s", path);
    int r = check_folder(fd, path, err);
    return r < 0 ? r : fd_steal(&fd);
}

static void file_name(const char *id, const char *suffix, char ret[CHANNEL_ID_MAX + 8])
{
    snprintf(ret, CHANNEL_ID_MAX + 8, "%s%s", id, suffix);
}

static int write_temporary(int folder, const char *name, const char *text, bool sync, struct error *err)
{
    _cleanup_fd_ int fd = openat(folder, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    size_t length = strlen(text);
    ssize_t written = fd < 0 ? -1 : write(fd, text, length);
    if (written >= 0 && (size_t)written != length)
        return error_set(err, ENOSPC, "cannot write the state file %s: no room", name);
    if (written < 0 || (sync && fsync(fd) < 0))
        return error_errno(err, errno, "cannot write the state file %s", name);
    return 0;
}

int state_write_text(int folder, const char *name, const char *text, struct error *err)
{
    char temporary[CHANNEL_ID_MAX + 16];
    snprintf(temporary, sizeof(temporary), "%s%s", name, TEMPORARY);
    int r = write_temporary(folder, temporary, text, true, err);
    if (r == 0 && (renameat(folder, temporary, folder, name) < 0 || fsync(folder) < 0))
        r = error_errno(err, errno, "cannot write the state file %s", name);
    if (r < 0)
        unlinkat(folder, temporary, 0);
    return r;
}

int state_write(int folder, const struct state_record *record, struct error *err)
{
    char boot[64], name[CHANNEL_ID_MAX + 8], temporary[CHANNEL_ID_MAX + 8];
    char *text = state_format(record, boot_id(boot));
    if (!text)
        return error_set(err, EINVAL, "cannot write the state of %s: a text is not UTF-8", record->id);
    file_name(record->id, SUFFIX, name);
    file_name(record->id, TEMPORARY, temporary);
    int r = write_temporary(folder, temporary, text, false, err);
    free(text);
    if (r == 0 && renameat(folder, temporary, folder, name) < 0)
        r = error_errno(err, errno, "cannot write the state file %s", name);
    if (r < 0)
        unlinkat(folder, temporary, 0);
    return r;
}

void state_remove(int folder, const char *id)
{
    char name[CHANNEL_ID_MAX + 8];
    file_name(id, SUFFIX, name);
    if (unlinkat(folder, name, 0) < 0 && errno != ENOENT)
        log_error("cannot remove the state file %s: %s", name, strerror(errno));
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length > end_length && !strcmp(text + length - end_length, end);
}

static int read_record(int folder, const char *name, const char *boot, struct state_record *ret, struct error *err)
{
    char text[FILE_MAX], expected[CHANNEL_ID_MAX + 8];
    _cleanup_fd_ int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text));
    if (got < 0)
        return error_errno(err, errno, "cannot read it");
    int r = state_parse(text, (size_t)got, boot, ret, err);
    if (r < 0)
        return r;
    file_name(ret->id, SUFFIX, expected);
    return strcmp(name, expected) ? error_set(err, EINVAL, "it is of another enrolment, \"%s\"", ret->id) : 0;
}

static void take_file(int folder, const char *name, const char *boot,
                      void (*each)(const struct state_record *record, void *arg), void *arg)
{
    struct state_record record;
    struct error err;
    if (ends_with(name, SUFFIX) && read_record(folder, name, boot, &record, &err) == 0) {
        each(&record, arg);
        return;
    }
    if (ends_with(name, SUFFIX))
        log_warning("removing the state file %s: %s", name, err.text);
    if (ends_with(name, SUFFIX) || ends_with(name, TEMPORARY))
        unlinkat(folder, name, 0);
}

void state_each(int folder, void (*each)(const struct state_record *record, void *arg), void *arg)
{
    char boot[64];
    int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *files = copy < 0 ? NULL : fdopendir(copy);
    if (!files) {
        log_error("cannot read the state folder: %s", strerror(errno));
        fd_close(&copy);
        return;
    }
    boot_id(boot);
    for (struct dirent *entry; (entry = readdir(files));)
        take_file(folder, entry->d_name, boot, each, arg);
    closedir(files);
}
