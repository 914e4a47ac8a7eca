/* native_victim.c - the story of tests/sweep/story.py, played by the reference port. SPDX-License-Identifier: MIT
 *
 *   native_victim FACE CHANNEL TOKEN       FACE: ServerBackend, ClientBackend, ServerEnv or ClientEnv
 *
 * Its tracer stops it at any instruction between sweep_mark(REGION) and sweep_mark(-REGION).
 * Exit codes: 0 the story is whole, 3 it is not.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <stddef.h>

/* Its tracer reads the mappings after the port has let go of them. */
static int keep_mapped(void *at, size_t size) { return at == NULL && size == 0; }
#define munmap keep_mapped
#define RLAY_IMPLEMENTATION
#include "rlay.h"

enum region { PUBLISH = 1, ATTACH, RESET, STEP, TAKE, RENDER, CLOSE };
#define WIDTH 48
#define WAIT_NS 20000000000
#define THE_STEP 2 /* the step that is watched */

__attribute__((noinline)) void sweep_mark(long region) { __asm__ volatile("" : : "r"(region) : "memory"); }

static uint64_t mix(const uint64_t *parts, int count) {
    uint64_t value = 0;
    for (int i = 0; i < count; i++) {
        value = (value ^ parts[i]) * 0x9E3779B97F4A7C15u + 1;
        value ^= value >> 29;
    }
    return value;
}

static void numbers(int64_t *at, int width, const uint64_t *parts, int count) {
    uint64_t first = mix(parts, count);
    for (int i = 0; i < width; i++) at[i] = (int64_t)((uint64_t)i * 0x9E3779B97F4A7C15u + first);
}

static int fail(const rlay_channel *ch) {
    fprintf(stderr, "native_victim: %s\n", rlay_error_text(ch));
    return 3;
}

/* ---- environment */

static int schema_build(rlay_schema *s) {
    static const uint32_t shape[1] = {WIDTH};
    static const char *const modes[] = {"rgb_array", NULL};
    int64_t low[WIDTH], high[WIDTH];
    rlay_schema_config config;
    for (int i = 0; i < WIDTH; i++) low[i] = INT64_MIN, high[i] = INT64_MAX;
    memset(&config, 0, sizeof config);
    config.render_modes = modes;
    config.render_mode = "rgb_array";
    config.frame = 72;
    rlay_schema_begin(s, &config);
    rlay_schema_action(s);
    rlay_space_box(s, RLAY_DTYPE_INT64, 1, shape, low, high);
    rlay_schema_observation(s);
    rlay_space_box(s, RLAY_DTYPE_INT64, 1, shape, low, high);
    return rlay_schema_end(s);
}

static void put_info(rlay_channel *ch, uint64_t token, uint64_t step) {
    if (step % 2) return;
    rlay_body_put_map(ch, 2);
    rlay_body_put_str(ch, "token");
    rlay_body_put_uint(ch, token);
    rlay_body_put_str(ch, "step");
    rlay_body_put_uint(ch, step);
}

/* Answer one request; whatever is computed is computed before the mark. */
static int answer(rlay_channel *ch, uint64_t token, uint64_t *seed, uint64_t *step) {
    int64_t made[WIDTH];
    if (ch->command == RLAY_COMMAND_RESET) rlay_seed(ch, seed), *step = 0;
    if (ch->command == RLAY_COMMAND_STEP) ++*step;
    uint64_t parts[4] = {token, *seed, *step, 7};
    double reward = (double)(mix(parts, 4) >> 20);
    numbers(made, WIDTH, parts, 3);
    if (ch->command == RLAY_COMMAND_RENDER) {
        sweep_mark(RENDER);
        memcpy(rlay_data(ch, RLAY_RECORD_REPLY, "frame"), made, 72);
        int result = rlay_reply_render(ch, 4, 6, 3);
        sweep_mark(-RENDER);
        return result;
    }
    void *observation = rlay_data(ch, RLAY_RECORD_REPLY, "observation");
    if (ch->command == RLAY_COMMAND_RESET) {
        sweep_mark(RESET);
        memcpy(observation, made, sizeof made);
        put_info(ch, token, 0);
        int result = rlay_reply(ch);
        sweep_mark(-RESET);
        return result;
    }
    if (*step == THE_STEP) sweep_mark(STEP);
    memcpy(observation, made, sizeof made);
    put_info(ch, token, *step);
    int result = rlay_reply_step(ch, reward, 0, 0);
    if (*step == THE_STEP) sweep_mark(-STEP);
    return result;
}

