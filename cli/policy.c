/*
 * `sallyport policy check|test|show`: the three questions about a policy before it is in force.
 */
#include "cli/policy_internal.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void policy_print_errors(struct config_errors *errors)
{
    for (size_t i = 0; i < errors->count; i++)
        fprintf(stderr, "%s\n", errors->lines[i]);
    config_errors_finish(errors);
}

struct config_snapshot *policy_load(const char *path)
{
    static const char builtin[] = "version: 1\n";
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    int r;
    if (!path && access(POLICY_DEFAULT_FILE, F_OK) == 0)
        path = POLICY_DEFAULT_FILE;
    if (path)
        r = config_load_file(path, &snapshot, &errors);
    else
        r = config_load_text("built-in", builtin, sizeof(builtin) - 1, &snapshot, &errors);
    policy_print_errors(&errors);
    return r < 0 ? NULL : snapshot;
}

const char *policy_origin_text(const struct acl_origin *origin, char *text, size_t size)
{
    if (origin->line)
        snprintf(text, size, "%s:%u", origin->file, origin->line);
    else
        snprintf(text, size, "%s", origin->file);
    return text;
}

const char *policy_mode_text(enum acl_mode mode)
{
    return mode == ACL_MODE_AUDIT ? "audit" : "enforce";
}

const char *policy_dns_text(enum acl_dns dns)
{
    return dns == ACL_DNS_ANY ? "any" : dns == ACL_DNS_OFF ? "off" : "allowed";
}

const char *policy_verify_text(enum acl_verify verify)
{
    return verify == ACL_VERIFY_ALWAYS ? "always" : verify == ACL_VERIFY_FALLBACK ? "fallback" : "off";
}

const char *policy_bind_text(enum acl_bind bind)
{
    return bind == ACL_BIND_STRICT ? "strict" : bind == ACL_BIND_OFF ? "off" : "redial";
}

static const struct subcommand {
    const char *name;
    int (*run)(const struct command *self, int argc, char **argv);
} subcommands[] = {{"check", policy_check}, {"test", policy_test},       {"show", policy_show},
                   {"diff", policy_diff},   {"suggest", policy_suggest}, {"import", policy_import}};

static int run(const struct command *self, int argc, char **argv)
{
    if (argc < 2)
        return command_misuse(self, "say what to do: check, test, show, diff, suggest or import");
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
        return command_help(self);
    for (size_t i = 0; i < sizeof(subcommands) / sizeof(*subcommands); i++) {
        if (strcmp(argv[1], subcommands[i].name))
            continue;
        optind = 0;
        return subcommands[i].run(self, argc - 1, argv + 1);
    }
    return command_misuse(self, "there is no \"%s\": say check, test, show, diff, suggest or import",
                          argv[1]);
}

const struct command command_policy = {
    .name = "policy",
    .arguments = "check|test|show|diff|suggest|import …",
    .summary = "checks policy files, and tells what a policy allows and why",
    .run = run,
    .help =
        "  check [--json] FILE…\n"
        "      Reads each file as the gateway would and prints every error as FILE:LINE:COLUMN: MESSAGE, or\n"
        "      \"FILE: ok\" and what it holds. Warnings do not make it fail.\n"
        "\n"
        "  test [-c FILE] [--policy NAME] [--allow RULE]… [--method METHOD] [--json] URL|HOST:PORT|HOST\n"
        "      Would it be let through? Prints the verdict, the rule behind it and where that was written, "
        "and "
        "what\n"
        "      would change it. An http:// URL is one request, of METHOD (GET) for its path.\n"
        "      https://HOST[:PORT] asks as TLS, http://HOST[:PORT] as HTTP; HOST:PORT and tcp://HOST:PORT as "
        "the\n"
        "      gateway treats that port; udp://HOST:PORT as UDP, icmp://HOST as ping; HOST as TLS on 443; an\n"
        "      address by the address rules. Names are not resolved. --allow asks about these rules without a file, as exec takes them: alone, or with "
        "--policy\n"
        "      added to a built-in profile.\n"
        "\n"
        "  show [-c FILE] [--json] [NAME]\n"
        "      The rules in force of a policy or profile, or the hosts of a preset, with the origin of each; "
        "without\n"
        "      NAME, what there is.\n"
        "\n"
        "  diff [--policy NAME] [--json] OLD NEW\n"
        "      What the change from one file to the other opens and closes, which options it sets, and who "
        "gets\n"
        "      another policy. Policies are compared by what they do, not by how they are written.\n"
        "\n"
        "  suggest [--policy NAME] [--container NAME] [--denied] [--siblings N] AUDIT…\n"
        "      The smallest policy under which what these audit logs saw would pass, with counts as "
        "comments. A "
        "wildcard\n"
        "      stands for N (3) siblings or more, never over a public suffix; --denied adds what was "
        "denied.\n"
        "\n"
        "  import [--from FORMAT] [--policy NAME] [--deny] FILE\n"
        "      Another program's allowlist as a policy: ini (network.conf), toml ([network]), smokescreen, "
        "cilium, srt\n"
        "      (settings.json), list (names, or a hosts file; --deny: to deny). FORMAT is guessed. What "
        "could not be\n"
        "      carried over is told, and the exit status is 1 then.\n"
        "\n"
        "  -c, --config FILE  the policy file; without it " POLICY_DEFAULT_FILE "\n"
        "                     when there is one, else only what is built in\n"
        "  --policy NAME      a policy of the file, or a profile; may be left out when the file has only one "
        "policy\n"
        "\n"
        "Exit status: 0 valid, allowed, the same; 1 denied, different, not all carried over; 2 wrong use, or "
        "a file with errors.\n",
};
