/* peer.c - the C peers of the soak: an environment or an agent that counts. SPDX-License-Identifier: MIT
 *
 *   peer env|agent server|client CHANNEL LEDGER STEPS SESSIONS
 *
 * The agent plays SESSIONS sessions of STEPS steps each, and stays in the one that word HOLD of the ledger numbers until
 * that changes, or STOP is set; the environment serves until then. See peers.py for the values and tests/chaos/ledger.py for the ledger.
 * Exit codes: 0 ok, 2 usage, 3 no peer, or lost, 4 a wrong value.
 */
#define RLAY_IMPLEMENTATION
#include "rlay.h"
#include <signal.h>
#include <sys/prctl.h>

enum { STEPS, EPISODES, SESSIONS, BEGAN_NS, ALLOWED_NS, STOP, BORN, HOLD };
enum { EPISODE = 10000, INFORM = 1000 };
#define PATIENCE_NS 60000000000
#define SLICE_NS 100000000

static volatile uint64_t *ledger;

static int fail(rlay_channel *ch, const char *what) {
    fprintf(stderr, "peer: %s: %s\n", what, rlay_error_text(ch));
    rlay_close(ch);
    return 3;
}

static int schema_build(rlay_schema *s) {
    static const uint32_t four[1] = {4};
    rlay_schema_config config;
    memset(&config, 0, sizeof config);
    rlay_schema_begin(s, &config);
    rlay_schema_action(s);
    rlay_space_discrete(s, (int64_t)1 << 40, 0);
    rlay_schema_observation(s);
    rlay_space_box_all(s, RLAY_DTYPE_INT64, 1, four, 0.0, 1099511627776.0);
    return rlay_schema_end(s);
}

static int play_env(rlay_channel *ch) {
    int64_t k = 0, *out = NULL, *action = NULL;
    int result = RLAY_PENDING;
    while (!ledger[STOP]) {
        result = rlay_wait(ch, SLICE_NS);
        if (result == -RLAY_E_PEER_CLOSED) out = NULL;
        /* Between two sessions there may be no server, or one whose last session is not cleared away. */
        if (result == -RLAY_E_TIMEOUT || result == -RLAY_E_PEER_CLOSED || result == -RLAY_E_CHANNEL_NOT_FOUND ||
                result == -RLAY_E_CHANNEL_BUSY) continue;
        if (result < 0) break;
        if (!out) out = (int64_t *)rlay_data(ch, RLAY_RECORD_REPLY, "observation"),
                action = (int64_t *)rlay_data(ch, RLAY_RECORD_REQUEST, "action");
        k = ch->command == RLAY_COMMAND_RESET ? 0 : k + 1;
        out[0] = k, out[1] = ch->command == RLAY_COMMAND_RESET ? 0 : *action, out[2] = 0, out[3] = 0;
        if (ch->command == RLAY_COMMAND_STEP && k % INFORM == 0) {
            rlay_body_put_map(ch, 1);
            rlay_body_put_str(ch, "k");
            rlay_body_put_int(ch, k);
        }
        if (ch->command == RLAY_COMMAND_RESET) result = rlay_reply(ch);
        else result = rlay_reply_step(ch, (double)k, 0, k == EPISODE);
        if (result < 0 && result != -RLAY_E_PEER_CLOSED) break;
        if (result < 0) out = NULL;
    }
    if (!ledger[STOP]) return fail(ch, "env");
    rlay_close(ch);
    return 0;
}

/* One session; 0, or an exit code. */
static int play_session(rlay_channel *ch, uint64_t steps) {
    uint64_t seed = 0, k = 0;
    if (rlay_wait(ch, PATIENCE_NS) < 0) return fail(ch, "attach");
    if (rlay_reset(ch, &seed, PATIENCE_NS) < 0) return fail(ch, "reset");
    const int64_t *seen = (const int64_t *)rlay_data(ch, RLAY_RECORD_REPLY, "observation");
    int64_t *action = (int64_t *)rlay_data(ch, RLAY_RECORD_REQUEST, "action");
    for (uint64_t done = 1; done <= steps; done++) {
        rlay_value told;
        *action = (int64_t)done;
        if (rlay_step(ch, PATIENCE_NS) < 0) return fail(ch, "step");
        k++;
        int informs = ch->in_size > 0 && rlay_body_find(ch, "k", &told) == 1;
        if (rlay_reward(ch) != (double)k || seen[0] != (int64_t)k || seen[1] != (int64_t)done ||
                informs != (k % INFORM == 0)) {
            fprintf(stderr, "peer: step %llu came as %lld with action %lld\n", (unsigned long long)k,
                    (long long)seen[0], (long long)seen[1]);
            return 4;
        }
        if (done % INFORM == 0) ledger[STEPS] += INFORM;
        if (!rlay_truncated(ch)) continue;
        if (rlay_reset(ch, NULL, PATIENCE_NS) < 0) return fail(ch, "reset");
        k = 0, ledger[EPISODES]++;
    }
    ledger[SESSIONS]++;
    while (ledger[SESSIONS] >= ledger[HOLD] && !ledger[STOP]) rlay__sleep_ns(1000000);
    return 0;
}

int main(int argc, char **argv) {
    static rlay_schema schema;
    static rlay_channel ch;
    if (argc != 7) return fprintf(stderr, "usage: peer env|agent server|client CHANNEL LEDGER STEPS SESSIONS\n"), 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int role = strcmp(argv[1], "env") == 0 ? RLAY_ROLE_ENV : RLAY_ROLE_AGENT;
    int side = strcmp(argv[2], "server") == 0 ? RLAY_SIDE_SERVER : RLAY_SIDE_CLIENT;
    int file = open(argv[4], O_RDWR | O_CLOEXEC);
    ledger = (volatile uint64_t *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file < 0 || ledger == MAP_FAILED || schema_build(&schema) < 0) return 2;
    close(file);
    uint64_t steps = strtoull(argv[5], NULL, 10), sessions = strtoull(argv[6], NULL, 10);
    for (uint64_t i = 0; i < sessions; i++) {
        if (rlay_open(&ch, argv[3], side, role, role == RLAY_ROLE_ENV ? &schema : NULL) < 0) return fail(&ch, "open");
        if (role == RLAY_ROLE_ENV) return play_env(&ch);
        int code = play_session(&ch, steps);
        if (code) return code;
        rlay_close(&ch);
    }
    return 0;
}
