/* scripted_peer.c - the peer that the cross-language tests talk to. SPDX-License-Identifier: MIT
 *
 *   scripted_peer --side server|client --role env|agent --channel NAME
 *                 [--die-at POINT [--die-count N]] [--timeout SECONDS]
 *
 * THE ENVIRONMENT
 *
 *   action       Dict, in this order:  "big"   Box int64 (2,), the full range of int64
 *                                      "gear"  Discrete(n=5, start=-2)
 *   observation  Dict, in this order:  "counter"   Discrete(1000000)
 *                                      "echo"      Box int64 (2,), the full range
 *                                      "image"     Box uint8 (4, 6, 3), 0 to 255
 *                                      "position"  Box float64 (3,), -inf to inf
 *   declared info                      "lap"         Discrete(1000), present in every reply
 *                                      "x_position"  Box float64 (), -inf to inf, present in STEP replies only
 *   body of a RESET reply              {"note": "reset"}
 *   body of the reply to step k        {"note": "step K", "blob": bytes k, k+1, k+2 (mod 256), "limit": -2^63}
 *   env                                id "rlay/Scripted-v0", all else null, metadata {"render_modes": []},
 *                                      frame 0, bodies of 65,536 bytes
 *
 *   State: u64 x and the step counter k. RESET with seed s: x = s; without: x = 12345; k = 0. STEP: k = k + 1 first.
 *   For each byte of the image, in row-major order: x = x * 6364136223846793005 + 1442695040888963407 (mod 2^64),
 *   byte = (x >> 33) & 0xff; at RESET and at each STEP.
 *   counter = k; echo = the action's "big" (0, 0 at RESET); position = [k / 3.0, -0.0, the NaN with bits
 *   0x7ff8000000000000 | k]; lap = k % 7; x_position = k / 3.0; reward = (0.1 * k) + gear; terminated when k == 20;
 *   truncated when gear == 2. With gear == -2 the environment raises ValueError("scripted failure at step K")
 *   instead (k has been incremented, no image byte was made).
 *
 * THE AGENT
 *
 *   reset(seed=7); for i in 0..7: step(big=[INT64_MIN + i, INT64_MAX - i], gear=(i % 4) - 1);
 *   reset() without a seed, in mid-episode; the same steps for i in 0..2;
 *   step(big=[0, 0], gear=-2), which must give a RemoteError of type ValueError;
 *   reset(seed=18446744073709551615); for i in 0..19: step(big=[i, -i], gear=0), the last one terminates;
 *   step(big=[0, 0], gear=2), which is truncated, with k = 21; close.
 *
 * ITS OUTPUT, one line per exchange, numbered from 1 (the ERROR line has a number that is not printed):
 *
 *   RESET|STEP <number> <counter><echo><image><position> reward=<hex> terminated=<0|1> truncated=<0|1> lap=<int or ->
 *     x_position=<hex or -> note=<str or -> blob=<hex or -> limit=<int or ->                          (all on one line)
 *   ERROR ValueError: scripted failure at step K
 *
 *   <counter> ... <position> and <hex> are the bytes of the values, little-endian, in hexadecimal without spaces.
 *   A RESET has no reward: 16 zeros, terminated=0 truncated=0.
 *
 * Exit codes: 0 the script was played, or the agent closed; 2 usage; 3 peer lost, time-out or another error.
 */
static void scripted_point(const char *name);
#define RLAY_POINT(name) scripted_point(name)
#define RLAY_IMPLEMENTATION
#include "rlay.h"
#include <signal.h>

static const char *die_at = NULL;
static long die_count = 1;

static void scripted_point(const char *name) {
    if (die_at && strcmp(name, die_at) == 0 && --die_count == 0) raise(SIGKILL);
}

static int fail(const rlay_channel *ch, int result) {
    if (result == -RLAY_E_PEER_CLOSED) return 0;
    fprintf(stderr, "scripted_peer: error %d: %s\n", -result, rlay_error_text(ch));
    return 3;
}

/* ---- environment */

