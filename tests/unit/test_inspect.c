/*
 * cli/inspect.c, run as the program runs it: files in, lines and an exit status out.
 */
#include "cli/inspect.c"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <cmocka.h>

/* main.c has these; here the texts do not matter. */
int command_help(const struct command *self)
{
    printf("help of %s\n", self->name);
    return EXIT_YES;
}

int command_misuse(const struct command *self, const char *format, ...)
{
    (void)self;
    (void)format;
    return EXIT_WRONG;
}

static char folder[] = "/tmp/sallyport-inspect-XXXXXX";

static void store(const char *file, const void *bytes, size_t length, char path[256])
{
    snprintf(path, 256, "%s/%s", folder, file);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, length, f), length);
    fclose(f);
}

/* Runs the command in a child; what it printed on standard output lands in `output`. */
static int inspect(char *const *arguments, char *output, size_t size)
{
    int pipe_fds[2], status, argc = 0;
    char *argv[8] = {"inspect"};
    while (arguments[argc] && argc < 6) {
        argv[argc + 1] = arguments[argc];
        argc++;
    }
    assert_int_equal(pipe(pipe_fds), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipe_fds[1], STDOUT_FILENO);
        optind = 0;
        int r =
            freopen("/dev/null", "w", stderr) ? command_inspect.run(&command_inspect, argc + 1, argv) : 99;
        fflush(stdout);
        _exit(r);
    }
    close(pipe_fds[1]);
    size_t used = 0;
    ssize_t got;
    while ((got = read(pipe_fds[0], output + used, size - 1 - used)) > 0)
        used += (size_t)got;
    output[used] = '\0';
    close(pipe_fds[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

#define TEXT(text) text, sizeof(text) - 1

static void each_protocol_is_told(void **state)
{
    (void)state;
    static const struct {
        const char *stored; /* below tests/data, or else … */
        const char *bytes;  /* … these */
        size_t length;
        int status;
        const char *line; /* behind the path */
    } rows[] = {
        {"hello/curl.bin", NULL, 0, EXIT_YES, "tls www.example.com version=1.3 alpn=h2,http/1.1 ech=- ok"},
        {"hello/browser-pq-grease-ech.bin", NULL, 0, EXIT_YES,
         "tls www.example.org version=1.3 alpn=h2,http/1.1 ech=offered ok"},
        {"hello/openssl-tls12-mixed-case-dot.bin", NULL, 0, EXIT_YES,
         "tls api.example.com version=1.2 alpn=- ech=- ok"},
        {"hello/openssl-no-sni.bin", NULL, 0, EXIT_NO,
         "tls - version=1.3 alpn=- ech=- refused: no_sni (no server_name)"},
        {"hello/openssl-ip-literal.bin", NULL, 0, EXIT_NO,
         "tls - version=1.3 alpn=- ech=- refused: ip_literal (the server_name is an address)"},
        {NULL, TEXT("\x16\x03\x01\x02"), EXIT_NO,
         "tls - refused: hello_timeout (incomplete: the gateway would wait for more)"},
        {NULL, TEXT("\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10"), EXIT_NO,
         "tls - refused: malformed_client_hello (an SSLv2 hello)"},
        {"dns/dig-cname-aaaa.query.bin", NULL, 0, EXIT_YES, "dns www.example.org type=AAAA ok"},
        {"dns/dig-escaped.query.bin", NULL, 0, EXIT_NO, NULL},
        {NULL, TEXT("\0\x13\x12\x34\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1"), EXIT_YES,
         "dns a type=A ok"}, /* over TCP */
        {"dns/dig-cname-a.answer.bin", NULL, 0, EXIT_NO,
         "unknown - refused: not_tls (neither a TLS hello, an HTTP request nor a DNS query)"},
        {NULL, TEXT("GET / HTTP/1.1\r\nHost: A.Example\r\n\r\n"), EXIT_YES,
         "http a.example method=GET requests=1 ok"},
        {NULL,
         TEXT("GET / HTTP/1.1\r\nHost: a.example\r\n\r\nPUT /x HTTP/1.1\r\nHost: "
              "b.example\r\nContent-Length: 2\r\n\r\nab"
              "GET / HTTP/1.1\r\nHost: a.example\r\n\r\nHEAD / HTTP/1.1\r\nHost: b.example\r\n\r\n"),
         EXIT_YES, "http a.example,b.example method=GET requests=4 ok"},
        {NULL, TEXT("GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n"), EXIT_NO, NULL},
        {NULL, TEXT("GET / HTTP/1.1\r\nHost: a.exam"), EXIT_NO,
         "http - refused: hello_timeout (incomplete: the gateway would wait for more)"},
        {NULL, TEXT(""), EXIT_NO,
         "unknown - refused: hello_timeout (incomplete: the gateway would wait for more)"},
        {NULL, TEXT("\xff\xff\xff\xff"), EXIT_NO,
         "unknown - refused: not_tls (neither a TLS hello, an HTTP request nor a DNS query)"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char path[256], output[4096], want[4096];
        if (rows[i].stored)
            snprintf(path, sizeof(path), "%s/%s", TEST_DATA, rows[i].stored);
        else
            store("bytes", rows[i].bytes, rows[i].length, path);
        assert_int_equal(inspect((char *[]){path, NULL}, output, sizeof(output)), rows[i].status);
        if (rows[i].line)
            snprintf(want, sizeof(want), "%s: %s\n", path, rows[i].line);
        assert_true(strchr(output, '\n') == output + strlen(output) - 1);
        if (rows[i].line)
            assert_string_equal(output, want);
        else
            assert_non_null(strstr(output, " refused: "));
    }
}

static void json_has_the_same_facts(void **state)
{
    (void)state;
    char path[256], output[4096], want[4096];
    store("quote\"\n",
          TEXT("GET / HTTP/1.1\r\nHost: a.example\r\n\r\nGET / HTTP/1.1\r\nHost: b.example\r\n\r\n"), path);
    assert_int_equal(inspect((char *[]){"--json", path, NULL}, output, sizeof(output)), EXIT_YES);
    snprintf(
        want, sizeof(want),
        "{\"file\":\"%s/quote\\\"\\u000a\",\"protocol\":\"http\",\"accepted\":true,\"name\":\"a.example\","
        "\"more_names\":[\"b.example\"],\"method\":\"GET\",\"requests\":2}\n",
        folder);
    assert_string_equal(output, want);

    snprintf(path, sizeof(path), "%s/hello/openssl-no-sni.bin", TEST_DATA);
    assert_int_equal(inspect((char *[]){"--json", path, NULL}, output, sizeof(output)), EXIT_NO);
    snprintf(want, sizeof(want),
             "{\"file\":\"%s\",\"protocol\":\"tls\",\"accepted\":false,\"tls_version\":\"1.3\",\"alpn\":\"\","
             "\"ech_offered\":false,\"reason\":\"no_sni\",\"detail\":\"no server_name\"}\n",
             path);
    assert_string_equal(output, want);
}

static void the_worst_file_decides_the_exit_status(void **state)
{
    (void)state;
    char good[256], bad[256], missing[256], output[4096];
    store("good", TEXT("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"), good);
    store("bad", TEXT("\xff\xff\xff\xff"), bad);
    snprintf(missing, sizeof(missing), "%s/missing", folder);
    assert_int_equal(inspect((char *[]){good, good, NULL}, output, sizeof(output)), EXIT_YES);
    assert_int_equal(inspect((char *[]){bad, good, NULL}, output, sizeof(output)), EXIT_NO);
    assert_int_equal(inspect((char *[]){missing, bad, good, NULL}, output, sizeof(output)), EXIT_WRONG);
    assert_non_null(strstr(output, "good: http")); /* the readable ones are still told */
    assert_int_equal(inspect((char *[]){folder, NULL}, output, sizeof(output)), EXIT_WRONG);
}

static void more_than_a_mebibyte_is_not_a_hello(void **state)
{
    (void)state;
    char path[256], output[4096];
    uint8_t *bytes = calloc(1, INPUT_MAX + 1);
    store("zeros", bytes, INPUT_MAX, path);
    assert_int_equal(inspect((char *[]){path, NULL}, output, sizeof(output)), EXIT_NO);
    store("zeros", bytes, INPUT_MAX + 1, path);
    assert_int_equal(inspect((char *[]){path, NULL}, output, sizeof(output)), EXIT_WRONG);
    free(bytes);
}

static void options_are_checked(void **state)
{
    (void)state;
    char path[256], output[4096];
    store("ported", TEXT("GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n"), path);
    assert_int_equal(inspect((char *[]){path, NULL}, output, sizeof(output)), EXIT_NO);
    assert_non_null(strstr(output, "host_mismatch"));
    assert_int_equal(inspect((char *[]){"--port", "8080", path, NULL}, output, sizeof(output)), EXIT_YES);
    assert_int_equal(inspect((char *[]){"--port=0", path, NULL}, output, sizeof(output)), EXIT_WRONG);
    assert_int_equal(inspect((char *[]){"--port", NULL}, output, sizeof(output)), EXIT_WRONG);
    assert_int_equal(inspect((char *[]){"--jsn", path, NULL}, output, sizeof(output)), EXIT_WRONG);
    assert_int_equal(inspect((char *[]){NULL}, output, sizeof(output)), EXIT_WRONG);
    assert_int_equal(inspect((char *[]){"--help", NULL}, output, sizeof(output)), EXIT_YES);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const files[] = {"bytes", "quote\"\n", "good", "bad", "zeros", "ported"};
    char path[256];
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, files[i]);
        unlink(path);
    }
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_protocol_is_told),
        cmocka_unit_test(json_has_the_same_facts),
        cmocka_unit_test(the_worst_file_decides_the_exit_status),
        cmocka_unit_test(more_than_a_mebibyte_is_not_a_hello),
        cmocka_unit_test(options_are_checked),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
