/*
 * `sallyport completion`: scripts that complete the command line, for bash, zsh and fish.
 *
 * They are made from what --help prints, which is in the command table: so a command or an option that there is completes, and one
 * that there is not does not. In a command's help
 *
 *     "  -c, --config FILE    text"    is an option with a value, which is a file
 *     "  --json    text"               is one without
 *     "  install    text"              is a word
 *     "  test [-c FILE] [--json] URL"  is a verb with options of its own
 *
 * What can be known only when it is asked for (containers, policies) the scripts ask this command.
 */
#include "cli/command.h"
#include "cli/policy_internal.h"
#include "config/profiles.h"
#include "redirect/daemon/control.h"

#include <ctype.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORD_MAX 64

/* ---- reading the help ---- */

/* An option, or (name "") a word. */
struct item {
    char name[WORD_MAX]; /* "--config" */
    char letter;         /* 'c', or 0 */
    char value[WORD_MAX]; /* "FILE"; "": none */
};

typedef void (*item_fn)(const struct item *item, void *arg);

static size_t take_word(const char *from, const char *more, char ret[WORD_MAX])
{
    size_t n = 0;
    while (n + 1 < WORD_MAX && (isalnum((unsigned char)from[n]) || (from[n] && strchr(more, from[n])))) {
        ret[n] = from[n];
        n++;
    }
    ret[n] = 0;
    return n;
}

/* "-c, --config FILE", "--json", "-c FILE": what stands at `text`. */
static bool read_option(const char *text, struct item *ret)
{
    *ret = (struct item){0};
    if (text[0] == '-' && isalpha((unsigned char)text[1])) {
        ret->letter = text[1];
        text += 2;
        if (!strncmp(text, ", --", 4))
            text += 2;
    }
    if (!strncmp(text, "--", 2))
        text += take_word(text, "-", ret->name);
    if (!ret->name[0] && !ret->letter)
        return false;
    if (text[0] == ' ' && isupper((unsigned char)text[1]))
        take_word(text + 1, "", ret->value);
    for (const char *c = ret->value; *c; c++)
        if (!isupper((unsigned char)*c))
            ret->value[0] = 0; /* the beginning of a sentence */
    return true;
}

/* The lines of the help that are indented by two. */
static const char *next_entry(const char *at)
{
    for (; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL)
        if (!strncmp(at, "  ", 2) && at[2] != ' ')
            return at + 2;
    return NULL;
}

static void each_option(const struct command *command, item_fn each, void *arg)
{
    struct item item;
    for (const char *at = next_entry(command->help); at; at = next_entry(strchr(at, '\n')))
        if (*at == '-' && read_option(at, &item))
            each(&item, arg);
}

/* Lower-case words that the command takes: verbs, shells. */
static void each_word(const struct command *command, item_fn each, void *arg)
{
    struct item first = {0};
    if (islower((unsigned char)command->arguments[0]) && command->arguments[take_word(command->arguments, "-", first.name)] == ' ')
        each(&first, arg); /* "configure [OPTION…]" */
    for (const char *at = next_entry(command->help); at; at = next_entry(strchr(at, '\n'))) {
        struct item item = {0};
        size_t n = islower((unsigned char)*at) ? take_word(at, "-", item.name) : 0;
        if (n && (!strncmp(at + n, "  ", 2) || !strncmp(at + n, " [", 2)))
            each(&item, arg);
    }
}

/* Options of one verb: "[-c FILE] [--json]" in its line. */
static void each_verb_option(const char *line, item_fn each, void *arg)
{
    struct item item;
    const char *end = strchrnul(line, '\n');
    for (const char *at = line; (at = memchr(at, '[', (size_t)(end - at))); at++)
        if (read_option(at + 1, &item))
            each(&item, arg);
}

static const char *verb_line(const struct command *command, const char *verb)
{
    size_t n = strlen(verb);
    for (const char *at = next_entry(command->help); at; at = next_entry(strchr(at, '\n')))
        if (!strncmp(at, verb, n) && !strncmp(at + n, " [", 2))
            return at;
    return NULL;
}

/* What a value, or an argument, is: the name of a kind that the scripts know, or "". */
static const char *kind_of(const char *option, const char *value)
{
    static const struct {
        const char *value, *kind;
    } kinds[] = {{"FILE", "file"}, {"PATH", "file"}, {"SOCKET", "file"}, {"AUDIT", "file"}, {"OLD", "file"}, {"NEW", "file"},
                 {"FOLDER", "folder"}, {"DIR", "folder"}, {"POLICY", "policy"}, {"ID", "container"}};
    if (!strcmp(option, "--id"))
        return ""; /* a new one */
    if (!strcmp(value, "NAME"))
        return !strcmp(option, "--policy") ? "policy" : !strcmp(option, "--container") || !*option ? "container" : "";
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (!strcmp(value, kinds[i].value))
            return kinds[i].kind;
    return "";
}

