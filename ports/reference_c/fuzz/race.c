/* race.c - both peers as threads, for the thread sanitizer. SPDX-License-Identifier: MIT
 *
 *   race [SESSIONS]
 *
 * Both modes, all wait strategies, blocking and polling: handshake, steps with bodies and errors, close. A race is
 * reported by the sanitizer; every session has to come to its end.
 */
#include "shared.h"

static peer env, agent;

/* All steps of all sessions; 0 when a session failed. */
static long play(int env_side, int strategy, int polls, long sessions) {
    atomic_int stop = 0;
    pthread_t threads[2];
    memset(&env, 0, sizeof env), memset(&agent, 0, sizeof agent);
    env.name = agent.name = "race";
    env.side = env_side, agent.side = 3 - env_side;
    env.role = RLAY_ROLE_ENV, agent.role = RLAY_ROLE_AGENT;
    env.strategy = agent.strategy = strategy;
    env.polls = agent.polls = polls;
    agent.timeout_ns = 60000000000; /* the sanitizer is slow, and the machine may be busy */
    agent.sessions = sessions;
    env.stop = agent.stop = &stop;
    pthread_create(&threads[0], NULL, env_play, &env);
    pthread_create(&threads[1], NULL, agent_play, &agent);
    pthread_join(threads[1], NULL);
    atomic_store(&stop, 1);
    pthread_join(threads[0], NULL);
    return agent.codes[0];
}

int main(int argc, char **argv) {
    static const char *const names[] = {"adaptive", "spin", "backoff", "block"};
    long sessions = argc > 1 ? atol(argv[1]) : 3;
    fuzz_schema(&peer_schema, 0, 0, 0);
    for (int side = RLAY_SIDE_SERVER; side <= RLAY_SIDE_CLIENT; side++)
        for (int strategy = RLAY_WAIT_ADAPTIVE; strategy <= RLAY_WAIT_BLOCK + 1; strategy++) {
            int polls = strategy > RLAY_WAIT_BLOCK;
            long values = play(side, polls ? RLAY_WAIT_ADAPTIVE : strategy, polls, sessions);
            printf("environment %s, %s: %ld values\n", side == RLAY_SIDE_SERVER ? "server" : "client", polls ? "polling" : names[strategy], values);
            if (values < sessions * PEER_STEPS) return fprintf(stderr, "sessions were cut short: %s\n", rlay_error_text(&agent.ch)), 1;
        }
    printf("no session failed\n");
    return 0;
}
