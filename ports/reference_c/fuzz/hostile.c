/* hostile.c - a third thread writes into the mapped files while both peers step. SPDX-License-Identifier: MIT
 *
 *   hostile SECONDS [SEED]
 *
 * Environment and agent are victims at once, in both modes, blocking and polling by turns. Whatever their bytes become,
 * each call must end, with a value or an error of the table; the sanitizers see to the rest. The first line of the
 * output has the number of changes; the last says how many calls ended with what.
 */
#include "shared.h"

static uint64_t chance_state;

static uint64_t chance(uint64_t below) {
    chance_state ^= chance_state << 13, chance_state ^= chance_state >> 7, chance_state ^= chance_state << 17;
    return chance_state % below;
}

/* A place in a mapping: anywhere, or where the decisions are made. */
static size_t place(size_t size) {
    /* Of the data file: bodies of the same size make records of the same size. */
    size_t request = (size - RLAY_TAIL_SIZE) / 2;
    if (chance(4) == 0) return (size_t)chance(size);
    if (size == RLAY_CONTROL_SIZE) return chance(2) ? (size_t)chance(RLAY_OFF_CLAIM + 4) : RLAY_OFF_FIELD_TABLE + (size_t)chance(16 * RLAY_ROW_SIZE);
    return (chance(3) ? request : 0) + (size_t)(chance(4) ? chance(320) : chance(RLAY_PREFIX_SIZE));
}

static void change(uint8_t *at, size_t left) {
    static const uint8_t tags[] = {0xdb, 0xdf, 0xdd, 0xc6, 0xd9, 0xff, 0x80, 0x00, 0x7f, 0x01};
    static const uint32_t numbers[] = {0, 1, 2, 16, 0xffff, 65536, 65537, 0x7fffffff, 0xffffffff};
    uint32_t number = numbers[chance(sizeof numbers / sizeof *numbers)];
    uint64_t kind = chance(4);
    volatile uint8_t *to = at;
    if (kind == 0) *to = (uint8_t)(*to ^ 1 << chance(8));
    else if (kind == 1) *to = (uint8_t)chance(256);
    else if (kind == 2) *to = tags[chance(sizeof tags)];
    else for (size_t i = 0; i < 4 && i < left; i++) to[i] = (uint8_t)(number >> (8 * i));
}

static long changes;

/* Bursts of changes, with rests in which a session can begin. */
static void *mutator_play(void *of) {
    atomic_int *stop = of;
    while (!atomic_load(stop)) {
        pthread_mutex_lock(&shared_mutex); /* nothing is unmapped meanwhile */
        for (int slot = 0; slot < SHARED_MAX; slot++) {
            size_t size = shared_maps[slot].users > 0 ? shared_maps[slot].size : 0;
            int is_control = size == RLAY_CONTROL_SIZE;
            if (size == 0 || (is_control && chance(40) > 0)) continue; /* few sessions survive a change there */
            for (uint64_t burst = is_control ? 1 : 1 + chance(8); burst > 0; burst--, changes++) {
                size_t at = place(size);
                change(shared_maps[slot].at + at, size - at);
            }
        }
        pthread_mutex_unlock(&shared_mutex);
        if (chance(3) == 0) rlay__sleep_ns(chance(200000));
    }
    return NULL;
}

static peer env, agent;

static void play(int env_side, int polls, uint64_t duration_ns) {
    atomic_int stop = 0;
    pthread_t threads[3];
    env.side = env_side, agent.side = 3 - env_side;
    env.polls = polls & 1, agent.polls = polls >> 1;
    env.stop = agent.stop = &stop;
    pthread_create(&threads[0], NULL, env_play, &env);
    pthread_create(&threads[1], NULL, agent_play, &agent);
    pthread_create(&threads[2], NULL, mutator_play, &stop);
    rlay__sleep_ns(duration_ns);
    atomic_store(&stop, 1);
    alarm(60); /* no call lasts so long: a hang ends the process by SIGALRM */
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    alarm(0);
}

/* Whether the victims did something and were hit: on a busy machine that takes longer than it was given. */
static int happened(void) {
    long hits = env.codes[RLAY_E_REMOTE_PROTOCOL] + agent.codes[RLAY_E_REMOTE_PROTOCOL];
    return changes > 100 && env.codes[0] > 100 && agent.codes[0] > 100 && hits > 5;
}

static void report(const char *who, const peer *p) {
    printf("%s: %ld calls, %ld values", who, p->calls, p->codes[0]);
    for (int code = 1; code <= RLAY_E_TIMEOUT; code++)
        if (p->codes[code]) printf(", %ld of error %d", p->codes[code], code);
    printf("\n");
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 2.0;
    chance_state = argc > 2 ? strtoull(argv[2], NULL, 10) | 1 : rlay__entropy() | 1;
    env.name = agent.name = "hostile";
    env.role = RLAY_ROLE_ENV, agent.role = RLAY_ROLE_AGENT;
    env.strategy = agent.strategy = -1;
    agent.timeout_ns = 50000000;
    agent.sessions = 1L << 60;
    env.restarts = 1;
    fuzz_schema(&peer_schema, 0, 0, 0);
    for (int i = 0; i < 8 || (i < 400 && !happened()); i++) play(i & 1 ? RLAY_SIDE_CLIENT : RLAY_SIDE_SERVER, 3 - (i >> 1 & 3), (uint64_t)(seconds / 8 * 1e9));
    printf("%ld changes\n", changes);
    report("environment", &env);
    report("agent", &agent);
    if (!happened()) fuzz_fail("nothing happened", changes);
    return 0;
}
