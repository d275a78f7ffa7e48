#include "config/bundle.h"

#include "base/fds.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

static const char magic[] = "sallyport bundle 1\n";
#define MAGIC_LENGTH (sizeof(magic) - 1)
#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define PATH_LENGTH_MAX 65536

static int write_all(int fd, const void *bytes, size_t length)
{
    const char *at = bytes;
    while (length > 0) {
        ssize_t n = write(fd, at, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += n;
        length -= (size_t)n;
    }
    return 0;
}

int bundle_create(struct bundle_writer *writer, struct error *err)
{
    writer->fd = memfd_create("sallyport-config", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int r = writer->fd < 0 ? -errno : write_all(writer->fd, magic, MAGIC_LENGTH);
    if (r < 0)
        bundle_abandon(writer);
    return r < 0 ? error_errno(err, -r, "cannot make a memory file for the configuration") : 0;
}

int bundle_add(const struct bundle_writer *writer, const char *path, const void *bytes, size_t length)
{
    uint8_t head[sizeof(uint32_t) + sizeof(uint64_t)];
    uint32_t path_length = (uint32_t)strlen(path);
    uint64_t content_length = length;
    if (writer->fd < 0)
        return 0;
    if (path_length > PATH_LENGTH_MAX)
        return -ENAMETOOLONG;
    memcpy(head, &path_length, sizeof(path_length));
    memcpy(head + sizeof(path_length), &content_length, sizeof(content_length));
    int r = write_all(writer->fd, head, sizeof(head));
    if (r == 0)
        r = write_all(writer->fd, path, path_length);
    return r == 0 ? write_all(writer->fd, bytes, length) : r;
}

int bundle_finish(struct bundle_writer *writer, int *ret, struct error *err)
{
    if (fcntl(writer->fd, F_ADD_SEALS, SEALS) < 0) {
        error_errno(err, errno, "cannot seal the memory file of the configuration");
        bundle_abandon(writer);
        return -err->code;
    }
    *ret = fd_steal(&writer->fd);
    return 0;
}

void bundle_abandon(struct bundle_writer *writer)
{
    fd_close(&writer->fd);
}

static bool next_file(struct cursor *at, struct bundle_file *ret)
{
    uint32_t path_length = 0;
    uint64_t length = 0;
    const uint8_t *bytes = cursor_take(at, sizeof(path_length));
    if (bytes)
        memcpy(&path_length, bytes, sizeof(path_length));
    bytes = cursor_take(at, sizeof(length));
    if (bytes)
        memcpy(&length, bytes, sizeof(length));
    const uint8_t *path = cursor_take(at, path_length), *content = cursor_take(at, length);
    *ret = (struct bundle_file){(const char *)path, path_length, (const char *)content, length};
    return cursor_ok(at);
}

static struct cursor files_of(const struct bundle *bundle)
{
    return cursor_over((const char *)bundle->map + MAGIC_LENGTH, bundle->size - MAGIC_LENGTH);
}

/* At least one file, and nothing but whole files. */
static bool is_whole(const struct bundle *bundle)
{
    struct cursor at = files_of(bundle);
    struct bundle_file file;
    if (memcmp(bundle->map, magic, MAGIC_LENGTH) != 0 || !next_file(&at, &file))
        return false;
    while (at.left > 0)
        if (!next_file(&at, &file))
            return false;
    return true;
}

int bundle_open(int fd, struct bundle *ret, struct error *err)
{
    struct stat status;
    /* Not sealed, it could shrink under our reads. */
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &status) < 0 || status.st_size < (off_t)MAGIC_LENGTH)
        return error_set(err, EINVAL, "this is no bundle of a configuration");
    struct bundle bundle = {.size = (size_t)status.st_size};
    bundle.map = mmap(NULL, bundle.size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bundle.map == MAP_FAILED)
        return error_errno(err, errno, "cannot map the bundle of a configuration");
    if (!is_whole(&bundle)) {
        bundle_close(&bundle);
        return error_set(err, EINVAL, "this is no bundle of a configuration");
    }
    *ret = bundle;
    return 0;
}

void bundle_close(struct bundle *bundle)
{
    munmap(bundle->map, bundle->size);
}

bool bundle_find(const struct bundle *bundle, const char *path, struct bundle_file *ret)
{
    struct cursor at = files_of(bundle);
    struct bundle_file file;
    while (at.left > 0 && next_file(&at, &file)) {
        if (path && (strlen(path) != file.path_length || memcmp(path, file.path, file.path_length) != 0))
            continue;
        *ret = file;
        return true;
    }
    return false;
}
