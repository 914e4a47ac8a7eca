/* rlay.h - a channel between an environment and an agent in two processes, through memory-mapped files.
 *
 * The reference port of the rlay wire protocol (spec/PROTOCOL.md; the section numbers below are its). One file,
 * C11 or C++17, POSIX. No allocation, no threads; no globals but the SIGBUS guard's. SPDX-License-Identifier: MIT; vendor it freely.
 *
 * THE WIRE
 *
 *   A channel NAME lives in one directory: $RLAY_DIR, else /dev/shm/rlay-<uid>, else <tempdir>/rlay-<user>.
 *
 *     NAME.rlay               control file, 262,144 bytes: who is who, whose turn it is, what the records look like
 *     NAME.<generation>.data  the request record, then the reply record; unlinked once both sides have mapped it
 *     NAME.server.lock        empty; flock()ed while the server lives: the kernel frees it when the process dies
 *     NAME.client.lock        the same for the client
 *
 *   Two axes. SERVER owns the channel and CLIENT attaches; ENV makes observations and AGENT makes actions. All
 *   four combinations use the same bytes.
 *
 *   The turn word (control file, 0x300) says who may write: 1 the server, 2 the client. Everything goes like this:
 *   write the record, store the turn with release order, wake the peer; the peer loads the turn with acquire
 *   order, copies the record's prefix, checks the copy, and only then uses the record.
 *
 *     client: claim = 1, write hello, turn = 1    server: check, create the data file, write welcome, turn = 2
 *     agent:  write the request, turn = peer      env:    write the reply, turn = peer      ... and again
 *
 *   One control file serves one session. Afterwards the server renames a fresh one, with a new random generation,
 *   into its place, so a late writer only ever reaches an orphan. The peer is dead when its lock is free, or, for
 *   a client, when the file at the path is no longer the one it has mapped. A goodbye word makes ends prompt.
 *
 *   A record is a prefix (seq, command, status, body_size, session) and named arrays, the fields. The env writes
 *   the field table into the control file. The agent copies it, computes every offset again (section 8), and finds
 *   its fields by name. Everything free-form is one MessagePack value, the body.
 *
 * DO THIS
 *
 *   In one source file:   #define RLAY_IMPLEMENTATION
 *                         #include "rlay.h"         (before any system header, or compile with -D_GNU_SOURCE)
 *
 *   An environment:                                     An agent:
 *
 *     static rlay_schema schema;                          static rlay_channel ch;
 *     static rlay_channel ch;                             rlay_open(&ch, "game", RLAY_SIDE_CLIENT,
 *     rlay_schema_begin(&schema, &config);                          RLAY_ROLE_AGENT, NULL);
 *     rlay_schema_action(&schema);                        rlay_wait(&ch, 5000000000);
 *     rlay_space_discrete(&schema, 2, 0);                 action = (int64_t *)rlay_data(&ch, RLAY_RECORD_REQUEST,
 *     rlay_schema_observation(&schema);                                                 "action");
 *     rlay_space_box_all(&schema, RLAY_DTYPE_FLOAT32,     rlay_reset(&ch, &seed, 5000000000);
 *                        1, shape, -1.0, 1.0);            for (;;) {
 *     rlay_schema_end(&schema);                               *action = 1;
 *     rlay_open(&ch, "game", RLAY_SIDE_SERVER,                if (rlay_step(&ch, 5000000000) < 0) break;
 *               RLAY_ROLE_ENV, &schema);                      if (rlay_terminated(&ch)) break;
 *     for (;;) {                                          }
 *         int r = rlay_wait(&ch, RLAY_FOREVER);           rlay_close(&ch);
 *         if (r == -RLAY_E_PEER_CLOSED) continue;
 *         if (r < 0) { puts(rlay_error_text(&ch)); break; }
 *         if (ch.command == RLAY_COMMAND_RESET) { ...; rlay_reply(&ch); }
 *         if (ch.command == RLAY_COMMAND_STEP) { ...; rlay_reply_step(&ch, reward, terminated, truncated); }
 *     }
 *     rlay_close(&ch);
 *
 *   In an engine's main loop call rlay_poll() once per frame instead of rlay_wait(): it never blocks.
 *
 *   Several environments behind one channel, its lanes: set `lanes` in the config. Each field of the group is then an
 *   array [lanes]; fill it for the lanes that act, and answer RESET and STEP with rlay_reply_lanes().
 *
 *   After a session has ended (-RLAY_E_PEER_CLOSED, -RLAY_E_PEER_LOST, ...) the next rlay_wait() or rlay_poll()
 *   starts a new one: a server publishes a fresh control file, a client looks for one. Pointers into the records
 *   die with their session: ask rlay_data() again.
 *
 * RESULTS
 *
 *   RLAY_PENDING (0), RLAY_READY (1), or a negative error code, -RLAY_E_...; rlay_error_text() then says in one
 *   sentence what happened, where, and what to do. After -RLAY_E_TIMEOUT a request stays pending: wait again, or
 *   close. After -RLAY_E_REMOTE the environment raised: reset, and go on.
 *
 * CAVEATS
 *
 *   An rlay_channel has about 66 KiB and an rlay_schema about 253 KiB: make them static, or part of your own state.
 *   Whoever truncates a mapped file ends the session with -RLAY_E_CHANNEL_FORMAT and not the process: from the first
 *   mapping on a handler of SIGBUS is installed, which passes on what is not ours. It is the one thing that is shared by
 *   all channels; at most RLAY_MAPPINGS_MAX mappings are guarded at a time, two a session. The environment variable
 *   RLAY_SIGBUS=off leaves the signal alone, and so does compiling with RLAY_NO_SIGBUS. Fields that you read in place
 *   may turn to zeros; then the next call says so, or rlay_check() before you use them.
 *   One thread at a time per channel. After fork() the child shares the locks: it must exec or exit, or a dead
 *   parent looks alive. Both processes must see the same directory on a local file system (no NFS). Linux waits on
 *   a futex; elsewhere the wait is a timed back-off. Little-endian processors only.
 */
#ifndef RLAY_H
#define RLAY_H

#if defined(RLAY_IMPLEMENTATION) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1
#endif

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RLAY_LIBRARY "rlay-c 0.1.0"
#define RLAY_PROTOCOL_MIN 1
#define RLAY_PROTOCOL_MAX 1

/* ---- sizes and constants of the control file (section 5) */
#define RLAY_MAGIC "\x89RLAY\x0D\x0A\x1A"
#define RLAY_ENDIAN_TAG 0x01020304
#define RLAY_HEADER_SIZE 4096
#define RLAY_CONTROL_SIZE 262144
#define RLAY_FIELDS_MAX 256
#define RLAY_SCHEMA_MAX 192512
#define RLAY_HELLO_SIZE 128
#define RLAY_ROW_SIZE 256
#define RLAY_PREFIX_SIZE 32
#define RLAY_PAGE_SIZE 4096
#define RLAY_TAIL_SIZE 65536
#define RLAY_NAME_MAX 64
#define RLAY_FIELD_NAME_MAX 159
#define RLAY_WELCOME_TEXT_SIZE 224

/* ---- table: header */
#define RLAY_OFF_MAGIC 0x000
#define RLAY_OFF_ENDIAN_TAG 0x008
#define RLAY_OFF_HEADER_SIZE 0x00C
#define RLAY_OFF_CONTROL_SIZE 0x010
#define RLAY_OFF_GENERATION 0x018
#define RLAY_OFF_SERVER_HELLO 0x080
#define RLAY_OFF_CLIENT_HELLO 0x100
#define RLAY_OFF_SCHEMA_SIZE 0x180
#define RLAY_OFF_FIELD_COUNT 0x184
#define RLAY_OFF_FINGERPRINT 0x188
#define RLAY_OFF_REQUEST_SIZE 0x190
#define RLAY_OFF_REPLY_SIZE 0x198
#define RLAY_OFF_WELCOME_STATUS 0x200
#define RLAY_OFF_WELCOME_CODE 0x204
#define RLAY_OFF_PROTOCOL 0x208
#define RLAY_OFF_FEATURES 0x210
#define RLAY_OFF_DATA_SIZE 0x218
#define RLAY_OFF_WELCOME_TEXT 0x220
#define RLAY_OFF_TURN 0x300
#define RLAY_OFF_SERVER_WAITING 0x380
#define RLAY_OFF_SERVER_BYE 0x384
#define RLAY_OFF_CLIENT_WAITING 0x400
#define RLAY_OFF_CLIENT_BYE 0x404
#define RLAY_OFF_CLAIM 0x408
#define RLAY_OFF_FIELD_TABLE 0x1000
#define RLAY_OFF_SCHEMA 0x11000

/* ---- table: hello */
#define RLAY_HELLO_PROTOCOL_MIN 0x00
#define RLAY_HELLO_PROTOCOL_MAX 0x02
#define RLAY_HELLO_ROLE 0x04
#define RLAY_HELLO_FEATURES 0x08
#define RLAY_HELLO_PID 0x10
#define RLAY_HELLO_LIBRARY 0x18
#define RLAY_HELLO_HOST 0x40

/* ---- table: values */
#define RLAY_SIDE_SERVER 1
#define RLAY_SIDE_CLIENT 2
#define RLAY_TURN_IDLE 0
#define RLAY_TURN_SERVER 1
#define RLAY_TURN_CLIENT 2
#define RLAY_ROLE_ENV 1
#define RLAY_ROLE_AGENT 2
#define RLAY_BYE_NONE 0
#define RLAY_BYE_CLOSED 1
#define RLAY_BYE_FAILED 2
#define RLAY_WELCOME_NONE 0
#define RLAY_WELCOME_ACCEPTED 1
#define RLAY_WELCOME_REJECTED 2
#define RLAY_FEATURE_RENDER 1
#define RLAY_FEATURE_CALL 2
#define RLAY_COMMAND_READY 0
#define RLAY_COMMAND_RESET 1
#define RLAY_COMMAND_STEP 2
#define RLAY_COMMAND_RENDER 3
#define RLAY_COMMAND_CALL 4
#define RLAY_COMMAND_CLOSE 5

/* ---- table: prefix */
#define RLAY_PREFIX_SEQ 0x00
#define RLAY_PREFIX_COMMAND 0x08
#define RLAY_PREFIX_STATUS 0x0C
#define RLAY_PREFIX_BODY_SIZE 0x10
#define RLAY_PREFIX_SESSION 0x18

/* ---- table: row */
#define RLAY_ROW_NAME 0x00
#define RLAY_ROW_OFFSET 0xA0
#define RLAY_ROW_STRIDE 0xA8
#define RLAY_ROW_LANES 0xB0
#define RLAY_ROW_RECORD 0xB4
#define RLAY_ROW_DTYPE 0xB5
#define RLAY_ROW_NDIM 0xB6
#define RLAY_ROW_GROUP 0xB8
#define RLAY_ROW_SHAPE 0xC0
#define RLAY_RECORD_REQUEST 1
#define RLAY_RECORD_REPLY 2
#define RLAY_GROUP_NONE 0xFFFF
#define RLAY_NDIM_MAX 8

/* ---- table: dtype */
#define RLAY_DTYPE_BOOL 1
#define RLAY_DTYPE_INT8 2
#define RLAY_DTYPE_INT16 3
#define RLAY_DTYPE_INT32 4
#define RLAY_DTYPE_INT64 5
#define RLAY_DTYPE_UINT8 6
#define RLAY_DTYPE_UINT16 7
#define RLAY_DTYPE_UINT32 8
#define RLAY_DTYPE_UINT64 9
#define RLAY_DTYPE_FLOAT16 10
#define RLAY_DTYPE_FLOAT32 11
#define RLAY_DTYPE_FLOAT64 12

/* ---- table: errors (functions return them negated) */
#define RLAY_OK 0
#define RLAY_E_LAYOUT 1
#define RLAY_E_UNSUPPORTED_SPACE 2
#define RLAY_E_SCHEMA 3
#define RLAY_E_BODY_TOO_LARGE 4
#define RLAY_E_CHANNEL 5
#define RLAY_E_CHANNEL_NOT_FOUND 6
#define RLAY_E_CHANNEL_BUSY 7
#define RLAY_E_CHANNEL_FORMAT 8
#define RLAY_E_PROTOCOL_VERSION 9
#define RLAY_E_LAYOUT_MISMATCH 10
#define RLAY_E_UNSAFE_PATH 11
#define RLAY_E_NO_SPACE 12
#define RLAY_E_LOCAL_PROTOCOL 13
#define RLAY_E_REMOTE_PROTOCOL 14
#define RLAY_E_PEER_CLOSED 15
#define RLAY_E_REMOTE 16
#define RLAY_E_PEER_LOST 17
#define RLAY_E_TIMEOUT 18

/* ---- table: extensions (types of MessagePack extension values; this port hands them on unread) */
#define RLAY_EXTENSION_ARRAY 1
#define RLAY_EXTENSION_SCALAR 2
#define RLAY_EXTENSION_TUPLE 3
#define RLAY_EXTENSION_INTEGER 4
#define RLAY_EXTENSION_COMPLEX 5

/* ---- not on the wire */
#define RLAY_PENDING 0
#define RLAY_READY 1
#define RLAY_FOREVER (-1)            /* as timeout_ns: no deadline */
#define RLAY_SLICE_NS 20000000       /* longest sleep before the peer is probed */
#define RLAY_SPIN_MAX 512            /* looks at the turn before the kernel is asked */
#define RLAY_SPIN_RETRY 64           /* waits until the full spin is tried again */
#define RLAY_NAP_MIN_NS 50000        /* first and longest nap of RLAY_WAIT_BACKOFF */
#define RLAY_NAP_MAX_NS 1000000
#define RLAY_WAIT_ADAPTIVE 0         /* strategies, see rlay_wait_strategy() */
#define RLAY_WAIT_SPIN 1
#define RLAY_WAIT_BACKOFF 2
#define RLAY_WAIT_BLOCK 3
#define RLAY_LOCK_RETRY_NS 250000000 /* a probe holds a lock for a moment; a server holds it for its life */
#define RLAY_CLOSE_NS 2000000000     /* longest wait for the reply to CLOSE */
#define RLAY_NESTING_MAX 8
#ifndef RLAY_MAPPINGS_MAX
#define RLAY_MAPPINGS_MAX 64         /* guarded against truncation at a time, in one process */
#endif
#define RLAY_BODY_MAX 0x40000000     /* largest body or frame, section 8.4 */
#define RLAY_RECORD_MAX 0x100000000  /* largest record, section 8.4 */

/* The crash tests stop the process at these places. */
#ifndef RLAY_POINT
#define RLAY_POINT(name) ((void)0)
#endif

/* One row of the field table: a named array in a record. Byte for byte the row of section 8. */
typedef struct rlay_field {
    char name[RLAY_FIELD_NAME_MAX + 1];
    uint64_t offset;
    uint64_t stride;
    uint32_t lanes;
    uint8_t record, dtype, ndim, unused_0;
    uint16_t group;
    uint8_t unused_1[6];
    uint32_t shape[RLAY_NDIM_MAX];
    uint8_t unused_2[32];
} rlay_field;

/* What an environment says about itself. Zero it, then set what you have. */
typedef struct rlay_schema_config {
    const char *env_id;              /* NULL: null */
    uint64_t max_episode_steps;      /* 0: null */
    const double *reward_threshold;  /* NULL: null */
    uint32_t render_fps;             /* 0: left out */
    const char *const *render_modes; /* NULL-terminated, or NULL */
    const char *render_mode;         /* not NULL: the environment answers RENDER */
    uint32_t request_body;           /* capacities in bytes; 0: 65,536 */
    uint32_t reply_body;
    uint32_t frame;                  /* largest frame in bytes; 0: no frame field */
    uint32_t lanes;                  /* environments behind the channel; 0: one, without a leading dimension */
    const char *autoreset;           /* with lanes "disabled", "next_step" or "same_step"; NULL: disabled */
} rlay_schema_config;

/* Filled by rlay_schema_begin() ... rlay_schema_end(); must outlive the channel. */
typedef struct rlay_schema {
    rlay_schema_config config;
    int code; /* the first error, negative; all later calls return it */
    char error[256];
    uint32_t text_size, field_count, insert, request_end, section, depth, space_count;
    uint32_t level_path[RLAY_NESTING_MAX], level_count[RLAY_NESTING_MAX];
    uint8_t level_kind[RLAY_NESTING_MAX];
    int key_given;
    uint32_t path_size;
    char path[RLAY_FIELD_NAME_MAX + 1];
    char last_info[RLAY_FIELD_NAME_MAX + 1];
    uint64_t request_size, reply_size, fingerprint;
    rlay_field fields[RLAY_FIELDS_MAX];
    char text[RLAY_SCHEMA_MAX];
} rlay_schema;

/* A channel. Read `command`, `seq`, `generation`, `features`, as an environment `lanes`, as an agent `frame_shape`; leave
 * the rest alone. */
typedef struct rlay_channel {
    uint8_t side, role, phase, state, our_turn;
    uint32_t command;      /* of the request being answered (env) or sent last (agent) */
    uint64_t seq, generation, features;
    uint16_t protocol;
    const rlay_schema *schema;
    uint8_t *control, *data;
    int directory, lock, peer_lock;
    uint64_t control_device, control_inode, request_size, reply_size, dead_generation;
    uint64_t probe_at_ns, waiting_since_ns, seek_at_ns, random;
    uint32_t spin, waits, field_count, info_count;
    uint32_t in_size, out_size; /* bodies: bytes received, bytes written; out_size may exceed the capacity */
    int seek_code, strategy, may_spin;
    int guarded, control_guard, data_guard; /* against truncation: wanted, numbers of the mappings */
    uint32_t lanes, mask, lane_seed, lane_seed_present; /* an environment's, and rows of the fields it has with lanes */
    uint32_t seed, seed_present, reward, terminated, truncated, body[2]; /* rows of the standard fields */
    uint32_t frame_shape[3];                                             /* of the last RENDER: a checked copy */
    char name[RLAY_NAME_MAX + 1];
    char root[512];
    char peer[64];
    char error[768];
    rlay_field fields[RLAY_FIELDS_MAX];
} rlay_channel;

/* One MessagePack value. Strings and binaries point into the record and are not NUL-terminated: `size` is checked and
 * yours, the bytes are the peer's. */
typedef enum rlay_type { RLAY_NIL, RLAY_BOOL, RLAY_INT, RLAY_UINT, RLAY_FLOAT, RLAY_STR, RLAY_BIN, RLAY_ARRAY,
        RLAY_MAP, RLAY_EXT } rlay_type;
typedef struct rlay_value {
    rlay_type type;
    union {
        int64_t i;  /* RLAY_BOOL, RLAY_INT */
        uint64_t u; /* RLAY_UINT: an integer above INT64_MAX */
        double f;
    } as;
    const uint8_t *data; /* RLAY_STR, RLAY_BIN, RLAY_EXT */
    uint32_t size;       /* bytes; items of an array, pairs of a map */
} rlay_value;

/* ==== FUNCTIONS. Unless said otherwise they return RLAY_OK, RLAY_PENDING, RLAY_READY or a negative error code.
 *
 * ---- both roles
 *
 * rlay_open         open channel `name` as RLAY_SIDE_x and RLAY_ROLE_x; an environment gives its schema, an agent
 *                   NULL. A server is published when this returns; a client attaches in rlay_wait(). At most 0.25 s.
 * rlay_poll         never blocks. READY: a request is there (environment), or we may ask: attached, or the reply is
 *                   there (agent). PENDING: not yet.
 * rlay_wait         the same, but wait at most `timeout_ns`; RLAY_FOREVER: until the peer hands over, closes or dies.
 * rlay_wait_strategy  how rlay_wait() waits for the turn: RLAY_WAIT_ADAPTIVE, spin for microseconds while that pays,
 *                   then sleep; _SPIN, never sleep: for a core to spare; _BACKOFF, nap for 50 us to 1 ms and ask for
 *                   no wake-up; _BLOCK, sleep at once. rlay_open() takes the one that the environment variable
 *                   RLAY_WAIT names (adaptive, spin, backoff, block; another one is -RLAY_E_LOCAL_PROTOCOL), else
 *                   ADAPTIVE; call this after it. Whatever the strategy, a dead peer is noticed in 20 ms.
 * rlay_close        end the session and leave. Safe at any time, and twice. At most 2 s.
 * rlay_check        RLAY_OK, or -RLAY_E_CHANNEL_FORMAT: somebody truncated a file of this session, and what you read in
 *                   place since the last call may have been zeros. Every other call asks this, too.
 * rlay_error_text   the last error in one sentence.
 * rlay_field_find   a field by record and name, "observation/position"; NULL: there is none. An agent checks its dtype and
 *                   rlay_field_size() before it reads or writes: they are what the environment says.
 * rlay_field_size   its bytes, all lanes.
 * rlay_field_data   where it is mapped, for this session; NULL outside a session. Write only your own record, only in
 *                   your turn. What you read stays as it is until you hand over, if the peer keeps to the rules; a
 *                   hostile one can change it at any time. So copy what you decide by, a "#length" or an index, once;
 *                   check the copy, and use the copy.
 * rlay_data         find and data in one. */
