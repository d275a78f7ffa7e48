/*
 * The HTTP API: a request that is routed is one that the control socket could have had, and what is refused says so in a status
 * and a sentence.
 */
#include "tests/fuzz/fuzz.h"

#include "redirect/daemon/api_route.h"
#include "redirect/daemon/control.h"

#define BODY_MAX 4096

static void check_control(json_t *wanted)
{
    struct control_request request;
    struct error err;
    char *text = json_dumps(wanted, JSON_COMPACT);
    if (!text)
        return; /* deeper than the library writes */
    if (control_parse(text, strlen(text), &request, &err) == 0)
        control_request_finish(&request);
    else
        CHECK(err.text[0]);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct httpd_request request;
    struct api_call call;
    struct api_refusal refusal;
    int status;
    const char *why;
    if (httpd_read(data, size, BODY_MAX, &request, &status, &why) != HTTPD_WHOLE)
        return 0;
    char *body = malloc(request.body_length ? request.body_length : 1);
    memcpy(body, data + request.head_length, request.body_length);
    if (api_route(&request, body, &call, &refusal) < 0) {
        CHECK(refusal.status >= 400 && refusal.status < 500 && refusal.code && refusal.text[0]);
        CHECK((refusal.status == 405) == (refusal.allow[0] != 0));
    } else if (call.kind == API_CONTROL) {
        CHECK(json_is_object(call.request) && json_is_string(json_object_get(call.request, "do")));
        CHECK(call.status == 200 || call.status == 201);
        CHECK(!call.enrolls || !call.pid == !!call.netns[0]);
        check_control(call.request);
        json_decref(call.request);
    } else {
        CHECK(!strcmp(request.method, "GET") || !strcmp(request.method, "HEAD"));
    }
    free(body);
    return 0;
}