/* Does the word before `at` begin with a dash? Then what stands here is an option's value. */
static bool is_value(const char *arguments, const char *at)
{
    const char *word = at;
    if (at < arguments + 2 || at[-1] != ' ' || at[-2] == ']')
        return false;
    for (word = at - 1; word > arguments && !strchr(" [|", word[-1]); word--)
        ;
    return *word == '-';
}

/* Of the first argument that is no option and no option's value: in "[--json] ID" of the ID. */
static const char *argument_kind(const char *arguments)
{
    if (strstr(arguments, "COMMAND"))
        return "command";
    for (const char *at = arguments; *at; at++) {
        char word[WORD_MAX];
        bool begins = isupper((unsigned char)*at) && (at == arguments || at[-1] == ' ' || at[-1] == '[');
        if (!begins || is_value(arguments, at))
            continue;
        take_word(at, "", word);
        return kind_of("", word);
    }
    return "";
}

/* ---- bash, and zsh by it ---- */

static void put_names(const struct item *item, void *arg)
{
    (void)arg;
    if (item->letter)
        printf(" -%c", item->letter);
    if (item->name[0])
        printf(" %s", item->name);
}

struct value_case {
    const char *command, *verb;
};

static void put_value_case(const struct item *item, void *arg)
{
    const struct value_case *c = arg;
    const char *kind = kind_of(item->name[0] ? item->name : "-", item->value);
    if (!item->value[0])
        return;
    printf("    \"%s %s%s", c->command, c->verb, *c->verb ? " " : "");
    if (item->name[0] && item->letter)
        printf("%s\" | \"%s %s%s-%c", item->name, c->command, c->verb, *c->verb ? " " : "", item->letter);
    else if (item->name[0])
        printf("%s", item->name);
    else
        printf("-%c", item->letter);
    printf("\") kind=%s ;;\n", *kind ? kind : "none");
}

static void put_verb_cases(const struct item *item, void *arg)
{
    const struct command *command = arg;
    const char *line = verb_line(command, item->name);
    struct value_case c = {command->name, item->name};
    if (line)
        each_verb_option(line, put_value_case, &c);
}

/* Of a verb's own line. */
static const char *verb_argument_kind(const char *line)
{
    char usage[256];
    snprintf(usage, sizeof(usage), "%.*s", (int)strcspn(line, "\n"), line);
    const char *kind = argument_kind(usage);
    return strcmp(kind, "container") ? kind : "policy"; /* that is what the verbs of `policy` call a NAME */
}

static void put_verb_options(const struct item *item, void *arg)
{
    const struct command *command = arg;
    const char *line = verb_line(command, item->name);
    if (!line)
        return;
    printf("    \"%s %s\") options=\"--help", command->name, item->name);
    each_verb_option(line, put_names, NULL);
    const char *kind = verb_argument_kind(line);
    printf("\" words= argument=%s ;;\n", *kind ? kind : "none");
}

static bool has_verbs(const struct command *command)
{
    return strstr(command->help ? command->help : "", "\n  test [") != NULL;
}

