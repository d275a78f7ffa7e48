#include "config/file.h"
#include "base/fds.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_BYTES 4096

/* Fills `text` up to `size`; the number of bytes, or a negative errno. */
static ssize_t fill(int fd, char *text, size_t size)
{
    size_t used = 0;
    while (used < size) {
        ssize_t n = read(fd, text + used, size - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        used += (size_t)n;
    }
    return (ssize_t)used;
}

/* One byte more than the file is said to have is asked for, to see its end; a file that has none said grows.
 */
static int read_growing(int fd, size_t guess, size_t limit, char **ret, size_t *ret_length)
{
    char *text = NULL;
    size_t size = guess > limit ? limit + 1 : guess + 1, used = 0;
    for (;;) {
        char *grown = realloc(text, size + 1);
        ssize_t n = grown ? fill(fd, grown + used, size - used) : -ENOMEM;
        text = grown ? grown : text;
        if (n < 0 || used + (size_t)n > limit) {
            free(text);
            return n < 0 ? (int)n : -EFBIG;
        }
        used += (size_t)n;
        if (used < size)
            break;
        size = size > limit / 2 ? limit + 1 : size * 2;
    }
    text[used] = 0;
    *ret = text;
    *ret_length = used;
    return 0;
}

int config_file_read(const char *path, size_t limit, char **ret, size_t *ret_length, struct error *err)
{
    struct stat st;
    bool input = strcmp(path, CONFIG_STANDARD_INPUT) == 0; /* by its number: a /dev without the link is no reason to fail */
    _cleanup_fd_ int fd = input ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0) : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot read it");
    if (S_ISDIR(st.st_mode))
        return error_set(err, EISDIR, "it is a directory, not a file");
    size_t guess = S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t)st.st_size : FIRST_BYTES;
    int r = read_growing(fd, guess, limit, ret, ret_length);
    if (r == -EFBIG)
        return error_set(err, EFBIG, "it is larger than %zu MiB", limit >> 20);
    return r < 0 ? error_errno(err, -r, "cannot read it") : 0;
}
