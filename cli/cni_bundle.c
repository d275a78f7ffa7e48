#include "cli/cni_bundle.h"

#include "cli/ask.h"
#include "base/fds.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#define PROGRAM "sallyport"

struct bundle_copy {
    char folder[PATH_MAX];
    char loader[NAME_MAX + 1]; /* its name, when it was seen */
    struct error *err;
    int status;
};

static int write_error(struct error *err, const char *path)
{
    return error_errno(err, errno ? errno : EIO, "cannot write %s", path);
}

static int pour(int source, int target)
{
    struct stat status;
    if (fstat(source, &status) < 0)
        return -1;
    for (off_t done = 0; done < status.st_size;) {
        ssize_t n = sendfile(target, source, NULL, (size_t)(status.st_size - done));
        if (n <= 0)
            return -1;
        done += n;
    }
    return 0;
}

/* A new file takes the place of the old one: that may be running. */
static int copy_file(const char *from, const char *to, struct error *err)
{
    char temporary[PATH_MAX];
    if ((size_t)snprintf(temporary, sizeof(temporary), "%s.new", to) >= sizeof(temporary))
        return error_set(err, ENAMETOOLONG, "the path %s is too long", to);
    _cleanup_fd_ int source = open(from, O_RDONLY | O_CLOEXEC);
    if (source < 0)
        return error_errno(err, errno, "%s", from);
    _cleanup_fd_ int target = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0755);
    if (target < 0 || fchmod(target, 0755) < 0 || pour(source, target) < 0 || fsync(target) < 0 ||
        rename(temporary, to) < 0) {
        write_error(err, to);
        unlink(temporary);
        return -err->code;
    }
    return 0;
}

static int copy_object(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct bundle_copy *copy = arg;
    char to[PATH_MAX];
    const char *name = strrchr(info->dlpi_name, '/');
    (void)size;
    if (!name) /* the program itself, or what the kernel maps */
        return 0;
    name++;
    if (!strncmp(name, "ld-", 3) || !strncmp(name, "ld64", 4))
        snprintf(copy->loader, sizeof(copy->loader), "%s", name);
    if ((size_t)snprintf(to, sizeof(to), "%s/%s", copy->folder, name) >= sizeof(to))
        copy->status = error_set(copy->err, ENAMETOOLONG, "the path of the plugin is too long");
    else
        copy->status = copy_file(info->dlpi_name, to, copy->err);
    return copy->status < 0;
}

static int write_script(const char *script, const char *loader, struct error *err)
{
    char temporary[PATH_MAX];
    if ((size_t)snprintf(temporary, sizeof(temporary), "%s.new", script) >= sizeof(temporary))
        return error_set(err, ENAMETOOLONG, "the path of the plugin is too long");
    unlink(temporary);
    _cleanup_fd_ int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
    if (fd < 0 || fchmod(fd, 0755) < 0 ||
        dprintf(fd,
                "#!/bin/sh\n"
                "# Written by sallyport cni install --copy.\n"
                "at=${0%%/*}/" PROGRAM ".d\n"
                "exec \"$at/%s\" --library-path \"$at\" \"$at/" PROGRAM "\" cni\n",
                loader) < 0 ||
        fsync(fd) < 0 || rename(temporary, script) < 0) {
        write_error(err, script);
        unlink(temporary);
        return -err->code;
    }
    return 0;
}

int cni_bundle_write(const char *script, struct error *err)
{
    struct bundle_copy copy = {.err = err};
    char program[PATH_MAX], to[PATH_MAX];
    int r = ask_own_path(program, sizeof(program), err);
    if (r < 0)
        return r;
    if ((size_t)snprintf(copy.folder, sizeof(copy.folder), "%s.d", script) >= sizeof(copy.folder) ||
        (size_t)snprintf(to, sizeof(to), "%s/" PROGRAM, copy.folder) >= sizeof(to))
        return error_set(err, ENAMETOOLONG, "the path of the plugin is too long");
    if (mkdir(copy.folder, 0755) < 0 && errno != EEXIST)
        return write_error(err, copy.folder);
    if ((r = copy_file(program, to, err)) < 0)
        return r;
    dl_iterate_phdr(copy_object, &copy);
    if (copy.status < 0)
        return copy.status;
    if (!*copy.loader)
        return error_set(err, ENOENT,
                         "this program has no loader to copy: install it on the host, without --copy");
    return write_script(script, copy.loader, err);
}

int cni_bundle_remove(const char *script, struct error *err)
{
    char folder[PATH_MAX], path[PATH_MAX + NAME_MAX + 2];
    if ((size_t)snprintf(folder, sizeof(folder), "%s.d", script) >= sizeof(folder))
        return 0;
    DIR *files = opendir(folder);
    if (!files)
        return errno == ENOENT ? 0 : error_errno(err, errno, "cannot remove %s", folder);
    for (struct dirent *entry; (entry = readdir(files));) {
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    closedir(files);
    return rmdir(folder) < 0 ? error_errno(err, errno, "cannot remove %s", folder) : 0;
}
