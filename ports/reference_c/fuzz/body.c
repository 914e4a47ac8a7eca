/* body.c - fuzz target: the MessagePack reader. SPDX-License-Identifier: MIT
 *
 * The input is the size of a key u8, the key, and a body, which ends where the mapping ends.
 */
#include "target.h"

static rlay_channel ch;

static void look(const char *key, const uint8_t *body, const uint8_t *end) {
    rlay_value value;
    int result = rlay_body_find(&ch, key, &value);
    if (result == 0 || result == -RLAY_E_REMOTE_PROTOCOL) return;
    if (result != 1) fuzz_fail("rlay_body_find", result);
    if (value.type != RLAY_STR && value.type != RLAY_BIN && value.type != RLAY_EXT) return;
    if (value.data < body || value.data > end || value.size > (size_t)(end - value.data)) fuzz_fail("a value beyond the body", value.size);
    fuzz_read(value.data, value.size);
}

void fuzz_one(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    char key[64];
    world_begin(RLAY_SIDE_CLIENT);
    size_t key_size = fuzz_u8(&in) % sizeof key;
    fuzz_take(&in, key, key_size);
    key[key_size] = 0;
    if (in.left > WORLD_DATA_MAX) return;
    uint8_t *body = world.data - in.left;
    ch.role = RLAY_ROLE_AGENT;
    ch.our_turn = 1;
    ch.data = world.data - WORLD_DATA_MAX;
    ch.request_size = 0;
    ch.body[1] = 0;
    ch.fields[0].record = RLAY_RECORD_REPLY;
    ch.fields[0].offset = WORLD_DATA_MAX - in.left;
    ch.fields[0].stride = ch.in_size = (uint32_t)in.left;
    fuzz_take(&in, body, in.left);
    look(key, body, world.data);
    look("message", body, world.data);
}

/* The body of the reply of a snapshot, whose layout the control file has. */
size_t fuzz_seed(const uint8_t *control, const uint8_t *snapshot, size_t snapshot_size, int n, uint8_t *out,
        size_t capacity) {
    uint32_t count = rlay__get_u32(control + RLAY_OFF_FIELD_COUNT);
    uint64_t request = rlay__get_u64(control + RLAY_OFF_REQUEST_SIZE), start = n ? request : 0;
    rlay_field row;
    if (!snapshot || n > 1 || count > RLAY_FIELDS_MAX || request > snapshot_size - RLAY_PREFIX_SIZE) return 0;
    uint64_t size = rlay__get_u32(snapshot + start + RLAY_PREFIX_BODY_SIZE);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(&row, control + RLAY_OFF_FIELD_TABLE + i * RLAY_ROW_SIZE, sizeof row);
        if (row.record != n + 1 || strcmp(row.name, "body") != 0) continue;
        if (size + 5 > capacity || start + row.offset + size > snapshot_size) break;
        memcpy(out, "\4type", 5);
        memcpy(out + 5, snapshot + start + row.offset, (size_t)size);
        return 5 + (size_t)size;
    }
    memcpy(out, "\4type\x80", 6);
    return 6;
}
