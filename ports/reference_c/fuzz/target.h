/* target.h - what a fuzz target is. SPDX-License-Identifier: MIT */
#include "world.h"

/* A cursor over the input; behind its end come zeros. */
typedef struct fuzz_input { const uint8_t *at; size_t left; } fuzz_input;

static size_t fuzz_take(fuzz_input *in, void *to, size_t size) {
    size_t have = size < in->left ? size : in->left;
    memset(to, 0, size);
    if (have) memcpy(to, in->at, have);
    in->at += have, in->left -= have;
    return have;
}
static uint8_t fuzz_u8(fuzz_input *in) { uint8_t value; return fuzz_take(in, &value, 1), value; }
static uint16_t fuzz_u16(fuzz_input *in) { uint16_t value; return fuzz_take(in, &value, 2), value; }

/* One run, and inputs made from a golden case: control file, and the data file after one exchange or NULL. Seed number
 * `n` of that pair goes to `out`; the result is its size, 0 when there are no more. */
void fuzz_one(const uint8_t *data, size_t size);
size_t fuzz_seed(const uint8_t *control, const uint8_t *snapshot, size_t snapshot_size, int n, uint8_t *out, size_t capacity);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_one(data, size), 0; }