static void put_bash(void)
{
    printf("# bash completion for sallyport " SALLYPORT_VERSION ", made by: sallyport completion bash\n"
           "_sallyport() {\n"
           "    local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"${COMP_WORDS[COMP_CWORD-1]}\" command=\"${COMP_WORDS[1]}\"\n"
           "    local verb=\"\" kind=\"\" options=\"\" words=\"\" argument=\"none\" i IFS=$' \\t\\n'\n"
           "    local -a more\n"
           "    COMPREPLY=()\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
           "        COMPREPLY=($(compgen -W \"--help --version");
    for (size_t i = 0; i < command_count; i++)
        printf(" %s", command_table[i]->name);
    printf("\" -- \"$cur\"))\n"
           "        return\n"
           "    fi\n"
           "    for ((i = 2; i < COMP_CWORD; i++)); do\n"
           "        case \"${COMP_WORDS[i]}\" in\n"
           "        --) # a command of its own begins\n"
           "            if [ $((i + 1)) -eq \"$COMP_CWORD\" ]; then kind=command; else kind=file; fi ;;\n"
           "        --control) more=(\"${more[@]}\" --control \"${COMP_WORDS[i+1]}\") ;;\n"
           "        -c | --config) more=(\"${more[@]}\" --config \"${COMP_WORDS[i+1]}\") ;;\n"
           "        esac\n"
           "    done\n"
           "    case \"$command\" in\n");
    for (size_t i = 0; i < command_count; i++) {
        const char *kind = argument_kind(command_table[i]->arguments);
        printf("    %s) options=\"--help", command_table[i]->name);
        each_option(command_table[i], put_names, NULL);
        printf("\" words=\"");
        each_word(command_table[i], put_names, NULL);
        printf("\" argument=%s%s ;;\n", *kind ? kind : "none",
               has_verbs(command_table[i]) ? "; [ \"$COMP_CWORD\" -gt 2 ] && verb=\" ${COMP_WORDS[2]}\"" : "");
    }
    printf("    esac\n"
           "    case \"$command$verb\" in\n");
    for (size_t i = 0; i < command_count; i++)
        if (has_verbs(command_table[i]))
            each_word(command_table[i], put_verb_options, (void *)command_table[i]);
    printf("    esac\n"
           "    [ -n \"$kind\" ] || case \"$command$verb $prev\" in\n");
    for (size_t i = 0; i < command_count; i++) {
        struct value_case c = {command_table[i]->name, ""};
        if (has_verbs(command_table[i]))
            each_word(command_table[i], put_verb_cases, (void *)command_table[i]);
        else
            each_option(command_table[i], put_value_case, &c);
    }
    printf("    esac\n"
           "    if [ -z \"$kind\" ]; then\n"
           "        case \"$cur\" in\n"
           "        -*) COMPREPLY=($(compgen -W \"$options\" -- \"$cur\")); return ;;\n"
           "        esac\n"
           "        kind=$argument\n"
           "        [ -z \"$words\" ] || COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
           "        case \" ${COMP_WORDS[*]} \" in *\" --policy \"*) [ \"$kind\" = container ] && [ -z \"$verb\" ] && kind=policy ;; esac\n"
           "    fi\n"
           "    IFS=$'\\n'\n"
           "    case \"$kind\" in\n"
           "    file) compopt -o filenames 2>/dev/null; COMPREPLY=(\"${COMPREPLY[@]}\" $(compgen -f -- \"$cur\")) ;;\n"
           "    folder) compopt -o filenames 2>/dev/null; COMPREPLY=(\"${COMPREPLY[@]}\" $(compgen -d -- \"$cur\")) ;;\n"
           "    command) COMPREPLY=(\"${COMPREPLY[@]}\" $(compgen -c -- \"$cur\")) ;;\n"
           "    container) COMPREPLY=(\"${COMPREPLY[@]}\" $(compgen -W \"$(\"${COMP_WORDS[0]}\" completion \"${more[@]}\" containers 2>/dev/null)\" -- \"$cur\")) ;;\n"
           "    policy) COMPREPLY=(\"${COMPREPLY[@]}\" $(compgen -W \"$(\"${COMP_WORDS[0]}\" completion \"${more[@]}\" policies 2>/dev/null)\" -- \"$cur\")) ;;\n"
           "    esac\n"
           "}\n"
           "complete -F _sallyport sallyport\n");
}

/* ---- fish ---- */

static void put_quoted(const char *text)
{
    putchar('\'');
    for (; *text; text++)
        printf(*text == '\'' || *text == '\\' ? "\\%c" : "%c", *text);
    putchar('\'');
}

static void put_fish_kind(const char *kind)
{
    if (!strcmp(kind, "file") || !strcmp(kind, "folder"))
        printf(" -F");
    else if (!strcmp(kind, "container"))
        printf(" -a '(sallyport completion containers 2>/dev/null)'");
    else if (!strcmp(kind, "policy"))
        printf(" -a '(sallyport completion policies 2>/dev/null)'");
}

static void put_fish_option(const struct item *item, void *arg)
{
    printf("complete -c sallyport -n '__fish_seen_subcommand_from %s'", (const char *)arg);
    if (item->letter)
        printf(" -s %c", item->letter);
    if (item->name[0])
        printf(" -l %s", item->name + 2);
    if (item->value[0]) {
        const char *kind = kind_of(item->name, item->value);
        printf(!strcmp(kind, "file") || !strcmp(kind, "folder") ? " -r" : " -x");
        put_fish_kind(kind);
    }
    putchar('\n');
}

static void put_fish_word(const struct item *item, void *arg)
{
    printf("complete -c sallyport -n '__fish_seen_subcommand_from %s' -a %s\n", (const char *)arg, item->name);
}

