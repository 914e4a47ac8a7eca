/* cartpole_env.c - CartPole-v1 with Gymnasium's physics, as an rlay environment. SPDX-License-Identifier: MIT
 *
 *   cartpole_env [--server | --client] [--channel NAME] [--once] [--episodes N] [--verbose]
 *   cartpole_env --lanes K [--autoreset MODE] [--channel NAME] [--once] [--verbose]
 *
 *   --server      own the channel and serve one session after another (the default; ClientEnv mode)
 *   --once        end after the first session
 *   --client      attach to an agent's channel and ask it for decisions (ServerEnv mode)
 *   --episodes N  as a client: leave after N episodes; 0, the default: stay until the agent closes
 *   --channel     default: the environment variable RLAY_CHANNEL, else "cartpole"
 *   --lanes K     as a server: K CartPoles behind the channel, 1 to 1024, for rlay.VectorEnv; 0, the default: one
 *                 without a leading dimension
 *   --autoreset MODE  of lanes: disabled, next_step (the default) or same_step, as Gymnasium's vectors do it
 *   --verbose     one line per episode to stderr
 *
 * Exit codes: 0 a clean end, 2 usage, 3 no peer, or peer lost.
 */
#define RLAY_IMPLEMENTATION
#include "rlay.h"

#define LANES_MAX 1024
enum { DISABLED, NEXT_STEP, SAME_STEP };
static const char *const AUTORESET[] = {"disabled", "next_step", "same_step"};

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

static int schema_build(rlay_schema *s, uint32_t lanes, int autoreset) {
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
    config.lanes = lanes;
    config.autoreset = lanes ? AUTORESET[autoreset] : NULL;
    rlay_schema_begin(s, &config);
    rlay_schema_action(s);
    rlay_space_discrete(s, 2, 0);
    rlay_schema_observation(s);
    rlay_space_box(s, RLAY_DTYPE_FLOAT32, 1, four, low, high);
    return rlay_schema_end(s);
}

static void observe(void *at, const cartpole *env) {
    const float observation[4] = {(float)env->x, (float)env->x_dot, (float)env->theta, (float)env->theta_dot};
    memcpy(at, observation, sizeof observation);
}

/* Count an episode that has just ended. */
static void episode_end(const rlay_channel *ch, cartpole *env, uint32_t lane, int verbose) {
    env->over = 1;
    env->episodes++;
    if (verbose && ch->lanes) fprintf(stderr, "lane %u, ", lane);
    if (verbose) fprintf(stderr, "episode %u: return %g\n", env->episodes, env->episode_return);
}

static int answer_reset(rlay_channel *ch, cartpole *env) {
    uint64_t seed;
    if (rlay_seed(ch, &seed)) env->random = seed;
    cartpole_reset(env);
    observe(rlay_data(ch, RLAY_RECORD_REPLY, "observation"), env);
    return rlay_reply(ch);
}

static int answer_step(rlay_channel *ch, cartpole *env, int verbose) {
    int64_t action;
    memcpy(&action, rlay_data(ch, RLAY_RECORD_REQUEST, "action"), sizeof action);
    if (action != 0 && action != 1) return rlay_reply_error(ch, "ValueError", "the action must be 0 or 1");
    int terminated = cartpole_step(env, action), truncated = env->steps >= 500;
    double reward = env->over ? 0.0 : 1.0;
    env->episode_return += reward;
    if ((terminated || truncated) && !env->over) episode_end(ch, env, 0, verbose);
    observe(rlay_data(ch, RLAY_RECORD_REPLY, "observation"), env);
    return rlay_reply_step(ch, reward, terminated, truncated);
}

/* ---- lanes: what the port has cleared before a STEP (reward, flags, final_observation#present) stays so in a lane
 * that does not act, and in one that next_step resets. */

static int answer_lanes_reset(rlay_channel *ch, cartpole *envs) {
    float *observation = (float *)rlay_data(ch, RLAY_RECORD_REPLY, "observation");
    for (uint32_t i = 0; i < ch->lanes; i++) {
        uint64_t seed;
        if (!rlay_lane_acts(ch, i)) continue;
        if (rlay_lane_seed(ch, i, &seed)) envs[i].random = seed;
        cartpole_reset(&envs[i]);
        observe(observation + 4 * i, &envs[i]);
    }
    return rlay_reply_lanes(ch);
}

/* The records' arrays [lanes], for this session. */
typedef struct arrays {
    const int64_t *action;
    double *reward;
    uint8_t *terminated, *truncated, *final_present;
    float *observation, *final_observation;
} arrays;

static arrays arrays_find(const rlay_channel *ch) {
    arrays a;
    a.action = (const int64_t *)rlay_data(ch, RLAY_RECORD_REQUEST, "action");
    a.reward = (double *)rlay_data(ch, RLAY_RECORD_REPLY, "reward");
    a.terminated = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "terminated");
    a.truncated = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "truncated");
    a.observation = (float *)rlay_data(ch, RLAY_RECORD_REPLY, "observation");
    a.final_present = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "final_observation#present"); /* NULL, unless */
    a.final_observation = (float *)rlay_data(ch, RLAY_RECORD_REPLY, "final_observation");       /* same_step */
    return a;
}

