#include "base/error.h"

#include <stdio.h>
#include <string.h>

/* One printable line, whatever bytes of others were put into it. */
static void clean(struct error *err)
{
    for (char *c = err->text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

int error_set(struct error *err, int code, const char *format, ...)
{
    if (err) {
        va_list args;
        err->code = code;
        va_start(args, format);
        vsnprintf(err->text, sizeof(err->text), format, args);
        va_end(args);
        clean(err);
    }
    return -code;
}

int error_errno(struct error *err, int code, const char *format, ...)
{
    if (err) {
        va_list args;
        err->code = code;
        va_start(args, format);
        vsnprintf(err->text, sizeof(err->text), format, args);
        va_end(args);
        clean(err);
        size_t used = strlen(err->text);
        snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(code));
    }
    return -code;
}

int error_prefix(struct error *err, const char *format, ...)
{
    char rest[sizeof(err->text)];
    va_list args;
    memcpy(rest, err->text, sizeof(rest));
    va_start(args, format);
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    clean(err);
    size_t used = strlen(err->text);
    snprintf(err->text + used, sizeof(err->text) - used, ": %s", rest);
    return -err->code;
}
