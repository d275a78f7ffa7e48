/*
 * Packets of a container that captures hand over, and answers of ping sockets. What is read lies inside the input, and an answer
 * made of it is read as what it is.
 */
#include "tests/fuzz/fuzz.h"

#include "gateway/packet.h"

static void check_echo(const uint8_t *data, size_t size)
{
    struct packet_echo echo;
    uint8_t head[PACKET_HEAD_MAX], error[PACKET_ERROR_MAX];
    uint16_t sequence;
    if (!packet_read_echo(data, size, &echo))
        return;
    CHECK(echo.payload >= data && echo.payload + echo.length <= data + size);
    CHECK(echo.source.family == echo.destination.family && echo.destination.port == 0);
    size_t ip = echo.source.family == AF_INET ? 20 : 40;
    CHECK(packet_echo_reply_head(&echo.destination, &echo.source, echo.sequence, echo.payload, echo.length,
                                 head) == ip + 8);
    CHECK(packet_read_echo_reply(echo.source.family, head + ip, 8, &sequence) && sequence == echo.sequence);
    const struct packet_quote quote = {.echo = true,
                                       .source = echo.source,
                                       .destination = echo.destination,
                                       .sequence = echo.sequence,
                                       .length = echo.length};
    size_t length = packet_error(PACKET_PROHIBITED, &quote, error);
    CHECK(length == 2 * (ip + 8));
    CHECK(!packet_read_echo(error, length, &echo)); /* nobody pings by being refused */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    uint16_t sequence;
    memcpy(copy, data, size);
    check_echo(copy, size);
    packet_read_echo_reply(AF_INET, copy, size, &sequence);
    packet_read_echo_reply(AF_INET6, copy, size, &sequence);
    free(copy);
    return 0;
}
