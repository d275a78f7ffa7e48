/*
 * The plugin for hosts that lack our libraries (a container installs it into a folder of the host's): the program, the libraries that
 * are loaded now and their loader, in a folder beside a script that starts them.
 *
 *   BIN/sallyport                a script: exec BIN/sallyport.d/ld-linux… --library-path BIN/sallyport.d BIN/sallyport.d/sallyport cni
 *   BIN/sallyport.d/             sallyport, libuv.so.1, …
 */
#pragma once

#include "base/error.h"

/* `script` is the plugin's path. What is there is replaced, each file whole or not at all. */
int cni_bundle_write(const char *script, struct error *err);
int cni_bundle_remove(const char *script, struct error *err); /* the folder; none there is fine */
