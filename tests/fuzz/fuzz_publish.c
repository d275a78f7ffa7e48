/*
 * Ports to be published, as annotations say them: what is understood is written so that it is understood again.
 */
#include "tests/fuzz/fuzz.h"

#include "redirect/daemon/publish.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct publish_port ports[PUBLISH_MAX], again[PUBLISH_MAX];
    struct error err = {0};
    size_t count = 0, one;
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    int r = publish_parse(text, ports, &count, &err);
    free(text);
    CHECK(r == 0 || err.text[0]);
    CHECK(count <= PUBLISH_MAX);
    for (size_t i = 0; i < count; i++) {
        char written[ADDR_TEXT_MAX + 8];
        publish_format(&ports[i], written);
        CHECK(publish_parse(written, again, &one, &err) == 0 && one == 1);
        CHECK(addr_equal(&again[0].host, &ports[i].host) && again[0].inside == ports[i].inside && ports[i].inside);
    }
    return 0;
}
