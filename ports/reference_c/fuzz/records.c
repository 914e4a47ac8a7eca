/* records.c - fuzz target: record prefixes, fields, lanes, bodies, errors and frames. SPDX-License-Identifier: MIT
 *
 * The input is a session: a byte of settings, then exchanges of
 *
 *   op u8 · prefix[32] · size u8, bytes of fields from offset 32 on · size u16, bytes of the body
 *
 * Bits of `op` make single parts of the prefix good, so that later checks are reached. Both bodies end where a page
 * ends, the reply's where the mapping ends.
 */
#include "target.h"
#include "schema.h"
#include <sanitizer/asan_interface.h>

#define SETTING_ENV 1   /* the environment is attacked, else the agent */
#define SETTING_LANES 2
#define OP_REPAIR_IDS 1 /* session, seq; of a reply also the command */
#define OP_REPAIR_COMMAND 2
#define OP_REPAIR_STATUS 4
#define OP_REPAIR_BODY 8
#define OP_ERROR 16
#define LANES 3

static rlay_channel ch;
static rlay_schema schemas[2];

/* A schema whose bodies fill their records: the capacity is what is left of a page. */
static void schema_build(rlay_schema *s, uint32_t lanes) {
    uint64_t offset[2] = {0, 0};
    fuzz_schema(s, lanes, 1024, 1024);
    for (uint32_t i = 0; i < s->field_count; i++)
        if (strcmp(s->fields[i].name, "body") == 0) offset[s->fields[i].record - 1] = s->fields[i].offset;
    fuzz_schema(s, lanes, (uint32_t)(RLAY_PAGE_SIZE - offset[0]), (uint32_t)(RLAY_PAGE_SIZE - offset[1]));
    if (s->request_size != RLAY_PAGE_SIZE || s->reply_size != RLAY_PAGE_SIZE) fuzz_fail("the bodies do not fill their records", 0);
}

static void session_begin(unsigned settings) {
    rlay_schema *s = &schemas[settings & SETTING_LANES ? 1 : 0];
    if (!schemas[0].fingerprint) schema_build(&schemas[0], 0), schema_build(&schemas[1], LANES);
    world_begin(RLAY_SIDE_CLIENT);
    memset(world.control, 0, RLAY_HEADER_SIZE);
    memset(world.data - 2 * RLAY_PAGE_SIZE, 0, 2 * RLAY_PAGE_SIZE);
    memset(&ch, 0, offsetof(rlay_channel, fields));
    ch.directory = ch.lock = ch.peer_lock = -1;
    ch.side = RLAY_SIDE_CLIENT;
    ch.role = settings & SETTING_ENV ? RLAY_ROLE_ENV : RLAY_ROLE_AGENT;
    ch.control = world.control;
    ch.data = world.data - 2 * RLAY_PAGE_SIZE;
    ch.generation = 0x5a5a;
    ch.features = RLAY_FEATURE_RENDER;
    memcpy(ch.fields, s->fields, s->field_count * sizeof *s->fields);
    ch.schema = s;
    if (rlay__schema_adopt(&ch, s) < 0) fuzz_fail("rlay__schema_adopt", 0);
    rlay__session_begin(&ch, RLAY__RUNNING, ch.role == RLAY_ROLE_AGENT);
}

static void prefix_repair(uint8_t *prefix, unsigned op, uint32_t body_size) {
    if (op & OP_REPAIR_IDS) {
        rlay__put_u64(prefix + RLAY_PREFIX_SESSION, ch.generation);
        rlay__put_u64(prefix + RLAY_PREFIX_SEQ, ch.role == RLAY_ROLE_ENV ? ch.seq + 1 : ch.seq);
        if (ch.role == RLAY_ROLE_AGENT) rlay__put_u32(prefix + RLAY_PREFIX_COMMAND, ch.command);
    }
    if ((op & OP_REPAIR_COMMAND) && ch.role == RLAY_ROLE_ENV) prefix[RLAY_PREFIX_COMMAND] %= 6, memset(prefix + RLAY_PREFIX_COMMAND + 1, 0, 3);
    if (op & OP_REPAIR_STATUS) rlay__put_u32(prefix + RLAY_PREFIX_STATUS,
            (op & OP_ERROR) && ch.role == RLAY_ROLE_AGENT ? RLAY_E_REMOTE : RLAY_OK);
    if (op & OP_REPAIR_BODY) rlay__put_u32(prefix + RLAY_PREFIX_BODY_SIZE, body_size);
}

