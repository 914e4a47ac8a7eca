/* peer.c - the C peers of the chaos run: an environment or an agent of a known world. SPDX-License-Identifier: MIT
 *
 *   peer env|agent server|client CHANNEL LEDGER SALT SEED TIMEOUT ATTACH [FAULT]      (seconds as decimals)
 *
 * Plays until word STOP of the ledger is set, or SIGINT, whatever happens to its peer; see world.py for the values and
 * ledger.py for what it tells. FAULT "shifted": the environment answers with the observation before.
 * Exit codes: 0 told to stop or interrupted, 2 usage, 3 the channel cannot be opened again and again.
 */
#define RLAY_IMPLEMENTATION
#include "rlay.h"
#include <inttypes.h>
#include <signal.h>
#include <sys/prctl.h>

enum { STEPS, EPISODES, SESSIONS, BEGAN_NS, ALLOWED_NS, STOP, BORN };
enum { ACTION = 8, OBSERVATION = 64, LONGEST_EPISODE = 200, PATIENCE = 3 };
#define GOLDEN 0x9E3779B97F4A7C15u
#define SLOW_STEP_NS 30000000u

static volatile uint64_t *ledger;
static int lines;
static volatile sig_atomic_t interrupted;
static int64_t timeout_ns, attach_ns;

/* ---- what the monitor hears */

static void on_interrupt(int number) { (void)number, interrupted = 1; }

static int stopping(void) { return interrupted || ledger[STOP]; }

static void tell(const char *kind, const char *text) {
    char line[1024];
    int size = snprintf(line, sizeof line, "%s %.1000s", kind, text);
    if (size > (int)sizeof line - 2) size = (int)sizeof line - 2;
    for (int i = 0; i < size; i++) if (line[i] == '\n') line[i] = '|';
    line[size] = '\n';
    if (write(lines, line, (size_t)size + 1) < 0) _exit(4);
}

static void tell_error(const rlay_channel *ch, int result, const char *doing) {
    char text[900];
    snprintf(text, sizeof text, "%d %s: %s", -result, doing, rlay_error_text(ch));
    tell("error", text);
}

static void begin(int64_t allowed_ns) {
    ledger[ALLOWED_NS] = (uint64_t)allowed_ns;
    ledger[BEGAN_NS] = rlay__now_ns();
}

static int end(int result) {
    ledger[BEGAN_NS] = 0;
    return result;
}

/* ---- the world */

typedef struct model {
    uint64_t salt, seed, k, state;
    int64_t observation[OBSERVATION];
    double reward;
    int terminated, truncated, raises, slow, informs;
} model;

