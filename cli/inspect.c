/*
 * `sallyport inspect`: what the gateway sees in captured client bytes.
 *
 * A file holds what one client sent: the bytes of a TCP stream from its beginning, or one DNS query (with or
 * without the two length bytes of TCP). They go through the very parsers that the worker uses, without any
 * policy: so the answer is the name a policy would be asked about, or the reason why the bytes are refused on
 * their own account.
 *
 * Protocols are told apart as follows. A DNS query comes first because its parser is the pickiest: its counts
 * cannot be right in a TLS record or in text (a hello's authority count would be 0x..03). Then the handshake
 * byte of TLS, then a request line. What is none of these may still be an SSLv2 hello, which the reader of
 * hellos knows.
 */
#include "cli/command.h"

#include "base/error.h"
#include "base/fds.h"
#include "base/json.h"
#include "gateway/dns_message.h"
#include "gateway/hello.h"
#include "gateway/http_gate.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX (1u << 20) /* bytes of a file */
#define MORE_NAMES_MAX 8

struct findings {
    const char *protocol; /* "tls", "http", "dns", "unknown" */
    bool accepted;        /* well-formed and with a name; else reason and detail tell why not */
    enum acl_reason reason;
    const char *detail;
    char name[4 * ACL_NAME_MAX + 1];
    /* TLS */
    bool tls, ech_offered;
    uint16_t version;
    char alpn[HELLO_ALPN_MAX];
    /* HTTP */
    char method[HTTP_METHOD_MAX];
    size_t requests; /* whole heads */
    size_t more_name_count;
    char more_names[MORE_NAMES_MAX][ACL_NAME_MAX + 1]; /* of later requests, each once */
    /* DNS */
    char dns_type[12];
};

static void refuse(struct findings *f, enum acl_reason reason, const char *detail)
{
    f->accepted = false;
    f->reason = reason;
    f->detail = detail;
}

static void find_incomplete(struct findings *f)
{
    refuse(f, ACL_HELLO_TIMEOUT, "incomplete: the gateway would wait for more");
}

/* --- looking
 * -------------------------------------------------------------------------------------------------- */

static void inspect_tls(const uint8_t *bytes, size_t length, struct findings *f)
{
    struct hello_reader reader;
    struct hello hello;
    f->protocol = "tls";
    f->tls = true;
    hello_reader_init(&reader);
    enum hello_status status = hello_feed(&reader, bytes, length, &hello);
    if (status == HELLO_MORE) {
        find_incomplete(f);
        return;
    }
    f->accepted = status == HELLO_DONE;
    f->reason = hello.reason;
    f->detail = hello.detail;
    f->ech_offered = hello.ech_offered;
    f->version = hello.version;
    strcpy(f->name, hello.name);
    strcpy(f->alpn, hello.alpn);
}

static void add_request(const struct http_request *request, struct findings *f)
{
    if (f->requests++ == 0) {
        strcpy(f->name, request->host);
        strcpy(f->method, request->method);
        return;
    }
    bool known = !strcmp(f->name, request->host);
    for (size_t i = 0; i < f->more_name_count && !known; i++)
        known = !strcmp(f->more_names[i], request->host);
    if (!known && f->more_name_count < MORE_NAMES_MAX)
        strcpy(f->more_names[f->more_name_count++], request->host);
}

/* Every request of the stream, as on a kept-alive connection; a body that is cut off does no harm. */
static void inspect_http(const uint8_t *bytes, size_t length, uint16_t port, struct findings *f)
{
    struct http_gate *gate = http_gate_create(port);
    enum http_gate_event event;
    size_t consumed;
    f->protocol = "http";
    if (!gate) {
        refuse(f, ACL_MALFORMED_HTTP, "out of memory");
        return;
    }
    while ((event = http_gate_feed(gate, bytes, length, &consumed)) != HTTP_GATE_MORE &&
           event != HTTP_GATE_BAD) {
        bytes += consumed;
        length -= consumed;
        if (event == HTTP_GATE_REQUEST)
            add_request(http_gate_request(gate), f);
    }
    f->accepted = f->requests > 0;
    if (event == HTTP_GATE_BAD)
        refuse(f, http_gate_reason(gate), http_gate_detail(gate));
    else if (!f->accepted)
        find_incomplete(f);
    http_gate_destroy(gate);
}

