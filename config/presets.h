/*
 * Presets: lists of public hosts that come with the program, as data. Names only, exact only: each is one
 * door, and the reason it is open stands beside it (`sallyport policy show PRESET` prints it).
 */
#pragma once

#include <stddef.h>

struct preset_host {
    const char *name;
    const char *why;
};

#define PRESET_INCLUDES_MAX 4

struct preset {
    const char *name;
    const char *summary;
    const char *origin;                        /* what rules say they come from: "preset NAME" */
    const char *includes[PRESET_INCLUDES_MAX]; /* other presets, before its own hosts; NULL-padded */
    const struct preset_host *hosts;
    size_t host_count;
};

extern const struct preset presets[];
extern const size_t preset_count;

/* NULL when there is none of that name. */
const struct preset *preset_find(const char *name);
/* Calls back for each host, those of included presets first; stops at, and returns, what is not 0. */
int preset_each(const struct preset *preset,
                int (*each)(const struct preset *from, const struct preset_host *host, void *arg), void *arg);