static int schema_build(rlay_schema *s) {
    static const int64_t low[2] = {INT64_MIN, INT64_MIN}, high[2] = {INT64_MAX, INT64_MAX};
    static const uint32_t pair[1] = {2}, image[3] = {4, 6, 3}, three[1] = {3};
    rlay_schema_config config;
    memset(&config, 0, sizeof config);
    config.env_id = "rlay/Scripted-v0";
    rlay_schema_begin(s, &config);
    rlay_schema_action(s);
    rlay_space_dict_begin(s);
    rlay_schema_key(s, "big");
    rlay_space_box(s, RLAY_DTYPE_INT64, 1, pair, low, high);
    rlay_schema_key(s, "gear");
    rlay_space_discrete(s, 5, -2);
    rlay_space_dict_end(s);
    rlay_schema_info(s, "lap");
    rlay_space_discrete(s, 1000, 0);
    rlay_schema_info(s, "x_position");
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT64, 0, NULL, -INFINITY, INFINITY);
    rlay_schema_observation(s);
    rlay_space_dict_begin(s);
    rlay_schema_key(s, "counter");
    rlay_space_discrete(s, 1000000, 0);
    rlay_schema_key(s, "echo");
    rlay_space_box(s, RLAY_DTYPE_INT64, 1, pair, low, high);
    rlay_schema_key(s, "image");
    rlay_space_box_all(s, RLAY_DTYPE_UINT8, 3, image, 0, 255);
    rlay_schema_key(s, "position");
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT64, 1, three, -INFINITY, INFINITY);
    rlay_space_dict_end(s);
    return rlay_schema_end(s);
}

typedef struct script { uint64_t x; int64_t k; } script;

static void observe(rlay_channel *ch, script *state, const int64_t *big) {
    uint8_t *image = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "observation/image");
    uint64_t nan_bits = 0x7ff8000000000000u | (uint64_t)state->k;
    double position[3] = {(double)state->k / 3.0, -0.0, 0.0};
    int64_t lap = state->k % 7;
    memcpy(&position[2], &nan_bits, sizeof nan_bits);
    for (int i = 0; i < 4 * 6 * 3; i++) {
        state->x = state->x * 6364136223846793005u + 1442695040888963407u;
        image[i] = (uint8_t)(state->x >> 33);
    }
    memcpy(rlay_data(ch, RLAY_RECORD_REPLY, "observation/counter"), &state->k, sizeof state->k);
    memcpy(rlay_data(ch, RLAY_RECORD_REPLY, "observation/echo"), big, 2 * sizeof *big);
    memcpy(rlay_data(ch, RLAY_RECORD_REPLY, "observation/position"), position, sizeof position);
    memcpy(rlay_info_set(ch, "lap"), &lap, sizeof lap);
}

static int answer_reset(rlay_channel *ch, script *state) {
    static const int64_t zeros[2] = {0, 0};
    if (!rlay_seed(ch, &state->x)) state->x = 12345;
    state->k = 0;
    observe(ch, state, zeros);
    rlay_body_put_map(ch, 1);
    rlay_body_put_str(ch, "note");
    rlay_body_put_str(ch, "reset");
    return rlay_reply(ch);
}

static int answer_step(rlay_channel *ch, script *state) {
    int64_t big[2], gear;
    char text[64];
    memcpy(big, rlay_data(ch, RLAY_RECORD_REQUEST, "action/big"), sizeof big);
    memcpy(&gear, rlay_data(ch, RLAY_RECORD_REQUEST, "action/gear"), sizeof gear);
    state->k++;
    if (gear == -2) {
        snprintf(text, sizeof text, "scripted failure at step %lld", (long long)state->k);
        return rlay_reply_error(ch, "ValueError", text);
    }
    observe(ch, state, big);
    double x_position = (double)state->k / 3.0;
    memcpy(rlay_info_set(ch, "x_position"), &x_position, sizeof x_position);
    uint8_t blob[3] = {(uint8_t)state->k, (uint8_t)(state->k + 1), (uint8_t)(state->k + 2)};
    snprintf(text, sizeof text, "step %lld", (long long)state->k);
    rlay_body_put_map(ch, 3);
    rlay_body_put_str(ch, "note");
    rlay_body_put_str(ch, text);
    rlay_body_put_str(ch, "blob");
    rlay_body_put_bin(ch, blob, sizeof blob);
    rlay_body_put_str(ch, "limit");
    rlay_body_put_int(ch, INT64_MIN);
    return rlay_reply_step(ch, (0.1 * (double)state->k) + (double)gear, state->k == 20, gear == 2);
}

