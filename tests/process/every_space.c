/* every_space.c - an environment with every space the port can describe, driven by rlay_poll() as an engine would.
 *
 *   every_space CHANNEL */
#define RLAY_IMPLEMENTATION
#include "rlay.h"

static int build(rlay_schema *s) {
    static const uint32_t two[2] = {2, 3}, one[1] = {3};
    static const int64_t nvec[3] = {2, 3, 4}, start[3] = {-1, 0, 5};
    static const int16_t low[6] = {-5, -4, -3, -2, -1, 0}, high[6] = {9, 9, 9, 9, 9, 9};
    static const double bounds[3] = {1e-7, 1e16, 0.1};
    static const double wide[3] = {123456789012345680.0, 2e16, 1e300};
    static const char *const modes[] = {"rgb_array", "an\ts\"i", NULL};
    rlay_schema_config config;
    memset(&config, 0, sizeof config);
    config.env_id = "every \\ space";
    config.render_modes = modes;
    config.render_mode = "rgb_array";
    config.frame = 2 * 3 * 3;
    config.reply_body = 256;
    rlay_schema_begin(s, &config);
    rlay_schema_action(s);
    rlay_space_tuple_begin(s);
    rlay_space_multi_discrete(s, 1, one, nvec, start);
    rlay_space_multi_binary(s, 2, two);
    rlay_space_dict_begin(s);
    rlay_schema_key(s, "a/b~c");
    rlay_space_box_all(s, RLAY_DTYPE_UINT64, 1, one, 0, 9007199254740992.0);
    rlay_schema_key(s, "\"quoted\"");
    rlay_space_tuple_begin(s);
    rlay_space_discrete(s, 3, 0);
    rlay_space_tuple_end(s);
    rlay_space_dict_end(s);
    rlay_space_tuple_end(s);
    rlay_schema_info(s, "fuel");
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT32, 0, NULL, -0.5, 0.1);
    rlay_schema_observation(s);
    rlay_space_dict_begin(s);
    rlay_schema_key(s, "z");
    rlay_space_box(s, RLAY_DTYPE_INT16, 2, two, low, high);
    rlay_schema_key(s, "a");
    rlay_space_box(s, RLAY_DTYPE_FLOAT64, 1, one, bounds, wide);
    rlay_schema_key(s, "half");
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT16, 1, one, -1.0, 1.0);
    rlay_space_dict_end(s);
    return rlay_schema_end(s);
}

static int answer(rlay_channel *ch) {
    uint8_t *frame = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "frame");
    if (ch->command == RLAY_COMMAND_RENDER) {
        for (int i = 0; i < 18; i++) frame[i] = (uint8_t)i;
        return rlay_reply_render(ch, 2, 3, 3);
    }
    memset(rlay_data(ch, RLAY_RECORD_REPLY, "observation/a"), 0, 24);
    int16_t *z = (int16_t *)rlay_data(ch, RLAY_RECORD_REPLY, "observation/z");
    for (int i = 0; i < 6; i++) z[i] = (int16_t)-i;
    if (ch->command == RLAY_COMMAND_RESET) {
        rlay_value options;
        rlay_body_put_map(ch, 1);
        rlay_body_put_str(ch, "level");
        if (rlay_body_find(ch, "level", &options) == 1) rlay_body_put_int(ch, options.as.i);
        else rlay_body_put_nil(ch);
        return rlay_reply(ch);
    }
    int64_t *steps = (int64_t *)rlay_data(ch, RLAY_RECORD_REQUEST, "action/0");
    float fuel = 0.1f;
    memcpy(rlay_info_set(ch, "fuel"), &fuel, sizeof fuel);
    if (steps[2] == 6) { /* a body that does not fit is refused, and the turn is still ours */
        char long_text[300];
        memset(long_text, 'x', sizeof long_text - 1);
        long_text[299] = 0;
        rlay_body_put_str(ch, long_text);
        if (rlay_reply_step(ch, 0.0, 0, 0) != -RLAY_E_BODY_TOO_LARGE) return -1;
        return rlay_reply_error(ch, "OverflowError", long_text);
    }
    return rlay_reply_step(ch, 2.5, 0, 0);
}

int main(int argc, char **argv) {
    static rlay_schema schema;
    static rlay_channel ch;
    if (argc != 2 || build(&schema) < 0) return fprintf(stderr, "%s\n", schema.error), 2;
    if (rlay_open(&ch, argv[1], RLAY_SIDE_SERVER, RLAY_ROLE_ENV, &schema) < 0) return 3;
    for (;;) {
        struct timespec frame = {0, 1000000};
        int result = rlay_poll(&ch);
        if (result == RLAY_READY) result = answer(&ch);
        if (result < 0) {
            if (result != -RLAY_E_PEER_CLOSED) fprintf(stderr, "%s\n", rlay_error_text(&ch));
            rlay_close(&ch);
            return result == -RLAY_E_PEER_CLOSED ? 0 : 3;
        }
        nanosleep(&frame, NULL);
    }
}
