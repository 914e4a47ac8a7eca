/* two_lanes.c - an environment of two lanes with every kind of row, and an agent of CartPole's lanes.
 *
 *   two_lanes CHANNEL env|agent */
#define RLAY_IMPLEMENTATION
#include "rlay.h"

#define CHECK(fact)                                                                          \
    do {                                                                                     \
        if (!(fact)) return fprintf(stderr, "%s (%s)\n", #fact, rlay_error_text(ch)), -99;   \
    } while (0)

static int build(rlay_schema *s, uint32_t lanes, const char *autoreset) {
    static const uint32_t two[1] = {2};
    rlay_schema_config config;
    memset(&config, 0, sizeof config);
    config.lanes = lanes;
    config.autoreset = autoreset;
    config.frame = 12;
    rlay_schema_begin(s, &config);
    rlay_schema_action(s);
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT32, 1, two, -9.0, 9.0);
    rlay_schema_info(s, "fuel");
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT64, 0, NULL, 0.0, 1.0);
    rlay_schema_observation(s);
    rlay_space_dict_begin(s);
    rlay_schema_key(s, "a/b");
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT32, 1, two, -9.0, 9.0);
    rlay_schema_key(s, "k");
    rlay_space_discrete(s, 9, 0);
    rlay_space_dict_end(s);
    return rlay_schema_end(s);
}

static void observe(rlay_channel *ch, const char *path, uint32_t lane, float a, int64_t k) {
    char name[64];
    snprintf(name, sizeof name, "%s/a~1b", path);
    ((float *)rlay_data(ch, RLAY_RECORD_REPLY, name))[2 * lane] = a;
    ((float *)rlay_data(ch, RLAY_RECORD_REPLY, name))[2 * lane + 1] = -a;
    snprintf(name, sizeof name, "%s/k", path);
    ((int64_t *)rlay_data(ch, RLAY_RECORD_REPLY, name))[lane] = k;
}

static int reset(rlay_channel *ch) {
    uint32_t acting = (uint32_t)rlay_lane_acts(ch, 0) + (uint32_t)rlay_lane_acts(ch, 1);
    rlay_body_put_map(ch, 1);
    rlay_body_put_str(ch, "infos");
    rlay_body_put_map(ch, acting);
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t seed = 77;
        if (!rlay_lane_acts(ch, i)) continue;
        rlay_lane_seed(ch, i, &seed);
        observe(ch, "observation", i, 0.5f, (int64_t)i);
        rlay_body_put_uint(ch, i);
        rlay_body_put_map(ch, 1);
        rlay_body_put_str(ch, "seed");
        rlay_body_put_uint(ch, seed);
    }
    CHECK(!rlay_lane_acts(ch, 2));
    return rlay_reply_lanes(ch);
}

static int step(rlay_channel *ch) {
    const float *action = (const float *)rlay_data(ch, RLAY_RECORD_REQUEST, "action");
    double *reward = (double *)rlay_data(ch, RLAY_RECORD_REPLY, "reward");
    double *fuel = (double *)rlay_data(ch, RLAY_RECORD_REPLY, "info.fuel");
    uint8_t *terminated = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "terminated");
    uint8_t *truncated = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "truncated");
    uint8_t *fuelled = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "info.fuel#present");
    uint8_t *final = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "final_observation#present");
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(reward[i] == 0.0 && !terminated[i] && !truncated[i] && !fuelled[i] && !final[i]);
        if (!rlay_lane_acts(ch, i)) continue;
        observe(ch, "observation", i, action[2 * i], 5);
        reward[i] = action[2 * i];
        if (action[2 * i] > 0) fuel[i] = 0.25, fuelled[i] = 1;
        if (action[2 * i + 1] == 0) continue;
        truncated[i] = 1;
        terminated[i] = action[2 * i + 1] > 1;
        observe(ch, "final_observation", i, action[2 * i], 6);
        final[i] = 1;
        observe(ch, "observation", i, 0.5f, 7);
    }
    CHECK(rlay_reply_step(ch, 1.0, 0, 0) == -RLAY_E_LOCAL_PROTOCOL);
    return rlay_reply_lanes(ch);
}

static int play_env(rlay_channel *ch, rlay_schema *schema, const char *name) {
    CHECK(build(schema, 0, "next_step") == -RLAY_E_SCHEMA);
    CHECK(build(schema, 2, "sometimes") == -RLAY_E_SCHEMA);
    CHECK(strstr(schema->error, "disabled, next_step, same_step"));
    CHECK(build(schema, 2, "same_step") == RLAY_OK);
    CHECK(rlay_open(ch, name, RLAY_SIDE_SERVER, RLAY_ROLE_ENV, schema) == RLAY_OK);
    CHECK(rlay_wait_strategy(ch, RLAY_WAIT_BLOCK + 1) == -RLAY_E_LOCAL_PROTOCOL);
    CHECK(rlay_wait_strategy(ch, RLAY_WAIT_BLOCK) == RLAY_OK);
    for (;;) {
        int result = rlay_wait(ch, RLAY_FOREVER);
        if (result == RLAY_READY) result = ch->command == RLAY_COMMAND_RESET ? reset(ch) : step(ch);
        if (result < 0) return result;
    }
}

/* One seed for all lanes: that of lane i is seed + i. */
static int play_agent(rlay_channel *ch, const char *name) {
    const uint64_t seed = UINT64_MAX;
    CHECK(rlay_open(ch, name, RLAY_SIDE_CLIENT, RLAY_ROLE_AGENT, NULL) == RLAY_OK);
    CHECK(rlay_wait(ch, 30000000000) == RLAY_READY);
    memset(rlay_data(ch, RLAY_RECORD_REQUEST, "mask"), 1, 2);
    CHECK(rlay_reset(ch, &seed, 30000000000) == RLAY_READY);
    const float *seen = (const float *)rlay_data(ch, RLAY_RECORD_REPLY, "observation");
    for (int i = 0; i < 8; i++) printf("%.9g\n", seen[i]);
    return -RLAY_E_PEER_CLOSED;
}

int main(int argc, char **argv) {
    static rlay_schema schema;
    static rlay_channel channel;
    if (argc != 3) return 2;
    int env = strcmp(argv[2], "env") == 0;
    int result = env ? play_env(&channel, &schema, argv[1]) : play_agent(&channel, argv[1]);
    if (result != -RLAY_E_PEER_CLOSED) fprintf(stderr, "%s\n", rlay_error_text(&channel));
    rlay_close(&channel);
    return result == -RLAY_E_PEER_CLOSED ? 0 : 3;
}