static int play_env(rlay_channel *ch, int64_t timeout_ns) {
    script state = {0, 0};
    for (;;) {
        int result = rlay_wait(ch, timeout_ns);
        if (result == RLAY_READY) result = ch->command == RLAY_COMMAND_RESET ? answer_reset(ch, &state)
                : answer_step(ch, &state);
        if (result < 0) return fail(ch, result);
    }
}

/* ---- agent */

static void print_hex(const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) printf("%02x", ((const uint8_t *)bytes)[i]);
}

static void print_field(const rlay_channel *ch, const char *name) {
    const rlay_field *field = rlay_field_find(ch, RLAY_RECORD_REPLY, name);
    print_hex(rlay_field_data(ch, field), (size_t)rlay_field_size(field));
}

static void print_info(const rlay_channel *ch) {
    rlay_value value;
    int64_t lap;
    const void *at = rlay_info_get(ch, "lap");
    if (at) memcpy(&lap, at, sizeof lap), printf(" lap=%lld", (long long)lap);
    else printf(" lap=-");
    printf(" x_position=");
    if ((at = rlay_info_get(ch, "x_position")) != NULL) print_hex(at, sizeof(double));
    else printf("-");
    if (rlay_body_find(ch, "note", &value) == 1 && value.type == RLAY_STR) printf(" note=%.*s", (int)value.size, (const char *)value.data);
    else printf(" note=-");
    printf(" blob=");
    if (rlay_body_find(ch, "blob", &value) == 1 && value.type == RLAY_BIN) print_hex(value.data, value.size);
    else printf("-");
    if (rlay_body_find(ch, "limit", &value) == 1 && value.type == RLAY_INT) printf(" limit=%lld", (long long)value.as.i);
    else printf(" limit=-");
}

static void print_exchange(const rlay_channel *ch) {
    int is_step = ch->command == RLAY_COMMAND_STEP;
    double reward = is_step ? rlay_reward(ch) : 0.0;
    printf("%s %llu ", is_step ? "STEP" : "RESET", (unsigned long long)ch->seq);
    print_field(ch, "observation/counter");
    print_field(ch, "observation/echo");
    print_field(ch, "observation/image");
    print_field(ch, "observation/position");
    printf(" reward=");
    print_hex(&reward, sizeof reward);
    printf(" terminated=%d truncated=%d", is_step && rlay_terminated(ch), is_step && rlay_truncated(ch));
    print_info(ch);
    printf("\n");
    fflush(stdout);
}

static int print_error(const rlay_channel *ch) {
    rlay_value type, message;
    if (rlay_body_find(ch, "type", &type) != 1 || type.type != RLAY_STR) return -RLAY_E_REMOTE;
    if (rlay_body_find(ch, "message", &message) != 1 || message.type != RLAY_STR) return -RLAY_E_REMOTE;
    printf("ERROR %.*s: %.*s\n", (int)type.size, (const char *)type.data, (int)message.size,
            (const char *)message.data);
    fflush(stdout);
    return RLAY_OK;
}

static int play_reset(rlay_channel *ch, const uint64_t *seed, int64_t timeout_ns) {
    int result = rlay_reset(ch, seed, timeout_ns);
    if (result == RLAY_READY) print_exchange(ch);
    return result;
}

static int play_step(rlay_channel *ch, int64_t big_0, int64_t big_1, int64_t gear, int64_t timeout_ns) {
    int64_t big[2] = {big_0, big_1};
    memcpy(rlay_data(ch, RLAY_RECORD_REQUEST, "action/big"), big, sizeof big);
    memcpy(rlay_data(ch, RLAY_RECORD_REQUEST, "action/gear"), &gear, sizeof gear);
    int result = rlay_step(ch, timeout_ns);
    if (result == RLAY_READY) print_exchange(ch);
    if (result == -RLAY_E_REMOTE) result = print_error(ch);
    return result;
}

