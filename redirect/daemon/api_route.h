/*
 * What a request of the HTTP API means: which request of the control socket (redirect/daemon/control.h) it is, or which text it
 * wants. Pure, so that it can be fuzzed: nothing is opened here.
 *
 *   GET    /v1/status                     GET    /metrics
 *   GET    /v1/containers                 GET    /healthz
 *   POST   /v1/containers                 GET    /readyz
 *   GET    /v1/containers/ID
 *   DELETE /v1/containers/ID
 *   POST   /v1/containers/ID/verify
 *   POST   /v1/reload
 *   GET, PUT, DELETE /v1/containers/ID/policy      GET    /v1/policies/NAME
 *   POST   /v1/containers/ID/rules                 POST   /v1/policies/NAME/rules
 *   DELETE /v1/containers/ID/changes               DELETE /v1/policies/NAME/changes
 *
 * The path's and the body's words go into a JSON object that control_parse() then judges as if it had come over the socket:
 * one grammar, one set of errors.
 */
#pragma once

#include "redirect/daemon/httpd.h"
#include "redirect/daemon/state.h"

#include <jansson.h>

enum api_kind { API_CONTROL, API_METRICS, API_HEALTH, API_READY };

struct api_call {
    enum api_kind kind;
    json_t *request; /* API_CONTROL: for control_parse(); the caller's */
    int status;      /* when it succeeds */
    char one[CHANNEL_ID_MAX];     /* of a list, this one is wanted; "": all */
    bool enrolls;
    pid_t pid;                    /* to enroll: the process; 0: by `netns` */
    char netns[STATE_PATH_MAX];
};

struct api_refusal {
    int status;
    const char *code;  /* as the control socket's */
    char allow[64];    /* 405: the methods, for the head; else "" */
    char text[256];
};

/* 0, or -EINVAL with *ret_refusal. `body` has request->body_length bytes. */
int api_route(const struct httpd_request *request, const char *body, struct api_call *ret, struct api_refusal *ret_refusal);
/* The status that a refusal of the control socket has here. */
int api_status_of(const char *code);
