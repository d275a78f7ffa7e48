/* Unit tests of redirect/daemon/httpd.c: what a small server takes for a request, and what it says to the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "redirect/daemon/httpd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BODY_MAX 100

static enum httpd_read read_text(const char *text, size_t length, struct httpd_request *request, int *status)
{
    const char *why = NULL;
    char *copy = malloc(length ? length : 1); /* exactly as long: the sanitizer sees who reads on */
    memcpy(copy, text, length);
    *status = 0;
    enum httpd_read got = httpd_read(copy, length, BODY_MAX, request, status, &why);
    free(copy);
    assert_int_equal(got == HTTPD_BAD, why != NULL);
    assert_int_equal(got == HTTPD_BAD, *status != 0);
    return got;
}

static void whole(const char *text, const char *method, const char *path, const char *query, size_t body, bool keep_alive)
{
    struct httpd_request request;
    int status;
    size_t length = strlen(text);
    for (size_t i = 0; i < length; i++)
        assert_int_equal(read_text(text, i, &request, &status), HTTPD_MORE);
    assert_int_equal(read_text(text, length, &request, &status), HTTPD_WHOLE);
    assert_string_equal(request.method, method);
    assert_string_equal(request.path, path);
    assert_string_equal(request.query, query);
    assert_int_equal(request.body_length, body);
    assert_int_equal(request.head_length + body, length);
    assert_int_equal(request.keep_alive, keep_alive);
}

static void requests_are_whole_at_their_last_byte(void **state)
{
    (void)state;
    whole("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/", "", 0, true);
    whole("HEAD /metrics?a=b HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD", "/metrics", "a=b", 0, true);
    whole("GET /a?b?c HTTP/1.0\r\n\r\n", "GET", "/a", "b?c", 0, false);
    whole("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET", "/a", "", 0, true);
    whole("GET /a HTTP/1.1\r\nConnection: close\r\n\r\n", "GET", "/a", "", 0, false);
    whole("POST /v1/containers HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "POST", "/v1/containers", "", 5, true);
    whole("DELETE /v1/containers/a HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", "DELETE", "/v1/containers/a", "", 0, true);
    whole("PUT /a HTTP/1.1\r\nX-Tab:\ta\tb\r\nContent-Length: 1\r\n\r\n\n", "PUT", "/a", "", 1, true);
}

static void what_comes_behind_is_the_next_requests(void **state)
{
    (void)state;
    struct httpd_request request;
    int status;
    const char *two = "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_int_equal(read_text(two, strlen(two), &request, &status), HTTPD_WHOLE);
    assert_string_equal(request.path, "/1");
    assert_int_equal(read_text(two + request.head_length, strlen(two) - request.head_length, &request, &status), HTTPD_WHOLE);
    assert_string_equal(request.path, "/2");
}

static void what_is_not_served_has_its_status(void **state)
{
    static const struct {
        const char *text;
        int status;
    } bad[] = {
        {"\r\n\r\n", 400},
        {"GET\r\n\r\n", 400},
        {"GET / HTTP/1.1\nHost: x\n\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: x\r\n\tfolded\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHo st: x\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n: x\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nX: a\x01\r\n\r\n", 400},
        {"GET * HTTP/1.1\r\n\r\n", 400},
        {"OPTIONS * HTTP/1.1\r\n\r\n", 400},
        {"GET http://a/ HTTP/1.1\r\n\r\n", 400},
        {"NONSENSE / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/1.2\r\n\r\n", 400},
        {"GET / HTTP/2.0\r\n\r\n", 505},
        {"CONNECT a:1 HTTP/1.1\r\n\r\n", 501},
        {"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", 501},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", 413},
        {"POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", 413},
        {"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", 417},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct httpd_request request;
        int status;
        if (read_text(bad[i].text, strlen(bad[i].text), &request, &status) != HTTPD_BAD || status != bad[i].status)
            fail_msg("%d for %s", status, bad[i].text);
    }
}

static void lengths_are_bounded(void **state)
{
    char text[HTTPD_HEAD_MAX + 100];
    struct httpd_request request;
    int status;
    (void)state;
    memset(text, 'a', sizeof(text));
    memcpy(text, "GET / HTTP/1.1\r\nX: ", 19);
    assert_int_equal(read_text(text, HTTPD_HEAD_MAX - 1, &request, &status), HTTPD_MORE);
    assert_int_equal(read_text(text, HTTPD_HEAD_MAX, &request, &status), HTTPD_BAD);
    assert_int_equal(status, 431);
    memcpy(text + HTTPD_HEAD_MAX - 4, "\r\n\r\n", 4);
    assert_int_equal(read_text(text, sizeof(text), &request, &status), HTTPD_WHOLE);

    memset(text, 'a', sizeof(text));
    memcpy(text, "GET /", 5);
    memcpy(text + 5 + HTTPD_PATH_MAX - 1, " HTTP/1.1\r\n\r\n", 13);
    assert_int_equal(read_text(text, 5 + HTTPD_PATH_MAX - 1 + 13, &request, &status), HTTPD_WHOLE);
    assert_int_equal(strlen(request.path), HTTPD_PATH_MAX);
    text[5 + HTTPD_PATH_MAX - 1] = 'a';
    memcpy(text + 5 + HTTPD_PATH_MAX, " HTTP/1.1\r\n\r\n", 13);
    assert_int_equal(read_text(text, 5 + HTTPD_PATH_MAX + 13, &request, &status), HTTPD_BAD);
    assert_int_equal(status, 414);
}

static void answers_have_a_head(void **state)
{
    char head[HTTPD_ANSWER_HEAD_MAX];
    (void)state;
    ssize_t length = httpd_head(405, "text/plain", 12, false, "Allow: GET\r\n", head, sizeof(head));
    assert_int_equal(length, strlen(head));
    assert_string_equal(head, "HTTP/1.1 405 Method Not Allowed\r\nServer: sallyport\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n"
                              "Cache-Control: no-store\r\nConnection: close\r\nAllow: GET\r\n\r\n");
    assert_true(httpd_head(200, "text/plain", 0, true, "", head, sizeof(head)) > 0);
    assert_null(strstr(head, "Connection"));
    assert_int_equal(httpd_head(200, "text/plain", 0, true, "", head, 20), -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_whole_at_their_last_byte), cmocka_unit_test(what_comes_behind_is_the_next_requests),
        cmocka_unit_test(what_is_not_served_has_its_status),     cmocka_unit_test(lengths_are_bounded),
        cmocka_unit_test(answers_have_a_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
