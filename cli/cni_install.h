#pragma once

#include "cli/command.h"

#define CNI_BIN_DEFAULT "/opt/cni/bin"
#define CNI_CONFIG_DEFAULT "/etc/cni/net.d"

#define CNI_INSTALL_HELP \
    "  install           links this program into the folder of plugins, as \"sallyport\", and adds it to a network's plugins\n" \
    "  --bin-dir DIR     where the runtime looks for plugins; without it " CNI_BIN_DEFAULT "\n" \
    "  --conf-dir DIR    where its networks are: the first .conflist by name, as runtimes take it; without it\n" \
    "                    " CNI_CONFIG_DEFAULT "\n" \
    "  --conflist FILE   that one\n" \
    "  --policy POLICY   of pods that name none; without it the assign rules decide\n" \
    "  --no-annotations  pods cannot name a policy by the annotation sallyport.policy\n" \
    "  --control SOCKET  the gateway's socket; without it the usual one\n" \
    "  --copy            copies the program and its libraries instead of linking to it: for the folder of a host, from a container\n" \
    "  --watch           stays, and adds it again whenever the folder of networks changes\n" \
    "  --uninstall       takes all of that back\n" \
    "  --dry-run         prints what the file would be, and writes nothing\n"

/* argv[0] is "install". */
int cni_install(const struct command *self, int argc, char **argv);