/* The names and sizes of fields are what the environment says: look before they are used. */
static int is_scripted(const rlay_channel *ch) {
    static const struct { const char *name; uint8_t record, dtype; uint64_t size; } fields[] = {
        {"action/big", RLAY_RECORD_REQUEST, RLAY_DTYPE_INT64, 16},
        {"action/gear", RLAY_RECORD_REQUEST, RLAY_DTYPE_INT64, 8},
        {"observation/counter", RLAY_RECORD_REPLY, RLAY_DTYPE_INT64, 8},
        {"observation/echo", RLAY_RECORD_REPLY, RLAY_DTYPE_INT64, 16},
        {"observation/image", RLAY_RECORD_REPLY, RLAY_DTYPE_UINT8, 72},
        {"observation/position", RLAY_RECORD_REPLY, RLAY_DTYPE_FLOAT64, 24},
        {"info.lap", RLAY_RECORD_REPLY, RLAY_DTYPE_INT64, 8},
        {"info.lap#present", RLAY_RECORD_REPLY, RLAY_DTYPE_UINT8, 1},
        {"info.x_position", RLAY_RECORD_REPLY, RLAY_DTYPE_FLOAT64, 8},
        {"info.x_position#present", RLAY_RECORD_REPLY, RLAY_DTYPE_UINT8, 1},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const rlay_field *field = rlay_field_find(ch, fields[i].record, fields[i].name);
        if (!field || field->dtype != fields[i].dtype || rlay_field_size(field) != fields[i].size) return 0;
    }
    return 1;
}

static int play_agent(rlay_channel *ch, int64_t timeout_ns) {
    const uint64_t seven = 7, largest = UINT64_MAX;
    int result = rlay_wait(ch, timeout_ns);
    if (result >= 0 && !is_scripted(ch)) {
        fprintf(stderr, "scripted_peer: the environment is not the scripted one\n");
        return 3;
    }
    if (result >= 0) result = play_reset(ch, &seven, timeout_ns);
    for (int i = 0; i < 8 && result >= 0; i++) result = play_step(ch, INT64_MIN + i, INT64_MAX - i, i % 4 - 1,
            timeout_ns);
    if (result >= 0) result = play_reset(ch, NULL, timeout_ns);
    for (int i = 0; i < 3 && result >= 0; i++) result = play_step(ch, INT64_MIN + i, INT64_MAX - i, i % 4 - 1,
            timeout_ns);
    if (result >= 0) result = play_step(ch, 0, 0, -2, timeout_ns);
    if (result >= 0) result = play_reset(ch, &largest, timeout_ns);
    for (int i = 0; i < 20 && result >= 0; i++) result = play_step(ch, i, -i, 0, timeout_ns);
    if (result >= 0) result = play_step(ch, 0, 0, 2, timeout_ns);
    if (result >= 0) return 0;
    fail(ch, result);
    return 3; /* a goodbye before the script's end is a failure, too */
}

int main(int argc, char **argv) {
    static rlay_schema schema;
    static rlay_channel ch;
    const char *name = NULL;
    int side = 0, role = 0, usage = argc % 2 == 0;
    double timeout = 10.0;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *option = argv[i], *value = argv[i + 1];
        if (strcmp(option, "--side") == 0) side = strcmp(value, "server") == 0 ? RLAY_SIDE_SERVER : strcmp(value,
                "client") == 0 ? RLAY_SIDE_CLIENT : 0;
        else if (strcmp(option, "--role") == 0) role = strcmp(value, "env") == 0 ? RLAY_ROLE_ENV : strcmp(value,
                "agent") == 0 ? RLAY_ROLE_AGENT : 0;
        else if (strcmp(option, "--channel") == 0) name = value;
        else if (strcmp(option, "--die-at") == 0) die_at = value;
        else if (strcmp(option, "--die-count") == 0) die_count = atol(value);
        else if (strcmp(option, "--timeout") == 0) timeout = atof(value);
        else usage = 1;
    }
    if (usage || !side || !role || !name) {
        fprintf(stderr, "usage: scripted_peer --side server|client --role env|agent --channel NAME [--die-at POINT "
                "[--die-count N]] [--timeout SECONDS]\n");
        return 2;
    }
    if (role == RLAY_ROLE_ENV && schema_build(&schema) < 0) {
        fprintf(stderr, "scripted_peer: %s\n", schema.error);
        return 2;
    }
    int result = rlay_open(&ch, name, side, role, role == RLAY_ROLE_ENV ? &schema : NULL);
    if (result < 0) return fail(&ch, result);
    int64_t timeout_ns = (int64_t)(timeout * 1e9);
    int code = role == RLAY_ROLE_ENV ? play_env(&ch, timeout_ns) : play_agent(&ch, timeout_ns);
    rlay_close(&ch);
    return code;
}