/* One query, as over UDP or with the length bytes of TCP. False when it is none. */
static bool inspect_dns(const uint8_t *bytes, size_t length, struct findings *f)
{
    struct dns_query query;
    bool framed = length > 2 && ((size_t)bytes[0] << 8 | bytes[1]) == length - 2;
    if (dns_query_parse(bytes, length, &query) < 0 &&
        (!framed || dns_query_parse(bytes + 2, length - 2, &query) < 0))
        return false;
    f->protocol = "dns";
    f->accepted = query.name_kind == ACL_NAME_OK;
    if (!f->accepted)
        refuse(f, query.name_kind == ACL_NAME_IP_LITERAL ? ACL_IP_LITERAL : ACL_NO_RULE,
               acl_name_kind_text(query.name_kind));
    strcpy(f->name, query.shown);
    dns_type_name(query.type, f->dns_type);
    return true;
}

static void inspect_bytes(const uint8_t *bytes, size_t length, uint16_t port, struct findings *ret)
{
    *ret = (struct findings){.protocol = "unknown"};
    if (length == 0) {
        find_incomplete(ret);
    } else if (inspect_dns(bytes, length, ret)) {
        return;
    } else if (bytes[0] == 22) {
        inspect_tls(bytes, length, ret);
    } else if (http_gate_looks_like(bytes, length)) {
        inspect_http(bytes, length, port, ret);
    } else {
        inspect_tls(bytes, length, ret);
        ret->tls = ret->reason == ACL_MALFORMED_CLIENT_HELLO; /* SSLv2 */
        ret->protocol = ret->tls ? "tls" : "unknown";
        if (ret->reason == ACL_NOT_TLS)
            ret->detail = "neither a TLS hello, an HTTP request nor a DNS query";
    }
}

/* --- telling
 * -------------------------------------------------------------------------------------------------- */

static const char *version_text(uint16_t version)
{
    switch (version) {
    case 0x0300:
        return "ssl3";
    case 0x0301:
        return "1.0";
    case 0x0302:
        return "1.1";
    case 0x0303:
        return "1.2";
    case 0x0304:
        return "1.3";
    }
    return "unknown";
}

/* One line a file whatever the file is called. */
static void print_path(const char *path)
{
    for (; *path; path++)
        putchar((unsigned char)*path < 0x20 || *path == 0x7f ? '?' : *path);
}

static void print_text(const char *path, const struct findings *f)
{
    print_path(path);
    printf(": %s %s", f->protocol, f->name[0] ? f->name : "-");
    for (size_t i = 0; i < f->more_name_count; i++)
        printf(",%s", f->more_names[i]);
    if (f->version)
        printf(" version=%s alpn=%s ech=%s", version_text(f->version), f->alpn[0] ? f->alpn : "-",
               f->ech_offered ? "offered" : "-");
    if (f->method[0])
        printf(" method=%s requests=%zu", f->method, f->requests);
    if (f->dns_type[0])
        printf(" type=%s", f->dns_type);
    if (f->accepted)
        printf(" ok\n");
    else
        printf(" refused: %s (%s)\n", acl_reason_name(f->reason), f->detail);
}

static void print_json(const char *path, const struct findings *f)
{
    char text[16384 + MORE_NAMES_MAX * ACL_NAME_MAX];
    struct json j;
    json_begin(&j, text, sizeof(text));
    json_object(&j, NULL);
    json_string(&j, "file", path);
    json_string(&j, "protocol", f->protocol);
    json_bool(&j, "accepted", f->accepted);
    if (f->name[0])
        json_string(&j, "name", f->name);
    if (f->more_name_count) {
        json_array(&j, "more_names");
        for (size_t i = 0; i < f->more_name_count; i++)
            json_string(&j, NULL, f->more_names[i]);
        json_array_end(&j);
    }
    if (f->version) {
        json_string(&j, "tls_version", version_text(f->version));
        json_string(&j, "alpn", f->alpn);
        json_bool(&j, "ech_offered", f->ech_offered);
    }
    if (f->method[0]) {
        json_string(&j, "method", f->method);
        json_unsigned(&j, "requests", f->requests);
    }
    if (f->dns_type[0])
        json_string(&j, "type", f->dns_type);
    if (!f->accepted) {
        json_string(&j, "reason", acl_reason_name(f->reason));
        json_string(&j, "detail", f->detail);
    }
    json_object_end(&j);
    if (json_end(&j) >= 0)
        puts(text);
}

