#include "redirect/monitor/pulse.h"

#include "base/log.h"
#include "redirect/monitor/channel.h"

#include <stdio.h>
#include <string.h>

/* The letter in /proc/PID/status, and who traces it. */
static char state_of(pid_t pid, int *ret_tracer)
{
    char path[64], line[256], state = '?';
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    *ret_tracer = 0;
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "State: %c", &state) != 1)
            (void)sscanf(line, "TracerPid: %d", ret_tracer);
    if (file)
        fclose(file);
    return state;
}

static const char *explain(char state)
{
    return state == 'R' ? "it runs without end" : state == 'T' ? "it was stopped by a signal" : state == 'D' ? "it waits for a device" : "it waits";
}

static void give_up(struct pulse *pulse, const struct worker_process *worker)
{
    int tracer;
    char state = state_of(worker->pid, &tracer);
    if (tracer != 0) {
        if (!pulse->held)
            log_warning("the worker %d does not answer, but process %d traces it: left alone", (int)worker->pid, tracer);
        pulse->held = true;
        return;
    }
    log_error("the worker %d has not answered for %d seconds (%s): killed", (int)worker->pid, PULSE_TURNS * PULSE_MS / 1000, explain(state));
    worker_process_kill(worker);
}

void pulse_turn(struct pulse *pulse, const struct worker_process *worker, uint32_t serial)
{
    if (pulse->serial) {
        if (++pulse->turns >= PULSE_TURNS)
            give_up(pulse, worker);
        return;
    }
    *pulse = (struct pulse){.serial = serial};
    (void)channel_send_ping(worker->channel, serial); /* full of what it has not read: that will not be answered either */
}

bool pulse_answered(struct pulse *pulse, uint32_t serial)
{
    if (!pulse->serial || serial != pulse->serial)
        return false;
    if (pulse->held)
        log_info("the worker answers again");
    *pulse = (struct pulse){0};
    return true;
}
