#include "cli/json_file.h"

#include "base/fds.h"
#include "config/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SIZE_MAX_OF_FILE (16u << 20)

int json_file_read(const char *path, json_t **ret, struct error *err)
{
    json_error_t why;
    char *text;
    size_t length;
    int r = config_file_read(path, SIZE_MAX_OF_FILE, &text, &length, err);
    if (r < 0)
        return error_prefix(err, "%s", path);
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);
    free(text);
    if (!root)
        return error_set(err, EINVAL, "%s:%d:%d: %s", path, why.line, why.column, why.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(err, EINVAL, "%s: the top must be an object, {…}", path);
    }
    *ret = root;
    return 0;
}

/* As the file that it is to replace. */
static int copy_owner(int fd, const char *path)
{
    struct stat status;
    if (stat(path, &status) < 0)
        return errno == ENOENT ? fchmod(fd, 0644) : -1;
    return fchown(fd, status.st_uid, status.st_gid) < 0 ? -1 : fchmod(fd, status.st_mode & 07777);
}

static int write_whole(int fd, const char *path, const json_t *root, size_t flags)
{
    if (copy_owner(fd, path) < 0 || json_dumpfd(root, fd, flags) < 0)
        return -1;
    if ((flags & JSON_COMPACT) == 0 && write(fd, "\n", 1) != 1)
        return -1;
    return fsync(fd);
}

int json_file_write(const char *path, const json_t *root, size_t flags, struct error *err)
{
    char *temporary = NULL, *target = realpath(path, NULL);
    int r = 0;
    if (!target)
        target = strdup(path);
    if (!target || asprintf(&temporary, "%s.sallyport-new", target) < 0) {
        free(target);
        return error_set(err, ENOMEM, "out of memory");
    }
    _cleanup_fd_ int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || write_whole(fd, target, root, flags) < 0 || rename(temporary, target) < 0) {
        r = error_errno(err, errno ? errno : EIO, "cannot write %s", path);
        unlink(temporary);
    }
    free(temporary);
    free(target);
    return r;
}

int json_file_update(const char *path, const json_t *before, const json_t *root, int dry_run,
                     struct error *err)
{
    if (before && json_equal(before, root))
        return 1;
    if (!dry_run)
        return json_file_write(path, root, JSON_INDENT(2), err);
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    return 0;
}
