/* Unit tests of redirect/monitor/channel.c: what is sent arrives, with its descriptors; what is not ours is refused,
 * and no descriptor of it stays open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/fds.h"
#include "redirect/monitor/channel.h"
#include "redirect/daemon/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

static int open_descriptors(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static bool same_file(int a, int b)
{
    struct stat x, y;
    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int make_channel(void **state)
{
    static int ends[2];
    *state = ends;
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends);
}

static int drop_channel(void **state)
{
    int *ends = *state;
    fd_close(&ends[0]);
    fd_close(&ends[1]);
    return 0;
}

static int file(void)
{
    FILE *f = tmpfile();
    int fd = f ? dup(fileno(f)) : -1;
    if (f)
        fclose(f);
    return fd;
}

/* Every subset of sockets arrives in its places, as the same open files. */
static void capture_carries_any_subset(void **state)
{
    const int *ends = *state;
    /* of those that every capture has, each; of the others, some with all of them */
    for (unsigned subset = 0; subset < 1u << CAPTURE_SOCKETS; subset += subset < 128 ? 1 : 61) {
        int sent[CAPTURE_SOCKETS], got[CAPTURE_SOCKETS], fd = -2;
        struct capture_sockets sockets, received;
        struct channel_message message;
        for (unsigned i = 0; i < CAPTURE_SOCKETS; i++)
            sent[i] = subset & 1u << i ? file() : -1;
        memcpy(&sockets, sent, sizeof(sent));
        assert_int_equal(channel_send_capture(ends[0], "c0ffee", "ci-7", "agents", &sockets), 0);
        assert_int_equal(channel_receive(ends[1], &message, &received, &fd), 1);
        assert_int_equal(message.type, CHANNEL_CAPTURE);
        assert_int_equal(message.present, subset);
        assert_string_equal(message.container_id, "c0ffee");
        assert_string_equal(message.container_name, "ci-7");
        assert_string_equal(message.policy, "agents");
        assert_int_equal(fd, -1);
        memcpy(got, &received, sizeof(got));
        for (unsigned i = 0; i < CAPTURE_SOCKETS; i++) {
            assert_int_equal(got[i] >= 0, sent[i] >= 0);
            if (sent[i] >= 0) {
                assert_true(same_file(got[i], sent[i])); /* and the sender still has its own */
                assert_true(fcntl(got[i], F_GETFD) & FD_CLOEXEC);
            }
        }
        capture_sockets_close(&sockets);
        capture_sockets_close(&received);
    }
}

static void a_network_is_a_capture_that_no_container_can_be(void **state)
{
    const int *ends = *state;
    struct capture_sockets sockets = CAPTURE_SOCKETS_NONE, received;
    struct channel_message message;
    char id[CHANNEL_ID_MAX];
    int fd = -2;
    sockets.tcp[0] = file();
    assert_int_equal(channel_send_network(ends[0], 9, "docker", 0, true, &sockets), 0);
    assert_int_equal(channel_receive(ends[1], &message, &received, &fd), 1);
    assert_int_equal(message.type, CHANNEL_NETWORK);
    assert_int_equal(message.serial, 9);
    assert_true(message.transparent);
    assert_string_equal(message.container_name, "docker");
    assert_false(state_id_valid(message.container_id));
    assert_true(same_file(received.tcp[0], sockets.tcp[0]));
    memcpy(id, message.container_id, sizeof(id));
    assert_int_equal(channel_send_network_end(ends[0], 10, "docker", 0), 0);
    capture_sockets_close(&received);
    assert_int_equal(channel_receive(ends[1], &message, &received, &fd), 1);
    assert_int_equal(message.type, CHANNEL_WITHDRAW);
    assert_string_equal(message.container_id, id);
    capture_sockets_close(&sockets);
}