static int play_env(rlay_channel *ch, uint64_t token) {
    uint64_t seed = 0, step = 0;
    for (;;) {
        int region = ch->seq == 0 ? ATTACH : ch->seq == THE_STEP ? TAKE : ch->seq == 5 ? CLOSE : 0;
        if (region) sweep_mark(region);
        int result = rlay_wait(ch, WAIT_NS);
        if (region && region != CLOSE) sweep_mark(-region);
        if (result == -RLAY_E_PEER_CLOSED) return 0;
        if (result < 0 || answer(ch, token, &seed, &step) < 0) return fail(ch);
    }
}

/* ---- agent */

static int await(rlay_channel *ch, int region) {
    if (region) sweep_mark(region);
    int result = rlay_wait(ch, WAIT_NS);
    if (region) sweep_mark(-region);
    return result;
}

static int step_once(rlay_channel *ch, uint64_t seed, uint64_t step) {
    int64_t action[WIDTH];
    uint64_t parts[2] = {seed, step};
    numbers(action, WIDTH, parts, 2);
    void *at = rlay_data(ch, RLAY_RECORD_REQUEST, "action");
    if (step == THE_STEP) sweep_mark(STEP);
    memcpy(at, action, sizeof action);
    int result = rlay_request_send(ch, RLAY_COMMAND_STEP);
    if (step == THE_STEP) sweep_mark(-STEP);
    return result < 0 ? result : await(ch, step == THE_STEP ? TAKE : 0);
}

static int play_agent(rlay_channel *ch, uint64_t seed) {
    if (await(ch, ATTACH) < 0) return fail(ch);
    sweep_mark(RESET);
    int result = rlay_reset_send(ch, &seed);
    sweep_mark(-RESET);
    if (result < 0 || await(ch, 0) < 0) return fail(ch);
    if (step_once(ch, seed, 1) < 0 || step_once(ch, seed, 2) < 0) return fail(ch);
    sweep_mark(RENDER);
    result = rlay_request_send(ch, RLAY_COMMAND_RENDER);
    sweep_mark(-RENDER);
    if (result < 0 || await(ch, 0) < 0 || step_once(ch, seed, 3) < 0) return fail(ch);
    sweep_mark(CLOSE);
    return 0;
}

int main(int argc, char **argv) {
    static rlay_schema schema;
    static rlay_channel ch;
    if (argc != 4) return 2;
    int side = strncmp(argv[1], "Server", 6) == 0 ? RLAY_SIDE_SERVER : RLAY_SIDE_CLIENT;
    int role = strcmp(argv[1] + 6, "Env") == 0 ? RLAY_ROLE_AGENT : RLAY_ROLE_ENV;
    uint64_t token = strtoull(argv[3], NULL, 10);
    if (role == RLAY_ROLE_ENV && schema_build(&schema) < 0) return 2;
    sweep_mark(PUBLISH);
    int result = rlay_open(&ch, argv[2], side, role, role == RLAY_ROLE_ENV ? &schema : NULL);
    sweep_mark(-PUBLISH);
    if (result < 0) return fail(&ch);
    int code = role == RLAY_ROLE_ENV ? play_env(&ch, token) : play_agent(&ch, token);
    rlay_close(&ch);
    sweep_mark(-CLOSE);
    return code;
}
