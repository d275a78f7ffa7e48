/* Unit tests of redirect/daemon/state.c: what is written comes back, and what no gateway wrote does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/fds.h"
#include "base/log.h"
#include "redirect/daemon/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct state_record sample = {.id = "c0ffee",
                                           .name = "ci \"7\"",
                                           .image = "registry.example/ci:1",
                                           .policy = "agents",
                                           .attached = true,
                                           .pid = 4711,
                                           .start_time = 123456789012,
                                           .netns = {4, 4026532000},
                                           .since = 1700000000,
                                           .past = {.ports = {1, 2, 65535},
                                                    .cookies = {7, 8, 1ull << 40},
                                                    .group = -1,
                                                    .fingerprint = 0xfedcba9876543210,
                                                    .plan = 1}};

static int make_folder(void **state)
{
    static char path[64];
    strcpy(path, "/tmp/sallyport-state-XXXXXX");
    *state = path;
    log_set_level(LOG_LEVEL_ERROR);
    return mkdtemp(path) ? 0 : -1;
}

static int drop_folder(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", (const char *)*state);
    return system(command);
}

struct seen {
    size_t count;
    struct state_record last;
};

static void note(const struct state_record *record, void *arg)
{
    struct seen *seen = arg;
    seen->count++;
    seen->last = *record;
}

static void what_is_written_comes_back(void **state)
{
    struct seen seen = {0};
    struct error err = {0};
    _cleanup_fd_ int folder = state_open(*state, &err);
    assert_true(folder >= 0);
    assert_int_equal(state_write(folder, &sample, &err), 0);
    assert_int_equal(state_write(folder, &sample, &err), 0); /* again, over it */
    state_each(folder, note, &seen);
    assert_int_equal(seen.count, 1);
    assert_memory_equal(&seen.last, &sample, sizeof(sample));
    state_remove(folder, sample.id);
    state_remove(folder, sample.id);
    seen.count = 0;
    state_each(folder, note, &seen);
    assert_int_equal(seen.count, 0);
}

