/* cartpole_env.c - CartPole-v1 with Gymnasium's physics, as an rlay environment. SPDX-License-Identifier: MIT
 *
 *   cartpole_env [--server | --client] [--channel NAME] [--once] [--episodes N] [--verbose]
 *
 *   --server      own the channel and serve one session after another (the default; ClientEnv mode)
 *   --once        end after the first session
 *   --client      attach to an agent's channel and ask it for decisions (ServerEnv mode)
 *   --episodes N  as a client: leave after N episodes; 0, the default: stay until the agent closes
 *   --channel     default: the environment variable RLAY_CHANNEL, else "cartpole"
 *   --verbose     one line per episode to stderr
 *
 * Exit codes: 0 a clean end, 2 usage, 3 no peer, or peer lost.
 */
#define RLAY_IMPLEMENTATION
#include "rlay.h"

typedef struct cartpole {
    double x, x_dot, theta, theta_dot;
    uint64_t random;
    uint32_t steps, episodes;
    double episode_return;
    int over;
} cartpole;

static const double THETA_THRESHOLD = 12 * 2 * 3.141592653589793 / 360;
static const double X_THRESHOLD = 2.4;

static double uniform(cartpole *env, double low, double high) {
    uint64_t z = env->random += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return low + (high - low) * ((double)(z >> 11) * 0x1p-53);
}

static void cartpole_reset(cartpole *env) {
    env->x = uniform(env, -0.05, 0.05);
    env->x_dot = uniform(env, -0.05, 0.05);
    env->theta = uniform(env, -0.05, 0.05);
    env->theta_dot = uniform(env, -0.05, 0.05);
    env->steps = 0;
    env->episode_return = 0.0;
    env->over = 0;
}

/* Gymnasium's Euler step, in its order of evaluation. Returns whether the episode terminated. */
static int cartpole_step(cartpole *env, int64_t action) {
    const double gravity = 9.8, masspole = 0.1, total_mass = 0.1 + 1.0, length = 0.5, tau = 0.02;
    const double polemass_length = masspole * length;
    double force = action == 1 ? 10.0 : -10.0;
    double costheta = cos(env->theta), sintheta = sin(env->theta);
    double temp = (force + polemass_length * (env->theta_dot * env->theta_dot) * sintheta) / total_mass;
    double thetaacc = (gravity * sintheta - costheta * temp) / (length * (4.0 / 3.0 - masspole * (costheta * costheta) / total_mass));
    double xacc = temp - polemass_length * thetaacc * costheta / total_mass;
    env->x = env->x + tau * env->x_dot;
    env->x_dot = env->x_dot + tau * xacc;
    env->theta = env->theta + tau * env->theta_dot;
    env->theta_dot = env->theta_dot + tau * thetaacc;
    env->steps++;
    return env->x < -X_THRESHOLD || env->x > X_THRESHOLD || env->theta < -THETA_THRESHOLD ||
            env->theta > THETA_THRESHOLD;
}

static int schema_build(rlay_schema *s) {
    static const uint32_t four[1] = {4};
    static const double threshold = 475.0;
    const float high[4] = {(float)(X_THRESHOLD * 2), INFINITY, (float)(THETA_THRESHOLD * 2), INFINITY};
    const float low[4] = {-high[0], -INFINITY, -high[2], -INFINITY};
    rlay_schema_config config;
    memset(&config, 0, sizeof config);
    config.env_id = "CartPole-v1";
    config.max_episode_steps = 500;
    config.reward_threshold = &threshold;
    config.render_fps = 50;
    rlay_schema_begin(s, &config);
    rlay_schema_action(s);
    rlay_space_discrete(s, 2, 0);
    rlay_schema_observation(s);
    rlay_space_box(s, RLAY_DTYPE_FLOAT32, 1, four, low, high);
    return rlay_schema_end(s);
}

