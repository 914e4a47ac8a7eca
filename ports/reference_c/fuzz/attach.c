/* attach.c - fuzz target: control header, hellos, welcome and rejection, layout. SPDX-License-Identifier: MIT
 *
 * The input is a compact control file (layout.h). Bits of its flags say who is attacked, and what is made good so that
 * later checks are reached.
 */
#include "layout.h"
#include "schema.h"

#define VICTIM_SERVER 4
#define VICTIM_ENV 8
#define REPAIR_HELLO 16
#define REPAIR_WELCOME 32
#define DATA_FILE_SHORT 64
#define ODD_SESSION 128

static rlay_channel ch;
static rlay_schema schema;

static void hello_repair(uint8_t *hello, int role) {
    rlay__put_u16(hello + RLAY_HELLO_PROTOCOL_MIN, 1);
    rlay__put_u16(hello + RLAY_HELLO_PROTOCOL_MAX, 1);
    hello[RLAY_HELLO_ROLE] = (uint8_t)role;
}

/* What a server's bytes have to be, so that a client claims; the rest of the header is the input's. */
static void header_repair(int role) {
    memcpy(world.control, RLAY_MAGIC, 8);
    rlay__put_u32(world.control + RLAY_OFF_ENDIAN_TAG, RLAY_ENDIAN_TAG);
    rlay__put_u32(world.control + RLAY_OFF_HEADER_SIZE, RLAY_HEADER_SIZE);
    rlay__put_u64(world.control + RLAY_OFF_CONTROL_SIZE, RLAY_CONTROL_SIZE);
    hello_repair(world.control + RLAY_OFF_SERVER_HELLO, role);
}

/* The server's welcome, and the data file that goes with it. */
static void welcome_make(unsigned flags) {
    uint64_t size = rlay__data_size(&ch);
    if (flags & REPAIR_WELCOME) {
        rlay__put_u32(world.control + RLAY_OFF_WELCOME_STATUS, RLAY_WELCOME_ACCEPTED);
        rlay__put_u16(world.control + RLAY_OFF_PROTOCOL, ch.protocol);
        rlay__put_u64(world.control + RLAY_OFF_FEATURES, ch.features);
        rlay__put_u64(world.control + RLAY_OFF_DATA_SIZE, size);
    }
    world.data_size = flags & DATA_FILE_SHORT ? size - RLAY_PAGE_SIZE : size;
    if (world_records(size) <= WORLD_DATA_MAX) {
        uint8_t *start = world_file(world.data_size);
        rlay__put_u64(start + RLAY_PREFIX_SESSION, ch.generation ^ (flags & ODD_SESSION));
        if (ch.request_size < world_records(world.data_size)) rlay__put_u64(start + ch.request_size + RLAY_PREFIX_SESSION, ch.generation);
    }
}

static int poll_as(uint32_t turn, unsigned codes) {
    rlay__store_release_u32(world.control + RLAY_OFF_TURN, turn);
    return fuzz_result(&ch, rlay_poll(&ch), codes);
}

void fuzz_one(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    unsigned flags = fuzz_u8(&in);
    int side = flags & VICTIM_SERVER ? RLAY_SIDE_SERVER : RLAY_SIDE_CLIENT;
    int role = flags & VICTIM_ENV ? RLAY_ROLE_ENV : RLAY_ROLE_AGENT;
    unsigned attach = FUZZ_HOSTILE | FUZZ_CODE(RLAY_E_PROTOCOL_VERSION) | FUZZ_CODE(RLAY_E_LAYOUT_MISMATCH);
    /* A rejection has the server's code, any but those of a session; a server's file system may be too small. */
    unsigned welcome = attach | FUZZ_CODE(RLAY_E_LAYOUT) | FUZZ_CODE(RLAY_E_UNSUPPORTED_SPACE) | FUZZ_CODE(RLAY_E_SCHEMA) |
            FUZZ_CODE(RLAY_E_CHANNEL) | FUZZ_CODE(RLAY_E_NO_SPACE);
    if (!schema.fingerprint) fuzz_schema(&schema, 0, 0, 0);
    world_begin(side);
    layout_clear();
    int result = rlay_open(&ch, "fuzz", side, role, role == RLAY_ROLE_ENV ? &schema : NULL);
    if (result < 0) fuzz_fail("rlay_open", result);
    rlay_wait_strategy(&ch, RLAY_WAIT_BLOCK);
    if (side == RLAY_SIDE_SERVER) {
        layout_fill(&in, RLAY_OFF_CLIENT_HELLO, role == RLAY_ROLE_AGENT ? RLAY_OFF_WELCOME_STATUS : RLAY_OFF_SCHEMA_SIZE,
                role == RLAY_ROLE_AGENT ? flags : 0);
        if (flags & REPAIR_HELLO) hello_repair(world.control + RLAY_OFF_CLIENT_HELLO, 3 - role);
        result = poll_as(RLAY_TURN_SERVER, attach | FUZZ_CODE(RLAY_E_NO_SPACE));
        if (role == RLAY_ROLE_AGENT && ch.phase == RLAY__WELCOMED) result = poll_as(RLAY_TURN_SERVER, attach);
    } else {
        layout_fill(&in, 0, RLAY_OFF_TURN, flags);
        if (flags & REPAIR_HELLO) header_repair(3 - role);
        result = poll_as(RLAY_TURN_IDLE, attach);
        if (ch.phase == RLAY__GREETED) {
            welcome_make(flags);
            result = poll_as(RLAY_TURN_CLIENT, welcome);
        }
    }
    if (result >= 0 && ch.phase == RLAY__RUNNING) fuzz_layout(&ch);
    layout_rows_used = layout_rows_used > 32 ? layout_rows_used : 32; /* an environment has written its own layout */
    layout_schema_used = layout_schema_used > 4096 ? layout_schema_used : 4096;
    rlay_close(&ch);
}

size_t fuzz_seed(const uint8_t *control, const uint8_t *snapshot, size_t snapshot_size, int n, uint8_t *out,
        size_t capacity) {
    static const uint8_t flags[] = {REPAIR_WELCOME, REPAIR_HELLO | REPAIR_WELCOME | REPAIR_PRINT | REPAIR_TABLE, 0,
        VICTIM_ENV | REPAIR_WELCOME, VICTIM_ENV | REPAIR_HELLO, VICTIM_SERVER, VICTIM_SERVER | VICTIM_ENV,
        VICTIM_SERVER | REPAIR_HELLO | REPAIR_PRINT | REPAIR_TABLE, VICTIM_SERVER | VICTIM_ENV | REPAIR_HELLO,
        REPAIR_HELLO | REPAIR_WELCOME | DATA_FILE_SHORT, REPAIR_WELCOME | ODD_SESSION};
    (void)snapshot_size;
    return snapshot || n >= (int)sizeof flags ? 0 : layout_seed(control, flags[n], out, capacity);
}