int rlay_open(rlay_channel *ch, const char *name, int side, int role, const rlay_schema *schema);
int rlay_poll(rlay_channel *ch);
int rlay_wait(rlay_channel *ch, int64_t timeout_ns);
int rlay_wait_strategy(rlay_channel *ch, int strategy);
void rlay_close(rlay_channel *ch);
int rlay_check(rlay_channel *ch);
const char *rlay_error_text(const rlay_channel *ch);
const rlay_field *rlay_field_find(const rlay_channel *ch, int record, const char *name);
uint64_t rlay_field_size(const rlay_field *field);
void *rlay_field_data(const rlay_channel *ch, const rlay_field *field);
void *rlay_data(const rlay_channel *ch, int record, const char *name);

/* ---- env: answer ch->command with exactly one reply
 *
 * rlay_seed          1 and the seed of this RESET, 0: the agent gave none.
 * rlay_info_set      mark a declared info as present in this reply, and return its bytes to be written.
 * rlay_reply         to RESET. rlay_reply_step: to STEP. rlay_reply_render: to RENDER, the picture is in "frame", or
 *                    height is 0 and the value is in the body. A body that is too large is refused: the turn is still
 *                    yours, send an error.
 * rlay_reply_error   "the environment raised": a Python class name and a sentence, to any command.
 *
 * With lanes, the fields of rlay_data() are arrays [lanes]: write those of the lanes that act, leave the others.
 *
 * rlay_lane_acts     1: this request concerns the lane: it is stepped, reset or rendered.
 * rlay_lane_seed     1 and the seed of this lane in this RESET, 0: the agent gave none.
 * rlay_reply_lanes   to RESET and STEP. Before a STEP, reward, terminated, truncated and final_observation#present are
 *                    0 in all lanes, and before each request so is info.KEY#present: set what is otherwise (not with
 *                    rlay_info_set(), which knows one lane). Other infos go into a body {"infos": {lane: {...}}}. */
int rlay_seed(const rlay_channel *ch, uint64_t *seed);
void *rlay_info_set(rlay_channel *ch, const char *key);
int rlay_reply(rlay_channel *ch);
int rlay_reply_step(rlay_channel *ch, double reward, int terminated, int truncated);
int rlay_reply_render(rlay_channel *ch, uint32_t height, uint32_t width, uint32_t channels);
int rlay_reply_error(rlay_channel *ch, const char *type, const char *message);
int rlay_lane_acts(const rlay_channel *ch, uint32_t lane);
int rlay_lane_seed(const rlay_channel *ch, uint32_t lane, uint64_t *seed);
int rlay_reply_lanes(rlay_channel *ch);

/* ---- agent
 *
 * rlay_request_send  hand over a request and return; then rlay_wait() or rlay_poll(). rlay_reset_send: with the seed.
 * rlay_reset         hand over and wait for the reply; `seed` NULL: none; options: write the body before.
 * rlay_step          the action is written in the request.
 * rlay_render        READY: ch->frame_shape is the picture in "frame", and fits it; or it is 0, 0, 0 and the body holds
 *                    the value.
 * rlay_info_get      the bytes of a declared info; NULL: this reply has none. */
int rlay_request_send(rlay_channel *ch, uint32_t command);
int rlay_reset_send(rlay_channel *ch, const uint64_t *seed);
int rlay_reset(rlay_channel *ch, const uint64_t *seed, int64_t timeout_ns);
int rlay_step(rlay_channel *ch, int64_t timeout_ns);
int rlay_render(rlay_channel *ch, int64_t timeout_ns);
double rlay_reward(const rlay_channel *ch);
int rlay_terminated(const rlay_channel *ch);
int rlay_truncated(const rlay_channel *ch);
const void *rlay_info_get(const rlay_channel *ch, const char *key);

/* ---- body: append MessagePack to the record that is yours to write; look into the one that came
 *
 * rlay_body_find     1: the value of `key` in the map that came; 0: not there; negative: not such a map. */
void rlay_body_clear(rlay_channel *ch);
void rlay_body_put_nil(rlay_channel *ch);
void rlay_body_put_bool(rlay_channel *ch, int value);
void rlay_body_put_int(rlay_channel *ch, int64_t value);
void rlay_body_put_uint(rlay_channel *ch, uint64_t value);
void rlay_body_put_float(rlay_channel *ch, double value);
void rlay_body_put_str(rlay_channel *ch, const char *text);
void rlay_body_put_bin(rlay_channel *ch, const void *bytes, uint32_t size);
void rlay_body_put_array(rlay_channel *ch, uint32_t items);
void rlay_body_put_map(rlay_channel *ch, uint32_t pairs);
int rlay_body_find(const rlay_channel *ch, const char *key, rlay_value *value);

/* ---- schema: begin; action, a space; for each info in sorted order: info, a space; observation, a space; end.
 * In a Dict, rlay_schema_key() before each space; their order is the Dict's. The first error stays: checking
 * rlay_schema_end() is enough, schema.error says what was wrong. `shape` may be NULL when `ndim` is 0.
 *
 * rlay_space_box     bounds per element, arrays of the dtype. rlay_space_box_all: the same bounds for all elements.
 * Discrete and MultiDiscrete are int64, MultiBinary is int8. */
int rlay_schema_begin(rlay_schema *s, const rlay_schema_config *config);
int rlay_schema_action(rlay_schema *s);
int rlay_schema_info(rlay_schema *s, const char *key);
int rlay_schema_observation(rlay_schema *s);
int rlay_schema_key(rlay_schema *s, const char *key);
int rlay_schema_end(rlay_schema *s);
int rlay_space_box(rlay_schema *s, int dtype, uint32_t ndim, const uint32_t *shape, const void *low,
        const void *high);
int rlay_space_box_all(rlay_schema *s, int dtype, uint32_t ndim, const uint32_t *shape, double low, double high);
int rlay_space_discrete(rlay_schema *s, int64_t n, int64_t start);
int rlay_space_multi_discrete(rlay_schema *s, uint32_t ndim, const uint32_t *shape, const int64_t *nvec,
        const int64_t *start);
int rlay_space_multi_binary(rlay_schema *s, uint32_t ndim, const uint32_t *shape);
int rlay_space_dict_begin(rlay_schema *s);
int rlay_space_dict_end(rlay_schema *s);
int rlay_space_tuple_begin(rlay_schema *s);
int rlay_space_tuple_end(rlay_schema *s);

#ifdef __cplusplus
}
#endif
#endif /* RLAY_H */

/* ================================================================================================================ */
#if defined(RLAY_IMPLEMENTATION) && !defined(RLAY_IMPLEMENTED)
#define RLAY_IMPLEMENTED

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sched.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#endif

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "rlay.h reads and writes the records in place and needs a little-endian processor"
#endif

#ifdef __cplusplus
#define RLAY__ASSERT(fact) static_assert(fact, #fact)
extern "C" {
#else
#define RLAY__ASSERT(fact) _Static_assert(fact, #fact)
#endif
RLAY__ASSERT(sizeof(rlay_field) == RLAY_ROW_SIZE);
RLAY__ASSERT(offsetof(rlay_field, offset) == RLAY_ROW_OFFSET && offsetof(rlay_field, stride) == RLAY_ROW_STRIDE);
RLAY__ASSERT(offsetof(rlay_field, lanes) == RLAY_ROW_LANES && offsetof(rlay_field, record) == RLAY_ROW_RECORD);
RLAY__ASSERT(offsetof(rlay_field, dtype) == RLAY_ROW_DTYPE && offsetof(rlay_field, ndim) == RLAY_ROW_NDIM);
RLAY__ASSERT(offsetof(rlay_field, group) == RLAY_ROW_GROUP && offsetof(rlay_field, shape) == RLAY_ROW_SHAPE);

enum { RLAY__CLOSED, RLAY__ENDED, RLAY__SEEKING, RLAY__PUBLISHED, RLAY__GREETED, RLAY__WELCOMED, RLAY__RUNNING };
enum { RLAY__FRESH, RLAY__IN_EPISODE, RLAY__FINISHED };

/* ---- small things */

static uint64_t rlay__now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void rlay__sleep_ns(uint64_t duration_ns) {
    struct timespec pause;
    pause.tv_sec = (time_t)(duration_ns / 1000000000u);
    pause.tv_nsec = (long)(duration_ns % 1000000000u);
    nanosleep(&pause, NULL);
}

/* How many processors this process may use. */
static long rlay__processors(void) {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return sysconf(_SC_NPROCESSORS_ONLN);
}

/* Random bits from the kernel for a generation; 0, and errno, when there are none. */
static uint64_t rlay__entropy(void) {
    uint64_t value = 0;
#ifdef __linux__
    ssize_t size;
    do size = getrandom(&value, sizeof value, 0);
    while (size < 0 && errno == EINTR);
    return size == (ssize_t)sizeof value ? value : 0;
#else
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    if (read(fd, &value, sizeof value) != (ssize_t)sizeof value) value = 0;
    close(fd);
    return value;
#endif
}

/* Jitter only: xorshift. Two sides that retry together must not stay in step. */
static uint64_t rlay__jitter_ns(rlay_channel *ch, uint64_t least_ns, uint64_t most_ns) {
    ch->random ^= ch->random << 13, ch->random ^= ch->random >> 7, ch->random ^= ch->random << 17;
    return least_ns + ch->random % (most_ns - least_ns);
}

static uint64_t rlay__fnv1a(uint64_t hash, const void *bytes, size_t size) {
    const uint8_t *at = (const uint8_t *)bytes;
    for (size_t i = 0; i < size; i++) hash = (hash ^ at[i]) * 0x100000001b3u;
    return hash;
}

static uint64_t rlay__fingerprint(const void *schema, uint32_t schema_size, const rlay_field *fields,
        uint32_t count) {
    uint64_t hash = rlay__fnv1a(0xcbf29ce484222325u, schema, schema_size);
    return rlay__fnv1a(hash, fields, (size_t)count * RLAY_ROW_SIZE);
}

/* The bytes of the UTF-8 character at `at`, in a text that ends with a NUL; 0 when it is none. */
static unsigned rlay__utf8_size(const unsigned char *at) {
    unsigned size = at[0] < 0x80 ? 1 : at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf5 ? 4 : 0;
    for (unsigned i = 1; i < size; i++)
        if ((at[i] & 0xc0) != 0x80) return 0;
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xf0 && at[1] < 0x90)) return 0; /* longer than needed */
    if ((at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf4 && at[1] > 0x8f)) return 0; /* a surrogate; too large */
    return size;
}

/* Some of a text is the peer's: put '?' for control characters and for bytes that are not UTF-8. */
static void rlay__text_clean(char *text) {
    for (unsigned char *at = (unsigned char *)text; *at;) {
        unsigned size = rlay__utf8_size(at);
        if (size == 0 || *at < 0x20 || *at == 0x7f || (*at == 0xc2 && at[1] < 0xa0)) *at++ = '?';
        else at += size;
    }
}

__attribute__((format(printf, 3, 4))) static int rlay__fail(rlay_channel *ch, int code, const char *format, ...) {
    int saved = errno;
    va_list list;
    va_start(list, format);
    vsnprintf(ch->error, sizeof ch->error, format, list);
    va_end(list);
    rlay__text_clean(ch->error);
    errno = saved;
    return -code;
}

/* A system call on `file` failed: say why, and what to do about it. */
static int rlay__fail_errno(rlay_channel *ch, const char *what, const char *file) {
    int code = RLAY_E_CHANNEL;
    const char *todo = "try again, or set RLAY_DIR to a directory on a local file system";
    if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) {
        code = RLAY_E_NO_SPACE;
        todo = "make room there or set RLAY_DIR to another directory";
    } else if (errno == EACCES || errno == EPERM) {
        todo = "check whose it is, or set RLAY_DIR to a private directory of your own";
    } else if (errno == EROFS) {
        todo = "set RLAY_DIR to a directory on a file system that you can write to";
    } else if (errno == EMFILE || errno == ENFILE) {
        todo = "close some files, or raise the limit with ulimit -n";
    } else if (errno == ENOMEM) {
        todo = "free some memory, or raise the limit with ulimit -v";
    } else if (errno == EINTR) {
        todo = "try again";
    }
    return rlay__fail(ch, code, "cannot %s %s in %s: %s; %s", what, file, ch->root, strerror(errno), todo);
}

static const char *rlay__role_name(int role) { return role == RLAY_ROLE_ENV ? "environment" : "agent"; }
static int rlay__our_turn_value(const rlay_channel *ch) { return ch->side; } /* SIDE_x == TURN_x */
static int rlay__their_turn_value(const rlay_channel *ch) { return 3 - ch->side; }
static uint32_t rlay__our_bye(const rlay_channel *ch) {
    return ch->side == RLAY_SIDE_SERVER ? RLAY_OFF_SERVER_BYE : RLAY_OFF_CLIENT_BYE;
}
static uint32_t rlay__their_bye(const rlay_channel *ch) {
    return ch->side == RLAY_SIDE_SERVER ? RLAY_OFF_CLIENT_BYE : RLAY_OFF_SERVER_BYE;
}
static uint32_t rlay__our_waiting(const rlay_channel *ch) {
    return ch->side == RLAY_SIDE_SERVER ? RLAY_OFF_SERVER_WAITING : RLAY_OFF_CLIENT_WAITING;
}
static uint32_t rlay__their_waiting(const rlay_channel *ch) {
    return ch->side == RLAY_SIDE_SERVER ? RLAY_OFF_CLIENT_WAITING : RLAY_OFF_SERVER_WAITING;
}

/* What each step goes through: calls among these were a twentieth of a step. */
#ifdef __GNUC__
#define RLAY__INLINE static inline __attribute__((always_inline))
#else
#define RLAY__INLINE static inline
#endif

/* ---- memory order, futex (sections 6 and 12) */

static uint32_t rlay__load_acquire_u32(const uint8_t *at) {
    return __atomic_load_n((const uint32_t *)(const void *)at, __ATOMIC_ACQUIRE);
}
static void rlay__store_release_u32(uint8_t *at, uint32_t value) {
    __atomic_store_n((uint32_t *)(void *)at, value, __ATOMIC_RELEASE);
}
static void rlay__fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static void rlay__cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static void rlay__put_u16(uint8_t *at, uint16_t value) { memcpy(at, &value, sizeof value); }
static void rlay__put_u32(uint8_t *at, uint32_t value) { memcpy(at, &value, sizeof value); }
static void rlay__put_u64(uint8_t *at, uint64_t value) { memcpy(at, &value, sizeof value); }
static uint16_t rlay__get_u16(const uint8_t *at) { uint16_t value; memcpy(&value, at, sizeof value); return value; }
static uint32_t rlay__get_u32(const uint8_t *at) { uint32_t value; memcpy(&value, at, sizeof value); return value; }
static uint64_t rlay__get_u64(const uint8_t *at) { uint64_t value; memcpy(&value, at, sizeof value); return value; }

/* A private copy, taken once: what is decided by it is read from it (section 16). The fence costs no instruction; it keeps
 * the compiler from reading the peer's bytes a second time. */