static void lane_step(const rlay_channel *ch, const arrays *a, cartpole *env, uint32_t i, int verbose) {
    if (env->over) { /* next_step: this step resets, whatever the action */
        cartpole_reset(env);
    } else {
        a->terminated[i] = (uint8_t)cartpole_step(env, a->action[i]);
        a->truncated[i] = env->steps >= 500;
        a->reward[i] = 1.0;
        env->episode_return += 1.0;
        if (a->terminated[i] || a->truncated[i]) episode_end(ch, env, i, verbose);
        if (env->over && a->final_present) { /* same_step: this step resets too */
            observe(a->final_observation + 4 * i, env);
            a->final_present[i] = 1;
            cartpole_reset(env);
        }
    }
    observe(a->observation + 4 * i, env);
}

static int answer_lanes_step(rlay_channel *ch, cartpole *envs, int autoreset, int verbose) {
    const arrays a = arrays_find(ch);
    for (uint32_t i = 0; i < ch->lanes; i++) { /* before anything moves */
        if (!rlay_lane_acts(ch, i)) continue;
        if (envs[i].over && autoreset == DISABLED) return rlay_reply_error(ch, "LocalProtocolError",
                "the episode of a lane is over: reset it first");
        if (!envs[i].over && a.action[i] != 0 && a.action[i] != 1) return rlay_reply_error(ch, "ValueError",
                "the action must be 0 or 1");
    }
    for (uint32_t i = 0; i < ch->lanes; i++)
        if (rlay_lane_acts(ch, i)) lane_step(ch, &a, &envs[i], i, verbose);
    return rlay_reply_lanes(ch);
}

typedef struct options {
    const char *name;
    int side, once, verbose, autoreset;
    uint32_t episodes, lanes;
} options;

static int answer(rlay_channel *ch, cartpole *envs, const options *o) {
    int reset = ch->command == RLAY_COMMAND_RESET;
    if (ch->lanes) return reset ? answer_lanes_reset(ch, envs) : answer_lanes_step(ch, envs, o->autoreset,
            o->verbose);
    return reset ? answer_reset(ch, envs) : answer_step(ch, envs, o->verbose);
}

static int usage(void) {
    fprintf(stderr, "usage: cartpole_env [--server | --client] [--channel NAME] [--once] [--episodes N] "
            "[--verbose]\n       cartpole_env --lanes K [--autoreset disabled|next_step|same_step] "
            "[--channel NAME] [--once] [--verbose]\n");
    return 2;
}

/* 1: `o` is filled; 0: no such usage. */
static int options_read(options *o, int argc, char **argv) {
    int autoreset_given = 0;
    unsigned long lanes = 0;
    o->name = getenv("RLAY_CHANNEL");
    if (!o->name || !*o->name) o->name = "cartpole";
    o->side = RLAY_SIDE_SERVER;
    o->autoreset = NEXT_STEP;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--server") == 0) o->side = RLAY_SIDE_SERVER;
        else if (strcmp(argv[i], "--client") == 0) o->side = RLAY_SIDE_CLIENT;
        else if (strcmp(argv[i], "--once") == 0) o->once = 1;
        else if (strcmp(argv[i], "--verbose") == 0) o->verbose = 1;
        else if (i + 1 == argc) return 0;
        else if (strcmp(argv[i], "--channel") == 0) o->name = argv[++i];
        else if (strcmp(argv[i], "--episodes") == 0) o->episodes = (uint32_t)strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--lanes") == 0) lanes = strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--autoreset") == 0) {
            autoreset_given = 1;
            for (o->autoreset = SAME_STEP; o->autoreset >= 0; o->autoreset--)
                if (strcmp(argv[i + 1], AUTORESET[o->autoreset]) == 0) break;
            if (o->autoreset < 0) return 0;
            i++;
        } else return 0;
    }
    o->lanes = lanes <= LANES_MAX ? (uint32_t)lanes : 0;
    return lanes <= LANES_MAX && (lanes ? o->side == RLAY_SIDE_SERVER : !autoreset_given);
}

int main(int argc, char **argv) {
    static rlay_schema schema;
    static rlay_channel ch;
    static cartpole envs[LANES_MAX];
    static options o;
    int sessions = 0;
    if (!options_read(&o, argc, argv)) return usage();
    int result = schema_build(&schema, o.lanes, o.autoreset);
    if (result < 0) fprintf(stderr, "cartpole_env: %s\n", schema.error);
    if (result == RLAY_OK && (result = rlay_open(&ch, o.name, o.side, RLAY_ROLE_ENV, &schema)) < 0) fprintf(stderr,
            "cartpole_env: %s\n", rlay_error_text(&ch));
    if (result < 0) return 3;
    for (uint32_t i = 0; i < LANES_MAX; i++) envs[i].random = ch.random + i; /* entropy, until an agent gives a seed */

    /* A server waits as long as it takes; a client gives an agent 10 s to appear, then waits for its decisions. */
    while (o.side == RLAY_SIDE_SERVER || o.episodes == 0 || envs->episodes < o.episodes) {
        result = rlay_wait(&ch, o.side == RLAY_SIDE_CLIENT && sessions == 0 ? 10000000000 : RLAY_FOREVER);
        if (result == RLAY_READY) {
            sessions = 1;
            result = answer(&ch, envs, &o);
        }
        if (result >= 0) continue;
        if (result != -RLAY_E_PEER_CLOSED) fprintf(stderr, "cartpole_env: %s\n", rlay_error_text(&ch));
        if (o.side == RLAY_SIDE_CLIENT || o.once || (result != -RLAY_E_PEER_CLOSED && result != -RLAY_E_PEER_LOST &&
                result != -RLAY_E_REMOTE_PROTOCOL)) break;
    }
    rlay_close(&ch);
    return result >= 0 || result == -RLAY_E_PEER_CLOSED ? 0 : 3;
}
