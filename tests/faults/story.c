/* story.c - one story in C with one failing call in it; shim.c is linked in, story.py is its twin.
 *
 *   story ServerBackend|ClientBackend|ClientEnv|ServerEnv
 *
 * The argument is the victim, by the name of its Python twin. Its peer is a child that goes on whatever happens. Cases come
 * from stdin, a line each: ["function", number, errno]; each is answered with the facts, a JSON object in a line.
 */
#define RLAY_IMPLEMENTATION
#include "rlay.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

int faults_begin(const char *directory, const char *function, long number, int error, int from_then_on);
void faults_end(void);
const char *faults_name(int function);
long faults_count(int function);
int faults_fired(void), faults_descriptors(void), faults_mappings(void);
const char *faults_where(void);

#define CHANNEL "faults"
#define STEPS 2
#define PATIENCE_NS 10000000000

static rlay_schema schema;
static rlay_channel ch;

/* What the victim has seen: exchanges, and whether each was right. */
typedef struct progress { int exchanges, wrong; } progress;

static void schema_build(void) {
    static const uint32_t one[1] = {1};
    rlay_schema_config config;
    memset(&config, 0, sizeof config);
    rlay_schema_begin(&schema, &config);
    rlay_schema_action(&schema);
    rlay_space_discrete(&schema, 1000, 0);
    rlay_schema_observation(&schema);
    rlay_space_box_all(&schema, RLAY_DTYPE_FLOAT64, 1, one, -1e9, 1e9);
    if (rlay_schema_end(&schema) < 0) fprintf(stderr, "%s\n", schema.error), exit(2);
}

static int play_agent(progress *seen) {
    static const uint64_t seed = 3;
    int result = rlay_wait(&ch, PATIENCE_NS);
    if (result < 0 || (result = rlay_reset(&ch, &seed, PATIENCE_NS)) < 0) return result;
    seen->exchanges++;
    for (int64_t action = 1; action <= STEPS; action++) {
        double observation;
        memcpy(rlay_data(&ch, RLAY_RECORD_REQUEST, "action"), &action, sizeof action);
        if ((result = rlay_step(&ch, PATIENCE_NS)) < 0) return result;
        memcpy(&observation, rlay_data(&ch, RLAY_RECORD_REPLY, "observation"), sizeof observation);
        seen->exchanges++;
        seen->wrong += observation != (double)action || rlay_reward(&ch) != 10.0 * (double)action;
    }
    return RLAY_OK;
}

static int play_env(progress *seen) {
    int64_t action = 0, expected = 0;
    for (;;) {
        int result = rlay_wait(&ch, PATIENCE_NS);
        if (result < 0) return result;
        if (ch.command == RLAY_COMMAND_RESET) action = expected = 0;
        else memcpy(&action, rlay_data(&ch, RLAY_RECORD_REQUEST, "action"), sizeof action), expected++;
        seen->exchanges++;
        seen->wrong += action != expected;
        double observation = (double)action;
        memcpy(rlay_data(&ch, RLAY_RECORD_REPLY, "observation"), &observation, sizeof observation);
        result = ch.command == RLAY_COMMAND_RESET ? rlay_reply(&ch) : rlay_reply_step(&ch, 10.0 * observation, 0, 0);
        if (result < 0) return result;
    }
}

/* Open, play, close. `text` gets the error's. */
static int play(int side, int role, progress *seen, char *text) {
    seen->exchanges = seen->wrong = 0;
    int result = rlay_open(&ch, CHANNEL, side, role, role == RLAY_ROLE_ENV ? &schema : NULL);
    if (result == RLAY_OK) result = role == RLAY_ROLE_ENV ? play_env(seen) : play_agent(seen);
    if (result == -RLAY_E_PEER_CLOSED && seen->exchanges == 1 + STEPS) result = RLAY_OK; /* it asked to close */
    snprintf(text, sizeof ch.error, "%s", result < 0 ? rlay_error_text(&ch) : "");
    rlay_close(&ch);
    rlay_close(&ch);
    return result;
}

static void be_the_peer(int side, int role) {
    progress seen;
    char text[sizeof ch.error];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (getppid() != 1) play(side, role, &seen, text);
    _exit(0);
}

/* ---- facts */

static void print_text(const char *key, const char *text) {
    printf("\"%s\": \"", key);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        putchar(*text);
    }
    printf("\", ");
}