static void rlay__copy(void *to, const uint8_t *shared, size_t size) {
    memcpy(to, shared, size);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* Sleep while the word at `at` has `seen`, for at most `duration_ns`. Waking early (a signal, a goodbye) is normal. */
static void rlay__futex_wait(uint8_t *at, uint32_t seen, uint64_t duration_ns) {
#ifdef __linux__
    struct timespec most;
    most.tv_sec = (time_t)(duration_ns / 1000000000u);
    most.tv_nsec = (long)(duration_ns % 1000000000u);
    syscall(SYS_futex, at, FUTEX_WAIT, seen, &most, NULL, 0); /* shared: without FUTEX_PRIVATE_FLAG */
#else
    for (uint64_t nap = 20000, slept = 0; slept < duration_ns; slept += nap, nap = nap < 1000000 ? nap * 2 : nap) {
        if (rlay__load_acquire_u32(at) != seen) return; /* acquire: pairs with the release in rlay__hand_over */
        rlay__sleep_ns(nap);
    }
#endif
}

static void rlay__futex_wake(uint8_t *at) {
#ifdef __linux__
    syscall(SYS_futex, at, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
#else
    (void)at;
#endif
}

/* ---- the file pulled away (section 19)
 *
 * Touching a mapped page behind the end of its file is SIGBUS. The one thing here that belongs to the process and not
 * to a channel: a handler of that signal, and the table of our mappings that it looks at. A fault in one of them puts
 * zero pages there and marks the mapping as lost; rlay__is_lost() is asked after what is read, and before anything is
 * handed over. Any other SIGBUS goes to the handler that was there. RLAY_SIGBUS=off leaves the signal alone, and so
 * does compiling with RLAY_NO_SIGBUS. Elsewhere a mapping has a number from 1 on; 0 is one that is not guarded. */

#ifdef RLAY_NO_SIGBUS
static int rlay__guard(const uint8_t *at, uint64_t size) { return (void)at, (void)size, 0; }
static void rlay__guard_again(void) {}
static void rlay__unguard(int *number) { *number = 0; }
static int rlay__guard_is_lost(int number) { return number; }
#else
static struct rlay__mapping {
    uintptr_t start, end; /* start: 0 free, 1 being filled, else an address */
    uint32_t lost;
} rlay__mappings[RLAY_MAPPINGS_MAX];
/* [0] handled SIGBUS before us, [1] was put over us since and may call us in turn; `left` is less while they run. */
static struct sigaction rlay__others[2];
static int rlay__others_count, rlay__others_left, rlay__installing;

static int rlay__sigbus_is_ours(const siginfo_t *info) {
    uintptr_t address = (uintptr_t)info->si_addr, page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (info->si_code != BUS_ADRERR) return 0;
    for (struct rlay__mapping *m = rlay__mappings; m < rlay__mappings + RLAY_MAPPINGS_MAX; m++) {
        uintptr_t start = __atomic_load_n(&m->start, __ATOMIC_SEQ_CST), end = __atomic_load_n(&m->end, __ATOMIC_SEQ_CST);
        if (start <= 1 || address < start || address >= end || __atomic_load_n(&m->start, __ATOMIC_SEQ_CST) != start)
            continue;
        address -= address % page;
        __atomic_store_n(&m->lost, 1, __ATOMIC_RELEASE); /* pairs with the load in rlay__guard_is_lost */
        return mmap((void *)address, end - address, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                0) != MAP_FAILED;
    }
    return 0;
}

/* What the signal does without us: another handler, or the default, which ends the process where it faulted. */
static void rlay__sigbus_pass(int number, siginfo_t *info, void *context) {
    int index = __atomic_sub_fetch(&rlay__others_left, 1, __ATOMIC_SEQ_CST);
    const struct sigaction *other = index < 0 ? NULL : &rlay__others[index];
    if (other && (other->sa_flags & SA_SIGINFO)) {
        other->sa_sigaction(number, info, context);
    } else if (other && other->sa_handler != SIG_DFL && other->sa_handler != SIG_IGN) {
        other->sa_handler(number);
    } else if (!other || other->sa_handler == SIG_DFL || info->si_code > 0) { /* a fault cannot be ignored */
        signal(number, SIG_DFL);
        if (info->si_code <= 0) raise(number); /* was sent; a fault comes again as soon as we return */
    }
    __atomic_add_fetch(&rlay__others_left, 1, __ATOMIC_SEQ_CST);
}

static void rlay__sigbus(int number, siginfo_t *info, void *context) {
    int saved = errno;
    if (!rlay__sigbus_is_ours(info)) rlay__sigbus_pass(number, info, context);
    errno = saved;
}

/* Put our handler on top, at each mapping and before each sleep, if another one was installed since. */
static void rlay__guard_again(void) {
    struct sigaction found, ours;
    if (__atomic_exchange_n(&rlay__installing, 1, __ATOMIC_ACQUIRE)) return; /* another thread is at it */
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = rlay__sigbus;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER; /* NODEFER: a fault while one of the others runs */
    if (sigaction(SIGBUS, NULL, &found) == 0 && found.sa_handler != ours.sa_handler) {
        int index = rlay__others_count > 0 && found.sa_handler != rlay__others[0].sa_handler;
        __atomic_store_n(&rlay__others_left, index, __ATOMIC_SEQ_CST);
        rlay__others[index] = found;
        rlay__others_count = index + 1;
        __atomic_store_n(&rlay__others_left, index + 1, __ATOMIC_SEQ_CST);
        sigaction(SIGBUS, &ours, NULL);
    }
    __atomic_store_n(&rlay__installing, 0, __ATOMIC_RELEASE);
}

/* Enter a new mapping into the table; its number, or 0 when the table is full. */
static int rlay__guard(const uint8_t *at, uint64_t size) {
    rlay__guard_again();
    for (int i = 0; i < RLAY_MAPPINGS_MAX; i++) {
        struct rlay__mapping *m = &rlay__mappings[i];
        uintptr_t found = 0;
        if (!__atomic_compare_exchange_n(&m->start, &found, 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) continue;
        __atomic_store_n(&m->lost, 0, __ATOMIC_SEQ_CST);
        __atomic_store_n(&m->end, (uintptr_t)at + (uintptr_t)size, __ATOMIC_SEQ_CST);
        __atomic_store_n(&m->start, (uintptr_t)at, __ATOMIC_SEQ_CST);
        return i + 1;
    }
    return 0;
}

/* Before munmap(): what is mapped there next may be somebody else's. */
static void rlay__unguard(int *number) {
    if (*number) __atomic_store_n(&rlay__mappings[*number - 1].start, (uintptr_t)0, __ATOMIC_SEQ_CST);
    *number = 0;
}

/* 1: the file of this mapping was truncated. Where the cut left the beginning of a page, its rest reads as zeros
 * without a fault; the last page, which lies behind the cut, faults all the same. A cut in the last page hurts nobody:
 * it holds no record (section 7). */
RLAY__INLINE int rlay__guard_is_lost(int number) {
    if (number == 0) return 0;
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* what was copied before, was copied before */
    (void)*((const volatile uint8_t *)__atomic_load_n(&rlay__mappings[number - 1].end, __ATOMIC_RELAXED) - 1);
    return __atomic_load_n(&rlay__mappings[number - 1].lost, __ATOMIC_ACQUIRE) != 0;
}
#endif

/* ---- files (section 4) */

static int rlay__name_is_valid(const char *name) {
    size_t size = name ? strlen(name) : 0;
    if (size < 1 || size > RLAY_NAME_MAX) return 0;
    for (size_t i = 0; i < size; i++) {
        char c = name[i]; /* not isalnum(): it knows locales */
        int alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (!alnum && (i == 0 || (c != '.' && c != '_' && c != '-'))) return 0;
    }
    return 1;
}

static void rlay__root_choose(rlay_channel *ch) {
    const char *given = getenv("RLAY_DIR");
    struct stat info;
    if (given && *given) {
        snprintf(ch->root, sizeof ch->root, "%s", given);
    } else if (stat("/dev/shm", &info) == 0 && S_ISDIR(info.st_mode)) {
        snprintf(ch->root, sizeof ch->root, "/dev/shm/rlay-%lu", (unsigned long)geteuid());
    } else {
        const char *temporary = getenv("TMPDIR");
        struct passwd *user = getpwuid(geteuid());
        if (!temporary || !*temporary) temporary = "/tmp";
        snprintf(ch->root, sizeof ch->root, "%s/rlay-%s", temporary, user ? user->pw_name : "user");
    }
    /* A trailing slash would make O_NOFOLLOW follow. */
    for (size_t size = strlen(ch->root); size > 1 && ch->root[size - 1] == '/'; size--) ch->root[size - 1] = 0;
}

#ifdef __linux__
/* File systems on which a mapping or a lock may not reach the other process, as statfs() numbers them. */
static const struct { uint32_t type; const char *name; } rlay__refused[] = {
    {0x00006969, "NFS"}, {0x0000517B, "SMB"}, {0xFE534D42, "SMB2"}, {0xFF534D42, "CIFS"}, {0x01021997, "9p"},
    {0x65735546, "FUSE"}, {0x5346414F, "AFS"}, {0x00C36400, "Ceph"}, {0x73757245, "Coda"}, {0x786F4256, "vboxsf"},
};
#endif

static int rlay__file_system_check(rlay_channel *ch) {
#ifdef __linux__
    const char *given = getenv("RLAY_FILE_SYSTEM");
    struct statfs info;
    int result;
    do result = fstatfs(ch->directory, &info);
    while (result < 0 && errno == EINTR);
    if (result < 0 || (given && strcmp(given, "any") == 0)) return RLAY_OK; /* a system that does not say: go on */
    for (size_t i = 0; i < sizeof rlay__refused / sizeof *rlay__refused; i++)
        if (rlay__refused[i].type == (uint32_t)info.f_type)
            return rlay__fail(ch, RLAY_E_UNSAFE_PATH, "%s is on a %s file system, where processes may not see each "
                    "other's memory or locks; set RLAY_DIR to a directory on a local one, or, if you know that mmap "
                    "and flock work there, RLAY_FILE_SYSTEM=any", ch->root, rlay__refused[i].name);
#endif
    (void)ch;
    return RLAY_OK;
}

/* openat() with what every file of a channel needs: nothing is followed, inherited or waited for. */
static int rlay__openat(const rlay_channel *ch, const char *file, int flags) {
    int fd;
    do fd = openat(ch->directory, file, flags | O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static int rlay__root_check(rlay_channel *ch) {
    struct stat info;
    do ch->directory = open(ch->root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    while (ch->directory < 0 && errno == EINTR);
    if (ch->directory < 0 && (errno == ENOTDIR || errno == ELOOP))
        return rlay__fail(ch, RLAY_E_UNSAFE_PATH, "%s is not a plain directory (%s); remove it or set RLAY_DIR",
                ch->root, strerror(errno));
    if (ch->directory < 0 || fstat(ch->directory, &info) < 0) return rlay__fail_errno(ch, "open", "the directory");
    if (info.st_uid != geteuid() || (info.st_mode & 077) != 0)
        return rlay__fail(ch, RLAY_E_UNSAFE_PATH, "%s has owner %lu and mode %03o, but must be yours with mode 700; "
                "chmod it or set RLAY_DIR",
                          ch->root, (unsigned long)info.st_uid, (unsigned)(info.st_mode & 0777));
    return rlay__file_system_check(ch);
}

static int rlay__root_open(rlay_channel *ch) {
    rlay__root_choose(ch);
    if (strlen(ch->root) + 1 >= sizeof ch->root)
        return rlay__fail(ch, RLAY_E_UNSAFE_PATH, "RLAY_DIR is longer than %d bytes; choose a shorter path",
                (int)sizeof ch->root - 2);
    if (ch->root[0] != '/')
        return rlay__fail(ch, RLAY_E_UNSAFE_PATH, "RLAY_DIR=%s is a relative path, and the two sides may have "
                "different working directories; set it to an absolute path", ch->root);
    int made = mkdir(ch->root, 0700) == 0;
    if (!made && errno == ENOENT)
        return rlay__fail(ch, RLAY_E_CHANNEL, "cannot make the directory %s: %s; make the one above it first",
                ch->root, strerror(errno));
    if (!made && errno != EEXIST) return rlay__fail_errno(ch, "make", "the directory");
    int result = rlay__root_check(ch);
    if (result < 0 && made) rmdir(ch->root);
    return result;
}

/* Accept only a private regular file of our own; say what else it is. */
static int rlay__file_check(rlay_channel *ch, const char *file, const struct stat *info) {
    const char *kind = S_ISREG(info->st_mode) ? NULL : S_ISLNK(info->st_mode) ? "a symbolic link" :
            S_ISDIR(info->st_mode) ? "a directory" : S_ISFIFO(info->st_mode) ? "a FIFO" : "a special file";
    if (kind) return rlay__fail(ch, RLAY_E_UNSAFE_PATH, "%s/%s is %s, not a regular file; remove it, if you know "
            "where it came from", ch->root, file, kind);
    if (info->st_uid == geteuid() && (info->st_mode & 077) == 0 && info->st_nlink <= 1) return RLAY_OK;
    return rlay__fail(ch, RLAY_E_UNSAFE_PATH, "%s/%s has owner %lu, mode %03o and %lu names (hard links), but must be "
            "yours with mode 600 and one name; remove it, if you know where it came from", ch->root, file,
            (unsigned long)info->st_uid, (unsigned)(info->st_mode & 0777), (unsigned long)info->st_nlink);
}

/* Open an existing file, or create it when `flags` says so, and check what it is. */
static int rlay__file_open(rlay_channel *ch, const char *file, int flags, struct stat *info) {
    int fd = rlay__openat(ch, file, flags), result = RLAY_OK;
    if (fd < 0) {
        int saved = errno;
        if (saved != ENOENT && fstatat(ch->directory, file, info, AT_SYMLINK_NOFOLLOW) == 0)
            result = rlay__file_check(ch, file, info); /* knows better why, if that is the reason */
        errno = saved;
        return result < 0 ? result : rlay__fail_errno(ch, "open", file);
    }
    result = fstat(fd, info) < 0 ? rlay__fail_errno(ch, "examine", file) : rlay__file_check(ch, file, info);
    if (result == RLAY_OK) return fd;
    close(fd);
    errno = 0;
    return result;
}

/* Create a file that must not exist, with its space reserved: a full file system is an error here, no SIGBUS later. */
static int rlay__file_create(rlay_channel *ch, const char *file, uint64_t size) {
    int fd = rlay__openat(ch, file, O_CREAT | O_EXCL);
    if (fd < 0) return rlay__fail_errno(ch, "create", file);
#ifdef __APPLE__
    errno = ftruncate(fd, (off_t)size) < 0 ? errno : 0;
#else
    do errno = posix_fallocate(fd, 0, (off_t)size);
    while (errno == EINTR);
#endif
    if (errno == 0) return fd;
    int result = rlay__fail_errno(ch, "reserve the space of", file);
    close(fd);
    unlinkat(ch->directory, file, 0);
    return result;
}

/* Map, guard and close `fd`; NULL, and the error's text, when it cannot be mapped (CHANNEL). */
static uint8_t *rlay__file_map(rlay_channel *ch, int fd, uint64_t size, const char *file, int *guard) {
    void *at = MAP_FAILED;
    if (size > SIZE_MAX / 2) errno = ENOMEM; /* on a processor of 32 bits */
    else at = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) rlay__fail_errno(ch, "map", file);
    else *guard = ch->guarded ? rlay__guard((const uint8_t *)at, size) : 0;
    close(fd);
    return at == MAP_FAILED ? NULL : (uint8_t *)at;
}

typedef struct rlay__name { char text[RLAY_NAME_MAX + 40]; } rlay__name;
static rlay__name rlay__file_name(const rlay_channel *ch, const char *suffix) {
    rlay__name file;
    snprintf(file.text, sizeof file.text, "%.64s%.30s", ch->name, suffix);
    return file;
}
static rlay__name rlay__generation_name(const rlay_channel *ch, const char *before, const char *after) {
    rlay__name file;
    snprintf(file.text, sizeof file.text, "%.1s%.64s.%016llx.%.8s", before, ch->name,
            (unsigned long long)ch->generation, after);
    return file;
}
static rlay__name rlay__lock_name(const rlay_channel *ch, int side) {
    return rlay__file_name(ch, side == RLAY_SIDE_SERVER ? ".server.lock" : ".client.lock");
}

static int rlay__is_file_at(const rlay_channel *ch, const char *file, uint64_t device, uint64_t inode) {
    struct stat info;
    /* A system that does not say is no reason to give up a session: the lock decides. */
    if (fstatat(ch->directory, file, &info, AT_SYMLINK_NOFOLLOW) < 0) return errno != ENOENT && errno != ENOTDIR;
    return (uint64_t)info.st_dev == device && (uint64_t)info.st_ino == inode;
}

static int rlay__control_is_at_path(const rlay_channel *ch) {
    return rlay__is_file_at(ch, rlay__file_name(ch, ".rlay").text, ch->control_device, ch->control_inode);
}

/* ---- locks (section 11). The descriptor of a lock is never one that was mapped. */

static int rlay__lock_is_at_path(const rlay_channel *ch, int fd, int side) {
    struct stat info;
    return fstat(fd, &info) == 0 && rlay__is_file_at(ch, rlay__lock_name(ch, side).text, (uint64_t)info.st_dev,
            (uint64_t)info.st_ino);
}

/* Lock the open lock file of `side`: READY, or PENDING when another process holds it. Never waits. */
static int rlay__lock_take(rlay_channel *ch, int fd, int side) {
    int result;
    do result = flock(fd, LOCK_EX | LOCK_NB);
    while (result < 0 && errno == EINTR);
    if (result == 0) return RLAY_READY;
    return errno == EWOULDBLOCK ? RLAY_PENDING : rlay__fail_errno(ch, "lock", rlay__lock_name(ch, side).text);
}

/* Client, at its start: see that our lock file can be had; it is locked only just before the claim. */
static int rlay__lock_look(rlay_channel *ch) {
    struct stat info;
    int fd = rlay__file_open(ch, rlay__lock_name(ch, ch->side).text, O_CREAT, &info);
    if (fd < 0) return fd;
    close(fd);
    return RLAY_OK;
}

/* Try to take our lock: READY, or PENDING when another process holds it. Never waits. */
static int rlay__lock_try(rlay_channel *ch) {
    struct stat info;
    int fd = rlay__file_open(ch, rlay__lock_name(ch, ch->side).text, O_CREAT, &info);
    if (fd < 0) return fd;
    int result = rlay__lock_take(ch, fd, ch->side);
    if (result == RLAY_READY && !rlay__lock_is_at_path(ch, fd, ch->side)) result = RLAY_PENDING;
    if (result == RLAY_READY) ch->lock = fd;
    else close(fd);
    return result;
}

static void rlay__lock_release(rlay_channel *ch) {
    if (ch->lock >= 0) close(ch->lock);
    ch->lock = -1;
}

static int rlay__lock_server(rlay_channel *ch) {
    uint64_t deadline = rlay__now_ns() + RLAY_LOCK_RETRY_NS;
    for (;;) {
        int result = rlay__lock_try(ch);
        if (result != RLAY_PENDING) return result;
        if (rlay__now_ns() >= deadline)
            return rlay__fail(ch, RLAY_E_CHANNEL_BUSY, "channel %s in %s has a server already; end that one, or "
                    "choose another name", ch->name, ch->root);
        rlay__sleep_ns(rlay__jitter_ns(ch, 1000000, 10000000));
    }
}

static int rlay__peer_lock_open(rlay_channel *ch) {
    struct stat info;
    if (ch->peer_lock < 0) ch->peer_lock = rlay__file_open(ch, rlay__lock_name(ch, 3 - ch->side).text, O_CREAT,
            &info);
    return ch->peer_lock;
}

/* READY when the peer's lock is free: the kernel freed it, the peer is dead. PENDING while it is held. */
static int rlay__peer_lock_probe(rlay_channel *ch) {
    for (int attempt = 0; attempt < 2; attempt++) {
        if (rlay__peer_lock_open(ch) < 0) return ch->peer_lock;
        int result = rlay__lock_take(ch, ch->peer_lock, 3 - ch->side);
        if (result != RLAY_READY) return result;
        int kept = flock(ch->peer_lock, LOCK_UN) < 0; /* a lock that we kept would look like a living peer */
        int current = rlay__lock_is_at_path(ch, ch->peer_lock, 3 - ch->side);
        if (!current || kept) close(ch->peer_lock), ch->peer_lock = -1;
        if (current) return RLAY_READY;
        /* somebody replaced the lock file: look at the new one before saying "dead" */
    }
    return RLAY_READY;
}

/* ---- layout (section 8) */

static uint32_t rlay__dtype_size(int dtype) {
    static const uint8_t sizes[13] = {0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8};
    return dtype >= 1 && dtype <= 12 ? sizes[dtype] : 0;
}

/* a * b, or RLAY__TOO_MANY beyond the largest record; no step overflows. */
#define RLAY__TOO_MANY UINT64_MAX
static uint64_t rlay__times(uint64_t a, uint64_t b) {
    if (a == 0 || b == 0) return 0;
    return a > RLAY_RECORD_MAX / b ? RLAY__TOO_MANY : a * b;
}

/* Elements of one lane, or RLAY__TOO_MANY. */
static uint64_t rlay__count(uint32_t ndim, const uint32_t *shape) {
    uint64_t count = 1;
    for (uint32_t i = 0; i < ndim; i++) count = rlay__times(count, shape[i]);
    return count;
}

uint64_t rlay_field_size(const rlay_field *field) { return field->stride * (field->lanes ? field->lanes : 1); }

/* Give `field` its stride and offset, and move `cursor` behind it. 0 when the row makes no sense. */
static int rlay__field_place(rlay_field *field, uint64_t *cursor) {
    uint32_t itemsize = rlay__dtype_size(field->dtype);
    uint64_t count = field->ndim <= RLAY_NDIM_MAX ? rlay__count(field->ndim, field->shape) : RLAY__TOO_MANY;
    field->stride = rlay__times(count, itemsize);
    uint64_t size = rlay__times(field->stride, field->lanes ? field->lanes : 1);
    if (itemsize == 0 || size == RLAY__TOO_MANY) return 0;
    uint64_t align = size >= 64 ? 64 : itemsize;
    field->offset = (*cursor + align - 1) / align * align;
    *cursor = field->offset + size; /* at most twice the largest record: no overflow */
    return *cursor <= RLAY_RECORD_MAX;
}

static uint64_t rlay__record_size(uint64_t cursor) {
    return (cursor + RLAY_PAGE_SIZE - 1) / RLAY_PAGE_SIZE * RLAY_PAGE_SIZE;
}

static uint64_t rlay__data_size(const rlay_channel *ch) { return ch->request_size + ch->reply_size + RLAY_TAIL_SIZE; }

static int rlay__field_index(const rlay_channel *ch, int record, const char *name) {
    for (uint32_t i = 0; i < ch->field_count; i++)
        if (ch->fields[i].record == record && strcmp(ch->fields[i].name, name) == 0) return (int)i;
    return -1;
}

/* Find the rows every layout has, and see that they have the type they must have. */
static int rlay__layout_bind(rlay_channel *ch) {
    const struct { uint32_t *row; const char *name; uint8_t record, dtype, ndim; } standard[] = {
        {&ch->seed, "seed", RLAY_RECORD_REQUEST, RLAY_DTYPE_UINT64, 0},
        {&ch->seed_present, "seed#present", RLAY_RECORD_REQUEST, RLAY_DTYPE_UINT8, 0},
        {&ch->body[0], "body", RLAY_RECORD_REQUEST, RLAY_DTYPE_UINT8, 1}, /* the last row of its record */
        {&ch->reward, "reward", RLAY_RECORD_REPLY, RLAY_DTYPE_FLOAT64, 0},
        {&ch->terminated, "terminated", RLAY_RECORD_REPLY, RLAY_DTYPE_UINT8, 0},
        {&ch->truncated, "truncated", RLAY_RECORD_REPLY, RLAY_DTYPE_UINT8, 0},
        {&ch->body[1], "body", RLAY_RECORD_REPLY, RLAY_DTYPE_UINT8, 1},
    };
    for (size_t i = 0; i < sizeof standard / sizeof *standard; i++) {
        int row = rlay__field_index(ch, standard[i].record, standard[i].name);
        if (row < 0 || ch->fields[row].dtype != standard[i].dtype || ch->fields[row].ndim != standard[i].ndim)
            return rlay__fail(ch, RLAY_E_LAYOUT_MISMATCH, "channel %s: the field table has no usable field '%s'; the "
                    "environment's port has a fault", ch->name, standard[i].name);
        *standard[i].row = (uint32_t)row;
        int last = (uint32_t)row + 1 == ch->field_count || ch->fields[row + 1].record != ch->fields[row].record;
        if (standard[i].ndim == 1 && (!last || ch->fields[row].group != RLAY_GROUP_NONE ||
                ch->fields[row].lanes != 0 || ch->fields[row].shape[0] > RLAY_BODY_MAX))
            return rlay__fail(ch, RLAY_E_LAYOUT_MISMATCH, "channel %s: a record does not end with a body of at most "
                    "2^30 bytes; the environment's port has a fault", ch->name);
    }
    const rlay_field *frame = rlay_field_find(ch, RLAY_RECORD_REPLY, "frame");
    const rlay_field *shape = rlay_field_find(ch, RLAY_RECORD_REPLY, "frame#shape");
    if (frame && (frame->dtype != RLAY_DTYPE_UINT8 || !shape || shape->dtype != RLAY_DTYPE_UINT32 ||
            rlay_field_size(shape) != sizeof ch->frame_shape))
        return rlay__fail(ch, RLAY_E_LAYOUT_MISMATCH, "channel %s: the field 'frame' has no usable 'frame#shape'; the "
                "environment's port has a fault", ch->name);
    ch->info_count = 0;
    for (uint32_t i = 0; i < ch->field_count; i++) ch->info_count += strncmp(ch->fields[i].name, "info.", 5) == 0;
    return RLAY_OK;
}

/* Whether the name of row `i`, in our copy of the table, is a text that no row before it has. */
static int rlay__row_name_is_valid(const rlay_channel *ch, uint32_t i) {
    const rlay_field *field = &ch->fields[i], *other = ch->fields;
    const unsigned char *at = (const unsigned char *)field->name;
    if (*at == 0 || !memchr(at, 0, sizeof field->name)) return 0;
    for (unsigned size; *at; at += size)
        if ((size = rlay__utf8_size(at)) == 0) return 0;
    for (; other < field; other++)
        if (other->record == field->record && other->group == field->group &&
                strcmp(other->name, field->name) == 0) return 0;
    return 1;
}

/* Take the env's layout: copy the table, compute every offset again, compare, and compare the fingerprint. */
static int rlay__layout_adopt(rlay_channel *ch) {
    uint8_t block[0x20];
    uint64_t cursor[2] = {RLAY_PREFIX_SIZE, RLAY_PREFIX_SIZE};
    rlay__copy(block, ch->control + RLAY_OFF_SCHEMA_SIZE, sizeof block);
    uint32_t schema_size = rlay__get_u32(block), count = rlay__get_u32(block + 4);
    if (schema_size > RLAY_SCHEMA_MAX || count > RLAY_FIELDS_MAX)
        return rlay__fail(ch, RLAY_E_CHANNEL_FORMAT, "channel %s: %u fields and %u bytes of schema do not fit; the "
                "environment's port has a fault", ch->name, (unsigned)count, (unsigned)schema_size);
    rlay__copy(ch->fields, ch->control + RLAY_OFF_FIELD_TABLE, (size_t)count * RLAY_ROW_SIZE);
    ch->field_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        rlay_field *field = &ch->fields[i];
        rlay_field ours = *field;
        int record_ok = field->record == RLAY_RECORD_REQUEST || field->record == RLAY_RECORD_REPLY;
        int name_ok = rlay__row_name_is_valid(ch, i);
        int ordered = i == 0 || field->record >= ch->fields[i - 1].record;
        int lanes_ok = field->group != RLAY_GROUP_NONE || field->lanes == 0;
        if (!record_ok || !name_ok || !ordered || !lanes_ok || !rlay__field_place(&ours, &cursor[field->record - 1]))
            return rlay__fail(ch, RLAY_E_LAYOUT_MISMATCH, "channel %s: row %u of the field table is invalid; the "
                    "environment's port has a fault", ch->name, (unsigned)i);
        if (ours.offset != field->offset || ours.stride != field->stride)
            return rlay__fail(ch, RLAY_E_LAYOUT_MISMATCH, "channel %s: field '%s' stands at %llu with stride %llu, "
                    "by the rules it is %llu and %llu; the two ports disagree",
                              ch->name, field->name, (unsigned long long)field->offset, (unsigned long long)field->stride, (unsigned long long)ours.offset, (unsigned long long)ours.stride);
    }
    ch->field_count = count;
    ch->request_size = rlay__record_size(cursor[0]);
    ch->reply_size = rlay__record_size(cursor[1]);
    if (rlay__get_u64(block + 0x10) != ch->request_size || rlay__get_u64(block + 0x18) != ch->reply_size)
        return rlay__fail(ch, RLAY_E_LAYOUT_MISMATCH, "channel %s: the records have %llu and %llu bytes, by the "
                "rules %llu and %llu; the two ports disagree", ch->name,
                          (unsigned long long)rlay__get_u64(block + 0x10), (unsigned long long)rlay__get_u64(block + 0x18), (unsigned long long)ch->request_size, (unsigned long long)ch->reply_size);
    if (rlay__fingerprint(ch->control + RLAY_OFF_SCHEMA, schema_size, ch->fields, count) != rlay__get_u64(block + 8))
        return rlay__fail(ch, RLAY_E_LAYOUT_MISMATCH, "channel %s: the fingerprint does not match schema and field "
                "table; the environment's port has a fault", ch->name);
    return rlay__layout_bind(ch);
}

static void rlay__layout_write(const rlay_channel *ch) {
    const rlay_schema *schema = ch->schema;
    rlay__put_u32(ch->control + RLAY_OFF_SCHEMA_SIZE, schema->text_size);
    rlay__put_u32(ch->control + RLAY_OFF_FIELD_COUNT, schema->field_count);
    rlay__put_u64(ch->control + RLAY_OFF_FINGERPRINT, schema->fingerprint);
    rlay__put_u64(ch->control + RLAY_OFF_REQUEST_SIZE, schema->request_size);
    rlay__put_u64(ch->control + RLAY_OFF_REPLY_SIZE, schema->reply_size);
    memcpy(ch->control + RLAY_OFF_FIELD_TABLE, schema->fields, (size_t)schema->field_count * RLAY_ROW_SIZE);
    memcpy(ch->control + RLAY_OFF_SCHEMA, schema->text, schema->text_size);
}

/* ---- hello (section 5) */

static uint64_t rlay__features_offered(const rlay_channel *ch) {
    return ch->role == RLAY_ROLE_AGENT || ch->schema->config.render_mode ? RLAY_FEATURE_RENDER : 0;
}

static void rlay__hello_write(const rlay_channel *ch, uint8_t *at) {
    char host[64];
    memset(host, 0, sizeof host);
    gethostname(host, sizeof host - 1);
    rlay__put_u16(at + RLAY_HELLO_PROTOCOL_MIN, RLAY_PROTOCOL_MIN);
    rlay__put_u16(at + RLAY_HELLO_PROTOCOL_MAX, RLAY_PROTOCOL_MAX);
    at[RLAY_HELLO_ROLE] = ch->role;
    rlay__put_u64(at + RLAY_HELLO_FEATURES, rlay__features_offered(ch));
    rlay__put_u32(at + RLAY_HELLO_PID, (uint32_t)getpid());
    memcpy(at + RLAY_HELLO_LIBRARY, RLAY_LIBRARY, sizeof RLAY_LIBRARY);
    memcpy(at + RLAY_HELLO_HOST, host, sizeof host);
}

/* Check a private copy of the peer's hello, and note what the session will have. */
static int rlay__hello_check(rlay_channel *ch, const uint8_t *hello) {
    uint16_t least = rlay__get_u16(hello + RLAY_HELLO_PROTOCOL_MIN), most = rlay__get_u16(hello + RLAY_HELLO_PROTOCOL_MAX);
    char library[40];
    memcpy(library, hello + RLAY_HELLO_LIBRARY, sizeof library);
    library[39] = 0;
    snprintf(ch->peer, sizeof ch->peer, "%s, pid %u", library, (unsigned)rlay__get_u32(hello + RLAY_HELLO_PID));
    if (least == 0 || least > most)
        return rlay__fail(ch, RLAY_E_CHANNEL_FORMAT, "channel %s: the peer (%s) offers protocol %u to %u; its port "
                "has a fault", ch->name, ch->peer, (unsigned)least, (unsigned)most);
    if (least > RLAY_PROTOCOL_MAX || most < RLAY_PROTOCOL_MIN)
        return rlay__fail(ch, RLAY_E_PROTOCOL_VERSION, "channel %s: the peer (%s) speaks protocol %u to %u, %s "
                "speaks %d to %d; update the older one",
                          ch->name, ch->peer, (unsigned)least, (unsigned)most, RLAY_LIBRARY, RLAY_PROTOCOL_MIN, RLAY_PROTOCOL_MAX);
    if (hello[RLAY_HELLO_ROLE] != 3 - ch->role)
        return rlay__fail(ch, RLAY_E_CHANNEL_FORMAT, "channel %s: the peer (%s) has role %u and we are the %s; one "
                "side must be the environment and the other the agent",
                          ch->name, ch->peer, (unsigned)hello[RLAY_HELLO_ROLE], rlay__role_name(ch->role));
    ch->protocol = most < RLAY_PROTOCOL_MAX ? most : RLAY_PROTOCOL_MAX;
    ch->features = rlay__get_u64(hello + RLAY_HELLO_FEATURES) & rlay__features_offered(ch);
    return RLAY_OK;
}

/* ---- the turn (sections 6, 11 and 12) */

static int rlay__turn_is_ours(const rlay_channel *ch) {
    /* acquire: pairs with the release store in rlay__hand_over (PROTOCOL.md 6) */
    return rlay__load_acquire_u32(ch->control + RLAY_OFF_TURN) == (uint32_t)rlay__our_turn_value(ch);
}

RLAY__INLINE void rlay__hand_over(rlay_channel *ch) {
    ch->our_turn = 0;
    ch->probe_at_ns = 0;
    /* release: pairs with the acquire load in rlay__turn_is_ours (PROTOCOL.md 6) */
    rlay__store_release_u32(ch->control + RLAY_OFF_TURN, (uint32_t)rlay__their_turn_value(ch));
    rlay__fence_full(); /* pairs with the fence in rlay__turn_sleep: they see our turn, or we see them waiting */
    if (rlay__load_acquire_u32(ch->control + rlay__their_waiting(ch))) rlay__futex_wake(ch->control + RLAY_OFF_TURN);
}

/* Look at the turn up to `looks` times. 1: it is ours. */
static int rlay__turn_look(const rlay_channel *ch, uint32_t looks) {
    for (uint32_t i = 0; i < looks; i++) {
        if (rlay__turn_is_ours(ch)) return 1;
        rlay__cpu_relax();
    }
    return 0;
}

/* Spin for microseconds; spin less when it did not pay, for the peer may need this very core. Now and then try the
 * full spin again: two sides that have both given up spinning would wake each other through the kernel for ever. */
static void rlay__turn_spin(rlay_channel *ch) {
    if (ch->strategy == RLAY_WAIT_SPIN) rlay__turn_look(ch, RLAY_SPIN_MAX);
    if (ch->strategy != RLAY_WAIT_ADAPTIVE || !ch->may_spin) return;
    if (++ch->waits % RLAY_SPIN_RETRY == 0) ch->spin = RLAY_SPIN_MAX;
    if (rlay__turn_look(ch, ch->spin)) {
        if (ch->spin < RLAY_SPIN_MAX) ch->spin *= 2;
    } else if (ch->spin > 1) {
        ch->spin /= 2;
    }
}

static void rlay__turn_sleep(rlay_channel *ch, uint64_t duration_ns) {
    uint8_t *waiting = ch->control + rlay__our_waiting(ch);
    if (ch->guarded) rlay__guard_again();
    rlay__store_release_u32(waiting, 1);
    rlay__fence_full(); /* pairs with the fence in rlay__hand_over */
    uint32_t seen = rlay__load_acquire_u32(ch->control + RLAY_OFF_TURN); /* acquire: pairs with rlay__hand_over */
    uint32_t bye = rlay__load_acquire_u32(ch->control + rlay__their_bye(ch)); /* acquire: pairs with rlay__session_end */
    if (seen != (uint32_t)rlay__our_turn_value(ch) &&
            bye == RLAY_BYE_NONE) rlay__futex_wait(ch->control + RLAY_OFF_TURN, seen, duration_ns);
    rlay__store_release_u32(waiting, 0);
}

/* Let time pass between two looks, `duration_ns` at most. A nap leaves our waiting word 0: nobody has to wake us. */
static void rlay__turn_pause(rlay_channel *ch, uint64_t duration_ns, uint64_t *nap_ns) {
    if (ch->strategy == RLAY_WAIT_SPIN) return; /* rlay__turn_spin() goes on looking */
    if (ch->strategy == RLAY_WAIT_BACKOFF) {
        rlay__sleep_ns(*nap_ns < duration_ns ? *nap_ns : duration_ns);
        *nap_ns = 2 * *nap_ns < RLAY_NAP_MAX_NS ? 2 * *nap_ns : RLAY_NAP_MAX_NS;
        return;
    }
    rlay__turn_sleep(ch, duration_ns);
}

/* ---- sessions (sections 10 and 11) */

static void rlay__unmap(rlay_channel *ch) {
    rlay__unguard(&ch->data_guard);
    rlay__unguard(&ch->control_guard);
    if (ch->data) munmap(ch->data, (size_t)rlay__data_size(ch));
    if (ch->control) munmap(ch->control, RLAY_CONTROL_SIZE);
    ch->data = ch->control = NULL;
}

static void rlay__session_begin(rlay_channel *ch, int phase, int our_turn) {
    ch->phase = (uint8_t)phase;
    ch->our_turn = (uint8_t)our_turn;
    ch->state = RLAY__FRESH;
    ch->command = RLAY_COMMAND_READY;
    ch->seq = 0;
    ch->in_size = ch->out_size = 0;
    ch->spin = RLAY_SPIN_MAX;
    ch->probe_at_ns = 0;
}

/* Say goodbye, let the peer notice, and let go of this session's files. The next rlay_poll() starts another one. */
static void rlay__session_end(rlay_channel *ch, uint32_t bye) {
    if (ch->control) {
        RLAY_POINT("closing");
        /* release: pairs with the acquire load in rlay__watch; stands after our last write of the turn */
        rlay__store_release_u32(ch->control + rlay__our_bye(ch), bye);
        rlay__futex_wake(ch->control + RLAY_OFF_TURN);
        if (ch->side == RLAY_SIDE_SERVER) unlinkat(ch->directory, rlay__generation_name(ch, "", "data").text, 0);
    }
    rlay__unmap(ch);
    if (ch->side == RLAY_SIDE_CLIENT) rlay__lock_release(ch);
    ch->our_turn = 0;
    ch->phase = RLAY__ENDED;
}

/* 1: a file of this session was truncated, and what we read last may have been zeros. */
RLAY__INLINE int rlay__is_lost(const rlay_channel *ch) {
    return rlay__guard_is_lost(ch->data_guard) || rlay__guard_is_lost(ch->control_guard);
}

static int rlay__say_lost(rlay_channel *ch) {
    ch->seek_code = RLAY_E_CHANNEL_FORMAT;
    return rlay__fail(ch, RLAY_E_CHANNEL_FORMAT, "a file of channel %s in %s (%s.rlay, or the .data file of session "
            "%016llx) was truncated while it was in use; attach again", ch->name, ch->root, ch->name,
            (unsigned long long)ch->generation);
}

/* A client without a session looks for the next file; who has one learns that it is over. */
static int rlay__fail_lost(rlay_channel *ch) {
    int seeking = ch->phase == RLAY__GREETED;
    rlay__session_end(ch, RLAY_BYE_FAILED);
    if (seeking) ch->phase = RLAY__SEEKING;
    return seeking ? (rlay__say_lost(ch), RLAY_PENDING) : rlay__say_lost(ch);
}

/* Server: build the next control file under a private name, and rename it into place. */
static int rlay__publish(rlay_channel *ch) {
    struct stat info;
    rlay__name path = rlay__file_name(ch, ".rlay");
    int result = RLAY_OK;
    if (fstatat(ch->directory, path.text, &info, AT_SYMLINK_NOFOLLOW) == 0) result = rlay__file_check(ch, path.text, &info);
    else if (errno != ENOENT) result = rlay__fail_errno(ch, "examine", path.text);
    if (result < 0) return result;
    ch->generation = rlay__entropy();
    if (ch->generation == 0) return rlay__fail(ch, RLAY_E_CHANNEL, "channel %s: the kernel gives no random bytes for "
            "a session (%s); allow getrandom() here", ch->name, strerror(errno));
    rlay__name tmp = rlay__generation_name(ch, ".", "tmp");
    int fd = rlay__file_create(ch, tmp.text, RLAY_CONTROL_SIZE);
    if (fd < 0) return fd;
    if (fstat(fd, &info) < 0) {
        result = rlay__fail_errno(ch, "examine", tmp.text);
        close(fd);
        return unlinkat(ch->directory, tmp.text, 0), result;
    }
    ch->control = rlay__file_map(ch, fd, RLAY_CONTROL_SIZE, tmp.text, &ch->control_guard);
    if (!ch->control) return unlinkat(ch->directory, tmp.text, 0), -RLAY_E_CHANNEL;
    memcpy(ch->control + RLAY_OFF_MAGIC, RLAY_MAGIC, 8);
    rlay__put_u32(ch->control + RLAY_OFF_ENDIAN_TAG, RLAY_ENDIAN_TAG);
    rlay__put_u32(ch->control + RLAY_OFF_HEADER_SIZE, RLAY_HEADER_SIZE);
    rlay__put_u64(ch->control + RLAY_OFF_CONTROL_SIZE, RLAY_CONTROL_SIZE);
    rlay__put_u64(ch->control + RLAY_OFF_GENERATION, ch->generation);
    rlay__hello_write(ch, ch->control + RLAY_OFF_SERVER_HELLO);
    if (ch->role == RLAY_ROLE_ENV) rlay__layout_write(ch);
    rlay__fence_full(); /* the file is complete before it has its name */
    if (renameat(ch->directory, tmp.text, ch->directory, path.text) < 0) {
        result = rlay__fail_errno(ch, "publish", path.text);
        unlinkat(ch->directory, tmp.text, 0);
        rlay__unmap(ch);
        return result;
    }
    ch->control_device = (uint64_t)info.st_dev; /* not before: until then it is the last session's file that is ours */
    ch->control_inode = (uint64_t)info.st_ino;
    rlay__session_begin(ch, RLAY__PUBLISHED, 0);
    RLAY_POINT("published");
    return RLAY_PENDING;
}

/* Server: the next session. If somebody removed our lock file, another server may have come: take the lock anew. */
static int rlay__publish_next(rlay_channel *ch) {
    int result = RLAY_READY;
    if (!rlay__lock_is_at_path(ch, ch->lock, ch->side)) rlay__lock_release(ch), result = rlay__lock_server(ch);
    if (result == RLAY_READY) result = rlay__publish(ch);
    if (result < 0) rlay_close(ch); /* a server without a file must not hold the lock */
    return result;
}

static int rlay__data_map(rlay_channel *ch, int fd) {
    rlay__name file = rlay__generation_name(ch, "", "data");
    ch->data = rlay__file_map(ch, fd, rlay__data_size(ch), file.text, &ch->data_guard);
    return ch->data ? RLAY_OK : -RLAY_E_CHANNEL;
}

static int rlay__data_create(rlay_channel *ch) {
    rlay__name file = rlay__generation_name(ch, "", "data");
    int fd = rlay__file_create(ch, file.text, rlay__data_size(ch));
    if (fd < 0) return fd;
    int result = rlay__data_map(ch, fd);
    if (result < 0) return unlinkat(ch->directory, file.text, 0), result;
    rlay__put_u64(ch->data + RLAY_PREFIX_SESSION, ch->generation);
    rlay__put_u64(ch->data + ch->request_size + RLAY_PREFIX_SESSION, ch->generation);
    return RLAY_OK;
}

/* The codes a rejection may carry (section 10.3); any other one is CHANNEL. */
static int rlay__welcome_code(int code) {
    int known = (code >= RLAY_E_LAYOUT && code <= RLAY_E_SCHEMA) || (code >= RLAY_E_CHANNEL_FORMAT &&
            code <= RLAY_E_LAYOUT_MISMATCH) || code == RLAY_E_NO_SPACE;
    return known ? code : RLAY_E_CHANNEL;
}

static int rlay__reject(rlay_channel *ch, int result) {
    rlay__put_u32(ch->control + RLAY_OFF_WELCOME_CODE, (uint32_t)rlay__welcome_code(-result));
    snprintf((char *)ch->control + RLAY_OFF_WELCOME_TEXT, RLAY_WELCOME_TEXT_SIZE, "%.*s",
            RLAY_WELCOME_TEXT_SIZE - 1, ch->error);
    rlay__put_u32(ch->control + RLAY_OFF_WELCOME_STATUS, RLAY_WELCOME_REJECTED);
    rlay__hand_over(ch);
    rlay__session_end(ch, RLAY_BYE_CLOSED);
    /* The next client may fit; a full file system is ours to report. */
    return result == -RLAY_E_NO_SPACE ? result : rlay__publish_next(ch);
}

/* Server, on the client's hello: welcome or reject it. */
static int rlay__greet(rlay_channel *ch) {
    uint8_t hello[RLAY_HELLO_SIZE];
    rlay__copy(hello, ch->control + RLAY_OFF_CLIENT_HELLO, sizeof hello);
    int result = rlay__hello_check(ch, hello);
    if (result == RLAY_OK && ch->role == RLAY_ROLE_AGENT) result = rlay__layout_adopt(ch);
    if (result == RLAY_OK) result = rlay__data_create(ch);
    if (result < 0) return rlay__reject(ch, result);
    rlay__put_u16(ch->control + RLAY_OFF_PROTOCOL, ch->protocol);
    rlay__put_u64(ch->control + RLAY_OFF_FEATURES, ch->features);
    rlay__put_u64(ch->control + RLAY_OFF_DATA_SIZE, rlay__data_size(ch));
    rlay__put_u32(ch->control + RLAY_OFF_WELCOME_STATUS, RLAY_WELCOME_ACCEPTED);
    /* An agent gets the turn back once (READY) before it may ask; an environment waits for the first request. */
    rlay__session_begin(ch, ch->role == RLAY_ROLE_AGENT ? RLAY__WELCOMED : RLAY__RUNNING, 0);
    rlay__hand_over(ch);
    return RLAY_PENDING;
}

static int rlay__claim_is_taken(rlay_channel *ch) {
    if (ch->generation == ch->dead_generation) return RLAY_PENDING; /* our own claim on a file whose server died */
    ch->seek_code = RLAY_E_CHANNEL_BUSY;
    rlay__fail(ch, ch->seek_code, "channel %s in %s has a client already; end that one, or wait longer", ch->name,
            ch->root);
    return RLAY_PENDING;
}

/* Client: look at the control file and claim the session if it is free. Never waits, never holds the lock while waiting. */
static int rlay__claim(rlay_channel *ch) {
    uint8_t page[RLAY_OFF_CLIENT_HELLO]; /* what was complete when the file got its name; the words have other writers */
    rlay__copy(page, ch->control, sizeof page);
    if (memcmp(page, RLAY_MAGIC, 8) != 0 || rlay__get_u32(page + RLAY_OFF_ENDIAN_TAG) != RLAY_ENDIAN_TAG ||
        rlay__get_u32(page + RLAY_OFF_HEADER_SIZE) != RLAY_HEADER_SIZE ||
                rlay__get_u64(page + RLAY_OFF_CONTROL_SIZE) != RLAY_CONTROL_SIZE ||
        rlay__get_u64(page + RLAY_OFF_GENERATION) == 0)
        return rlay__fail(ch, RLAY_E_CHANNEL_FORMAT, "%s/%s.rlay is not a control file of this format; remove it and "
                "start its server again", ch->root, ch->name);
    ch->generation = rlay__get_u64(page + RLAY_OFF_GENERATION);
    uint8_t *claim = ch->control + RLAY_OFF_CLAIM;
    /* acquire: pairs with the release store of another client's claim, below */
    if (rlay__load_acquire_u32(claim)) return rlay__claim_is_taken(ch);
    int result = rlay__hello_check(ch, page + RLAY_OFF_SERVER_HELLO);
    if (result == RLAY_OK && ch->role == RLAY_ROLE_AGENT) result = rlay__layout_adopt(ch);
    if (rlay__is_lost(ch)) return rlay__say_lost(ch), RLAY_PENDING; /* no goodbye: the session is not ours */
    if (result < 0) return result;
    result = rlay__lock_try(ch);
    if (result < 0) return result;
    if (result == RLAY_PENDING) return rlay__claim_is_taken(ch);
    if (rlay__load_acquire_u32(claim)) { /* once more, now that nobody else can claim */
        rlay__lock_release(ch);
        return rlay__claim_is_taken(ch);
    }
    rlay__store_release_u32(claim, 1); /* release: pairs with the acquire load in rlay__watch_published */
    RLAY_POINT("claimed");
    rlay__hello_write(ch, ch->control + RLAY_OFF_CLIENT_HELLO);
    if (ch->role == RLAY_ROLE_ENV) rlay__layout_write(ch);
    RLAY_POINT("hello_written");
    rlay__session_begin(ch, RLAY__GREETED, 0);
    rlay__hand_over(ch);
    RLAY_POINT("hello_handed_over");
    return RLAY_READY;
}

/* Client: one attempt to attach, every 1 to 20 ms. */
static int rlay__seek(rlay_channel *ch) {
    struct stat info;
    uint64_t now = rlay__now_ns();
    if (now < ch->seek_at_ns) return RLAY_PENDING;
    ch->seek_at_ns = now + rlay__jitter_ns(ch, 1000000, 20000000);
    rlay__name path = rlay__file_name(ch, ".rlay");
    int fd = rlay__file_open(ch, path.text, 0, &info);
    if (fd < 0 && errno == ENOENT) {
        ch->seek_code = RLAY_E_CHANNEL_NOT_FOUND;
        rlay__fail(ch, ch->seek_code, "there is no channel %s in %s; start its server, or check RLAY_DIR", ch->name,
                ch->root);
        return RLAY_PENDING;
    }
    if (fd < 0) return fd;
    if (info.st_size != RLAY_CONTROL_SIZE) {
        close(fd);
        int result = rlay__fail(ch, RLAY_E_CHANNEL_FORMAT, "%s/%s has %lld bytes instead of %d; remove it and start its "
                "server again", ch->root, path.text, (long long)info.st_size, RLAY_CONTROL_SIZE);
        if (info.st_size > RLAY_CONTROL_SIZE) return result;
        ch->seek_code = RLAY_E_CHANNEL_FORMAT; /* truncated: its server publishes another one when it notices */
        return RLAY_PENDING;
    }
    ch->control_device = (uint64_t)info.st_dev;
    ch->control_inode = (uint64_t)info.st_ino;
    ch->control = rlay__file_map(ch, fd, RLAY_CONTROL_SIZE, path.text, &ch->control_guard);
    if (!ch->control) return -RLAY_E_CHANNEL;
    int result = rlay__claim(ch);
    if (result != RLAY_READY) rlay__unmap(ch);
    return result == RLAY_READY ? RLAY_PENDING : result;
}

/* Client: the server we greeted is gone, the file was stale. Look for its successor. */
static int rlay__seek_again(rlay_channel *ch) {
    ch->dead_generation = ch->generation;
    rlay__session_end(ch, RLAY_BYE_CLOSED);
    ch->phase = RLAY__SEEKING;
    ch->seek_code = RLAY_E_CHANNEL_NOT_FOUND;
    rlay__fail(ch, ch->seek_code, "channel %s in %s was left by a server that is gone; start the server", ch->name,
            ch->root);
    return RLAY_PENDING;
}

/* Client, on the server's welcome: map the data file, and take part. */
static int rlay__enter(rlay_channel *ch) {
    uint8_t header[RLAY_OFF_TURN];
    struct stat info;
    rlay__copy(header, ch->control, sizeof header);
    uint32_t status = rlay__get_u32(header + RLAY_OFF_WELCOME_STATUS), code = rlay__get_u32(header + RLAY_OFF_WELCOME_CODE);
    if (status == RLAY_WELCOME_REJECTED) {
        rlay__session_end(ch, RLAY_BYE_CLOSED);
        return rlay__fail(ch, rlay__welcome_code((int)code), "the server of channel %s (%s) refused us: %.*s",
                ch->name, ch->peer,
                          RLAY_WELCOME_TEXT_SIZE - 1, (const char *)header + RLAY_OFF_WELCOME_TEXT);
    }
    uint16_t protocol = rlay__get_u16(header + RLAY_OFF_PROTOCOL);
    uint64_t size = rlay__data_size(ch), features = rlay__get_u64(header + RLAY_OFF_FEATURES);
    rlay__name file = rlay__generation_name(ch, "", "data");
    int valid = status == RLAY_WELCOME_ACCEPTED && protocol == ch->protocol && features == ch->features &&
            rlay__get_u64(header + RLAY_OFF_DATA_SIZE) == size;
    int fd = valid ? rlay__file_open(ch, file.text, 0, &info) : RLAY_OK, result = fd < 0 ? fd : RLAY_OK;
    if (fd < 0 && errno == ENOENT) return rlay__seek_again(ch); /* a new server has cleaned up already */
    if (valid && fd >= 0 && (uint64_t)info.st_size != size) close(fd), valid = 0;
    if (valid && fd >= 0) result = rlay__data_map(ch, fd);
    if (result < 0) return rlay__session_end(ch, RLAY_BYE_CLOSED), result; /* our trouble, not the server's */
    if (!valid || rlay__get_u64(ch->data + RLAY_PREFIX_SESSION) != ch->generation ||
        rlay__get_u64(ch->data + ch->request_size + RLAY_PREFIX_SESSION) != ch->generation) {
        if (rlay__is_lost(ch)) return rlay__fail_lost(ch);
        rlay__session_end(ch, RLAY_BYE_FAILED);
        return rlay__fail(ch, RLAY_E_CHANNEL_FORMAT, "the server of channel %s (%s) sent a welcome that does not fit "
                "its data file; its port has a fault", ch->name, ch->peer);
    }
    unlinkat(ch->directory, file.text, 0); /* both sides have it mapped */
    rlay__session_begin(ch, RLAY__RUNNING, ch->role == RLAY_ROLE_AGENT);
    if (ch->role == RLAY_ROLE_AGENT) return RLAY_READY;
    rlay__hand_over(ch); /* READY: the agent may ask */
    return RLAY_PENDING;
}

/* ---- requests and replies (section 7) */

/* The turn table of section 6, with the two halves of an exchange in one row. */
static const struct { uint8_t state, command, after_ok, after_error; } rlay__moves[] = {
    {RLAY__FRESH, RLAY_COMMAND_RESET, RLAY__IN_EPISODE, RLAY__FRESH},
    {RLAY__FRESH, RLAY_COMMAND_RENDER, RLAY__FRESH, RLAY__FRESH},
    {RLAY__FRESH, RLAY_COMMAND_CALL, RLAY__FRESH, RLAY__FRESH},
    {RLAY__FRESH, RLAY_COMMAND_CLOSE, RLAY__FINISHED, RLAY__FINISHED},
    {RLAY__IN_EPISODE, RLAY_COMMAND_RESET, RLAY__IN_EPISODE, RLAY__FRESH},
    {RLAY__IN_EPISODE, RLAY_COMMAND_STEP, RLAY__IN_EPISODE, RLAY__FRESH},
    {RLAY__IN_EPISODE, RLAY_COMMAND_RENDER, RLAY__IN_EPISODE, RLAY__IN_EPISODE},
    {RLAY__IN_EPISODE, RLAY_COMMAND_CALL, RLAY__IN_EPISODE, RLAY__IN_EPISODE},
    {RLAY__IN_EPISODE, RLAY_COMMAND_CLOSE, RLAY__FINISHED, RLAY__FINISHED},
};

static const char *rlay__command_name(uint32_t command) {
    static const char *const names[] = {"READY", "RESET", "STEP", "RENDER", "CALL", "CLOSE"};
    return command <= RLAY_COMMAND_CLOSE ? names[command] : "an unknown command";
}

/* The row of the table for `command` in the present state, or -1. */
static int rlay__move_find(const rlay_channel *ch, uint32_t command) {
    for (size_t i = 0; i < sizeof rlay__moves / sizeof *rlay__moves; i++)
        if (rlay__moves[i].state == ch->state && rlay__moves[i].command == command) return (int)i;
    return -1;
}

static int rlay__command_is_offered(const rlay_channel *ch, uint32_t command) {
    if (command == RLAY_COMMAND_RENDER) return (ch->features & RLAY_FEATURE_RENDER) != 0;
    if (command == RLAY_COMMAND_CALL) return (ch->features & RLAY_FEATURE_CALL) != 0;
    return 1;
}

static void rlay__move(rlay_channel *ch, uint32_t command, uint32_t status) {
    int row = rlay__move_find(ch, command);
    if (row >= 0) ch->state = status == RLAY_OK ? rlay__moves[row].after_ok : rlay__moves[row].after_error;
}

static uint8_t *rlay__record(const rlay_channel *ch, int record) {
    return record == RLAY_RECORD_REPLY ? ch->data + ch->request_size : ch->data;
}
static int rlay__out_record(const rlay_channel *ch) {
    return ch->role == RLAY_ROLE_ENV ? RLAY_RECORD_REPLY : RLAY_RECORD_REQUEST;
}
static const char *rlay__record_name(int record) { return record == RLAY_RECORD_REPLY ? "reply" : "request"; }
static int rlay__in_record(const rlay_channel *ch) { return 3 - rlay__out_record(ch); }
static const rlay_field *rlay__body(const rlay_channel *ch, int record) { return &ch->fields[ch->body[record - 1]]; }

static int rlay__fail_remote(rlay_channel *ch, const char *what, unsigned long long found,
        unsigned long long expected) {
    if (rlay__is_lost(ch)) return rlay__fail_lost(ch);
    rlay__session_end(ch, RLAY_BYE_FAILED);
    return rlay__fail(ch, RLAY_E_REMOTE_PROTOCOL, "channel %s: the %s of the peer (%s) has %s %llu where %llu was "
            "due; its port has a fault", ch->name, rlay__record_name(rlay__in_record(ch)), ch->peer, what, found, expected);
}

/* Copy the prefix that came, and check what both roles check. */
RLAY__INLINE int rlay__prefix_take(rlay_channel *ch, uint8_t *prefix, uint64_t seq) {
    rlay__copy(prefix, rlay__record(ch, rlay__in_record(ch)), RLAY_PREFIX_SIZE);
    uint64_t found = rlay__get_u64(prefix + RLAY_PREFIX_SESSION);
    uint64_t capacity = rlay_field_size(rlay__body(ch, rlay__in_record(ch)));
    if (found != ch->generation) return rlay__fail_remote(ch, "session", found, ch->generation);
    if (rlay__get_u64(prefix + RLAY_PREFIX_SEQ) != seq) return rlay__fail_remote(ch, "seq",
            rlay__get_u64(prefix + RLAY_PREFIX_SEQ), seq);
    ch->in_size = rlay__get_u32(prefix + RLAY_PREFIX_BODY_SIZE);
    if (ch->in_size > capacity) return rlay__fail_remote(ch, "body_size", ch->in_size, capacity);
    return RLAY_OK;
}

RLAY__INLINE int rlay__record_send(rlay_channel *ch, uint64_t seq, uint32_t command, uint32_t status) {
    int is_reply = ch->role == RLAY_ROLE_ENV;
    const char *name = rlay__record_name(rlay__out_record(ch));
    uint8_t *record = rlay__record(ch, rlay__out_record(ch));
    uint64_t capacity = rlay_field_size(rlay__body(ch, rlay__out_record(ch)));
    if (ch->out_size > capacity)
        return rlay__fail(ch, RLAY_E_BODY_TOO_LARGE, "channel %s: the body of this %s has %u bytes and its capacity "
                "is %llu; write less, or raise %s_body in the schema",
                ch->name, name, (unsigned)ch->out_size, (unsigned long long)capacity, name);
    rlay__put_u64(record + RLAY_PREFIX_SEQ, seq);
    if (is_reply) RLAY_POINT("reply_half_written");
    else RLAY_POINT("request_half_written");
    rlay__put_u32(record + RLAY_PREFIX_COMMAND, command);
    rlay__put_u32(record + RLAY_PREFIX_STATUS, status);
    rlay__put_u32(record + RLAY_PREFIX_BODY_SIZE, ch->out_size);
    if (is_reply) RLAY_POINT("reply_written");
    else RLAY_POINT("request_written");
    if (rlay__is_lost(ch)) return rlay__fail_lost(ch);
    rlay__hand_over(ch);
    if (is_reply) RLAY_POINT("reply_handed_over");
    else RLAY_POINT("request_handed_over");
    return RLAY_OK;
}

/* Env, on a request: info that is not set again is absent; with lanes, so is what a STEP says of a lane. */
static void rlay__reply_clear(rlay_channel *ch) {
    int lanes = ch->lanes && ch->command == RLAY_COMMAND_STEP;
    for (uint32_t i = 0; (ch->info_count || lanes) && i < ch->field_count; i++) {
        const char *name = ch->fields[i].name, *mark = strrchr(name, '#');
        int outcome = lanes && (i == ch->reward || i == ch->terminated || i == ch->truncated ||
                strcmp(name, "final_observation#present") == 0);
        if (outcome || (strncmp(name, "info.", 5) == 0 && mark && strcmp(mark, "#present") == 0))
            memset(rlay_field_data(ch, &ch->fields[i]), 0, (size_t)rlay_field_size(&ch->fields[i]));
    }
}

/* Env, when the turn comes: check the request. CLOSE is answered here. */
RLAY__INLINE int rlay__request_receive(rlay_channel *ch) {
    uint8_t prefix[RLAY_PREFIX_SIZE];
    int result = rlay__prefix_take(ch, prefix, ch->seq + 1);
    if (result < 0) return result;
    uint32_t command = rlay__get_u32(prefix + RLAY_PREFIX_COMMAND), status = rlay__get_u32(prefix + RLAY_PREFIX_STATUS);
    if (status != RLAY_OK) return rlay__fail_remote(ch, "status", status, RLAY_OK);
    if (rlay__is_lost(ch)) return rlay__fail_lost(ch);
    if (rlay__move_find(ch, command) < 0 || !rlay__command_is_offered(ch, command)) {
        rlay__session_end(ch, RLAY_BYE_FAILED);
        return rlay__fail(ch, RLAY_E_REMOTE_PROTOCOL, "channel %s: the agent (%s) sent %s, which this state or the "
                "features do not allow; its port has a fault", ch->name, ch->peer, rlay__command_name(command));
    }
    ch->seq++;
    ch->command = command;
    ch->our_turn = 1;
    ch->out_size = 0;
    RLAY_POINT("request_read");
    if (command == RLAY_COMMAND_CLOSE) {
        rlay__record_send(ch, ch->seq, command, RLAY_OK);
        rlay__session_end(ch, RLAY_BYE_CLOSED);
        return rlay__fail(ch, RLAY_E_PEER_CLOSED, "the agent (%s) closed the session of channel %s", ch->peer,
                ch->name);
    }
    rlay__reply_clear(ch);
    return RLAY_READY;
}

/* Agent, on the reply to RENDER: take the picture's shape, which must fit. */
static int rlay__frame_take(rlay_channel *ch) {
    const rlay_field *frame = rlay_field_find(ch, RLAY_RECORD_REPLY, "frame");
    memset(ch->frame_shape, 0, sizeof ch->frame_shape);
    if (!frame) return RLAY_READY;
    rlay__copy(ch->frame_shape, (const uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "frame#shape"), sizeof ch->frame_shape);
    uint64_t size = rlay__count(3, ch->frame_shape);
    for (int i = 0; i < 3; i++) /* beside a 0 the others count, too */
        if (size < ch->frame_shape[i]) size = ch->frame_shape[i];
    return size <= rlay_field_size(frame) ? RLAY_READY : rlay__fail_remote(ch, "a frame of a size of", size,
            rlay_field_size(frame));
}

/* A private copy of a text of the body, cut so that it fits; empty for another value. */
static void rlay__text_copy(char *text, uint32_t capacity, const rlay_value *value) {
    uint32_t size = value->type == RLAY_STR ? value->size : 0;
    if (size >= capacity) size = capacity - 1;
    if (size) rlay__copy(text, value->data, size);
    text[size] = 0;
}

static int rlay__body_look(const rlay_channel *ch, const char *const *keys, int count, rlay_value *values);

/* Agent: the environment raised, and the body says what. An empty one says nothing. */
static int rlay__error_take(rlay_channel *ch, uint32_t command) {
    static const char *const keys[2] = {"type", "message"};
    char type[128], message[640];
    rlay_value values[2];
    memset(values, 0, sizeof values);
    if (rlay__body_look(ch, keys, 2, values) < 0) {
        rlay__session_end(ch, RLAY_BYE_FAILED);
        return rlay__fail(ch, RLAY_E_REMOTE_PROTOCOL, "channel %s: the environment (%s) raised, but the body that should "
                "say what is no MessagePack map; its port has a fault", ch->name, ch->peer);
    }
    rlay__text_copy(type, sizeof type, &values[0]);
    rlay__text_copy(message, sizeof message, &values[1]);
    return rlay__fail(ch, RLAY_E_REMOTE, "the environment raised %s on %s: %s", type, rlay__command_name(command), message);
}

/* Agent, when the turn comes: check the reply. */
RLAY__INLINE int rlay__reply_receive(rlay_channel *ch) {
    uint8_t prefix[RLAY_PREFIX_SIZE];
    int result = rlay__prefix_take(ch, prefix, ch->seq);
    if (result < 0) return result;
    uint32_t command = rlay__get_u32(prefix + RLAY_PREFIX_COMMAND), status = rlay__get_u32(prefix + RLAY_PREFIX_STATUS);
    if (command != ch->command) return rlay__fail_remote(ch, "command", command, ch->command);
    if (status != RLAY_OK && status != RLAY_E_REMOTE) return rlay__fail_remote(ch, "status", status, RLAY_OK);
    if (rlay__is_lost(ch)) return rlay__fail_lost(ch);
    ch->our_turn = 1;
    ch->out_size = 0;
    rlay__move(ch, command, status);
    if (command == RLAY_COMMAND_CLOSE) {
        rlay__session_end(ch, RLAY_BYE_CLOSED);
        return rlay__fail(ch, RLAY_E_PEER_CLOSED, "we closed the session of channel %s", ch->name);
    }
    if (status != RLAY_OK) return rlay__error_take(ch, command);
    return command == RLAY_COMMAND_RENDER ? rlay__frame_take(ch) : RLAY_READY;
}

RLAY__INLINE int rlay__on_turn(rlay_channel *ch) {
    if (ch->phase == RLAY__PUBLISHED) return rlay__greet(ch);
    if (ch->phase == RLAY__GREETED) return rlay__enter(ch);
    if (ch->phase == RLAY__WELCOMED) return rlay__session_begin(ch, RLAY__RUNNING, 1), RLAY_READY;
    return ch->role == RLAY_ROLE_ENV ? rlay__request_receive(ch) : rlay__reply_receive(ch);
}

/* Server without a session: has a claimer died, has somebody removed our file? Then publish again. */
static int rlay__watch_published(rlay_channel *ch) {
    /* acquire: pairs with the release store in rlay__claim. The claim is read before the lock is probed, for a
     * client holds its lock before it claims; before the claim the lock says nothing. */
    int gone = rlay__is_lost(ch);
    if (!gone && rlay__load_acquire_u32(ch->control + RLAY_OFF_CLAIM)) {
        gone = rlay__load_acquire_u32(ch->control + RLAY_OFF_CLIENT_BYE) != RLAY_BYE_NONE; /* see rlay__session_end */
        if (!gone) gone = rlay__peer_lock_probe(ch);
        if (gone < 0) return gone;
        if (gone && rlay__turn_is_ours(ch)) return rlay__on_turn(ch); /* it may have handed over before it went */
    }
    if (!gone && rlay__control_is_at_path(ch)) return RLAY_PENDING;
    rlay__session_end(ch, RLAY_BYE_CLOSED);
    return rlay__publish_next(ch);
}

/* The turn is not ours. Look after the peer: at its goodbye always, at its lock once per slice. */
static int rlay__watch(rlay_channel *ch) {
    uint64_t now = rlay__now_ns();
    if (ch->probe_at_ns == 0) ch->waiting_since_ns = now, ch->probe_at_ns = now + RLAY_SLICE_NS;
    /* acquire: pairs with the release store in rlay__session_end; a turn stored before the goodbye is visible now */
    uint32_t bye = rlay__load_acquire_u32(ch->control + rlay__their_bye(ch));
    if ((bye == RLAY_BYE_NONE || ch->phase == RLAY__PUBLISHED) && now < ch->probe_at_ns) return RLAY_PENDING;
    ch->probe_at_ns = now + RLAY_SLICE_NS;
    if (ch->phase == RLAY__PUBLISHED) return rlay__watch_published(ch);
    if (rlay__is_lost(ch)) return rlay__fail_lost(ch);
    int lost = 0;
    if (bye == RLAY_BYE_NONE) {
        lost = rlay__peer_lock_probe(ch);
        if (lost == RLAY_PENDING && ch->side == RLAY_SIDE_CLIENT) lost = !rlay__control_is_at_path(ch);
        if (lost <= 0) return lost;
    }
    if (rlay__turn_is_ours(ch)) return rlay__on_turn(ch); /* once more: its last hand-over counts */
    if (ch->phase == RLAY__GREETED) return rlay__seek_again(ch);
    const char *what = ch->role == RLAY_ROLE_ENV ? "a request" : rlay__command_name(ch->command);
    double waited_ms = (double)(now - ch->waiting_since_ns) / 1e6;
    bye = rlay__load_acquire_u32(ch->control + rlay__their_bye(ch)); /* acquire: as above; it may have come since */
    rlay__session_end(ch, RLAY_BYE_CLOSED);
    if (bye != RLAY_BYE_NONE)
        return rlay__fail(ch, RLAY_E_PEER_CLOSED, "the %s (%s) %s the session of channel %s while we waited %.0f ms "
                "for %s; attach again", rlay__role_name(3 - ch->role), ch->peer,
                bye == RLAY_BYE_CLOSED ? "closed" : "gave up", ch->name, waited_ms, what);
    return rlay__fail(ch, RLAY_E_PEER_LOST, "the %s (%s) of channel %s vanished without a goodbye; we had waited "
            "%.0f ms for %s; start it again and attach again",
                      rlay__role_name(3 - ch->role), ch->peer, ch->name, waited_ms, what);
}

/* ---- opening, waiting, closing */

/* Server: remove what a killed server of this channel left. The names are matched to the letter: channel `a` must
 * not touch the files of channel `a.b`. */
static int rlay__clean(rlay_channel *ch) {
    int fd;
    do fd = openat(ch->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    size_t size = strlen(ch->name);
    for (struct dirent *entry; listing && (errno = 0, entry = readdir(listing)) != NULL;) {
        const char *file = entry->d_name, *suffix = file[0] == '.' ? ".tmp" : ".data";
        const char *after = file + (file[0] == '.');
        if (strncmp(after, ch->name, size) != 0 || after[size] != '.') continue;
        if (strspn(after + size + 1, "0123456789abcdef") == 16 && strcmp(after + size + 17,
                suffix) == 0) unlinkat(ch->directory, file, 0);
    }
    int result = !listing || errno ? rlay__fail_errno(ch, "list", "the files") : RLAY_OK;
    if (listing) closedir(listing);
    else if (fd >= 0) close(fd);
    return result;
}

/* How rlay_wait() waits for the turn from now on. */
int rlay_wait_strategy(rlay_channel *ch, int strategy) {
    if (strategy < RLAY_WAIT_ADAPTIVE || strategy > RLAY_WAIT_BLOCK)
        return rlay__fail(ch, RLAY_E_LOCAL_PROTOCOL, "channel %s: there is no wait strategy %d; use one of "
                "RLAY_WAIT_ADAPTIVE, RLAY_WAIT_SPIN, RLAY_WAIT_BACKOFF, RLAY_WAIT_BLOCK", ch->name, strategy);
    ch->strategy = strategy;
    ch->may_spin = rlay__processors() > 1; /* on one processor the peer cannot run while we spin */
    return RLAY_OK;
}

/* The strategy that RLAY_WAIT names; unset or empty: adaptive. */
static int rlay__strategy_choose(rlay_channel *ch) {
    static const char *const names[] = {"adaptive", "spin", "backoff", "block"}; /* in the order of RLAY_WAIT_x */
    const char *given = getenv("RLAY_WAIT");
    if (!given || !*given) return rlay_wait_strategy(ch, RLAY_WAIT_ADAPTIVE);
    for (int i = 0; i <= RLAY_WAIT_BLOCK; i++)
        if (strcmp(given, names[i]) == 0) return rlay_wait_strategy(ch, i);
    return rlay__fail(ch, RLAY_E_LOCAL_PROTOCOL, "RLAY_WAIT='%s': use one of adaptive, spin, backoff, block", given);
}

/* Whether RLAY_SIGBUS wants mappings guarded against truncation; unset or empty: it does. */
static int rlay__guard_choose(rlay_channel *ch) {
    const char *given = getenv("RLAY_SIGBUS");
    int off = given && strcmp(given, "off") == 0;
    if (given && *given && !off && strcmp(given, "on") != 0)
        return rlay__fail(ch, RLAY_E_LOCAL_PROTOCOL, "RLAY_SIGBUS='%s': use on or off", given);
    ch->guarded = !off;
    return RLAY_OK;
}

/* Environment: take the layout from our own schema. */
static int rlay__schema_adopt(rlay_channel *ch, const rlay_schema *schema) {
    if (schema->fingerprint == 0)
        return rlay__fail(ch, RLAY_E_SCHEMA, "channel %s: the schema is not complete (%s)", ch->name,
                schema->code < 0 ? schema->error : "rlay_schema_end() was not called");
    memcpy(ch->fields, schema->fields, sizeof ch->fields);
    ch->field_count = schema->field_count;
    ch->request_size = schema->request_size;
    ch->reply_size = schema->reply_size;
    ch->lanes = schema->config.lanes;
    if (ch->lanes) { /* rlay_schema_end() has seen to it that they are there */
        ch->mask = (uint32_t)rlay__field_index(ch, RLAY_RECORD_REQUEST, "mask");
        ch->lane_seed = (uint32_t)rlay__field_index(ch, RLAY_RECORD_REQUEST, "lane_seed");
        ch->lane_seed_present = (uint32_t)rlay__field_index(ch, RLAY_RECORD_REQUEST, "lane_seed#present");
    }
    return rlay__layout_bind(ch);
}

/* Open channel `name` as RLAY_SIDE_x and RLAY_ROLE_x; an environment gives its schema, an agent NULL. A server is
 * published when this returns; a client attaches in rlay_wait() or rlay_poll(). At most 0.25 s; RLAY_OK or an error. */
int rlay_open(rlay_channel *ch, const char *name, int side, int role, const rlay_schema *schema) {
    memset(ch, 0, sizeof *ch);
    ch->directory = ch->lock = ch->peer_lock = -1;
    ch->seek_code = RLAY_E_CHANNEL_NOT_FOUND;
    ch->random = rlay__entropy() | 1;
    if (!rlay__name_is_valid(name))
        return rlay__fail(ch, RLAY_E_CHANNEL, "'%s' is not a channel name; use 1 to 64 of A-Z a-z 0-9 . _ - and "
                "begin with a letter or digit", name ? name : "");
    if ((side != RLAY_SIDE_SERVER && side != RLAY_SIDE_CLIENT) || (role != RLAY_ROLE_ENV &&
            role != RLAY_ROLE_AGENT) || (role == RLAY_ROLE_ENV) != (schema != NULL))
        return rlay__fail(ch, RLAY_E_LOCAL_PROTOCOL, "channel %s: rlay_open() needs a side, a role, and a schema "
                "exactly when the role is RLAY_ROLE_ENV", name);
    snprintf(ch->name, sizeof ch->name, "%s", name);
    ch->side = (uint8_t)side;
    ch->role = (uint8_t)role;
    ch->schema = schema;
    int result = rlay__strategy_choose(ch);
    if (result == RLAY_OK) result = rlay__guard_choose(ch);
    if (result == RLAY_OK && schema) result = rlay__schema_adopt(ch, schema);
    if (result == RLAY_OK) result = rlay__root_open(ch);
    if (result == RLAY_OK && (result = rlay__peer_lock_open(ch)) > 0) result = RLAY_OK;
    if (result == RLAY_OK && side == RLAY_SIDE_CLIENT) result = rlay__lock_look(ch);
    if (result == RLAY_OK && side == RLAY_SIDE_SERVER) {
        result = rlay__lock_server(ch);
        if (result == RLAY_READY) result = rlay__clean(ch);
        if (result == RLAY_OK) result = rlay__publish(ch);
    }
    if (result >= 0 && side == RLAY_SIDE_CLIENT) ch->phase = RLAY__SEEKING;
    if (result < 0) rlay_close(ch);
    return result < 0 ? result : RLAY_OK;
}

/* Look whether it is our turn, and return at once. READY: a request is there (env: see ch->command), or we may ask
 * (agent: attached, or the reply is there). PENDING: not yet. Or an error. */
int rlay_poll(rlay_channel *ch) {
    if (ch->phase == RLAY__CLOSED) return rlay__fail(ch, RLAY_E_LOCAL_PROTOCOL,
            "channel %s is not open; call rlay_open() first", ch->name);
    if (ch->phase == RLAY__RUNNING && ch->our_turn) return RLAY_READY;
    if (ch->phase == RLAY__ENDED && ch->side == RLAY_SIDE_SERVER) return rlay__publish_next(ch);
    if (ch->phase == RLAY__ENDED) ch->phase = RLAY__SEEKING;
    if (ch->phase == RLAY__SEEKING) return rlay__seek(ch);
    uint32_t turn = rlay__load_acquire_u32(ch->control + RLAY_OFF_TURN); /* acquire: pairs with rlay__hand_over */
    if (turn == (uint32_t)rlay__our_turn_value(ch)) return rlay__on_turn(ch);
    uint32_t due = ch->phase == RLAY__PUBLISHED ? RLAY_TURN_IDLE : (uint32_t)rlay__their_turn_value(ch);
    if (turn != due) return rlay__fail_remote(ch, "a turn word of", turn, due);
    return rlay__watch(ch);
}

static int rlay__fail_timeout(rlay_channel *ch, int64_t timeout_ns) {
    double waited = (double)timeout_ns / 1e9;
    if (ch->phase == RLAY__SEEKING) return -ch->seek_code; /* its text says why we could not attach */
    if (ch->phase == RLAY__PUBLISHED)
        return rlay__fail(ch, RLAY_E_TIMEOUT, "no client attached to channel %s in %s within %.3g s; start it, or "
                "wait again", ch->name, ch->root, waited);
    return rlay__fail(ch, RLAY_E_TIMEOUT, "the %s (%s) of channel %s is alive but did not hand over within %.3g s; "
            "wait again, or close", rlay__role_name(3 - ch->role), ch->peer, ch->name, waited);
}

/* As rlay_poll(), but wait: until something is there, an error, or `timeout_ns` is over. RLAY_FOREVER: no deadline. */
int rlay_wait(rlay_channel *ch, int64_t timeout_ns) {
    uint64_t deadline = UINT64_MAX, nap = RLAY_NAP_MIN_NS;
    for (;;) {
        if (ch->control && !ch->our_turn) rlay__turn_spin(ch);
        int result = rlay_poll(ch);
        if (result != RLAY_PENDING) return result;
        uint64_t now = rlay__now_ns();
        if (timeout_ns >= 0 && deadline == UINT64_MAX) deadline = now + (uint64_t)timeout_ns;
        if (now >= deadline) return rlay__fail_timeout(ch, timeout_ns);
        /* Whatever is due next ends the sleep: the next attempt to attach or the next probe, or the deadline. */
        uint64_t due = ch->phase == RLAY__SEEKING ? ch->seek_at_ns : ch->probe_at_ns;
        uint64_t slice = due > now && due - now < RLAY_SLICE_NS ? due - now : RLAY_SLICE_NS;
        if (slice > deadline - now) slice = deadline - now;
        if (ch->control) rlay__turn_pause(ch, slice, &nap);
        else if (ch->phase == RLAY__SEEKING) rlay__sleep_ns(slice);
    }
}

/* End the session and leave: an agent whose turn it is sends CLOSE and waits up to 1 s for the reply; nothing but
 * the two lock files stays. Safe at any time, and twice. */
void rlay_close(rlay_channel *ch) {
    if (ch->phase == RLAY__RUNNING && ch->our_turn && ch->role == RLAY_ROLE_AGENT) {
        rlay_body_clear(ch);
        if (rlay_request_send(ch, RLAY_COMMAND_CLOSE) == RLAY_OK) rlay_wait(ch, RLAY_CLOSE_NS);
    }
    int ours = ch->side == RLAY_SIDE_SERVER && ch->lock >= 0 && ch->control_inode != 0 &&
            rlay__control_is_at_path(ch);
    if (ch->control) rlay__session_end(ch, RLAY_BYE_CLOSED);
    if (ours) unlinkat(ch->directory, rlay__file_name(ch, ".rlay").text, 0); /* while we hold the lock */
    rlay__lock_release(ch);
    if (ch->peer_lock >= 0) close(ch->peer_lock);
    if (ch->directory >= 0) close(ch->directory);
    ch->directory = ch->peer_lock = -1;
    ch->control_inode = 0;
    ch->phase = RLAY__CLOSED;
}

/* RLAY_OK, or -RLAY_E_CHANNEL_FORMAT: a file of this session was truncated, and what was read in place may be zeros. */
int rlay_check(rlay_channel *ch) { return ch->control && rlay__is_lost(ch) ? rlay__fail_lost(ch) : RLAY_OK; }

/* What the last error was, in one sentence. */
const char *rlay_error_text(const rlay_channel *ch) { return ch->error; }

/* ---- fields */

/* A field by name, e.g. (RLAY_RECORD_REPLY, "observation/position"); NULL when there is none. An agent has fields
 * once it is attached. The field lives as long as the session, an environment's as long as the channel. */
const rlay_field *rlay_field_find(const rlay_channel *ch, int record, const char *name) {
    int row = rlay__field_index(ch, record, name);
    return row < 0 ? NULL : &ch->fields[row];
}

/* The bytes of a field in the mapped record, NULL outside a session. Write your own record only in your turn. */
void *rlay_field_data(const rlay_channel *ch, const rlay_field *field) {
    return ch->data && field ? rlay__record(ch, field->record) + field->offset : NULL;
}

void *rlay_data(const rlay_channel *ch, int record, const char *name) { return rlay_field_data(ch,
        rlay_field_find(ch, record, name)); }

static uint8_t *rlay__row_data(const rlay_channel *ch, uint32_t row) { return (uint8_t *)rlay_field_data(ch,
        &ch->fields[row]); }

/* The field info.KEY and its mark info.KEY#present; the mark is NULL when KEY was not declared. */
static uint8_t *rlay__info(const rlay_channel *ch, const char *key, uint8_t **present) {
    char name[RLAY_FIELD_NAME_MAX + 1];
    snprintf(name, sizeof name, "info.%s#present", key);
    *present = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, name);
    snprintf(name, sizeof name, "info.%s", key);
    return (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, name);
}

/* ---- env */

/* 1 and the seed of this RESET, or 0 when the agent gave none. */
int rlay_seed(const rlay_channel *ch, uint64_t *seed) {
    if (!ch->data || *rlay__row_data(ch, ch->seed_present) == 0) return 0;
    *seed = rlay__get_u64(rlay__row_data(ch, ch->seed));
    return 1;
}

/* Mark the declared info `key` as present in this reply, and return its bytes to be written (NULL: a nested space,
 * or not declared; nested ones are written through rlay_data()). */
void *rlay_info_set(rlay_channel *ch, const char *key) {
    uint8_t *present, *data = rlay__info(ch, key, &present);
    if (present) *present = 1;
    return data;
}

static int rlay__reply_send(rlay_channel *ch, uint32_t status) {
    if (ch->role != RLAY_ROLE_ENV || ch->phase != RLAY__RUNNING || !ch->our_turn)
        return rlay__fail(ch, RLAY_E_LOCAL_PROTOCOL, "channel %s: there is no request to reply to; wait for one "
                "first", ch->name);
    int result = rlay__record_send(ch, ch->seq, ch->command, status);
    if (result == RLAY_OK) rlay__move(ch, ch->command, status);
    return result;
}

/* Reply to RESET: observation, info and body are written. */
int rlay_reply(rlay_channel *ch) { return rlay__reply_send(ch, RLAY_OK); }

/* Reply to STEP. */
int rlay_reply_step(rlay_channel *ch, double reward, int terminated, int truncated) {
    if (ch->lanes) return rlay__fail(ch, RLAY_E_LOCAL_PROTOCOL, "channel %s has %u lanes: write reward, terminated "
            "and truncated of each, and call rlay_reply_lanes()", ch->name, (unsigned)ch->lanes);
    if (ch->data && ch->our_turn) {
        memcpy(rlay__row_data(ch, ch->reward), &reward, sizeof reward);
        *rlay__row_data(ch, ch->terminated) = terminated != 0;
        *rlay__row_data(ch, ch->truncated) = truncated != 0;
    }
    return rlay__reply_send(ch, RLAY_OK);
}

/* Reply to RENDER with the uint8 picture in field "frame", or with height 0 when the body holds the value. */
int rlay_reply_render(rlay_channel *ch, uint32_t height, uint32_t width, uint32_t channels) {
    const rlay_field *frame = rlay_field_find(ch, RLAY_RECORD_REPLY, "frame");
    uint32_t shape[3] = {height, width, channels};
    uint64_t size = rlay__count(3, shape);
    if (size != 0 && (!frame || size > rlay_field_size(frame)))
        return rlay__fail(ch, RLAY_E_LAYOUT, "channel %s: a frame of %ux%ux%u does not fit; raise `frame` in the "
                "schema", ch->name, (unsigned)height, (unsigned)width, (unsigned)channels);
    void *at = rlay_data(ch, RLAY_RECORD_REPLY, "frame#shape");
    if (size == 0) memset(shape, 0, sizeof shape);
    if (at && ch->our_turn) memcpy(at, shape, sizeof shape);
    return rlay__reply_send(ch, RLAY_OK);
}

/* 1: this request concerns the lane. */
int rlay_lane_acts(const rlay_channel *ch, uint32_t lane) {
    return ch->data && lane < ch->lanes && rlay__row_data(ch, ch->mask)[lane] != 0;
}

/* 1 and the seed of this lane: its own, else the one for all counted on from lane 0. 0: the agent gave none. */
int rlay_lane_seed(const rlay_channel *ch, uint32_t lane, uint64_t *seed) {
    if (!ch->data || lane >= ch->lanes) return 0;
    if (rlay__row_data(ch, ch->lane_seed_present)[lane] == 0) {
        if (!rlay_seed(ch, seed)) return 0;
        *seed += lane;
        return 1;
    }
    *seed = rlay__get_u64(rlay__row_data(ch, ch->lane_seed) + 8 * (size_t)lane);
    return 1;
}

/* Reply to RESET or STEP of lanes: the fields of the lanes that act are written. */
int rlay_reply_lanes(rlay_channel *ch) {
    if (ch->lanes == 0) return rlay__fail(ch, RLAY_E_LOCAL_PROTOCOL, "channel %s has no lanes; set `lanes` in the "
            "schema's config, or call rlay_reply_step()", ch->name);
    return rlay__reply_send(ch, RLAY_OK);
}

/* Reply that the environment raised: a Python class name and one sentence, cut so that they fit. */
int rlay_reply_error(rlay_channel *ch, const char *type, const char *message) {
    static const char *const keys[3] = {"type", "message", "traceback"};
    const char *values[3] = {type, message, ""};
    char text[1024];
    if (ch->phase != RLAY__RUNNING || !ch->our_turn) return rlay__reply_send(ch, RLAY_E_REMOTE);
    uint64_t capacity = rlay_field_size(rlay__body(ch, RLAY_RECORD_REPLY));
    size_t size = strlen(message) < sizeof text ? strlen(message) : sizeof text - 1;
    for (;;) {
        while (size > 0 && ((uint8_t)message[size] & 0xC0) == 0x80) size--; /* not inside a UTF-8 character */
        memcpy(text, message, size);
        text[size] = 0;
        values[1] = text;
        rlay_body_clear(ch);
        rlay_body_put_map(ch, 3);
        for (int i = 0; i < 3; i++) rlay_body_put_str(ch, keys[i]), rlay_body_put_str(ch, values[i]);
        if (ch->out_size <= capacity || size == 0) break;
        uint64_t over = ch->out_size - capacity;
        size = over < size ? size - (size_t)over : 0;
    }
    if (ch->out_size > capacity) rlay_body_clear(ch);
    return rlay__reply_send(ch, RLAY_E_REMOTE);
}

/* ---- agent */

/* Hand over a request whose fields and body are written. RLAY_OK, then rlay_wait() or rlay_poll() for the reply. */
int rlay_request_send(rlay_channel *ch, uint32_t command) {
    if (ch->role != RLAY_ROLE_AGENT || ch->phase != RLAY__RUNNING)
        return rlay__fail(ch, RLAY_E_LOCAL_PROTOCOL, "channel %s: there is no session to send %s in; wait until an "
                "environment is attached", ch->name, rlay__command_name(command));
    if (!ch->our_turn)
        return rlay__fail(ch, RLAY_E_LOCAL_PROTOCOL, "channel %s: %s is still pending; wait for its reply, or "
                "close", ch->name, rlay__command_name(ch->command));
    if (rlay__move_find(ch, command) < 0)
        return rlay__fail(ch, RLAY_E_LOCAL_PROTOCOL, "channel %s: %s is not allowed here; reset first", ch->name,
                rlay__command_name(command));
    if (!rlay__command_is_offered(ch, command))
        return rlay__fail(ch, RLAY_E_LOCAL_PROTOCOL, "channel %s: the two sides did not agree on %s", ch->name,
                rlay__command_name(command));
    if (command != RLAY_COMMAND_RESET && command != RLAY_COMMAND_CALL) rlay_body_clear(ch); /* these have no body */
    uint32_t before = ch->command;
    ch->command = command;
    int result = rlay__record_send(ch, ch->seq + 1, command, RLAY_OK);
    if (result == RLAY_OK) ch->seq++;
    else ch->command = before;
    return result;
}

/* Hand over a RESET; `seed` NULL: none. Options, if any, are in the body. */
int rlay_reset_send(rlay_channel *ch, const uint64_t *seed) {
    if (ch->phase == RLAY__RUNNING && ch->our_turn) {
        rlay__put_u64(rlay__row_data(ch, ch->seed), seed ? *seed : 0);
        *rlay__row_data(ch, ch->seed_present) = seed != NULL;
    }
    return rlay_request_send(ch, RLAY_COMMAND_RESET);
}

int rlay_reset(rlay_channel *ch, const uint64_t *seed, int64_t timeout_ns) {
    int result = rlay_reset_send(ch, seed);
    return result < 0 ? result : rlay_wait(ch, timeout_ns);
}

/* Step with the action that is written in the request. READY: the observation is there. */
int rlay_step(rlay_channel *ch, int64_t timeout_ns) {
    int result = rlay_request_send(ch, RLAY_COMMAND_STEP);
    return result < 0 ? result : rlay_wait(ch, timeout_ns);
}

/* READY: ch->frame_shape and field "frame" are the picture, or frame_shape is 0 and the body holds the value. */
int rlay_render(rlay_channel *ch, int64_t timeout_ns) {
    int result = rlay_request_send(ch, RLAY_COMMAND_RENDER);
    return result < 0 ? result : rlay_wait(ch, timeout_ns);
}

double rlay_reward(const rlay_channel *ch) {
    double reward = 0.0;
    if (ch->data) memcpy(&reward, rlay__row_data(ch, ch->reward), sizeof reward);
    return reward;
}
int rlay_terminated(const rlay_channel *ch) { return ch->data && *rlay__row_data(ch, ch->terminated) != 0; }
int rlay_truncated(const rlay_channel *ch) { return ch->data && *rlay__row_data(ch, ch->truncated) != 0; }

/* The bytes of the declared info `key`, NULL when this reply has none. */
const void *rlay_info_get(const rlay_channel *ch, const char *key) {
    uint8_t *present, *data = rlay__info(ch, key, &present);
    return present && *present ? data : NULL;
}

/* ---- body: MessagePack (section 14). Writing past the capacity only counts; sending then is BODY_TOO_LARGE. */

static void rlay__body_put(rlay_channel *ch, const void *bytes, uint32_t size) {
    if (!ch->data || !ch->our_turn) return;
    const rlay_field *body = rlay__body(ch, rlay__out_record(ch));
    uint64_t end = (uint64_t)ch->out_size + size;
    if (size && end <= rlay_field_size(body)) memcpy((uint8_t *)rlay_field_data(ch, body) + ch->out_size, bytes,
            size);
    ch->out_size = end < UINT32_MAX ? (uint32_t)end : UINT32_MAX;
}

/* A tag and the low `width` bytes of `value`, big-endian as MessagePack wants. */
static void rlay__body_put_tag(rlay_channel *ch, unsigned tag, uint64_t value, unsigned width) {
    uint8_t bytes[9] = {(uint8_t)tag, 0, 0, 0, 0, 0, 0, 0, 0};
    for (unsigned i = 0; i < width; i++) bytes[1 + i] = (uint8_t)(value >> (8 * (width - 1 - i)));
    rlay__body_put(ch, bytes, 1 + width);
}

void rlay_body_clear(rlay_channel *ch) { ch->out_size = 0; }
void rlay_body_put_nil(rlay_channel *ch) { rlay__body_put_tag(ch, 0xc0, 0, 0); }
void rlay_body_put_bool(rlay_channel *ch, int value) { rlay__body_put_tag(ch, value ? 0xc3 : 0xc2, 0, 0); }
void rlay_body_put_uint(rlay_channel *ch, uint64_t value) {
    if (value < 0x80) rlay__body_put_tag(ch, (unsigned)value, 0, 0);
    else if (value <= UINT8_MAX) rlay__body_put_tag(ch, 0xcc, value, 1);
    else if (value <= UINT16_MAX) rlay__body_put_tag(ch, 0xcd, value, 2);
    else if (value <= UINT32_MAX) rlay__body_put_tag(ch, 0xce, value, 4);
    else rlay__body_put_tag(ch, 0xcf, value, 8);
}
void rlay_body_put_int(rlay_channel *ch, int64_t value) {
    if (value >= 0) rlay_body_put_uint(ch, (uint64_t)value);
    else if (value >= -32) rlay__body_put_tag(ch, (unsigned)(value & 0xff), 0, 0);
    else if (value >= INT8_MIN) rlay__body_put_tag(ch, 0xd0, (uint64_t)value, 1);
    else if (value >= INT16_MIN) rlay__body_put_tag(ch, 0xd1, (uint64_t)value, 2);
    else if (value >= INT32_MIN) rlay__body_put_tag(ch, 0xd2, (uint64_t)value, 4);
    else rlay__body_put_tag(ch, 0xd3, (uint64_t)value, 8);
}
void rlay_body_put_float(rlay_channel *ch, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    rlay__body_put_tag(ch, 0xcb, bits, 8);
}
/* Headers with a size: short sizes inside the tag (below `fix_limit`), else 1, 2 or 4 bytes with tags t, t+1, t+2. */
static void rlay__body_put_header(rlay_channel *ch, unsigned fix_tag, uint32_t fix_limit, unsigned tag_8,
        unsigned tag_16, uint32_t size) {
    if (size < fix_limit) rlay__body_put_tag(ch, fix_tag | size, 0, 0);
    else if (tag_8 && size <= UINT8_MAX) rlay__body_put_tag(ch, tag_8, size, 1);
    else if (size <= UINT16_MAX) rlay__body_put_tag(ch, tag_16, size, 2);
    else rlay__body_put_tag(ch, tag_16 + 1, size, 4);
}
void rlay_body_put_str(rlay_channel *ch, const char *text) {
    uint32_t size = (uint32_t)strlen(text);
    rlay__body_put_header(ch, 0xa0, 32, 0xd9, 0xda, size);
    rlay__body_put(ch, text, size);
}
void rlay_body_put_bin(rlay_channel *ch, const void *bytes, uint32_t size) {
    rlay__body_put_header(ch, 0, 0, 0xc4, 0xc5, size);
    rlay__body_put(ch, bytes, size);
}
void rlay_body_put_array(rlay_channel *ch, uint32_t items) { rlay__body_put_header(ch, 0x90, 16, 0, 0xdc, items); }
void rlay_body_put_map(rlay_channel *ch, uint32_t pairs) { rlay__body_put_header(ch, 0x80, 16, 0, 0xde, pairs); }

typedef struct rlay__cursor { const uint8_t *at, *end; } rlay__cursor;

/* A big-endian number of `width` bytes; 0 when they are not there. Every tag and length comes through here, and volatile
 * says that each byte is read once: what was checked is what is used, whatever the peer writes meanwhile. */
static int rlay__take_number(rlay__cursor *c, unsigned width, uint64_t *value) {
    if ((size_t)(c->end - c->at) < width) return 0;
    *value = 0;
    while (width--) *value = *value << 8 | *(const volatile uint8_t *)c->at++;
    return 1;
}

static int rlay__take_bytes(rlay__cursor *c, rlay_value *value, rlay_type type, uint64_t size) {
    if ((uint64_t)(c->end - c->at) < size) return 0;
    value->type = type;
    value->size = (uint32_t)size;
    value->data = c->at;
    c->at += size;
    return 1;
}

static int rlay__take_items(rlay_value *value, rlay_type type, uint64_t count) {
    value->type = type;
    value->size = (uint32_t)count;
    return 1;
}

static int rlay__take_integer(rlay__cursor *c, rlay_value *value, unsigned tag) {
    unsigned width = 1u << (tag & 3); /* 0xcc..0xcf unsigned, 0xd0..0xd3 signed, 1 2 4 8 bytes each */
    uint64_t bits;
    if (!rlay__take_number(c, width, &bits)) return 0;
    if (tag >= 0xd0 && width < 8 && (bits >> (8 * width - 1)) != 0) bits |= ~(uint64_t)0 << (8 * width);
    value->type = tag < 0xd0 && bits > INT64_MAX ? RLAY_UINT : RLAY_INT;
    value->as.u = bits; /* the same bits are the int64 */
    return 1;
}

static int rlay__take_float(rlay__cursor *c, rlay_value *value, unsigned width) {
    uint64_t bits;
    if (!rlay__take_number(c, width, &bits)) return 0;
    value->type = RLAY_FLOAT;
    if (width == 4) {
        uint32_t half = (uint32_t)bits;
        float single;
        memcpy(&single, &half, sizeof single);
        value->as.f = (double)single;
    } else {
        memcpy(&value->as.f, &bits, sizeof bits);
    }
    return 1;
}

/* The next value; of an array or map only the header. 0 when the bytes end early or are no MessagePack. */
static int rlay__take(rlay__cursor *c, rlay_value *value) {
    uint64_t tag, size = 0;
    memset(value, 0, sizeof *value);
    if (!rlay__take_number(c, 1, &tag)) return 0;
    if (tag < 0x80 || tag >= 0xe0) return value->type = RLAY_INT, value->as.i = (int8_t)tag, 1;
    if (tag < 0x90) return rlay__take_items(value, RLAY_MAP, tag & 15);
    if (tag < 0xa0) return rlay__take_items(value, RLAY_ARRAY, tag & 15);
    if (tag < 0xc0) return rlay__take_bytes(c, value, RLAY_STR, tag & 31);
    if (tag == 0xc0) return value->type = RLAY_NIL, 1;
    if (tag == 0xc2 || tag == 0xc3) return value->type = RLAY_BOOL, value->as.i = tag & 1, 1;
    if (tag >= 0xc4 && tag <= 0xc6) return rlay__take_number(c, 1u << (tag - 0xc4), &size) && rlay__take_bytes(c,
            value, RLAY_BIN, size);
    if (tag >= 0xc7 && tag <= 0xc9) return rlay__take_number(c, 1u << (tag - 0xc7), &size) && rlay__take_bytes(c,
            value, RLAY_EXT, size + 1);
    if (tag == 0xca || tag == 0xcb) return rlay__take_float(c, value, tag == 0xca ? 4 : 8);
    if (tag >= 0xcc && tag <= 0xd3) return rlay__take_integer(c, value, (unsigned)tag);
    if (tag >= 0xd4 && tag <= 0xd8) return rlay__take_bytes(c, value, RLAY_EXT, (1u << (tag - 0xd4)) + 1u);
    if (tag >= 0xd9 && tag <= 0xdb) return rlay__take_number(c, 1u << (tag - 0xd9), &size) && rlay__take_bytes(c,
            value, RLAY_STR, size);
    if (tag == 0xdc || tag == 0xdd) return rlay__take_number(c, 2u << (tag - 0xdc), &size) &&
            rlay__take_items(value, RLAY_ARRAY, size);
    if (tag == 0xde || tag == 0xdf) return rlay__take_number(c, 2u << (tag - 0xde), &size) &&
            rlay__take_items(value, RLAY_MAP, size);
    return 0;
}

/* Take a value with all that is in it. Every item costs a byte at least, so this ends with the body. */
static int rlay__take_whole(rlay__cursor *c, rlay_value *value) {
    if (!rlay__take(c, value)) return 0;
    rlay_value inner = *value;
    uint64_t left = 0;
    for (;;) {
        if (inner.type == RLAY_ARRAY) left += inner.size;
        if (inner.type == RLAY_MAP) left += 2 * (uint64_t)inner.size;
        if (left-- == 0) return 1;
        if (!rlay__take(c, &inner)) return 0;
    }
}

/* Look up keys in the map that came as the body, in one pass: bit i of the result is set when keys[i] was found. 0 for an
 * empty body, negative when it is not such a map. */
static int rlay__body_look(const rlay_channel *ch, const char *const *keys, int count, rlay_value *values) {
    rlay_value pair, candidate;
    if (!ch->data || !ch->our_turn || ch->in_size == 0) return 0;
    rlay__cursor c;
    c.at = (const uint8_t *)rlay_field_data(ch, rlay__body(ch, rlay__in_record(ch)));
    c.end = c.at + ch->in_size;
    if (!rlay__take(&c, &pair) || pair.type != RLAY_MAP) return -RLAY_E_REMOTE_PROTOCOL;
    int found = 0;
    for (uint32_t left = pair.size; left > 0; left--) {
        if (!rlay__take_whole(&c, &pair) || !rlay__take_whole(&c, &candidate)) return -RLAY_E_REMOTE_PROTOCOL;
        for (int i = 0; i < count && pair.type == RLAY_STR; i++)
            if (pair.size == strlen(keys[i]) && memcmp(pair.data, keys[i], pair.size) == 0) {
                values[i] = candidate;
                found |= 1 << i;
                break;
            }
    }
    return c.at == c.end ? found : -RLAY_E_REMOTE_PROTOCOL;
}

/* 1: found, 0: not there (or no body), negative: not a map. The value points into the record and lives until the turn is
 * handed over. */
int rlay_body_find(const rlay_channel *ch, const char *key, rlay_value *value) {
    return rlay__body_look(ch, &key, 1, value);
}

/* ---- schema (sections 8 and 9): canonical JSON and the field table grow side by side */

enum { RLAY__BEGUN = 1, RLAY__IN_ACTION, RLAY__IN_INFO, RLAY__IN_OBSERVATION, RLAY__COMPLETE };
enum { RLAY__DICT = 1, RLAY__TUPLE };

__attribute__((format(printf, 3, 4))) static int rlay__schema_fail(rlay_schema *s, int code, const char *format,
        ...) {
    if (s->code < 0) return s->code;
    va_list list;
    va_start(list, format);
    vsnprintf(s->error, sizeof s->error, format, list);
    va_end(list);
    return s->code = -code;
}

static void rlay__json(rlay_schema *s, const char *text) {
    size_t size = strlen(text);
    if (s->text_size + size > RLAY_SCHEMA_MAX) {
        rlay__schema_fail(s, RLAY_E_SCHEMA, "the schema has more than %d bytes; use uniform bounds or fewer spaces",
                RLAY_SCHEMA_MAX);
        return;
    }
    memcpy(s->text + s->text_size, text, size);
    s->text_size += (uint32_t)size;
}

__attribute__((format(printf, 2, 3))) static void rlay__jsonf(rlay_schema *s, const char *format, ...) {
    char text[128];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    rlay__json(s, text);
}

static void rlay__json_string(rlay_schema *s, const char *text) {
    if (!text) {
        rlay__json(s, "null");
        return;
    }
    rlay__json(s, "\"");
    for (; *text; text++) {
        char one[8] = {*text, 0, 0, 0, 0, 0, 0, 0};
        const char *const special = "\"\"\\\\\bb\ff\nn\rr\tt";
        for (const char *pair = special; *pair; pair += 2)
            if (*text == *pair) one[0] = '\\', one[1] = pair[1];
        if (one[1] == 0 && (unsigned char)*text < 0x20) snprintf(one, sizeof one, "\\u%04x",
                (unsigned)(unsigned char)*text);
        rlay__json(s, one);
    }
    rlay__json(s, "\"");
}

/* The shortest decimal that reads back as the same double, written as Python's repr() writes it. */
static void rlay__json_double(rlay_schema *s, double value) {
    char text[40];
    if (isnan(value)) {
        rlay__schema_fail(s, RLAY_E_SCHEMA, "NaN is not a bound");
        return;
    }
    if (isinf(value)) {
        rlay__json(s, value > 0 ? "\"inf\"" : "\"-inf\"");
        return;
    }
    int digits = 0, exponent = 0;
    for (; digits < 17; digits++) { /* digits after the first one */
        snprintf(text, sizeof text, "%.*e", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    if (strchr(text, 'e')) exponent = atoi(strchr(text, 'e') + 1);
    int decimals = digits > exponent + 1 ? digits - exponent : 1;
    if (exponent >= -4 && exponent < 16) snprintf(text, sizeof text, "%.*f", decimals, value);
    for (char *at = text; *at; at++)
        if (!strchr("0123456789+-e", *at)) *at = '.'; /* the locale may write a comma */
    rlay__json(s, text);
}

static void rlay__json_shape(rlay_schema *s, uint32_t ndim, const uint32_t *shape) {
    rlay__json(s, "\"shape\":[");
    for (uint32_t i = 0; i < ndim; i++) rlay__jsonf(s, i ? ",%lu" : "%lu", (unsigned long)shape[i]);
    rlay__json(s, "]");
}

static void rlay__json_element(rlay_schema *s, int dtype, const void *array, uint64_t i) {
    const uint8_t *at = (const uint8_t *)array + i * rlay__dtype_size(dtype);
    float single;
    double wide;
    if (dtype == RLAY_DTYPE_FLOAT32) memcpy(&single, at, sizeof single), rlay__json_double(s, (double)single);
    else if (dtype == RLAY_DTYPE_FLOAT64) memcpy(&wide, at, sizeof wide), rlay__json_double(s, wide);
    else if (dtype == RLAY_DTYPE_INT8) rlay__jsonf(s, "%d", (int)(int8_t)*at);
    else if (dtype == RLAY_DTYPE_INT16) rlay__jsonf(s, "%d", (int)(int16_t)rlay__get_u16(at));
    else if (dtype == RLAY_DTYPE_INT32) rlay__jsonf(s, "%ld", (long)(int32_t)rlay__get_u32(at));
    else if (dtype == RLAY_DTYPE_INT64) rlay__jsonf(s, "%lld", (long long)rlay__get_u64(at));
    else if (dtype == RLAY_DTYPE_UINT16) rlay__jsonf(s, "%u", (unsigned)rlay__get_u16(at));
    else if (dtype == RLAY_DTYPE_UINT32) rlay__jsonf(s, "%lu", (unsigned long)rlay__get_u32(at));
    else if (dtype == RLAY_DTYPE_UINT64) rlay__jsonf(s, "%llu", (unsigned long long)rlay__get_u64(at));
    else if (dtype == RLAY_DTYPE_UINT8 || dtype == RLAY_DTYPE_BOOL) rlay__jsonf(s, "%u", (unsigned)*at);
    else rlay__schema_fail(s, RLAY_E_UNSUPPORTED_SPACE, "%s: bounds per element of dtype %d are not supported; use "
            "rlay_space_box_all()", s->path, dtype);
}

/* A bound: one number when all elements are equal, else the flat list. */
static void rlay__json_bound(rlay_schema *s, int dtype, const void *array, uint64_t count) {
    uint64_t itemsize = rlay__dtype_size(dtype), equal = 1;
    while (equal < count && memcmp(array, (const uint8_t *)array + equal * itemsize, (size_t)itemsize) == 0) equal++;
    if (equal >= count) {
        rlay__json_element(s, dtype, array, 0);
        return;
    }
    for (uint64_t i = 0; i < count; i++) rlay__json(s, i ? "," : "["), rlay__json_element(s, dtype, array, i);
    rlay__json(s, "]");
}

/* Insert a row at s->insert: the observation's rows stand before the info's, though the JSON has them after. */
static void rlay__row_add(rlay_schema *s, const char *name, int record, int dtype, int group, uint32_t ndim,
        const uint32_t *shape) {
    if (s->field_count == RLAY_FIELDS_MAX || ndim > RLAY_NDIM_MAX || strlen(name) > RLAY_FIELD_NAME_MAX) {
        rlay__schema_fail(s, RLAY_E_LAYOUT, "%s: at most %d fields, %d dimensions and %d bytes of name fit", name,
                RLAY_FIELDS_MAX, RLAY_NDIM_MAX, RLAY_FIELD_NAME_MAX);
        return;
    }
    for (uint32_t i = 0; i < s->field_count; i++)
        if (s->fields[i].record == record && strcmp(s->fields[i].name, name) == 0) rlay__schema_fail(s,
                RLAY_E_LAYOUT, "%s: two fields have this name", name);
    rlay_field *field = &s->fields[s->insert];
    memmove(field + 1, field, (s->field_count - s->insert) * sizeof *field);
    memset(field, 0, sizeof *field);
    memcpy(field->name, name, strlen(name));
    field->record = (uint8_t)record;
    field->dtype = (uint8_t)dtype;
    field->group = (uint16_t)group;
    field->lanes = group == RLAY_GROUP_NONE ? 0 : s->config.lanes;
    field->ndim = (uint8_t)ndim;
    for (uint32_t i = 0; i < ndim; i++) field->shape[i] = shape[i];
    s->field_count++;
    s->insert++;
}

static void rlay__path_append(rlay_schema *s, const char *text) {
    size_t size = strlen(text);
    if (s->path_size + size > RLAY_FIELD_NAME_MAX) {
        rlay__schema_fail(s, RLAY_E_LAYOUT, "the name %s%s is longer than %d bytes", s->path, text,
                RLAY_FIELD_NAME_MAX);
        return;
    }
    memcpy(s->path + s->path_size, text, size + 1);
    s->path_size += (uint32_t)size;
}

static void rlay__path_append_key(rlay_schema *s, const char *key) {
    for (char one[3] = {0, 0, 0}; *key; key++) {
        one[0] = *key == '~' || *key == '/' ? '~' : *key;
        one[1] = *key == '~' ? '0' : *key == '/' ? '1' : 0;
        rlay__path_append(s, one);
    }
}

static void rlay__path_cut(rlay_schema *s, uint32_t size) { s->path[s->path_size = size] = 0; }

/* Start a space where one is due: a root, a Dict's entry after its key, a Tuple's next item. */
static int rlay__space_enter(rlay_schema *s) {
    if (s->code < 0) return s->code;
    if (s->section < RLAY__IN_ACTION || s->section > RLAY__IN_OBSERVATION || (s->depth == 0 && s->space_count++ > 0))
        return rlay__schema_fail(s, RLAY_E_SCHEMA, "no space is due here; call rlay_schema_action(), _info() or "
                "_observation() first");
    if (s->depth == 0) return RLAY_OK;
    uint32_t *count = &s->level_count[s->depth - 1];
    if (s->level_kind[s->depth - 1] == RLAY__DICT) {
        if (!s->key_given) return rlay__schema_fail(s, RLAY_E_SCHEMA,
                "%s: a Dict needs rlay_schema_key() before each space", s->path);
        s->key_given = 0;
    } else {
        char index[16];
        snprintf(index, sizeof index, "/%lu", (unsigned long)*count);
        rlay__path_append(s, index);
        if (*count > 0) rlay__json(s, ",");
    }
    ++*count;
    return s->code;
}

static int rlay__space_leave(rlay_schema *s) {
    if (s->depth > 0) {
        if (s->level_kind[s->depth - 1] == RLAY__DICT) rlay__json(s, "]");
        rlay__path_cut(s, s->level_path[s->depth - 1]);
    }
    return s->code;
}

static int rlay__space_leaf(rlay_schema *s, int dtype, uint32_t ndim, const uint32_t *shape) {
    if (ndim > RLAY_NDIM_MAX || rlay__dtype_size(dtype) == 0 || rlay__count(ndim, shape) == RLAY__TOO_MANY)
        return rlay__schema_fail(s, RLAY_E_UNSUPPORTED_SPACE, "%s: dtype %d with %u dimensions is not possible",
                s->path, dtype, (unsigned)ndim);
    rlay__row_add(s, s->path, s->section == RLAY__IN_ACTION ? RLAY_RECORD_REQUEST : RLAY_RECORD_REPLY, dtype, 0,
            ndim, shape);
    return rlay__space_leave(s);
}

static const char *rlay__dtype_name(int dtype) {
    static const char *const names[13] = {"?", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16",
            "uint32", "uint64", "float16", "float32", "float64"};
    return names[dtype >= 1 && dtype <= 12 ? dtype : 0];
}

/* Box with bounds per element: `low` and `high` are arrays of the dtype, row-major. */
int rlay_space_box(rlay_schema *s, int dtype, uint32_t ndim, const uint32_t *shape, const void *low,
        const void *high) {
    if (rlay__space_enter(s) < 0) return s->code;
    uint64_t count = ndim <= RLAY_NDIM_MAX ? rlay__count(ndim, shape) : RLAY__TOO_MANY;
    if (count == 0 || count == RLAY__TOO_MANY) return rlay__schema_fail(s, RLAY_E_UNSUPPORTED_SPACE,
            "%s: a Box with bounds per element needs elements", s->path);
    rlay__jsonf(s, "{\"dtype\":\"%s\",\"high\":", rlay__dtype_name(dtype));
    rlay__json_bound(s, dtype, high, count);
    rlay__json(s, ",\"low\":");
    rlay__json_bound(s, dtype, low, count);
    rlay__json(s, ",");
    rlay__json_shape(s, ndim, shape);
    rlay__json(s, ",\"type\":\"Box\"}");
    return rlay__space_leaf(s, dtype, ndim, shape);
}

static void rlay__json_number(rlay_schema *s, int dtype, double value) {
    if (dtype < RLAY_DTYPE_FLOAT16) rlay__jsonf(s, "%.0f", value);
    else rlay__json_double(s, dtype == RLAY_DTYPE_FLOAT32 ? (double)(float)value : value);
}

/* Box with the same bounds everywhere; beyond 2^53 use rlay_space_box(). */
int rlay_space_box_all(rlay_schema *s, int dtype, uint32_t ndim, const uint32_t *shape, double low, double high) {
    if (rlay__space_enter(s) < 0) return s->code;
    rlay__jsonf(s, "{\"dtype\":\"%s\",\"high\":", rlay__dtype_name(dtype));
    rlay__json_number(s, dtype, high);
    rlay__json(s, ",\"low\":");
    rlay__json_number(s, dtype, low);
    rlay__json(s, ",");
    rlay__json_shape(s, ndim, shape);
    rlay__json(s, ",\"type\":\"Box\"}");
    return rlay__space_leaf(s, dtype, ndim, shape);
}

/* Discrete, dtype int64: start, start + 1, ... start + n - 1. */
int rlay_space_discrete(rlay_schema *s, int64_t n, int64_t start) {
    if (rlay__space_enter(s) < 0) return s->code;
    rlay__jsonf(s, "{\"dtype\":\"int64\",\"n\":%lld,\"start\":%lld,\"type\":\"Discrete\"}", (long long)n,
            (long long)start);
    return rlay__space_leaf(s, RLAY_DTYPE_INT64, 0, NULL);
}

/* MultiDiscrete, dtype int64; `start` NULL: zeros. */
int rlay_space_multi_discrete(rlay_schema *s, uint32_t ndim, const uint32_t *shape, const int64_t *nvec,
        const int64_t *start) {
    if (rlay__space_enter(s) < 0) return s->code;
    uint64_t count = ndim <= RLAY_NDIM_MAX ? rlay__count(ndim, shape) : 0;
    rlay__json(s, "{\"dtype\":\"int64\",\"nvec\":[");
    for (uint64_t i = 0; i < count && s->code == 0; i++) rlay__jsonf(s, i ? ",%lld" : "%lld", (long long)nvec[i]);
    rlay__json(s, "],");
    rlay__json_shape(s, ndim, shape);
    rlay__json(s, ",\"start\":[");
    for (uint64_t i = 0; i < count && s->code == 0; i++)
        rlay__jsonf(s, i ? ",%lld" : "%lld", start ? (long long)start[i] : 0LL);
    rlay__json(s, "],\"type\":\"MultiDiscrete\"}");
    return rlay__space_leaf(s, RLAY_DTYPE_INT64, ndim, shape);
}

int rlay_space_multi_binary(rlay_schema *s, uint32_t ndim, const uint32_t *shape) {
    if (rlay__space_enter(s) < 0) return s->code;
    rlay__json(s, "{");
    rlay__json_shape(s, ndim, shape);
    rlay__json(s, ",\"type\":\"MultiBinary\"}");
    return rlay__space_leaf(s, RLAY_DTYPE_INT8, ndim, shape);
}

static int rlay__nest(rlay_schema *s, int kind) {
    if (rlay__space_enter(s) < 0) return s->code;
    if (s->depth == RLAY_NESTING_MAX) return rlay__schema_fail(s, RLAY_E_UNSUPPORTED_SPACE,
            "%s: spaces nest at most %d deep", s->path, RLAY_NESTING_MAX);
    rlay__json(s, "{\"spaces\":[");
    s->level_kind[s->depth] = (uint8_t)kind;
    s->level_count[s->depth] = 0;
    s->level_path[s->depth++] = s->path_size;
    return s->code;
}

static int rlay__unnest(rlay_schema *s, int kind) {
    if (s->code < 0) return s->code;
    if (s->depth == 0 || s->level_kind[s->depth - 1] != kind || s->key_given)
        return rlay__schema_fail(s, RLAY_E_SCHEMA, "%s: this Dict or Tuple is not open, or a key has no space",
                s->path);
    s->depth--;
    rlay__jsonf(s, "],\"type\":\"%s\"}", kind == RLAY__DICT ? "Dict" : "Tuple");
    return rlay__space_leave(s);
}

int rlay_space_dict_begin(rlay_schema *s) { return rlay__nest(s, RLAY__DICT); }
int rlay_space_dict_end(rlay_schema *s) { return rlay__unnest(s, RLAY__DICT); }
int rlay_space_tuple_begin(rlay_schema *s) { return rlay__nest(s, RLAY__TUPLE); }
int rlay_space_tuple_end(rlay_schema *s) { return rlay__unnest(s, RLAY__TUPLE); }

/* Inside a Dict: the next space is the one at `key`. The order of the calls is the order of the Dict. */
int rlay_schema_key(rlay_schema *s, const char *key) {
    if (s->code < 0) return s->code;
    if (s->depth == 0 || s->level_kind[s->depth - 1] != RLAY__DICT || s->key_given)
        return rlay__schema_fail(s, RLAY_E_SCHEMA, "%s: rlay_schema_key(\"%s\") must stand directly inside a Dict, "
                "before a space", s->path, key);
    rlay__json(s, s->level_count[s->depth - 1] ? ",[" : "[");
    rlay__json_string(s, key);
    rlay__json(s, ",");
    rlay__path_append(s, "/");
    rlay__path_append_key(s, key);
    s->key_given = 1;
    return s->code;
}

static void rlay__autoreset_check(rlay_schema *s) {
    const char *mode = s->config.autoreset ? s->config.autoreset : "disabled";
    s->config.autoreset = mode;
    if (strcmp(mode, "disabled") == 0) return;
    if (strcmp(mode, "next_step") != 0 && strcmp(mode, "same_step") != 0) rlay__schema_fail(s, RLAY_E_SCHEMA,
            "autoreset '%.40s': use one of disabled, next_step, same_step", mode);
    else if (s->config.lanes == 0) rlay__schema_fail(s, RLAY_E_SCHEMA, "autoreset '%s' needs lanes", mode);
}

/* Begin a schema. The first error stays: checking rlay_schema_end() is enough. */
int rlay_schema_begin(rlay_schema *s, const rlay_schema_config *config) {
    memset(s, 0, offsetof(rlay_schema, fields));
    memset(s->fields, 0, sizeof s->fields);
    s->config = *config;
    if (s->config.request_body == 0) s->config.request_body = 65536;
    if (s->config.reply_body == 0) s->config.reply_body = 65536;
    s->section = RLAY__BEGUN;
    rlay__autoreset_check(s);
    if (s->config.request_body > RLAY_BODY_MAX || s->config.reply_body > RLAY_BODY_MAX ||
            s->config.frame > RLAY_BODY_MAX) rlay__schema_fail(s, RLAY_E_LAYOUT, "a body or frame has at most 2^30 "
            "bytes");
    rlay__jsonf(s, "{\"body\":{\"reply\":%lu,\"request\":%lu},\"env\":{\"id\":",
            (unsigned long)s->config.reply_body, (unsigned long)s->config.request_body);
    rlay__json_string(s, config->env_id);
    rlay__json(s, ",\"max_episode_steps\":");
    if (config->max_episode_steps) rlay__jsonf(s, "%llu", (unsigned long long)config->max_episode_steps);
    else rlay__json(s, "null");
    rlay__json(s, ",\"metadata\":{");
    if (config->render_fps) rlay__jsonf(s, "\"render_fps\":%lu,", (unsigned long)config->render_fps);
    rlay__json(s, "\"render_modes\":[");
    for (uint32_t i = 0; config->render_modes && config->render_modes[i]; i++) {
        if (i) rlay__json(s, ",");
        rlay__json_string(s, config->render_modes[i]);
    }
    rlay__json(s, "]},\"render_mode\":");
    rlay__json_string(s, config->render_mode);
    rlay__json(s, ",\"reward_threshold\":");
    if (config->reward_threshold) rlay__json_double(s, *config->reward_threshold);
    else rlay__json(s, "null");
    rlay__jsonf(s, "},\"frame\":%lu,\"groups\":[{\"action\":", (unsigned long)s->config.frame);
    rlay__row_add(s, "seed", RLAY_RECORD_REQUEST, RLAY_DTYPE_UINT64, RLAY_GROUP_NONE, 0, NULL);
    rlay__row_add(s, "seed#present", RLAY_RECORD_REQUEST, RLAY_DTYPE_UINT8, RLAY_GROUP_NONE, 0, NULL);
    return s->code;
}

/* The action is complete: the rest of the request's rows, and the first of the reply's. */
static void rlay__request_complete(rlay_schema *s) {
    if (s->config.lanes) {
        rlay__row_add(s, "mask", RLAY_RECORD_REQUEST, RLAY_DTYPE_UINT8, 0, 0, NULL);
        rlay__row_add(s, "lane_seed", RLAY_RECORD_REQUEST, RLAY_DTYPE_UINT64, 0, 0, NULL);
        rlay__row_add(s, "lane_seed#present", RLAY_RECORD_REQUEST, RLAY_DTYPE_UINT8, 0, 0, NULL);
    }
    rlay__row_add(s, "body", RLAY_RECORD_REQUEST, RLAY_DTYPE_UINT8, RLAY_GROUP_NONE, 1, &s->config.request_body);
    rlay__row_add(s, "reward", RLAY_RECORD_REPLY, RLAY_DTYPE_FLOAT64, 0, 0, NULL);
    rlay__row_add(s, "terminated", RLAY_RECORD_REPLY, RLAY_DTYPE_UINT8, 0, 0, NULL);
    rlay__row_add(s, "truncated", RLAY_RECORD_REPLY, RLAY_DTYPE_UINT8, 0, 0, NULL);
    s->request_end = s->insert;
    rlay__jsonf(s, ",\"agents\":false,\"autoreset\":\"%s\",\"info\":{", s->config.autoreset);
}

/* Move on to `section`; the space before must be complete. */
static int rlay__section(rlay_schema *s, uint32_t section, const char *path) {
    if (s->code < 0) return s->code;
    int forward = s->section < section || (section == RLAY__IN_INFO && s->section == RLAY__IN_INFO);
    int skips = (section == RLAY__IN_ACTION) != (s->section == RLAY__BEGUN) || (section == RLAY__COMPLETE &&
            s->section != RLAY__IN_OBSERVATION);
    int complete = s->depth == 0 && (s->section == RLAY__BEGUN || s->space_count == 1);
    if (!forward || skips || !complete)
        return rlay__schema_fail(s, RLAY_E_SCHEMA, "the order is: action, a space; infos, a space each; observation, "
                "a space; end");
    if (s->section == RLAY__IN_ACTION && section > RLAY__IN_ACTION) rlay__request_complete(s);
    s->section = section;
    s->space_count = 0;
    rlay__path_cut(s, 0);
    rlay__path_append(s, path);
    return s->code;
}

/* The next space is the action. */
int rlay_schema_action(rlay_schema *s) { return rlay__section(s, RLAY__IN_ACTION, "action"); }

/* The next space is the declared info `key`; keys come in sorted order. */
int rlay_schema_info(rlay_schema *s, const char *key) {
    int first = s->section != RLAY__IN_INFO;
    if (rlay__section(s, RLAY__IN_INFO, "info.") < 0) return s->code;
    if (!first && strcmp(s->last_info, key) >= 0) return rlay__schema_fail(s, RLAY_E_SCHEMA,
            "info '%s' must come before '%s': keys are sorted", key, s->last_info);
    snprintf(s->last_info, sizeof s->last_info, "%s", key);
    if (!first) rlay__json(s, ",");
    rlay__json_string(s, key);
    rlay__json(s, ":");
    rlay__path_append(s, key);
    uint32_t size = s->path_size;
    rlay__path_append(s, "#present");
    rlay__row_add(s, s->path, RLAY_RECORD_REPLY, RLAY_DTYPE_UINT8, 0, 0, NULL);
    rlay__path_cut(s, size);
    return s->code;
}

/* The next space is the observation. */
int rlay_schema_observation(rlay_schema *s) {
    if (rlay__section(s, RLAY__IN_OBSERVATION, "observation") < 0) return s->code;
    rlay__jsonf(s, "},\"lanes\":%lu,\"name\":\"default\",\"observation\":", (unsigned long)s->config.lanes);
    s->insert = s->request_end; /* before the infos */
    return s->code;
}

/* Autoreset in the same step: the last observation of the episode that ended, row by row as the observation. */
static void rlay__final_observation_add(rlay_schema *s, uint32_t first, uint32_t end) {
    rlay__row_add(s, "final_observation#present", RLAY_RECORD_REPLY, RLAY_DTYPE_UINT8, 0, 0, NULL);
    for (uint32_t i = first; i < end; i++) {
        char name[RLAY_FIELD_NAME_MAX + 16];
        rlay_field like = s->fields[i];
        snprintf(name, sizeof name, "final_%s", like.name);
        rlay__row_add(s, name, RLAY_RECORD_REPLY, like.dtype, 0, like.ndim, like.shape);
    }
}

/* Complete the schema: rest of the rows, offsets, fingerprint. RLAY_OK, or the first error of all calls (s->error). */
int rlay_schema_end(rlay_schema *s) {
    static const uint32_t three = 3;
    uint64_t cursor[2] = {RLAY_PREFIX_SIZE, RLAY_PREFIX_SIZE};
    if (rlay__section(s, RLAY__COMPLETE, "") < 0) return s->code;
    rlay__json(s, "}],\"schema\":1}");
    uint32_t observation_end = s->insert; /* its rows begin at request_end */
    s->insert = s->field_count;
    if (strcmp(s->config.autoreset, "same_step") == 0) rlay__final_observation_add(s, s->request_end,
            observation_end);
    if (s->config.frame) {
        rlay__row_add(s, "frame#shape", RLAY_RECORD_REPLY, RLAY_DTYPE_UINT32, RLAY_GROUP_NONE, 1, &three);
        rlay__row_add(s, "frame", RLAY_RECORD_REPLY, RLAY_DTYPE_UINT8, RLAY_GROUP_NONE, 1, &s->config.frame);
    }
    rlay__row_add(s, "body", RLAY_RECORD_REPLY, RLAY_DTYPE_UINT8, RLAY_GROUP_NONE, 1, &s->config.reply_body);
    for (uint32_t i = 0; i < s->field_count; i++)
        if (!rlay__field_place(&s->fields[i], &cursor[s->fields[i].record - 1])) return rlay__schema_fail(s,
                RLAY_E_LAYOUT, "%s: the field is too large", s->fields[i].name);
    s->request_size = rlay__record_size(cursor[0]);
    s->reply_size = rlay__record_size(cursor[1]);
    if (s->code == RLAY_OK) s->fingerprint = rlay__fingerprint(s->text, s->text_size, s->fields, s->field_count);
    return s->code;
}

#ifdef __cplusplus
}
#endif
#endif /* RLAY_IMPLEMENTATION */
