/* layout.h - the compact form of a control file that the fuzz targets take. SPDX-License-Identifier: MIT
 *
 *   flags u8 · the header's first 0x300 bytes · field_count rows · the schema
 *
 * With REPAIR_TABLE offsets, strides and record sizes are computed from the rows, and with REPAIR_PRINT the fingerprint,
 * so that a change of a row is not found by the first check only.
 */
#include "target.h"

#define REPAIR_TABLE 1
#define REPAIR_PRINT 2
#define LAYOUT_INPUT_MAX (1 + RLAY_OFF_TURN + RLAY_FIELDS_MAX * RLAY_ROW_SIZE + RLAY_SCHEMA_MAX)

static uint32_t layout_rows_used, layout_schema_used;

/* Make the control file empty again, as far as it was used. */
static void layout_clear(void) {
    memset(world.control, 0, RLAY_HEADER_SIZE + (size_t)layout_rows_used * RLAY_ROW_SIZE);
    memset(world.control + RLAY_OFF_SCHEMA, 0, layout_schema_used);
    layout_rows_used = layout_schema_used = 0;
}

static uint32_t layout_least(uint32_t a, uint32_t b) { return a < b ? a : b; }

static void layout_repair(uint8_t *control, unsigned flags) {
    uint64_t cursor[2] = {RLAY_PREFIX_SIZE, RLAY_PREFIX_SIZE};
    uint32_t count = layout_least(rlay__get_u32(control + RLAY_OFF_FIELD_COUNT), RLAY_FIELDS_MAX);
    uint32_t size = layout_least(rlay__get_u32(control + RLAY_OFF_SCHEMA_SIZE), RLAY_SCHEMA_MAX);
    rlay_field *rows = (rlay_field *)(void *)(control + RLAY_OFF_FIELD_TABLE);
    if (flags & REPAIR_TABLE) {
        for (uint32_t i = 0; i < count; i++)
            if (rows[i].record == 1 || rows[i].record == 2) rlay__field_place(&rows[i], &cursor[rows[i].record - 1]);
        rlay__put_u64(control + RLAY_OFF_REQUEST_SIZE, rlay__record_size(cursor[0]));
        rlay__put_u64(control + RLAY_OFF_REPLY_SIZE, rlay__record_size(cursor[1]));
    }
    if (flags & REPAIR_PRINT)
        rlay__put_u64(control + RLAY_OFF_FINGERPRINT, rlay__fingerprint(control + RLAY_OFF_SCHEMA, size, rows, count));
}

/* Fill the control file from the input, from `first` to `end` of the header. */
static void layout_fill(fuzz_input *in, uint32_t first, uint32_t end, unsigned flags) {
    uint8_t header[RLAY_OFF_TURN];
    fuzz_take(in, header, sizeof header);
    memcpy(world.control + first, header + first, end - first);
    uint32_t count = layout_least(rlay__get_u32(header + RLAY_OFF_FIELD_COUNT), RLAY_FIELDS_MAX);
    layout_rows_used = count;
    fuzz_take(in, world.control + RLAY_OFF_FIELD_TABLE, (size_t)count * RLAY_ROW_SIZE);
    layout_schema_used = layout_least((uint32_t)in->left, RLAY_SCHEMA_MAX);
    fuzz_take(in, world.control + RLAY_OFF_SCHEMA, layout_schema_used);
    /* A hash over zeros finds nothing and takes long: the size is that of the schema, or the largest, or too large. */
    if (rlay__get_u32(world.control + RLAY_OFF_SCHEMA_SIZE) < RLAY_SCHEMA_MAX && first <= RLAY_OFF_SCHEMA_SIZE && end > RLAY_OFF_SCHEMA_SIZE)
        rlay__put_u32(world.control + RLAY_OFF_SCHEMA_SIZE, layout_least(rlay__get_u32(header + RLAY_OFF_SCHEMA_SIZE), layout_schema_used));
    layout_repair(world.control, flags);
}

static size_t layout_seed(const uint8_t *control, uint8_t flags, uint8_t *out, size_t capacity) {
    uint32_t count = layout_least(rlay__get_u32(control + RLAY_OFF_FIELD_COUNT), RLAY_FIELDS_MAX);
    uint32_t schema = layout_least(rlay__get_u32(control + RLAY_OFF_SCHEMA_SIZE), RLAY_SCHEMA_MAX);
    if (capacity < LAYOUT_INPUT_MAX) return 0;
    out[0] = flags;
    memcpy(out + 1, control, RLAY_OFF_TURN);
    memcpy(out + 1 + RLAY_OFF_TURN, control + RLAY_OFF_FIELD_TABLE, (size_t)count * RLAY_ROW_SIZE);
    memcpy(out + 1 + RLAY_OFF_TURN + (size_t)count * RLAY_ROW_SIZE, control + RLAY_OFF_SCHEMA, schema);
    return 1 + RLAY_OFF_TURN + (size_t)count * RLAY_ROW_SIZE + schema;
}