static void what_dns_answered_is_told_and_acknowledged(void **state)
{
    const int *ends = *state;
    struct capture_sockets none;
    struct channel_message message;
    struct addr address;
    int fd = -2;
    assert_true(addr_parse("2001:db8::1", 11, &address));
    assert_int_equal(channel_send_learned(ends[0], 7, "agents", "0123456789ab", 3, &address, 300), 0);
    assert_int_equal(channel_receive(ends[1], &message, &none, &fd), 1);
    assert_int_equal(message.type, CHANNEL_LEARNED);
    assert_int_equal(message.serial, 7);
    assert_string_equal(message.policy, "agents");
    assert_string_equal(message.version, "0123456789ab");
    assert_int_equal(message.rule, 3);
    assert_int_equal(message.ttl, 300);
    assert_true(addr_equal(&message.address, &address));
    assert_int_equal(channel_send_learned_done(ends[1], 7), 0);
    assert_int_equal(channel_receive(ends[0], &message, &none, &fd), 1);
    assert_int_equal(message.type, CHANNEL_LEARNED_DONE);
    assert_int_equal(message.serial, 7);
    assert_int_equal(channel_send_learned(ends[0], 7, "agents", "a version that is far too long", 3, &address, 300), -ENAMETOOLONG);
}

static void a_note_is_cut_and_its_kind_is_checked(void **state)
{
    const int *ends = *state;
    struct capture_sockets none;
    struct channel_message message;
    char rule[2 * CHANNEL_IMAGE_MAX];
    int fd = -2;
    memset(rule, 'r', sizeof(rule) - 1);
    rule[sizeof(rule) - 1] = 0;
    struct channel_note note = {.kind = NOTE_DENY, .failed = true, .user = 1000, .id = "box", .version = "0123456789ab", .text = rule};
    assert_int_equal(channel_send_note(ends[0], 9, &note), 0);
    assert_int_equal(channel_receive(ends[1], &message, &none, &fd), 1);
    assert_int_equal(message.type, CHANNEL_NOTE);
    assert_int_equal(message.serial, 9);
    assert_int_equal(message.note, NOTE_DENY);
    assert_int_equal(message.user, 1000);
    assert_true(message.failed);
    assert_string_equal(message.container_id, "box");
    assert_string_equal(message.container_name, "");
    assert_string_equal(message.version, "0123456789ab");
    assert_int_equal(strlen(message.text), CHANNEL_IMAGE_MAX - 1);
    note.kind = NOTE_KINDS;
    assert_int_equal(channel_send_note(ends[0], 9, &note), 0);
    assert_int_equal(channel_receive(ends[1], &message, &none, &fd), -EBADMSG);
}

static void audit_carries_its_file(void **state)
{
    const int *ends = *state;
    _cleanup_fd_ int sent = file();
    _cleanup_fd_ int got = -1;
    struct channel_message message;
    struct capture_sockets sockets;
    assert_int_equal(channel_send_audit(ends[0], sent), 0);
    assert_int_equal(channel_receive(ends[1], &message, &sockets, &got), 1);
    assert_int_equal(message.type, CHANNEL_AUDIT);
    assert_true(same_file(got, sent));
    assert_int_equal(sockets.tcp[0], -1);
    assert_int_equal(sockets.nflog, -1);
}

static void plain_messages(void **state)
{
    const int *ends = *state;
    struct channel_message message;
    struct capture_sockets sockets;
    int fd = -2;
    assert_int_equal(channel_receive(ends[0], &message, &sockets, &fd), -EAGAIN);
    assert_int_equal(channel_send_ready(ends[1]), 0);
    assert_int_equal(channel_receive(ends[0], &message, &sockets, &fd), 1);
    assert_int_equal(message.type, CHANNEL_READY);
    for (int summary = 0; summary < 2; summary++) {
        assert_int_equal(channel_send_finish(ends[0], summary), 0);
        assert_int_equal(channel_receive(ends[1], &message, &sockets, &fd), 1);
        assert_int_equal(message.type, CHANNEL_FINISH);
        assert_int_equal(message.summary, summary);
    }
    shutdown(ends[1], SHUT_WR);
    assert_int_equal(channel_receive(ends[0], &message, &sockets, &fd), 0);
}

static void expect(int end, uint32_t type, uint32_t serial, struct channel_message *ret, int *ret_fd)
{
    struct capture_sockets sockets;
    assert_int_equal(channel_receive(end, ret, &sockets, ret_fd), 1);
    assert_int_equal(ret->type, type);
    assert_int_equal(ret->serial, serial);
    capture_sockets_close(&sockets);
}

