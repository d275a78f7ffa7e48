/*
 * State files, as a power cut or another hand may have left them: what is taken comes out again the same, whatever else is refused
 * with a reason. And a configuration bundle: what is no whole bundle is not read.
 */
#include "tests/fuzz/fuzz.h"

#include "base/fds.h"
#include "config/bundle.h"
#include "redirect/daemon/state.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

static void check_state(const char *text, size_t size)
{
    struct state_record record, again;
    struct error err = {0};
    int r = state_parse(text, size, "boot", &record, &err);
    if (r < 0) {
        CHECK((r == -EINVAL || r == -ESTALE) && err.text[0] && !strchr(err.text, '\n'));
        return;
    }
    CHECK(state_id_valid(record.id) && (record.pid > 0 || record.path[0] == '/'));
    char *written = state_format(&record, "boot");
    CHECK(written && state_parse(written, strlen(written), "boot", &again, &err) == 0);
    CHECK(!strcmp(record.id, again.id) && !strcmp(record.name, again.name) && !strcmp(record.image, again.image) &&
          !strcmp(record.policy, again.policy) && !strcmp(record.path, again.path));
    CHECK(record.attached == again.attached && record.pid == again.pid && record.start_time == again.start_time &&
          record.netns.device == again.netns.device && record.netns.inode == again.netns.inode && record.since == again.since);
    free(written);
}

static void check_bundle(const uint8_t *data, size_t size)
{
    static const char magic[] = "sallyport bundle 1\n";
    struct bundle bundle;
    struct bundle_file file;
    struct error err;
    uint64_t sum = 0;
    _cleanup_fd_ int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && write(fd, magic, sizeof(magic) - 1) == sizeof(magic) - 1 && write(fd, data, size) == (ssize_t)size);
    CHECK(bundle_open(fd, &bundle, &err) < 0); /* not sealed */
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
    if (bundle_open(fd, &bundle, &err) < 0)
        return;
    CHECK(bundle_find(&bundle, NULL, &file));
    CHECK(file.length <= size && file.path_length <= size);
    for (size_t i = 0; i < file.length; i++)
        sum += (uint8_t)file.bytes[i];
    CHECK(sum <= 255 * (uint64_t)file.length);
    bundle_find(&bundle, "/etc/sallyport/allow.txt", &file);
    bundle_close(&bundle);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size ? size : 1); /* no NUL behind it */
    memcpy(copy, data, size);
    check_state(copy, size);
    free(copy);
    check_bundle(data, size);
    return 0;
}
