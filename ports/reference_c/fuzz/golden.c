/* golden.c - what the port says to a golden case. SPDX-License-Identifier: MIT
 *
 *   golden CONTROL.hex [DATA.hex...]
 *
 * An agent attaches to the control file and the first data file, and an environment has the same layout; then each data
 * file is one exchange, read by both. Prints a line "STAGE CODE" for every stage up to the first error; an error that
 * the environment raised is none. With FUZZ_ONCE it ends when a byte of the files is loaded twice in one call.
 */
#include "world.h"
#include "hex.h"

static rlay_channel agent, env;
static rlay_schema no_schema;

static int say(const char *stage, int n, int result) {
    if (n) printf("%s %d %d\n", stage, n, result < 0 ? -result : 0);
    else printf("%s %d\n", stage, result < 0 ? -result : 0);
    return result < 0 && result != -RLAY_E_REMOTE;
}

static int poll_as(rlay_channel *ch, uint32_t turn) {
    rlay__store_release_u32(world.control + RLAY_OFF_TURN, turn);
    once_begin();
    int result = rlay_poll(ch);
    once_end();
    return result;
}

/* Whether an environment on the other side takes the hello of the client. */
static int hello_client(const uint8_t *control) {
    no_schema.config.render_mode = "rgb_array";
    env.schema = &no_schema;
    env.role = control[RLAY_OFF_SERVER_HELLO + RLAY_HELLO_ROLE];
    return rlay__hello_check(&env, control + RLAY_OFF_CLIENT_HELLO);
}

/* The agent's half of the handshake, on the side that the file gives it. */
static int attach(const uint8_t *control, size_t control_size, const uint8_t *data, size_t data_size) {
    int server = control[RLAY_OFF_SERVER_HELLO + RLAY_HELLO_ROLE] == RLAY_ROLE_AGENT;
    world_begin(server ? RLAY_SIDE_SERVER : RLAY_SIDE_CLIENT);
    if (rlay_open(&agent, "golden", server ? RLAY_SIDE_SERVER : RLAY_SIDE_CLIENT, RLAY_ROLE_AGENT, NULL) < 0) fuzz_fail("rlay_open", 0);
    memcpy(world.control, control, WORLD_CONTROL_SIZE);
    if (server) {
        agent.generation = rlay__get_u64(control + RLAY_OFF_GENERATION);
        int result = poll_as(&agent, RLAY_TURN_SERVER);
        if (result < 0) return result;
        if (agent.phase != RLAY__WELCOMED) return -RLAY_E_CHANNEL;
        return poll_as(&agent, RLAY_TURN_SERVER);
    }
    world.control_size = control_size;
    rlay__put_u32(world.control + RLAY_OFF_CLAIM, 0);
    int result = poll_as(&agent, RLAY_TURN_IDLE);
    if (agent.phase == RLAY__SEEKING) result = rlay_wait(&agent, 1000000000); /* it tries again, and says why in the end */
    if (result < 0 || !data) return result;
    agent.features = rlay__get_u64(control + RLAY_OFF_FEATURES); /* this port offers no CALL: it does here */
    memcpy(world.control + RLAY_OFF_WELCOME_STATUS, control + RLAY_OFF_WELCOME_STATUS, 0x100);
    world.data_size = data_size;
    memcpy(world_file(data_size), data, world_records(data_size));
    return poll_as(&agent, RLAY_TURN_CLIENT);
}

/* An environment with the agent's layout, in the middle of the session. */
static void env_begin(void) {
    env = agent;
    env.role = RLAY_ROLE_ENV;
    env.side = (uint8_t)(3 - agent.side);
    env.schema = &no_schema;
    rlay__session_begin(&env, RLAY__RUNNING, 0);
}

static int exchange(int n, const uint8_t *data, size_t size) {
    uint32_t command = rlay__get_u32(data + RLAY_PREFIX_COMMAND);
    memcpy(agent.data, data, world_records(size));
    if (say("request", n, poll_as(&env, env.side))) return 1;
    if (!env.data || rlay__reply_send(&env, rlay__get_u32(data + env.request_size + RLAY_PREFIX_STATUS) ? RLAY_E_REMOTE : RLAY_OK) < 0) return 1;
    int result = rlay_request_send(&agent, command);
    memcpy(agent.data, data, world_records(size));
    if (result >= 0) result = poll_as(&agent, agent.side);
    if (result == RLAY_READY && (command == RLAY_COMMAND_RESET || command == RLAY_COMMAND_STEP)) {
        rlay_value value;
        once_begin();
        result = rlay_body_find(&agent, "lives", &value);
        once_end();
    }
    return say("reply", n, result);
}

int main(int argc, char **argv) {
    static uint8_t *files[64];
    size_t sizes[64];
    if (argc < 2 || argc > 64) return fprintf(stderr, "usage: golden CONTROL.hex [DATA.hex...]\n"), 2;
    for (int i = 1; i < argc; i++) files[i] = hex_read(argv[i], &sizes[i]);
    if (say("hello", 0, hello_client(files[1]))) return 0;
    int result = attach(files[1], sizes[1], argc > 2 ? files[2] : NULL, argc > 2 ? sizes[2] : 0);
    if (say("attach", 0, result) || !agent.data) return 0;
    env_begin();
    for (int n = 1; n + 1 < argc; n++)
        if (sizes[n + 1] != world.data_size || exchange(n, files[n + 1], sizes[n + 1])) return 0;
    return 0;
}