static void what_a_daemon_says(void **state)
{
    const int *ends = *state;
    const struct channel_container who = {.id = "c0ffee", .name = "ci-7", .image = "registry.example/ci:1", .policy = ""};
    struct capture_sockets none = CAPTURE_SOCKETS_NONE;
    struct channel_message message;
    _cleanup_fd_ int sent = file();
    int fd = -1;
    assert_int_equal(channel_send_container(ends[0], 7, &who, &none), 0);
    expect(ends[1], CHANNEL_CAPTURE, 7, &message, &fd);
    assert_string_equal(message.container_image, "registry.example/ci:1");
    assert_string_equal(message.policy, "");
    assert_int_equal(channel_send_withdraw(ends[0], 8, "c0ffee"), 0);
    expect(ends[1], CHANNEL_WITHDRAW, 8, &message, &fd);
    assert_string_equal(message.container_id, "c0ffee");
    assert_int_equal(channel_send_ping(ends[0], 9), 0);
    expect(ends[1], CHANNEL_PING, 9, &message, &fd);
    assert_int_equal(channel_send_drain(ends[0], 7, 1500), 0);
    expect(ends[1], CHANNEL_FINISH, 7, &message, &fd);
    assert_int_equal(message.drain_ms, 1500);
    assert_int_equal(channel_send_config(ends[0], 10, sent), 0);
    expect(ends[1], CHANNEL_CONFIG, 10, &message, &fd);
    assert_true(same_file(fd, sent));
    fd_close(&fd);
    assert_int_equal(channel_send_answer(ends[1], 10, 0), 0);
    expect(ends[0], CHANNEL_READY, 10, &message, &fd);
    assert_int_equal(channel_send_answer(ends[1], 11, ENOMEM), 0);
    expect(ends[0], CHANNEL_FAILED, 11, &message, &fd);
    assert_int_equal(message.code, ENOMEM);
}

/* A name that is cut off would name another policy. */
static void long_names_are_refused(void **state)
{
    const int *ends = *state;
    char longest[CHANNEL_ID_MAX], too_long[CHANNEL_ID_MAX + 1];
    struct capture_sockets none = CAPTURE_SOCKETS_NONE, sockets;
    struct channel_message message;
    int fd;
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = 0;
    memset(too_long, 'a', sizeof(too_long) - 1);
    too_long[sizeof(too_long) - 1] = 0;
    assert_int_equal(channel_send_capture(ends[0], too_long, "n", "p", &none), -ENAMETOOLONG);
    assert_int_equal(channel_send_capture(ends[0], "i", too_long, "p", &none), -ENAMETOOLONG);
    assert_int_equal(channel_send_capture(ends[0], "i", "n", too_long, &none), -ENAMETOOLONG);
    assert_int_equal(channel_receive(ends[1], &message, &sockets, &fd), -EAGAIN); /* nothing was sent */
    assert_int_equal(channel_send_capture(ends[0], longest, longest, longest, &none), 0);
    assert_int_equal(channel_receive(ends[1], &message, &sockets, &fd), 1);
    assert_string_equal(message.policy, longest);
}

static void strings_end_whatever_was_sent(void **state)
{
    const int *ends = *state;
    struct channel_message raw = {.type = CHANNEL_CAPTURE}, message;
    struct capture_sockets sockets;
    int fd;
    memset(raw.container_id, 'x', sizeof(raw.container_id));
    memset(raw.container_name, 'x', sizeof(raw.container_name));
    memset(raw.container_image, 'x', sizeof(raw.container_image));
    memset(raw.policy, 'x', sizeof(raw.policy));
    assert_int_equal(fds_send(ends[0], &raw, sizeof(raw), NULL, 0), 0);
    assert_int_equal(channel_receive(ends[1], &message, &sockets, &fd), 1);
    assert_int_equal(strlen(message.container_id), CHANNEL_ID_MAX - 1);
    assert_int_equal(strlen(message.container_name), CHANNEL_ID_MAX - 1);
    assert_int_equal(strlen(message.container_image), CHANNEL_IMAGE_MAX - 1);
    assert_int_equal(strlen(message.policy), CHANNEL_ID_MAX - 1);
}

