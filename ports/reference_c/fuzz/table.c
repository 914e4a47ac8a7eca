/* table.c - fuzz target: env block, field table and fingerprint. SPDX-License-Identifier: MIT */
#include "layout.h"

static rlay_channel ch;

void fuzz_one(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    world_begin(RLAY_SIDE_CLIENT);
    layout_clear();
    memset(&ch, 0, offsetof(rlay_channel, fields));
    ch.role = RLAY_ROLE_AGENT;
    ch.control = world.control;
    unsigned flags = fuzz_u8(&in);
    layout_fill(&in, 0, RLAY_OFF_TURN, flags);
    int result = rlay__layout_adopt(&ch);
    fuzz_result(&ch, result, FUZZ_CODE(RLAY_E_CHANNEL_FORMAT) | FUZZ_CODE(RLAY_E_LAYOUT_MISMATCH));
    if (result < 0) return;
    if (ch.request_size + ch.reply_size <= WORLD_DATA_MAX) ch.data = world.data - ch.request_size - ch.reply_size;
    fuzz_layout(&ch);
}

size_t fuzz_seed(const uint8_t *control, const uint8_t *snapshot, size_t snapshot_size, int n, uint8_t *out,
        size_t capacity) {
    (void)snapshot_size;
    return snapshot || n > 3 ? 0 : layout_seed(control, (uint8_t)n, out, capacity);
}