static void put_file(int folder, const char *name, const char *text)
{
    _cleanup_fd_ int fd = openat(folder, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static bool has_file(int folder, const char *name)
{
    return faccessat(folder, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void leftovers_are_removed(void **state)
{
    struct seen seen = {0};
    struct error err;
    char *old = state_format(&sample, "another-boot");
    _cleanup_fd_ int folder = state_open(*state, &err);
    put_file(folder, "half.new", "{\"vers");
    put_file(folder, "torn.json", "{\"version\": 1, \"boot\"");
    put_file(folder, "empty.json", "");
    put_file(folder, "c0ffee.json", old);
    put_file(folder, "notes.txt", "somebody's own");
    assert_int_equal(symlinkat("/etc/passwd", folder, "link.json"), 0);
    state_each(folder, note, &seen);
    assert_int_equal(seen.count, 0);
    static const char *const gone[] = {"half.new", "torn.json", "empty.json", "c0ffee.json", "link.json"};
    for (size_t i = 0; i < sizeof(gone) / sizeof(*gone); i++)
        assert_false(has_file(folder, gone[i]));
    assert_true(has_file(folder, "notes.txt"));
    free(old);
}

/* A file says who it is about; a copy under another name does not make another enrolment. */
static void a_file_belongs_to_its_name(void **state)
{
    struct seen seen = {0};
    struct error err;
    char path[128], copy[128];
    _cleanup_fd_ int folder = state_open(*state, &err);
    assert_int_equal(state_write(folder, &sample, &err), 0);
    snprintf(path, sizeof(path), "%s/c0ffee.json", (const char *)*state);
    snprintf(copy, sizeof(copy), "%s/other.json", (const char *)*state);
    assert_int_equal(link(path, copy), 0);
    state_each(folder, note, &seen);
    assert_int_equal(seen.count, 1);
    assert_false(has_file(folder, "other.json"));
}

static void folders_of_others_are_refused(void **state)
{
    char path[128], inner[128];
    struct error err;
    snprintf(path, sizeof(path), "%s/open", (const char *)*state);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(chmod(path, 0770), 0);
    assert_int_equal(state_open(path, &err), -EPERM);
    assert_int_equal(chmod(path, 0702), 0);
    assert_int_equal(state_open(path, &err), -EPERM);
    snprintf(inner, sizeof(inner), "%s/link", (const char *)*state);
    assert_int_equal(symlink(*state, inner), 0);
    assert_int_equal(state_open(inner, &err), -ENOTDIR);
    snprintf(inner, sizeof(inner), "%s/file", (const char *)*state);
    close(open(inner, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(state_open(inner, &err), -ENOTDIR);
    if (geteuid() == 0) {
        assert_int_equal(chmod(path, 0700) | chown(path, 65534, 65534), 0);
        assert_int_equal(state_open(path, &err), -EPERM);
    }
    snprintf(inner, sizeof(inner), "%s/missing/deeper", (const char *)*state);
    assert_int_equal(state_open(inner, &err), -ENOENT);
}

static void only_one_gateway_a_folder(void **state)
{
    struct error err;
    _cleanup_fd_ int folder = state_open(*state, &err);
    assert_true(folder >= 0);
    assert_int_equal(state_open(*state, &err), -EBUSY);
    fd_close(&folder);
    folder = state_open(*state, &err);
    assert_true(folder >= 0);
}

static void values_are_checked(void **state)
{
    static const struct {
        const char *what, *from, *to;
    } cases[] = {
        {"another version", "\"version\": 1", "\"version\": 2"},
        {"an id that is a path", "\"c0ffee\"", "\"../c0ffee\""},
        {"no id", "\"c0ffee\"", "\"\""},
        {"an id that is a number", "\"c0ffee\"", "7"},
        {"a line break in a name", "\"agents\"", "\"a\\nb\""},
        {"a NUL in a name", "\"agents\"", "\"a\\u0000b\""},
        {"a negative process", "\"pid\": 4711", "\"pid\": -1"},
        {"neither process nor path", "\"pid\": 4711", "\"pid\": 0"},
        {"a key twice", "\"pid\": 4711", "\"pid\": 4711, \"pid\": 4711"},
        {"no array", "{", "[{"},
    };
    struct error err;
    (void)state;
    char *text = state_format(&sample, "boot");
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct state_record record;
        char changed[2048];
        char *at = strstr(text, cases[i].from);
        assert_non_null(at);
        snprintf(changed, sizeof(changed), "%.*s%s%s", (int)(at - text), text, cases[i].to, at + strlen(cases[i].from));
        if (state_parse(changed, strlen(changed), "boot", &record, &err) != -EINVAL)
            fail_msg("%s: was taken", cases[i].what);
    }
    struct state_record record;
    assert_int_equal(state_parse(text, strlen(text), "boot", &record, &err), 0);
    assert_int_equal(state_parse(text, strlen(text), "later", &record, &err), -ESTALE);
    free(text);
}

/* Of a later version, or of an earlier one: the container is found again all the same. */
static void other_versions_are_read(void **state)
{
    struct state_record record;
    struct error err;
    char changed[2048];
    (void)state;
    char *text = state_format(&sample, "boot");
    snprintf(changed, sizeof(changed), "{\"later\": [1], %s", text + 1);
    assert_int_equal(state_parse(changed, strlen(changed), "boot", &record, &err), 0);
    assert_memory_equal(&record, &sample, sizeof(record));
    char *group = strstr(changed, "\"group\"");
    assert_non_null(group);
    memcpy(group, "\"troup\"", 7);
    assert_int_equal(state_parse(changed, strlen(changed), "boot", &record, &err), 0);
    assert_int_equal(record.past.plan, 0);
    free(text);
}

static void ids(void **state)
{
    char longest[CHANNEL_ID_MAX + 1];
    (void)state;
    memset(longest, 'a', sizeof(longest));
    longest[CHANNEL_ID_MAX - 1] = 0;
    assert_true(state_id_valid(longest));
    longest[CHANNEL_ID_MAX - 1] = 'a';
    longest[CHANNEL_ID_MAX] = 0;
    assert_false(state_id_valid(longest));
    static const char *const good[] = {"a", "7", "A-b_c.d"};
    static const char *const bad[] = {"", ".", "..", ".a", "-a", "_a", "a/b", "a b", "a\n", "\xc3\xa4"};
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
        assert_true(state_id_valid(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_false(state_id_valid(bad[i]));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, make_folder, drop_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(what_is_written_comes_back),     CASE(leftovers_are_removed),     CASE(a_file_belongs_to_its_name),
        CASE(folders_of_others_are_refused),  CASE(only_one_gateway_a_folder), CASE(values_are_checked),
        cmocka_unit_test(other_versions_are_read), cmocka_unit_test(ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
