/* contract.h - how a program here ends that found a broken contract. SPDX-License-Identifier: MIT */
#ifndef RLAY_FUZZ_CONTRACT_H
#define RLAY_FUZZ_CONTRACT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static void fuzz_fail(const char *what, long long found) {
    fprintf(stderr, "contract broken: %s (%lld)\n", what, found);
    abort();
}

/* Read all `size` bytes, as a caller would. */
static void fuzz_read(const void *at, uint64_t size) {
    static _Thread_local volatile uint8_t sink;
    const uint8_t *byte = (const uint8_t *)at;
    for (uint64_t i = 0; i < size; i++) sink = (uint8_t)(sink ^ byte[i]);
}

#endif
