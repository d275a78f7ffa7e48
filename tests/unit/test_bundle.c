/* Unit tests of config/bundle.c: a configuration is the same from its files and from their bundle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/fds.h"
#include "config/bundle.h"
#include "config/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct folder {
    char path[64], config[96], names[96];
};

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int make_folder(void **state)
{
    static struct folder folder;
    strcpy(folder.path, "/tmp/sallyport-bundle-XXXXXX");
    if (!mkdtemp(folder.path))
        return -1;
    snprintf(folder.config, sizeof(folder.config), "%s/policy.yaml", folder.path);
    snprintf(folder.names, sizeof(folder.names), "%s/names.txt", folder.path);
    write_text(folder.names, "listed.example\n*.more.example\n");
    write_text(folder.config, "version: 1\npolicies:\n  one:\n    allow: [written.example]\n    allow_files: [names.txt]\n");
    *state = &folder;
    return 0;
}

static int drop_folder(void **state)
{
    struct folder *folder = *state;
    unlink(folder->config);
    unlink(folder->names);
    rmdir(folder->path);
    return 0;
}

static bool allows(const struct config_snapshot *snapshot, const char *name)
{
    const struct acl_policy *policy = config_policy(snapshot, "one");
    assert_non_null(policy);
    return acl_policy_judge_name(policy, ACL_TLS, name, strlen(name), 443).allowed;
}

static void the_same_from_files_and_from_their_bundle(void **state)
{
    struct folder *folder = *state;
    struct config_snapshot *from_files = NULL, *from_bundle = NULL;
    struct config_errors errors;
    _cleanup_fd_ int bundle = -1;
    assert_int_equal(config_load_file_bundled(folder->config, &from_files, &bundle, &errors), 0);
    drop_folder(state); /* nothing but the bundle is left */
    assert_int_equal(config_load_bundle(bundle, &from_bundle, &errors), 0);
    assert_string_equal(config_version(from_files), config_version(from_bundle));
    assert_true(allows(from_bundle, "written.example"));
    assert_true(allows(from_bundle, "listed.example"));
    assert_true(allows(from_bundle, "a.more.example"));
    assert_false(allows(from_bundle, "other.example"));
    config_unref(from_files);
    config_unref(from_bundle);
}

static void a_file_with_errors_gives_no_bundle(void **state)
{
    struct folder *folder = *state;
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    int bundle = -1;
    write_text(folder->names, "not a name at all!\n");
    assert_int_equal(config_load_file_bundled(folder->config, &snapshot, &bundle, &errors), -EINVAL);
    assert_int_equal(bundle, -1);
    assert_null(snapshot);
    assert_true(errors.count > 0 && strstr(errors.lines[0], folder->names));
    config_errors_finish(&errors);
    assert_int_equal(config_load_file_bundled("/nonexistent/policy.yaml", &snapshot, &bundle, &errors), -ENOENT);
    assert_int_equal(bundle, -1);
    assert_int_equal(errors.count, 1);
    config_errors_finish(&errors);
}

static void nobody_changes_a_bundle(void **state)
{
    struct folder *folder = *state;
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    _cleanup_fd_ int bundle = -1;
    assert_int_equal(config_load_file_bundled(folder->config, &snapshot, &bundle, &errors), 0);
    assert_int_equal(write(bundle, "x", 1), -1);
    assert_int_equal(ftruncate(bundle, 0), -1);
    config_unref(snapshot);
}

/* A memory file with these bytes, sealed or not. */
static int memory(const void *bytes, size_t length, int seals)
{
    int fd = memfd_create("test", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    assert_int_equal(write(fd, bytes, length), length);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

#define MAGIC "sallyport bundle 1\n"
static void what_is_no_bundle_is_refused(void **state)
{
    static const int sealed = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    static const struct {
        const char *what, *bytes;
        size_t length;
        int seals;
    } cases[] = {
        {"empty", "", 0, sealed},
        {"another magic", "sallyport bundle 2\n\1\0\0\0\1\0\0\0\0\0\0\0ab", 33, sealed},
        {"no file", MAGIC, 19, sealed},
        {"not sealed", MAGIC "\1\0\0\0\1\0\0\0\0\0\0\0ab", 33, 0},
        {"sealed in part", MAGIC "\1\0\0\0\1\0\0\0\0\0\0\0ab", 33, F_SEAL_WRITE},
        {"a head cut short", MAGIC "\1\0\0\0\1\0\0", 26, sealed},
        {"contents cut short", MAGIC "\1\0\0\0\2\0\0\0\0\0\0\0ab", 33, sealed},
        {"a length that wraps", MAGIC "\1\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff" "ab", 33, sealed},
        {"a path longer than the file", MAGIC "\xff\xff\xff\xff\1\0\0\0\0\0\0\0ab", 33, sealed},
        {"bytes behind the last file", MAGIC "\1\0\0\0\1\0\0\0\0\0\0\0ab!", 34, sealed},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct config_snapshot *snapshot = NULL;
        struct config_errors errors;
        _cleanup_fd_ int fd = memory(cases[i].bytes, cases[i].length, cases[i].seals);
        if (config_load_bundle(fd, &snapshot, &errors) != -EINVAL || errors.count != 1)
            fail_msg("%s: was taken", cases[i].what);
        config_errors_finish(&errors);
    }
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    assert_true(config_load_bundle(-1, &snapshot, &errors) < 0);
    config_errors_finish(&errors);
}

/* A names file that the bundle lacks is an error, never looked for on the disk. */
static void files_outside_are_not_read(void **state)
{
    struct folder *folder = *state;
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    struct bundle_writer writer;
    char text[256];
    _cleanup_fd_ int fd = -1;
    snprintf(text, sizeof(text), "version: 1\npolicies: {one: {allow_files: [%s]}}\n", folder->names);
    assert_int_equal(bundle_create(&writer, NULL), 0);
    assert_int_equal(bundle_add(&writer, folder->config, text, strlen(text)), 0);
    assert_int_equal(bundle_finish(&writer, &fd, NULL), 0);
    assert_int_equal(config_load_bundle(fd, &snapshot, &errors), -EINVAL);
    assert_int_equal(errors.count, 1);
    assert_non_null(strstr(errors.lines[0], "not in the bundle"));
    config_errors_finish(&errors);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, make_folder, drop_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(the_same_from_files_and_from_their_bundle),
        CASE(a_file_with_errors_gives_no_bundle),
        CASE(nobody_changes_a_bundle),
        CASE(what_is_no_bundle_is_refused),
        CASE(files_outside_are_not_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
