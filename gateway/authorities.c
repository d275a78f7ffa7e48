#include "gateway/authorities.h"

#include "base/log.h"

#include <stdbool.h>
#include <stdlib.h>

struct authorities {
    struct config_snapshot *const *snapshot;
    char *system; /* the system's, as text; NULL: it has none */
    size_t system_length;
    struct trust *trust; /* NULL: not needed yet */
    bool none;           /* there is nothing to make it from */
};

struct authorities *authorities_create(struct config_snapshot *const *snapshot)
{
    struct authorities *a = calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    a->snapshot = snapshot;
    if (trust_read_system(&a->system, &a->system_length) < 0)
        a->system = NULL;
    return a;
}

void authorities_reset(struct authorities *a)
{
    trust_destroy(a->trust);
    a->trust = NULL;
    a->none = false;
}

void authorities_destroy(struct authorities *a)
{
    if (!a)
        return;
    trust_destroy(a->trust);
    free(a->system);
    free(a);
}

const struct trust *authorities_trust(struct authorities *a)
{
    struct error err;
    size_t length;
    if (a->trust || a->none)
        return a->trust;
    const char *text = config_authorities(*a->snapshot, &length);
    if (!text) {
        text = a->system;
        length = a->system_length;
    }
    if (!text || trust_create(text, length, &a->trust, &err) < 0) {
        log_error("worker: no certificate authorities to verify servers with: %s",
                  text ? err.text : "the system has none");
        a->none = true;
    }
    return a->trust;
}
