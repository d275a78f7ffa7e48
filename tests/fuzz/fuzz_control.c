/*
 * Requests on the daemon's control socket: what is accepted names one thing to do, with texts that may be written into logs and file
 * names; what is refused says why in one printable line.
 */
#include "tests/fuzz/fuzz.h"

#include "redirect/daemon/control.h"

#include <errno.h>

static void check_record(const struct control_request *request)
{
    const struct state_record *r = &request->record;
    bool wants_id = request->verb == CONTROL_ENROLL || request->verb == CONTROL_WITHDRAW || request->verb == CONTROL_VERIFY;
    CHECK(!wants_id || state_id_valid(r->id));
    CHECK(state_text_valid(r->id, sizeof(r->id)) && state_text_valid(r->name, sizeof(r->name)));
    CHECK(state_text_valid(r->image, sizeof(r->image)) && state_text_valid(r->policy, sizeof(r->policy)));
    CHECK(state_text_valid(r->path, sizeof(r->path)));
    CHECK(r->pid == 0 && r->start_time == 0 && r->netns.inode == 0); /* never a request's to say */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct control_request request;
    struct error err = {0};
    char *copy = malloc(size ? size : 1); /* no NUL behind it */
    memcpy(copy, data, size);
    int r = control_parse(copy, size, &request, &err);
    free(copy);
    if (r == 0) {
        check_record(&request);
        return 0;
    }
    CHECK(r == -EINVAL && err.code == EINVAL && err.text[0]);
    CHECK(!strchr(err.text, '\n'));
    return 0;
}
