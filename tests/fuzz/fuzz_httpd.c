/*
 * Requests of small servers: whatever comes, a request that is whole stays the same however much follows it, one that is
 * refused stays refused, and what is handed out lies within the bytes and its bounds.
 */
#include "tests/fuzz/fuzz.h"

#include "redirect/daemon/httpd.h"

#define BODY_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum httpd_read last = HTTPD_MORE;
    struct httpd_request first = {0};
    int first_status = 0;
    for (size_t length = size > 2048 ? size : 0; length <= size; length++) {
        struct httpd_request request;
        int status = 0;
        const char *why = NULL;
        uint8_t *copy = malloc(length ? length : 1);
        memcpy(copy, data, length);
        enum httpd_read got = httpd_read(copy, length, BODY_MAX, &request, &status, &why);
        free(copy);
        CHECK(last == HTTPD_MORE || got == last);
        if (got == HTTPD_WHOLE) {
            CHECK(request.head_length <= HTTPD_HEAD_MAX && request.body_length <= BODY_MAX);
            CHECK(request.head_length + request.body_length <= length);
            CHECK(request.path[0] == '/' && strlen(request.path) <= HTTPD_PATH_MAX && strlen(request.query) <= HTTPD_PATH_MAX);
            CHECK(last != HTTPD_WHOLE || (request.head_length == first.head_length && !strcmp(request.path, first.path)));
            first = request;
        } else if (got == HTTPD_BAD) {
            CHECK(status >= 400 && status < 600 && why && *why);
            CHECK(last != HTTPD_BAD || status == first_status);
            first_status = status;
        } else {
            CHECK(length < HTTPD_HEAD_MAX + BODY_MAX);
        }
        last = got;
    }
    return 0;
}