/* The files in `root` that should not be there, once that has had time to settle; as a list in JSON. */
static void print_left(const char *key, const char *root, int served) {
    static const char *const fine[] = {CHANNEL ".server.lock", CHANNEL ".client.lock", CHANNEL ".rlay"};
    uint64_t deadline = rlay__now_ns() + PATIENCE_NS / 4;
    char list[4096];
    for (;;) {
        int left = 0;
        list[0] = 0;
        DIR *listing = opendir(root);
        for (struct dirent *entry; listing && (entry = readdir(listing)) != NULL;) {
            int known = entry->d_name[0] == '.' && strlen(entry->d_name) < 3;
            for (int i = 0; i < 2 + served; i++) known |= strcmp(entry->d_name, fine[i]) == 0;
            size_t used = strlen(list);
            if (!known) snprintf(list + used, sizeof list - used, "%s\"%s\"", left++ ? ", " : "", entry->d_name);
        }
        if (listing) closedir(listing);
        if (left == 0 || rlay__now_ns() > deadline) break;
        rlay__sleep_ns(1000000);
    }
    printf("\"%s\": [%s], ", key, list);
}

static void run_case(int side, int role, const char *function, long number, int error, const char *root) {
    progress seen, next;
    char text[sizeof ch.error], text_again[sizeof ch.error + 64] = "";
    int served = side == RLAY_SIDE_CLIENT; /* by the peer, whose control file may be there */
    faults_begin(root, function, number, error, 0);
    int result = play(side, role, &seen, text);
    faults_end();
    const char *where = faults_where();
    size_t size = strlen(root);
    printf("{\"fired\": %s, ", faults_fired() ? "true" : "false");
    printf("\"complete\": %s, ", seen.exchanges == 1 + STEPS ? "true" : "false");
    printf("\"right\": %s, ", seen.wrong ? "false" : "true");
    print_text("where", strncmp(where, root, size) == 0 ? where + size : where);
    printf("\"code\": %d, ", result < 0 ? -result : 0);
    print_text("text", text);
    printf("\"descriptors\": %d, \"mappings\": %d, \"counts\": {", faults_descriptors(), faults_mappings());
    for (int i = 0, any = 0; faults_name(i); i++)
        if (faults_count(i)) printf("%s\"%s\": %ld", any++ ? ", " : "", faults_name(i), faults_count(i));
    printf("}, ");
    if (strcmp(function, "unlink") == 0) printf("\"left\": [], "); /* what it left is not judged, and not waited for */
    else print_left("left", root, served);
    if (faults_fired() && (result = play(side, role, &next, text)) < 0)
        snprintf(text_again, sizeof text_again, "error %d after %d exchanges: %s", -result, next.exchanges, text);
    else if (faults_fired() && (next.wrong || next.exchanges != 1 + STEPS))
        snprintf(text_again, sizeof text_again, "%d exchanges, %d wrong", next.exchanges, next.wrong);
    print_text("again", text_again);
    print_left("left_again", root, served);
    printf("\"strange\": []}\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    static const struct { const char *name; int side, role; } victims[] = {
        {"ServerBackend", RLAY_SIDE_SERVER, RLAY_ROLE_ENV}, {"ClientBackend", RLAY_SIDE_CLIENT, RLAY_ROLE_ENV},
        {"ServerEnv", RLAY_SIDE_SERVER, RLAY_ROLE_AGENT}, {"ClientEnv", RLAY_SIDE_CLIENT, RLAY_ROLE_AGENT}};
    char line[256], function[32], root[4096], text[sizeof ch.error];
    int side = 0, role = 0;
    for (int i = 0; i < 4 && argc == 2; i++)
        if (strcmp(argv[1], victims[i].name) == 0) side = victims[i].side, role = victims[i].role;
    if (!side || !getenv("RLAY_DIR")) return fprintf(stderr, "usage: story VICTIM, with RLAY_DIR set\n"), 2;
    snprintf(root, sizeof root, "%s/root", getenv("RLAY_DIR"));
    setenv("RLAY_DIR", root, 1);
    schema_build();
    pid_t peer = fork();
    if (peer == 0) be_the_peer(3 - side, 3 - role);
    progress seen;
    play(side, role, &seen, text); /* now the peer is there, and the directory */
    while (fgets(line, sizeof line, stdin)) {
        long number;
        int error;
        function[0] = 0;
        if (sscanf(line, " [\"%31[a-z]\", %ld, %d]", function, &number, &error) != 3 &&
                sscanf(line, " [\"\", %ld, %d]", &number, &error) != 2) return 2;
        run_case(side, role, function, number, error, root);
    }
    kill(peer, SIGKILL);
    waitpid(peer, NULL, 0);
    return 0;
}