static void observe(const rlay_channel *ch, const cartpole *env) {
    const float observation[4] = {(float)env->x, (float)env->x_dot, (float)env->theta, (float)env->theta_dot};
    memcpy(rlay_data(ch, RLAY_RECORD_REPLY, "observation"), observation, sizeof observation);
}

static int answer_reset(rlay_channel *ch, cartpole *env) {
    uint64_t seed;
    if (rlay_seed(ch, &seed)) env->random = seed;
    cartpole_reset(env);
    observe(ch, env);
    return rlay_reply(ch);
}

static int answer_step(rlay_channel *ch, cartpole *env, int verbose) {
    int64_t action;
    memcpy(&action, rlay_data(ch, RLAY_RECORD_REQUEST, "action"), sizeof action);
    if (action != 0 && action != 1) return rlay_reply_error(ch, "ValueError", "the action must be 0 or 1");
    int terminated = cartpole_step(env, action), truncated = env->steps >= 500;
    double reward = env->over ? 0.0 : 1.0;
    env->episode_return += reward;
    if ((terminated || truncated) && !env->over) {
        env->over = 1;
        env->episodes++;
        if (verbose) fprintf(stderr, "episode %u: return %g\n", env->episodes, env->episode_return);
    }
    observe(ch, env);
    return rlay_reply_step(ch, reward, terminated, truncated);
}

static int usage(void) {
    fprintf(stderr, "usage: cartpole_env [--server | --client] [--channel NAME] [--once] [--episodes N] "
            "[--verbose]\n");
    return 2;
}

int main(int argc, char **argv) {
    static rlay_schema schema;
    static rlay_channel ch;
    static cartpole env;
    const char *name = getenv("RLAY_CHANNEL");
    int side = RLAY_SIDE_SERVER, once = 0, verbose = 0, sessions = 0;
    uint32_t episodes = 0;
    if (!name || !*name) name = "cartpole";
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--server") == 0) side = RLAY_SIDE_SERVER;
        else if (strcmp(argv[i], "--client") == 0) side = RLAY_SIDE_CLIENT;
        else if (strcmp(argv[i], "--once") == 0) once = 1;
        else if (strcmp(argv[i], "--verbose") == 0) verbose = 1;
        else if (strcmp(argv[i], "--channel") == 0 && i + 1 < argc) name = argv[++i];
        else if (strcmp(argv[i], "--episodes") == 0 && i + 1 < argc) episodes = (uint32_t)strtoul(argv[++i], NULL,
                10);
        else return usage();
    }
    int result = schema_build(&schema);
    if (result < 0) fprintf(stderr, "cartpole_env: %s\n", schema.error);
    if (result == RLAY_OK && (result = rlay_open(&ch, name, side, RLAY_ROLE_ENV, &schema)) < 0) fprintf(stderr,
            "cartpole_env: %s\n", rlay_error_text(&ch));
    if (result < 0) return 3;
    env.random = ch.random; /* entropy, until an agent gives a seed */

    /* A server waits as long as it takes; a client gives an agent 10 s to appear, then waits for its decisions. */
    while (side == RLAY_SIDE_SERVER || episodes == 0 || env.episodes < episodes) {
        result = rlay_wait(&ch, side == RLAY_SIDE_CLIENT && sessions == 0 ? 10000000000 : RLAY_FOREVER);
        if (result == RLAY_READY) {
            sessions = 1;
            result = ch.command == RLAY_COMMAND_RESET ? answer_reset(&ch, &env) : answer_step(&ch, &env, verbose);
        }
        if (result >= 0) continue;
        if (result != -RLAY_E_PEER_CLOSED) fprintf(stderr, "cartpole_env: %s\n", rlay_error_text(&ch));
        if (side == RLAY_SIDE_CLIENT || once || (result != -RLAY_E_PEER_CLOSED && result != -RLAY_E_PEER_LOST &&
                result != -RLAY_E_REMOTE_PROTOCOL)) break;
    }
    rlay_close(&ch);
    return result >= 0 || result == -RLAY_E_PEER_CLOSED ? 0 : 3;
}
