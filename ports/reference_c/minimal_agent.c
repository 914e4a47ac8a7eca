/* minimal_agent.c - the smallest agent that balances a CartPole. SPDX-License-Identifier: MIT
 *
 *   minimal_agent [--server] [--channel NAME] [--episodes N] [--seed N]
 *
 * Attaches to a CartPole environment, or with --server owns the channel and waits for one; plays N episodes (5) with
 * a linear policy and prints their returns. Exit codes: 0 ok, 2 usage, 3 no environment, or lost.
 */
#define RLAY_IMPLEMENTATION
#include "rlay.h"

#define TIMEOUT_NS 10000000000

static int fail(rlay_channel *ch) {
    fprintf(stderr, "minimal_agent: %s\n", rlay_error_text(ch));
    rlay_close(ch);
    return 3;
}

int main(int argc, char **argv) {
    static rlay_channel ch;
    const char *name = getenv("RLAY_CHANNEL");
    int side = RLAY_SIDE_CLIENT;
    unsigned long episodes = 5;
    uint64_t seed = 0;
    if (!name || !*name) name = "cartpole";
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--server") == 0) side = RLAY_SIDE_SERVER;
        else if (strcmp(argv[i], "--channel") == 0 && i + 1 < argc) name = argv[++i];
        else if (strcmp(argv[i], "--episodes") == 0 && i + 1 < argc) episodes = strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) seed = strtoull(argv[++i], NULL, 10);
        else return fprintf(stderr, "usage: minimal_agent [--server] [--channel NAME] [--episodes N] [--seed "
                "N]\n"), 2;
    }
    if (rlay_open(&ch, name, side, RLAY_ROLE_AGENT, NULL) < 0 || rlay_wait(&ch, TIMEOUT_NS) < 0) return fail(&ch);

    /* The fields are found by name and checked once; the pointers are good for this session. */
    const rlay_field *observed = rlay_field_find(&ch, RLAY_RECORD_REPLY, "observation");
    const rlay_field *acted = rlay_field_find(&ch, RLAY_RECORD_REQUEST, "action");
    if (!observed || observed->dtype != RLAY_DTYPE_FLOAT32 || rlay_field_size(observed) != 4 * sizeof(float) ||
            !acted || acted->dtype != RLAY_DTYPE_INT64 || rlay_field_size(acted) != sizeof(int64_t)) {
        fprintf(stderr, "minimal_agent: channel %s is not a CartPole\n", name);
        rlay_close(&ch);
        return 3;
    }
    const float *observation = (const float *)rlay_field_data(&ch, observed);
    int64_t *action = (int64_t *)rlay_field_data(&ch, acted);

    for (unsigned long episode = 0; episode < episodes; episode++, seed++) {
        double episode_return = 0.0;
        if (rlay_reset(&ch, &seed, TIMEOUT_NS) < 0) return fail(&ch);
        do {
            double push = 0.1 * observation[0] + 0.3 * observation[1] + 3.0 * observation[2] + 1.0 * observation[3];
            *action = push > 0.0;
            if (rlay_step(&ch, TIMEOUT_NS) < 0) return fail(&ch);
            episode_return += rlay_reward(&ch);
        } while (!rlay_terminated(&ch) && !rlay_truncated(&ch));
        printf("episode %lu: return %g\n", episode + 1, episode_return);
    }
    rlay_close(&ch);
    return 0;
}