/* --- the command
 * ---------------------------------------------------------------------------------------------- */

/* Reads all of `path` ("-": standard input) into `bytes` of INPUT_MAX + 1. */
static int read_input(const char *path, uint8_t *bytes, size_t *ret_length, struct error *err)
{
    bool standard_input = !strcmp(path, "-");
    _cleanup_fd_ int opened = standard_input ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    int fd = standard_input ? STDIN_FILENO : opened;
    size_t length = 0;
    ssize_t got = 1;
    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", path);
    while (got != 0 && length <= INPUT_MAX) {
        got = read(fd, bytes + length, INPUT_MAX + 1 - length);
        if (got < 0 && errno != EINTR)
            return error_errno(err, errno, "cannot read %s", path);
        length += got > 0 ? (size_t)got : 0;
    }
    if (length > INPUT_MAX)
        return error_set(err, EFBIG, "%s holds more than 1 MiB: give it the first bytes of one connection",
                         path);
    *ret_length = length;
    return 0;
}

static int inspect_file(const char *path, uint8_t *buffer, uint16_t port, bool json)
{
    struct error err;
    struct findings findings;
    size_t length = 0;
    if (read_input(path, buffer, &length, &err) < 0) {
        fprintf(stderr, "sallyport inspect: %s\n", err.text);
        return EXIT_WRONG;
    }
    inspect_bytes(buffer, length, port, &findings);
    if (json)
        print_json(path, &findings);
    else
        print_text(path, &findings);
    return findings.accepted ? EXIT_YES : EXIT_NO;
}

static int inspect_files(char **paths, uint16_t port, bool json)
{
    uint8_t *buffer = malloc(INPUT_MAX + 1);
    int worst = EXIT_YES;
    if (!buffer) {
        fprintf(stderr, "sallyport inspect: out of memory\n");
        return EXIT_WRONG;
    }
    for (; *paths; paths++) {
        int status = inspect_file(*paths, buffer, port, json);
        worst = status > worst ? status : worst;
    }
    free(buffer);
    return worst;
}

static int run(const struct command *self, int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'},
                                            {"port", required_argument, NULL, 'p'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    bool json = false;
    uint16_t port = 80;
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "+:h", options, NULL)) != -1) {
        if (option == 'h')
            return command_help(self);
        if (option == 'j')
            json = true;
        else if (option == 'p' && addr_parse_port(optarg, strlen(optarg), &port))
            continue;
        else if (option == 'p')
            return command_misuse(self, "--port needs a number from 1 to 65535");
        else
            return command_misuse(self, option == ':' ? "%s needs a value" : "there is no option %s",
                                  argv[optind - 1]);
    }
    if (optind == argc)
        return command_misuse(self, "name the files to look at, or - for standard input");
    return inspect_files(argv + optind, port, json);
}

const struct command command_inspect = {
    .name = "inspect",
    .arguments = "[--json] [--port N] FILE…",
    .summary = "says what the gateway sees in captured client bytes",
    .run = run,
    .help = "  Each FILE (- is standard input) holds the bytes that a client sent: a TLS or HTTP connection "
            "from its\n"
            "  beginning, or one DNS query. One line a file: protocol, name, and why it would be refused "
            "whatever\n"
            "  the policy says.\n"
            "\n"
            "  --json    one JSON object a line\n"
            "  --port N  the port that HTTP was sent to (80): a Host that names another is refused\n"
            "\n"
            "Exit status: 0 all are well-formed and have a name; 1 some would be refused; 2 wrong use, or a "
            "file\n"
            "that cannot be read.\n",
};
