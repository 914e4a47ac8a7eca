/* pending.c - an agent whose requests time out and stay pending while the environment is stopped.
 *
 *   pending CHANNEL PID_OF_THE_ENVIRONMENT */
#define RLAY_IMPLEMENTATION
#include "rlay.h"
#include <signal.h>

#define CHECK(fact)                                                                          \
    do {                                                                                     \
        if (!(fact)) return fprintf(stderr, "%s (%s)\n", #fact, rlay_error_text(&ch)), 1;    \
    } while (0)

int main(int argc, char **argv) {
    static rlay_channel ch;
    const uint64_t seed = 1;
    pid_t env = argc == 3 ? (pid_t)atol(argv[2]) : 0;
    CHECK(env > 0);
    CHECK(rlay_open(&ch, argv[1], RLAY_SIDE_CLIENT, RLAY_ROLE_AGENT, NULL) == RLAY_OK);
    CHECK(rlay_wait(&ch, 10000000000) == RLAY_READY);
    CHECK(rlay_step(&ch, RLAY_FOREVER) == -RLAY_E_LOCAL_PROTOCOL);
    CHECK(rlay_render(&ch, RLAY_FOREVER) == -RLAY_E_LOCAL_PROTOCOL);
    CHECK(rlay_reset(&ch, &seed, RLAY_FOREVER) == RLAY_READY);
    kill(env, SIGSTOP);
    while (rlay_step(&ch, 50000000) == RLAY_READY) continue; /* until the stop has taken effect */
    uint64_t pending = ch.seq;
    CHECK(rlay_wait(&ch, 5000000) == -RLAY_E_TIMEOUT);
    CHECK(rlay_poll(&ch) == RLAY_PENDING);
    CHECK(rlay_step(&ch, 5000000) == -RLAY_E_LOCAL_PROTOCOL);
    CHECK(rlay_reset(&ch, NULL, 5000000) == -RLAY_E_LOCAL_PROTOCOL);
    kill(env, SIGCONT);
    CHECK(rlay_wait(&ch, 10000000000) == RLAY_READY);
    CHECK(ch.seq == pending);
    CHECK(rlay_step(&ch, RLAY_FOREVER) == RLAY_READY);
    CHECK(ch.seq == pending + 1);
    rlay_close(&ch);
    CHECK(rlay_poll(&ch) == -RLAY_E_LOCAL_PROTOCOL);
    rlay_close(&ch);
    return 0;
}