/* Let the peer write its record and hand over; the bytes behind the body are out of bounds until the next exchange. */
static int exchange(fuzz_input *in, unsigned op) {
    int record = rlay__in_record(&ch);
    uint8_t *at = rlay__record(&ch, record), *body = (uint8_t *)rlay_field_data(&ch, rlay__body(&ch, record));
    uint8_t prefix[RLAY_PREFIX_SIZE], *end = at + RLAY_PAGE_SIZE;
    fuzz_take(in, prefix, sizeof prefix);
    fuzz_take(in, at + RLAY_PREFIX_SIZE, fuzz_u8(in));
    uint32_t size = fuzz_u16(in), capacity = (uint32_t)(end - body);
    size = size < capacity ? size : capacity;
    size = size < in->left ? size : (uint32_t)in->left;
    fuzz_take(in, body, size);
    prefix_repair(prefix, op, size);
    memcpy(at, prefix, sizeof prefix);
    uint32_t used = rlay__get_u32(prefix + RLAY_PREFIX_BODY_SIZE);
    used = used < capacity ? used : capacity;
    ASAN_POISON_MEMORY_REGION(body + used, capacity - used);
    rlay__store_release_u32(ch.control + RLAY_OFF_TURN, RLAY_TURN_CLIENT);
    return rlay_poll(&ch);
}

static void look(const char *key) {
    rlay_value value;
    int result = rlay_body_find(&ch, key, &value);
    if (result != 0 && result != 1 && result != -RLAY_E_REMOTE_PROTOCOL) fuzz_fail("rlay_body_find", result);
    if (result == 1 && (value.type == RLAY_STR || value.type == RLAY_BIN || value.type == RLAY_EXT)) fuzz_read(value.data, value.size);
}

static void env_use(unsigned op) {
    uint64_t seed;
    int result;
    rlay_seed(&ch, &seed);
    for (uint32_t lane = 0; lane <= LANES; lane++) {
        int acts = rlay_lane_acts(&ch, lane), seeded = rlay_lane_seed(&ch, lane, &seed);
        if ((acts || seeded) && lane >= ch.lanes) fuzz_fail("a lane that is not there", lane);
    }
    look("options");
    if (op & 64) rlay_info_set(&ch, "lap");
    rlay_body_put_str(&ch, "answer");
    if (op & 32) result = rlay_reply_error(&ch, "ValueError", rlay_error_text(&ch));
    else if (ch.command == RLAY_COMMAND_RENDER) result = rlay_reply_render(&ch, 4, 4, 3);
    else if (ch.lanes) result = rlay_reply_lanes(&ch);
    else result = ch.command == RLAY_COMMAND_STEP ? rlay_reply_step(&ch, 1.0, 0, 0) : rlay_reply(&ch);
    if (result < 0) fuzz_fail("the reply", result);
}

static void agent_use(void) {
    const rlay_field *frame = rlay_field_find(&ch, RLAY_RECORD_REPLY, "frame");
    double values = rlay_reward(&ch) + rlay_terminated(&ch) + rlay_truncated(&ch);
    fuzz_read(&values, sizeof values);
    const void *lap = rlay_info_get(&ch, "lap");
    if (lap) fuzz_read(lap, 8);
    if (rlay_info_get(&ch, "nothing")) fuzz_fail("an info that is not declared", 0);
    if (ch.command == RLAY_COMMAND_RENDER)
        fuzz_read(rlay_field_data(&ch, frame), rlay__count(3, ch.frame_shape)); /* trusts the shape, as a caller may */
    look("message");
    look("lives");
}

static int agent_ask(unsigned op) {
    static const uint8_t commands[] = {RLAY_COMMAND_RESET, RLAY_COMMAND_STEP, RLAY_COMMAND_RENDER, RLAY_COMMAND_STEP};
    uint8_t command = op == 0xff ? RLAY_COMMAND_CLOSE : ch.state == RLAY__FRESH && !(op & 32) ? RLAY_COMMAND_RESET : commands[op >> 5 & 3];
    return rlay_request_send(&ch, command);
}