static void foreign_messages_are_refused(void **state)
{
    static const struct {
        const char *what;
        struct channel_message message;
        size_t length; /* 0: the whole message */
        size_t descriptors;
    } cases[] = {
        {"no type", {.type = 0}, 0, 0},
        {"unknown type", {.type = 99}, 0, 1},
        {"config without a bundle", {.type = CHANNEL_CONFIG}, 0, 0},
        {"withdraw with a gift", {.type = CHANNEL_WITHDRAW}, 0, 1},
        {"more sockets promised than sent", {.type = CHANNEL_CAPTURE, .present = 0x03}, 0, 1},
        {"more sockets sent than promised", {.type = CHANNEL_CAPTURE, .present = 0x01}, 0, 2},
        {"a socket that does not exist", {.type = CHANNEL_CAPTURE, .present = 0x8000}, 0, 1},
        {"audit without a file", {.type = CHANNEL_AUDIT}, 0, 0},
        {"audit with two files", {.type = CHANNEL_AUDIT}, 0, 2},
        {"ready with a gift", {.type = CHANNEL_READY}, 0, 1},
        {"finish with gifts", {.type = CHANNEL_FINISH}, 0, FDS_MAX},
        {"cut short", {.type = CHANNEL_READY}, sizeof(struct channel_message) - 1, 0},
        {"one byte and a file", {.type = CHANNEL_AUDIT}, 1, 1},
    };
    const int *ends = *state;
    _cleanup_fd_ int gift = file();
    int before = open_descriptors();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct channel_message message;
        struct capture_sockets sockets;
        int gifts[FDS_MAX], fd = -2;
        for (size_t g = 0; g < FDS_MAX; g++)
            gifts[g] = gift;
        size_t length = cases[i].length ? cases[i].length : sizeof(message);
        assert_int_equal(fds_send(ends[0], &cases[i].message, length, gifts, cases[i].descriptors), 0);
        int r = channel_receive(ends[1], &message, &sockets, &fd);
        if (r != -EBADMSG || fd != -2 || open_descriptors() != before)
            fail_msg("%s: returned %d, descriptors %d before, %d after", cases[i].what, r, before,
                     open_descriptors());
    }
}

/* Longer than any message of ours: cut off by the kernel, its descriptors closed. */
static void oversized_messages_are_refused(void **state)
{
    const int *ends = *state;
    char big[sizeof(struct channel_message) + 1] = {CHANNEL_AUDIT};
    struct channel_message message;
    struct capture_sockets sockets;
    _cleanup_fd_ int gift = file();
    int fd = -2, before = open_descriptors();
    assert_int_equal(fds_send(ends[0], big, sizeof(big), &gift, 1), 0);
    assert_int_equal(channel_receive(ends[1], &message, &sockets, &fd), -EBADMSG);
    assert_int_equal(fd, -2);
    assert_int_equal(open_descriptors(), before);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, make_channel, drop_channel)

static void a_listener_of_the_admin_endpoint_comes_or_goes(void **state)
{
    int *ends = *state, listener = file(), got = -1, before = open_descriptors();
    struct channel_message message;
    struct capture_sockets none = CAPTURE_SOCKETS_NONE;
    assert_int_equal(channel_send_admin(ends[0], listener), 0);
    assert_int_equal(channel_receive(ends[1], &message, &none, &got), 1);
    assert_int_equal(message.type, CHANNEL_ADMIN);
    assert_true(same_file(got, listener));
    fd_close(&got);
    assert_int_equal(channel_send_admin(ends[0], -1), 0);
    assert_int_equal(channel_receive(ends[1], &message, &none, &got), 1);
    assert_int_equal(message.type, CHANNEL_ADMIN);
    assert_int_equal(got, -1);

    /* A descriptor that is promised has to be there, and only one. */
    const struct channel_message promised = {.type = CHANNEL_ADMIN, .present = 1}, odd = {.type = CHANNEL_ADMIN, .present = 2};
    assert_int_equal(fds_send(ends[0], &promised, sizeof(promised), NULL, 0), 0);
    assert_int_equal(channel_receive(ends[1], &message, &none, &got), -EBADMSG);
    assert_int_equal(fds_send(ends[0], &odd, sizeof(odd), (int[]){listener, listener}, 2), 0);
    assert_int_equal(channel_receive(ends[1], &message, &none, &got), -EBADMSG);
    assert_int_equal(open_descriptors(), before);
    fd_close(&listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_listener_of_the_admin_endpoint_comes_or_goes),
        CASE(capture_carries_any_subset),
        CASE(a_network_is_a_capture_that_no_container_can_be),
        CASE(what_dns_answered_is_told_and_acknowledged),
        CASE(a_note_is_cut_and_its_kind_is_checked),
        CASE(audit_carries_its_file),
        CASE(plain_messages),
        CASE(what_a_daemon_says),
        CASE(long_names_are_refused),
        CASE(strings_end_whatever_was_sent),
        CASE(foreign_messages_are_refused),
        CASE(oversized_messages_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