static uint64_t mix(uint64_t x) {
    x += GOLDEN;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static void look(model *m) {
    uint64_t h = m->state;
    for (uint64_t i = 0; i < OBSERVATION; i++) m->observation[i] = (int64_t)mix(h + i * GOLDEN);
    m->observation[0] = (int64_t)m->k, m->observation[1] = (int64_t)m->seed, m->observation[2] = (int64_t)m->salt;
    m->reward = (double)(h >> 11);
    m->terminated = h % 61 == 0, m->truncated = m->k >= LONGEST_EPISODE;
    m->raises = h % 211 == 1, m->slow = h % 499 == 2, m->informs = h % 7 == 0;
}

static void model_begin(model *m, uint64_t salt, uint64_t seed) {
    m->salt = salt, m->seed = seed, m->k = 0, m->state = mix(salt ^ mix(seed));
    look(m);
}

static void model_action(const model *m, int64_t *action) {
    uint64_t base = mix(m->state ^ m->k);
    for (uint64_t i = 0; i < ACTION; i++) action[i] = (int64_t)mix(base + i * GOLDEN);
}

static void model_step(model *m) {
    int64_t action[ACTION];
    model_action(m, action);
    m->k++, m->state = mix(m->state ^ (uint64_t)action[0]);
    look(m);
}

/* ---- environment */

static int schema_build(rlay_schema *s) {
    static const uint32_t acts[1] = {ACTION}, sees[1] = {OBSERVATION};
    static int64_t low[OBSERVATION], high[OBSERVATION];
    rlay_schema_config config;
    for (int i = 0; i < OBSERVATION; i++) low[i] = INT64_MIN, high[i] = INT64_MAX;
    memset(&config, 0, sizeof config);
    rlay_schema_begin(s, &config);
    rlay_schema_action(s);
    rlay_space_box(s, RLAY_DTYPE_INT64, 1, acts, low, high);
    rlay_schema_observation(s);
    rlay_space_box(s, RLAY_DTYPE_INT64, 1, sees, low, high);
    return rlay_schema_end(s);
}

static int answer(rlay_channel *ch, model *m, uint64_t salt, int shifted) {
    int64_t expected[ACTION], before[OBSERVATION];
    char text[64];
    void *out = rlay_data(ch, RLAY_RECORD_REPLY, "observation");
    uint64_t seed;
    if (ch->command == RLAY_COMMAND_RESET) {
        if (!rlay_seed(ch, &seed)) tell("wrong", "a reset came without a seed"), seed = 0;
        model_begin(m, salt, seed);
        memcpy(out, m->observation, sizeof m->observation);
        return rlay_reply(ch);
    }
    model_action(m, expected);
    if (memcmp(rlay_data(ch, RLAY_RECORD_REQUEST, "action"), expected, sizeof expected) != 0) {
        tell("wrong", "a step came with another action");
    }
    memcpy(before, m->observation, sizeof before);
    model_step(m);
    if (m->slow) rlay__sleep_ns(SLOW_STEP_NS);
    if (m->raises) {
        snprintf(text, sizeof text, "step %" PRIu64 " fails", m->k);
        return rlay_reply_error(ch, "ValueError", text);
    }
    memcpy(out, shifted ? before : m->observation, sizeof before);
    if (m->informs) {
        rlay_body_put_map(ch, 1);
        rlay_body_put_str(ch, "k");
        rlay_body_put_uint(ch, m->k);
    }
    return rlay_reply_step(ch, m->reward, m->terminated, m->truncated);
}

static int play_env(rlay_channel *ch, uint64_t salt, int shifted) {
    static model m;
    while (!stopping()) {
        begin(200000000);
        int result = end(rlay_wait(ch, 200000000));
        if (result == RLAY_READY) result = answer(ch, &m, salt, shifted);
        if (result < 0 && result != -RLAY_E_TIMEOUT) tell_error(ch, result, "serving");
        /* The channel has closed itself, such as one whose file could not be replaced: it is to be opened again. */
        if (result == -RLAY_E_LOCAL_PROTOCOL) return result;
        if (result == -RLAY_E_PEER_CLOSED || result == -RLAY_E_PEER_LOST) ledger[SESSIONS]++;
    }
    return 0;
}

/* ---- agent */

static void check(const rlay_channel *ch, const model *m) {
    const int64_t *got = (const int64_t *)rlay_data(ch, RLAY_RECORD_REPLY, "observation");
    int is_step = ch->command == RLAY_COMMAND_STEP;
    char text[300];
    rlay_value k;
    int good = memcmp(got, m->observation, sizeof m->observation) == 0;
    if (is_step) {
        good = good && rlay_reward(ch) == m->reward && rlay_terminated(ch) == m->terminated &&
                rlay_truncated(ch) == m->truncated && !m->raises;
        int has = ch->in_size > 0 ? rlay_body_find(ch, "k", &k) : 0;
        good = good && has == m->informs && (!has || (uint64_t)k.as.i == m->k);
    }
    if (good) return;
    snprintf(text, sizeof text, "step %" PRIu64 " of seed %" PRIu64 ", channel %" PRIu64 ": it says step %" PRId64
            ", seed %" PRId64 ", channel %" PRId64, m->k, m->seed, m->salt, got[0], got[1], got[2]);
    tell("wrong", text);
}

/* Wait for the reply to what was sent; after PATIENCE time-outs the result is the last one. */
static int settle(rlay_channel *ch) {
    int result = -RLAY_E_TIMEOUT;
    for (int i = 0; i < PATIENCE && result == -RLAY_E_TIMEOUT && !stopping(); i++) {
        begin(timeout_ns);
        result = end(rlay_wait(ch, timeout_ns));
    }
    return result;
}

/* One episode; 0 or a negative error code. */
static int play_episode(rlay_channel *ch, model *m, uint64_t salt, uint64_t seed) {
    model_begin(m, salt, seed);
    begin(timeout_ns);
    int result = end(rlay_reset(ch, &seed, timeout_ns));
    for (;;) {
        if (result == -RLAY_E_TIMEOUT) tell_error(ch, result, "playing"), result = settle(ch);
        if (result == -RLAY_E_REMOTE && ch->command == RLAY_COMMAND_STEP && m->raises) return 0;
        if (result < 0) return result;
        check(ch, m);
        ledger[ch->command == RLAY_COMMAND_STEP ? STEPS : EPISODES]++;
        if (stopping() || (ch->command == RLAY_COMMAND_STEP && (m->terminated || m->truncated))) return 0;
        if (m->state % 50 == 0) rlay__sleep_ns(m->state % 4000000);
        model_action(m, (int64_t *)rlay_data(ch, RLAY_RECORD_REQUEST, "action"));
        model_step(m);
        begin(timeout_ns);
        result = end(rlay_step(ch, timeout_ns));
    }
}

static int play_agent(rlay_channel *ch, uint64_t salt, uint64_t seed) {
    static model m;
    while (!stopping()) {
        begin(attach_ns);
        int result = end(rlay_wait(ch, attach_ns));
        if (result >= 0) ledger[SESSIONS]++;
        while (result >= 0 && !stopping()) result = play_episode(ch, &m, salt, seed = mix(seed) >> 2);
        if (result < 0) tell_error(ch, result, "playing");
        /* Given up: leave, and attach anew. Or it has closed itself. */
        if (result == -RLAY_E_TIMEOUT || result == -RLAY_E_LOCAL_PROTOCOL) return result;
    }
    return 0;
}

int main(int argc, char **argv) {
    static rlay_schema schema;
    static rlay_channel ch;
    char path[1024];
    struct sigaction action;
    if (argc < 9) return fprintf(stderr, "usage: peer env|agent server|client CHANNEL LEDGER SALT SEED TIMEOUT ATTACH "
            "[FAULT]\n"), 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    sigaction(SIGINT, &action, NULL);
    int role = strcmp(argv[1], "env") == 0 ? RLAY_ROLE_ENV : RLAY_ROLE_AGENT;
    int side = strcmp(argv[2], "server") == 0 ? RLAY_SIDE_SERVER : RLAY_SIDE_CLIENT;
    int file = open(argv[4], O_RDWR | O_CLOEXEC);
    snprintf(path, sizeof path, "%.1000s", argv[4]);
    char *suffix = strrchr(path, '.');
    if (file < 0 || !suffix || suffix - path > 1000) return 2;
    strcpy(suffix, ".lines");
    lines = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    ledger = (volatile uint64_t *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (lines < 0 || ledger == MAP_FAILED) return 2;
    ledger[BORN] = (uint64_t)getpid();
    uint64_t salt = strtoull(argv[5], NULL, 10), seed = strtoull(argv[6], NULL, 10);
    timeout_ns = (int64_t)(atof(argv[7]) * 1e9), attach_ns = (int64_t)(atof(argv[8]) * 1e9);
    if (role == RLAY_ROLE_ENV && schema_build(&schema) < 0) return fprintf(stderr, "%s\n", schema.error), 2;
    while (!stopping()) {
        int result = rlay_open(&ch, argv[3], side, role, role == RLAY_ROLE_ENV ? &schema : NULL);
        if (result < 0) {
            tell_error(&ch, result, "opening");
            rlay__sleep_ns(10000000);
            continue;
        }
        seed = mix(seed);
        if (role == RLAY_ROLE_ENV) play_env(&ch, salt, argc > 9 && strcmp(argv[9], "shifted") == 0);
        else play_agent(&ch, salt, seed);
        begin(RLAY_CLOSE_NS);
        rlay_close(&ch);
        ledger[BEGAN_NS] = 0;
    }
    return 0;
}
