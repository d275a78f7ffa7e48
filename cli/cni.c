/*
 * `sallyport cni`: the CNI plugin. A container runtime starts it as "sallyport" in its folder of plugins, with CNI_COMMAND in the
 * environment; `sallyport cni install` puts it there (cni_install.c). What the runtime says is read in redirect/engines/cni.h.
 *
 *   ADD      enrolls the namespace, prints the result of the plugins before it. Fails: the pod does not start.
 *   DEL      withdraws it; what is not there is gone, so this never fails
 *   CHECK    looks whether the rules are in force and the gateway serves it
 *   STATUS   does a gateway answer?
 *   GC       withdraws what the runtime does not know any more, of its network
 */
#include "cli/ask.h"
#include "cli/cni_install.h"
#include "cli/command.h"
#include "base/fds.h"
#include "config/file.h"
#include "redirect/engines/cni.h"
#include "redirect/daemon/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *from_environment(const char *name)
{
    return getenv(name);
}

static void print(json_t *value)
{
    json_dumpf(value, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(value);
}

static int say_error(const struct cni_call *call, int code, const struct error *err)
{
    ask_log_failure("cni", call->record.id, err);
    print(cni_error(call, code, err->text));
    return EXIT_NO;
}

/* The daemon said no, or there is none: then the runtime may try again. */
static int code_of(int r)
{
    return r == -EPERM ? CNI_REFUSED : CNI_TRY_AGAIN;
}

/* ---- ADD ---- */

/* /proc/N/ns/net: then there is a process whose end can be watched. */
static pid_t process_of(const char *path)
{
    int pid = 0, length = 0;
    return sscanf(path, "/proc/%d/ns/net%n", &pid, &length) == 1 && length > 0 && !path[length] ? pid : 0;
}

static int open_namespace(const char *path, int fds[2], struct error *err)
{
    pid_t pid = process_of(path);
    if (pid > 0)
        return process_open(pid, &fds[0], &fds[1], err);
    fds[0] = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return fds[0] < 0 ? error_errno(err, errno, "CNI_NETNS %s", path) : 0;
}

static json_t *request_of(const struct state_record *r)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:s, s:s, s:s}", "do", "enroll", "id", r->id, "name",
                     r->name, "policy", r->policy, "path", r->path, "attached", r->attached, "pod", r->pod,
                     "pod_namespace", r->pod_namespace, "attachment", r->attachment);
}

static int add(const struct cni_call *call)
{
    struct error err;
    int fds[2] = {-1, -1};
    if (open_namespace(call->record.path, fds, &err) < 0)
        return say_error(call, CNI_BAD_ENVIRONMENT, &err);
    int r = ask_gateway(call->control, request_of(&call->record), fds, fds[1] < 0 ? 1 : 2, NULL, &err);
    fd_close(&fds[0]);
    fd_close(&fds[1]);
    if (r < 0)
        return say_error(call, code_of(r), &err);
    print(cni_result(call));
    return EXIT_YES;
}

/* ---- the others ---- */

static int withdraw(const struct cni_call *call, const char *id, const char *attachment, struct error *err)
{
    return ask_gateway(call->control,
                       json_pack("{s:s, s:s, s:s}", "do", "withdraw", "id", id, "attachment", attachment),
                       NULL, 0, NULL, err);
}

/* Without a gateway there is nothing to be taken back: sockets are gone with it, and a new one finds the namespace gone. */
static int del(const struct cni_call *call)
{
    struct error err;
    if (withdraw(call, call->record.id, call->record.attachment, &err) < 0)
        ask_log_failure("cni", call->record.id, &err);
    return EXIT_YES;
}

static int check(const struct cni_call *call)
{
    struct error err;
    int r = ask_gateway(call->control, json_pack("{s:s, s:s}", "do", "verify", "id", call->record.id), NULL,
                        0, NULL, &err);
    return r < 0 ? say_error(call, code_of(r), &err) : EXIT_YES;
}

static int status(const struct cni_call *call)
{
    struct error err;
    json_t *answer = NULL;
    int r = ask_gateway(call->control, json_pack("{s:s}", "do", "status"), NULL, 0, &answer, &err);
    if (r == 0 && !json_is_true(json_object_get(answer, "ready")))
        r = error_set(&err, EAGAIN, "the gateway is starting, or has no worker at the moment");
    json_decref(answer);
    return r < 0 ? say_error(call, CNI_NOT_AVAILABLE, &err) : EXIT_YES;
}

static int collect(const struct cni_call *call)
{
    struct error err;
    json_t *answer = NULL;
    const json_t *one;
    size_t i;
    int r = ask_gateway(call->control, json_pack("{s:s}", "do", "list"), NULL, 0, &answer, &err),
        status = EXIT_YES;
    if (r < 0)
        return say_error(call, code_of(r), &err);
    json_array_foreach(json_object_get(answer, "containers"), i, one)
    {
        const char *id = json_string_value(json_object_get(one, "id"));
        const char *attachment = json_string_value(json_object_get(one, "attachment"));
        if (id && attachment && cni_is_stale(call, id, attachment) && status == EXIT_YES &&
            (r = withdraw(call, id, attachment, &err)) < 0)
            status = say_error(call, code_of(r), &err);
    }
    json_decref(answer);
    return status;
}

static int obey(const struct cni_call *call)
{
    switch (call->command) {
    case CNI_ADD:
        return add(call);
    case CNI_DEL:
        return del(call);
    case CNI_CHECK:
        return check(call);
    case CNI_STATUS:
        return status(call);
    case CNI_GC:
        return collect(call);
    case CNI_VERSION:
        print(cni_versions(call));
        return EXIT_YES;
    }
    return EXIT_NO;
}

static int run_plugin(void)
{
    struct cni_call call = {.version = CNI_VERSION_NEWEST};
    struct error err;
    char *text;
    size_t length;
    int status = EXIT_YES;
    if (config_file_read(CONFIG_STANDARD_INPUT, CNI_CONFIG_MAX, &text, &length, &err) < 0)
        return say_error(&call, CNI_NOT_DECODED, &err);
    int r = cni_parse(text, length, from_environment, &call, &err);
    free(text);
    if (r == 0)
        status = obey(&call);
    else if (call.command == CNI_DEL && -r != CNI_INCOMPATIBLE_VERSION)
        ask_log_failure("cni", call.record.id, &err); /* whatever it was about is not enrolled */
    else
        status = say_error(&call, -r, &err);
    json_decref(call.config);
    return status;
}

static int run(const struct command *self, int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--help"))
        return command_help(self);
    if (argc > 1 && !strcmp(argv[1], "install"))
        return cni_install(self, argc - 1, argv + 1);
    if (argc > 1)
        return command_misuse(
            self, "\"%s\" is not understood: the plugin takes no argument, and 'install' sets it up",
            argv[1]);
    if (!getenv("CNI_COMMAND"))
        return command_misuse(
            self,
            "CNI_COMMAND is not set: container runtimes start this; 'sallyport cni install' sets it up");
    return run_plugin();
}

const struct command command_cni = {
    .name = "cni",
    .arguments = "[install [OPTION…]]",
    .summary = "the CNI plugin: puts pods behind the gateway, and 'cni install' sets it up",
    .run = run,
    .help = "Container runtimes start it as \"sallyport\", with CNI_COMMAND in the environment (CNI 0.3.0 "
            "to " CNI_VERSION_NEWEST ").\n"
            "\n" CNI_INSTALL_HELP,
};
