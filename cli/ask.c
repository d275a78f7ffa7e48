#include "cli/ask.h"

#include "redirect/daemon/control.h"

#include <errno.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

int ask_gateway(const char *control, json_t *request, const int *fds, size_t count, json_t **ret_answer,
                struct error *err)
{
    json_t *answer = NULL;
    int r = request
                ? control_call(control ? control : CONTROL_DEFAULT_PATH, request, fds, count, &answer, err)
                : error_set(err, EINVAL, "a name is not UTF-8");
    json_decref(request);
    if (r == 0 && !json_is_true(json_object_get(answer, "ok"))) {
        const char *text = json_string_value(json_object_get(answer, "error"));
        r = error_set(err, EPERM, "%s", text ? text : "the gateway's answer is not understood");
    }
    if (r == 0 && ret_answer)
        *ret_answer = answer;
    else
        json_decref(answer);
    return r;
}

void ask_log_failure(const char *what, const char *id, const struct error *err)
{
    if (strstr(err->text, id))
        id = ""; /* it is said already */
    openlog("sallyport", LOG_PID, LOG_DAEMON);
    syslog(LOG_ERR, "%s: %s%s%s", what, id, *id ? ": " : "", err->text);
    closelog();
}

int ask_own_path(char *ret, size_t size, struct error *err)
{
    ssize_t got = readlink("/proc/self/exe", ret, size - 1);
    if (got < 0)
        return error_errno(err, errno, "cannot tell where sallyport is");
    ret[got] = 0;
    return 0;
}
