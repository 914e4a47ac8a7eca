/* bench_peer.c - the C side of `rlay bench`: an environment or an agent that does nothing. SPDX-License-Identifier: MIT
 *
 *   bench_peer env CHANNEL [--cpu] DTYPE EXTENT...   serve one agent; DTYPE is f32 or u8, such as: f32 4, u8 84 84 4
 *   bench_peer agent CHANNEL                         for each line "STEPS LIMIT_NS" on stdin prints "STEPS_DONE NS"
 *
 * The observation is constant. As float32 it is written into the record at each step; as uint8, a picture, it stays
 * in place but for one byte, as in a game that renders into mapped memory. The action is Discrete(2). With --cpu the
 * reward is the processor time of this process so far, in seconds. Exit codes: 0 ok, 2 usage, 3 no peer, or lost.
 */
#define RLAY_IMPLEMENTATION
#include "rlay.h"

#ifdef __linux__
#include <signal.h>
#include <sys/prctl.h>
#endif

#define ATTACH_NS 30000000000
#define STEP_NS 60000000000
#define CLOCK_STEPS 64 /* steps between two looks at the clock */

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int fail(rlay_channel *ch) {
    fprintf(stderr, "bench_peer: %s\n", rlay_error_text(ch));
    rlay_close(ch);
    return 3;
}

static int schema_build(rlay_schema *s, int dtype, uint32_t ndim, const uint32_t *shape) {
    rlay_schema_config config;
    memset(&config, 0, sizeof config);
    rlay_schema_begin(s, &config);
    rlay_schema_action(s);
    rlay_space_discrete(s, 2, 0);
    rlay_schema_observation(s);
    rlay_space_box_all(s, dtype, ndim, shape, dtype == RLAY_DTYPE_UINT8 ? 0.0 : -1.0, dtype == RLAY_DTYPE_UINT8 ?
            255.0 : 1.0);
    return rlay_schema_end(s);
}

static int play_env(rlay_channel *ch, int dtype, int cpu) {
    static const float observation[4] = {0.0f, 0.25f, 0.5f, 0.75f};
    uint8_t *out = NULL, steps = 0;
    uint64_t size = 0;
    int result = rlay_wait(ch, ATTACH_NS);
    for (; result == RLAY_READY; result = rlay_wait(ch, RLAY_FOREVER)) {
        if (!out) {
            const rlay_field *field = rlay_field_find(ch, RLAY_RECORD_REPLY, "observation");
            out = (uint8_t *)rlay_field_data(ch, field);
            size = rlay_field_size(field);
        }
        if (dtype == RLAY_DTYPE_UINT8) *out = steps++;
        else memcpy(out, observation, size < sizeof observation ? size : sizeof observation);
        if (ch->command == RLAY_COMMAND_RESET) result = rlay_reply(ch);
        else result = rlay_reply_step(ch, cpu ? (double)clock_ns(CLOCK_PROCESS_CPUTIME_ID) * 1e-9 : 0.0, 0, 0);
        if (result < 0) break;
    }
    if (result != -RLAY_E_PEER_CLOSED && result != -RLAY_E_PEER_LOST) return fail(ch);
    rlay_close(ch);
    return 0;
}

/* One batch of steps; 0 or a negative error code. */
static int run_batch(rlay_channel *ch, int64_t *action, uint64_t steps, uint64_t limit_ns) {
    uint64_t begin = clock_ns(CLOCK_MONOTONIC), now = begin, done = 0;
    while (done < steps && now - begin < limit_ns) {
        for (int i = 0; i < CLOCK_STEPS && done < steps; i++, done++) {
            *action = 1;
            int result = rlay_step(ch, STEP_NS);
            if (result < 0) return result;
        }
        now = clock_ns(CLOCK_MONOTONIC);
    }
    printf("%llu %llu\n", (unsigned long long)done, (unsigned long long)(now - begin));
    fflush(stdout);
    return 0;
}

static int play_agent(rlay_channel *ch) {
    char line[80];
    if (rlay_wait(ch, ATTACH_NS) < 0 || rlay_reset(ch, NULL, STEP_NS) < 0) return fail(ch);
    int64_t *action = (int64_t *)rlay_data(ch, RLAY_RECORD_REQUEST, "action");
    while (fgets(line, sizeof line, stdin)) {
        char *rest;
        uint64_t steps = strtoull(line, &rest, 10), limit_ns = strtoull(rest, NULL, 10);
        if (run_batch(ch, action, steps, limit_ns) < 0) return fail(ch);
    }
    rlay_close(ch);
    return 0;
}

static int usage(void) {
    fprintf(stderr, "usage: bench_peer env CHANNEL [--cpu] f32|u8 EXTENT... | agent CHANNEL\n");
    return 2;
}

int main(int argc, char **argv) {
    static rlay_schema schema;
    static rlay_channel ch;
    uint32_t shape[RLAY_NDIM_MAX], ndim = 0;
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* the bench stops us between its turns: we could not notice its end */
#endif
    if (argc == 3 && strcmp(argv[1], "agent") == 0) {
        if (rlay_open(&ch, argv[2], RLAY_SIDE_CLIENT, RLAY_ROLE_AGENT, NULL) < 0) return fail(&ch);
        return play_agent(&ch);
    }
    if (argc < 5 || strcmp(argv[1], "env") != 0) return usage();
    int cpu = strcmp(argv[3], "--cpu") == 0, at = 3 + cpu;
    int dtype = strcmp(argv[at], "u8") == 0 ? RLAY_DTYPE_UINT8 : RLAY_DTYPE_FLOAT32;
    for (int i = at + 1; i < argc && ndim < RLAY_NDIM_MAX; i++) shape[ndim++] = (uint32_t)strtoul(argv[i], NULL, 10);
    if (schema_build(&schema, dtype, ndim, shape) < 0) {
        fprintf(stderr, "bench_peer: %s\n", schema.error);
        return 2;
    }
    if (rlay_open(&ch, argv[2], RLAY_SIDE_SERVER, RLAY_ROLE_ENV, &schema) < 0) return fail(&ch);
    return play_env(&ch, dtype, cpu);
}
