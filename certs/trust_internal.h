#pragma once

#include "certs/trust.h"

#include <openssl/ssl.h>

struct trust {
    SSL_CTX *context;
    size_t count;
};
