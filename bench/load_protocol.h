/*
 * What load_client and load_server have agreed on. The port says which server answers; the client's first bytes are a
 * ClientHello of CLIENT_HELLO_SIZE bytes, except on the HTTP port.
 *
 *   FLOW   hello → LOAD_ANSWER_SIZE bytes, FIN by the server
 *   ECHO   hello → nothing; then every byte comes back
 *   DOWN   hello → bytes without end, until the client closes
 *   UP     hello, bytes → for every LOAD_COUNT_EVERY of them, how many came so far (8 bytes, big endian)
 *   HTTP   GET requests without body → 200 with Content-Length: LOAD_ANSWER_SIZE each; kept alive
 */
#pragma once

#define LOAD_ANSWER_SIZE 1024
#define LOAD_ECHO_SIZE 64
#define LOAD_COUNT_EVERY \
    (1 << 20) /* an end by FIN would be simpler, but not every proxy passes a half-close on */