static void put_fish_verb(const struct item *item, void *arg)
{
    const struct command *command = arg;
    const char *line = verb_line(command, item->name);
    char condition[2 * WORD_MAX + 64];
    snprintf(condition, sizeof(condition), "%s; and __fish_seen_subcommand_from %s", command->name, item->name);
    if (!line)
        return;
    each_verb_option(line, put_fish_option, condition);
    printf("complete -c sallyport -n '__fish_seen_subcommand_from %s'", condition);
    put_fish_kind(verb_argument_kind(line));
    putchar('\n');
}

static void put_fish(void)
{
    printf("# fish completion for sallyport " SALLYPORT_VERSION ", made by: sallyport completion fish\n"
           "complete -c sallyport -f\n");
    for (size_t i = 0; i < command_count; i++) {
        const struct command *command = command_table[i];
        const char *kind = argument_kind(command->arguments);
        printf("complete -c sallyport -n __fish_use_subcommand -a %s -d ", command->name);
        put_quoted(command->summary);
        putchar('\n');
        each_option(command, put_fish_option, (void *)command->name);
        each_word(command, put_fish_word, (void *)command->name);
        if (has_verbs(command))
            each_word(command, put_fish_verb, (void *)command);
        if (*kind && strcmp(kind, "command") != 0) {
            printf("complete -c sallyport -n '__fish_seen_subcommand_from %s'", command->name);
            put_fish_kind(kind);
            putchar('\n');
        }
    }
}

/* ---- what is there now ---- */

static int put_containers(const char *control)
{
    struct error err;
    json_t *request = json_pack("{s:s}", "do", "list"), *answer = NULL, *one;
    size_t i;
    int r = control_call(control, request, NULL, 0, &answer, &err);
    json_decref(request);
    if (r < 0) {
        fprintf(stderr, "sallyport completion: %s\n", err.text);
        return EXIT_WRONG;
    }
    json_array_foreach (json_object_get(answer, "containers"), i, one)
        puts(json_string_value(json_object_get(one, "id")));
    json_decref(answer);
    return EXIT_YES;
}

static void put_policy(const struct acl_policy *policy, void *arg)
{
    (void)arg;
    puts(acl_policy_name(policy));
}

static int put_policies(const char *file)
{
    struct config_snapshot *snapshot = NULL;
    struct config_errors errors;
    int r = config_load_file(file, &snapshot, &errors);
    if (r == 0)
        config_each_policy(snapshot, put_policy, NULL);
    else
        policy_print_errors(&errors);
    for (size_t i = 0; i < profile_count; i++)
        puts(profiles[i].name);
    config_unref(snapshot);
    return r == 0 ? EXIT_YES : EXIT_WRONG;
}

/* ---- the command ---- */

static int run(const struct command *self, int argc, char **argv)
{
    static const struct option options[] = {{"control", required_argument, NULL, 's'},
                                            {"config", required_argument, NULL, 'c'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *control = CONTROL_DEFAULT_PATH, *file = POLICY_DEFAULT_FILE;
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":c:h", options, NULL)) != -1) {
        if (option == 'h')
            return command_help(self);
        if (option == 's')
            control = optarg;
        else if (option == 'c')
            file = optarg;
        else
            return command_misuse(self, option == ':' ? "%s needs a value" : "there is no option \"%s\"", argv[optind - 1]);
    }
    const char *what = optind + 1 == argc ? argv[optind] : "";
    if (!strcmp(what, "bash")) {
        put_bash();
    } else if (!strcmp(what, "zsh")) {
        printf("autoload -Uz bashcompinit && bashcompinit\n");
        put_bash();
    } else if (!strcmp(what, "fish")) {
        put_fish();
    } else if (!strcmp(what, "containers")) {
        return put_containers(control);
    } else if (!strcmp(what, "policies")) {
        return put_policies(file);
    } else {
        return command_misuse(self, "name the shell: bash, zsh or fish");
    }
    return EXIT_YES;
}

const struct command command_completion = {
    .name = "completion",
    .arguments = "SHELL",
    .summary = "prints the script that completes commands in bash, zsh or fish",
    .run = run,
    .help = "  bash        for ~/.bashrc: source <(sallyport completion bash)\n"
            "  zsh         for ~/.zshrc, behind compinit: source <(sallyport completion zsh)\n"
            "  fish        for config.fish: sallyport completion fish | source\n"
            "  containers  the ids of the containers, for the scripts\n"
            "  policies    the policies of the file and the profiles, for the scripts\n"
            "  --control SOCKET   where containers are asked for; without it " CONTROL_DEFAULT_PATH "\n"
            "  -c, --config FILE  the policy file; without it " POLICY_DEFAULT_FILE "\n",
};
