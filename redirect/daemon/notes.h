/*
 * Who changed what the gateway does, and when, for the audit log: the policy file that is loaded or refused, run-time changes, containers
 * that are enrolled and withdrawn, start, upgrade and end.
 *
 * The log is the worker's to write. What is noted here waits until the first worker has answered that it took it, also over its death
 * (then the log may have it twice); a bounded number.
 */
#pragma once

#include "redirect/monitor/channel.h"

#define NOTES_MAX 1024

struct daemon;
struct daemon_worker;

void notes_init(struct daemon *daemon);
void notes_add(struct daemon *daemon, const struct channel_note *note); /* all texts are copied; no version: that in force */
int notes_feed(struct daemon_worker *worker); /* 0 when there is nothing more to say, or a negative errno */
bool notes_answered(struct daemon_worker *worker, uint32_t serial); /* false: that message was no note */
void notes_worker_died(struct daemon_worker *worker);
void notes_finish(struct daemon *daemon);
