/* wide_peer.c - tests/pulled.py in C: play on while an outsider cuts the files.
 *
 *   wide_peer env|agent server|client CHANNEL
 *
 * Every element of every value is the number of its step. Prints "cut CODE TEXT" for each session that ended early, and
 * "wrong FOUND DUE" for a wrong value, which it exits with 4 for. Ends when $RLAY_DIR/done.lock is there. */
#define RLAY_IMPLEMENTATION
#include "rlay.h"

#define WIDTH 2500
#define LIMIT_NS 20000000000

static int is_done(void) {
    char path[600];
    snprintf(path, sizeof path, "%s/done.lock", getenv("RLAY_DIR"));
    return access(path, F_OK) == 0;
}

static void fill(rlay_channel *ch, int record, const char *name, int64_t value) {
    int64_t *at = (int64_t *)rlay_data(ch, record, name);
    for (int i = 0; at && i < WIDTH; i++) at[i] = value;
}

/* RLAY_READY, or the error that rlay_check() has for values that are not the right ones. */
static int look(rlay_channel *ch, int record, const char *name, int64_t due) {
    const int64_t *at = (const int64_t *)rlay_data(ch, record, name);
    int64_t found = due;
    for (int i = 0; at && i < WIDTH; i++)
        if (at[i] != due) found = at[i];
    int result = rlay_check(ch);
    if (result < 0) return result;
    if (found == due) return RLAY_READY;
    printf("wrong %lld %lld\n", (long long)found, (long long)due);
    exit(4);
}

static int play_env(rlay_channel *ch) {
    int64_t last = 0;
    for (;;) {
        int result = rlay_wait(ch, LIMIT_NS);
        if (result == -RLAY_E_PEER_CLOSED && is_done()) return 0;
        int step = result == RLAY_READY && ch->command == RLAY_COMMAND_STEP;
        if (result == RLAY_READY) last = step ? last + 1 : 0;
        if (step) result = look(ch, RLAY_RECORD_REQUEST, "action", last);
        if (result == RLAY_READY) {
            fill(ch, RLAY_RECORD_REPLY, "observation", step ? last : -1);
            result = step ? rlay_reply_step(ch, (double)last, 0, 0) : rlay_reply(ch);
        }
        if (result < 0) printf("cut %d %s\n", -result, rlay_error_text(ch));
        if (result == -RLAY_E_TIMEOUT || result == -RLAY_E_LOCAL_PROTOCOL) return 3;
    }
}

static int play_agent(rlay_channel *ch) {
    for (int after = 0;;) {
        int result = rlay_wait(ch, LIMIT_NS);
        if (result == RLAY_READY) result = rlay_reset(ch, NULL, LIMIT_NS);
        for (int64_t number = 1; result == RLAY_READY; number++) {
            fill(ch, RLAY_RECORD_REQUEST, "action", number);
            result = rlay_step(ch, LIMIT_NS);
            if (result == RLAY_READY) result = look(ch, RLAY_RECORD_REPLY, "observation", number);
            if (result == RLAY_READY && is_done() && ++after == 100) return 0;
        }
        printf("cut %d %s\n", -result, rlay_error_text(ch));
        if (result == -RLAY_E_TIMEOUT || result == -RLAY_E_LOCAL_PROTOCOL) return 3;
    }
}

int main(int argc, char **argv) {
    static rlay_schema schema;
    static rlay_channel ch;
    const uint32_t shape[1] = {WIDTH};
    rlay_schema_config config;
    if (argc != 4) return 2;
    int side = strcmp(argv[2], "server") == 0 ? RLAY_SIDE_SERVER : RLAY_SIDE_CLIENT;
    int env = strcmp(argv[1], "env") == 0;
    memset(&config, 0, sizeof config);
    rlay_schema_begin(&schema, &config);
    rlay_schema_action(&schema);
    rlay_space_box_all(&schema, RLAY_DTYPE_INT64, 1, shape, -1.0, 1e15);
    rlay_schema_observation(&schema);
    rlay_space_box_all(&schema, RLAY_DTYPE_INT64, 1, shape, -1.0, 1e15);
    if (rlay_schema_end(&schema) < 0) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (rlay_open(&ch, argv[3], side, env ? RLAY_ROLE_ENV : RLAY_ROLE_AGENT, env ? &schema : NULL) < 0) return 2;
    int code = env ? play_env(&ch) : play_agent(&ch);
    rlay_close(&ch);
    return code;
}