void fuzz_one(const uint8_t *data, size_t size) {
    const unsigned codes = FUZZ_CODE(RLAY_E_REMOTE_PROTOCOL) | FUZZ_CODE(RLAY_E_PEER_CLOSED) | FUZZ_CODE(RLAY_E_REMOTE);
    fuzz_input in = {data, size};
    session_begin(fuzz_u8(&in));
    while (in.left > 0 && ch.data) {
        unsigned op = fuzz_u8(&in);
        if (ch.role == RLAY_ROLE_AGENT && agent_ask(op) < 0) break; /* a STEP before a RESET */
        int result = fuzz_result(&ch, exchange(&in, op), codes);
        if (result == RLAY_READY && ch.role == RLAY_ROLE_ENV) env_use(op);
        if (result == RLAY_READY && ch.role == RLAY_ROLE_AGENT) agent_use();
        ASAN_UNPOISON_MEMORY_REGION(world.data - 2 * RLAY_PAGE_SIZE, 2 * RLAY_PAGE_SIZE);
        if (result < 0 && result != -RLAY_E_REMOTE && ch.data) fuzz_fail("a session after its end", result);
    }
}

/* Append an exchange; the result is where the next one begins. */
static uint8_t *seed_exchange(uint8_t *at, unsigned op, const uint8_t *prefix, const uint8_t *fields, uint8_t fields_size,
        const uint8_t *body, uint32_t body_size) {
    *at++ = (uint8_t)op;
    memcpy(at, prefix, RLAY_PREFIX_SIZE);
    at += RLAY_PREFIX_SIZE;
    *at++ = fields_size;
    if (fields_size) memcpy(at, fields, fields_size);
    at += fields_size;
    *at++ = (uint8_t)body_size, *at++ = (uint8_t)(body_size >> 8);
    if (body_size) memcpy(at, body, body_size);
    return at + body_size;
}

#define SEED_SETTINGS 4
#define SEED_KINDS 3

/* The exchange of a snapshot after a RESET: repaired, not repaired, and with a map that fills its record and more. The
 * fields of a snapshot are those of another layout, and only bytes here. */
size_t fuzz_seed(const uint8_t *control, const uint8_t *snapshot, size_t snapshot_size, int n, uint8_t *out,
        size_t capacity) {
    static const uint8_t reset[RLAY_PREFIX_SIZE] = {[RLAY_PREFIX_COMMAND] = RLAY_COMMAND_RESET}, endless[] = {0xde, 0xff, 0xff};
    uint32_t count = rlay__get_u32(control + RLAY_OFF_FIELD_COUNT), record = n & SETTING_ENV ? RLAY_RECORD_REQUEST : RLAY_RECORD_REPLY;
    uint64_t request = rlay__get_u64(control + RLAY_OFF_REQUEST_SIZE), start = record == RLAY_RECORD_REPLY ? request : 0;
    uint8_t *at = out, prefix[RLAY_PREFIX_SIZE];
    rlay_field row;
    memset(&row, 0, sizeof row);
    if (!snapshot || n >= SEED_SETTINGS * SEED_KINDS || count > RLAY_FIELDS_MAX || request > snapshot_size - 4096 || capacity < 8192) return 0;
    for (uint32_t i = 0; i < count && !(row.record == record && strcmp(row.name, "body") == 0); i++)
        memcpy(&row, control + RLAY_OFF_FIELD_TABLE + i * RLAY_ROW_SIZE, sizeof row);
    memcpy(prefix, snapshot + start, sizeof prefix);
    uint32_t size = rlay__get_u32(prefix + RLAY_PREFIX_BODY_SIZE);
    size = size < 2048 ? size : 2048;
    if (start + row.offset + size > snapshot_size) return 0;
    const uint8_t *fields = snapshot + start + RLAY_PREFIX_SIZE, *body = snapshot + start + row.offset;
    unsigned error = rlay__get_u32(prefix + RLAY_PREFIX_STATUS) ? OP_ERROR : 0, repair = OP_REPAIR_IDS | OP_REPAIR_COMMAND;
    unsigned ask = rlay__get_u32(prefix + RLAY_PREFIX_COMMAND) == RLAY_COMMAND_RENDER ? 64 : 32; /* see agent_ask() */
    *at++ = (uint8_t)(n % SEED_SETTINGS);
    at = seed_exchange(at, repair | OP_REPAIR_STATUS | OP_REPAIR_BODY, reset, NULL, 0, NULL, 0);
    if (n < SEED_SETTINGS) at = seed_exchange(at, repair | OP_REPAIR_STATUS | OP_REPAIR_BODY | error | ask, prefix, fields, 96, body, size);
    else if (n < 2 * SEED_SETTINGS) at = seed_exchange(at, repair | OP_REPAIR_BODY | ask, prefix, fields, 96, body, size);
    else rlay__put_u32(prefix + RLAY_PREFIX_BODY_SIZE, 65537), at = seed_exchange(at, repair | OP_REPAIR_STATUS | ask, prefix, fields, 96, endless, sizeof endless);
    return (size_t)(at - out);
}
