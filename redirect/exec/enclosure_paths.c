/*
 * Lists of paths, and what is mounted where.
 */
#include "redirect/exec/enclosure_internal.h"

#include "base/fds.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int paths_add(struct paths *paths, const char *path)
{
    char **items = realloc(paths->items, (paths->count + 1) * sizeof(*items));
    if (!items)
        return -ENOMEM;
    paths->items = items;
    items[paths->count] = strdup(path);
    if (!items[paths->count])
        return -ENOMEM;
    paths->count++;
    return 0;
}

bool paths_contain(const struct paths *paths, const char *path)
{
    for (size_t i = 0; i < paths->count; i++)
        if (!strcmp(paths->items[i], path))
            return true;
    return false;
}

bool paths_cover(const struct paths *paths, const char *path)
{
    for (size_t i = 0; i < paths->count; i++)
        if (path_is_within(path, paths->items[i]))
            return true;
    return false;
}

bool path_is_within(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    if (length == 1) /* "/" */
        return true;
    return !strncmp(path, folder, length) && (path[length] == '\0' || path[length] == '/');
}

bool enclosure_works_in(const char *folder)
{
    char cwd[PATH_MAX];
    const char *home = getenv("HOME");
    return !strcmp(folder, "/tmp") || !strcmp(folder, "/var/tmp") || !strcmp(folder, "/") ||
           (getcwd(cwd, sizeof(cwd)) && path_is_within(cwd, folder)) ||
           (home && path_is_within(home, folder));
}

int path_folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == path ? 1 : (int)(slash - path);
}

char *file_read(const char *path)
{
    size_t size = 0, used = 0;
    char *text = NULL;
    int _cleanup_fd_ fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    for (;;) {
        if (size - used < 2) {
            size = size ? size * 2 : 16384;
            char *larger = realloc(text, size);
            if (!larger)
                break;
            text = larger;
        }
        ssize_t got = read(fd, text + used, size - used - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            break;
        used += (size_t)got;
        if (got == 0) {
            text[used] = '\0';
            return text;
        }
    }
    free(text);
    return NULL;
}

int file_write(const char *path, const char *text)
{
    int _cleanup_fd_ fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* "\040" and the like, as the kernel writes blanks in paths (fs/proc_namespace.c: mangle). In place. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *at = text; *at; to++) {
        unsigned code;
        if (*at == '\\' && sscanf(at + 1, "%3o", &code) == 1) {
            *to = (char)code;
            at += 4;
        } else {
            *to = *at++;
        }
    }
    *to = '\0';
}

/* "22 27 0:21 / /proc rw,relatime shared:1 - proc proc rw" */
static bool parse_entry(char *line, struct mount_entry *ret)
{
    char *rest = strstr(line, " - ");
    if (!rest)
        return false;
    *rest = '\0';
    ret->type = strtok(rest + 3, " ");
    char *fields[6];
    for (size_t i = 0; i < 6; i++)
        if (!(fields[i] = strtok(i == 0 ? line : NULL, " ")))
            return false;
    if (!ret->type || sscanf(fields[2], "%u:%u", &ret->major, &ret->minor) != 2)
        return false;
    ret->root = fields[3];
    ret->point = fields[4];
    ret->nodev = strstr(fields[5], "nodev") != NULL;
    unescape(ret->root);
    unescape(ret->point);
    return true;
}

int mount_table_read(struct mount_table *ret, struct error *err)
{
    char *text = file_read("/proc/self/mountinfo"), *line, *next;
    if (!text)
        return error_errno(err, errno, "cannot read /proc/self/mountinfo (is /proc mounted?)");
    size_t lines = 1;
    for (const char *at = text; *at; at++)
        lines += *at == '\n';
    struct mount_table table = {.entries = calloc(lines, sizeof(*table.entries))};
    if (!table.entries)
        return error_errno(err, ENOMEM, "cannot read /proc/self/mountinfo");
    for (line = text; *line; line = next) {
        next = strchrnul(line, '\n');
        if (*next)
            *next++ = '\0';
        if (!parse_entry(line, &table.entries[table.count]))
            return error_set(err, EINVAL, "cannot understand /proc/self/mountinfo: \"%.200s\"", line);
        table.count++;
    }
    *ret = table; /* the entries point into the text, which stays */
    return 0;
}
