/* shared.h - both peers as threads of one process, on one mapping. SPDX-License-Identifier: MIT
 *
 * A file is mapped once, whoever maps it: both peers then use the same addresses, so that a sanitizer sees their races
 * and a third thread finds their bytes. Each mapping has pages without access before and behind it. Include this first;
 * the peers below play RESET, STEP, RENDER and errors, and read all they get.
 */
#ifndef RLAY_FUZZ_SHARED_H
#define RLAY_FUZZ_SHARED_H

#define _GNU_SOURCE 1
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract.h"

#define SHARED_PAGE 4096
#define SHARED_MAX 32

static struct { uint64_t device, inode; uint8_t *at; size_t size; int users; } shared_maps[SHARED_MAX];
static pthread_mutex_t shared_mutex = PTHREAD_MUTEX_INITIALIZER;

static int shared_slot(uint64_t device, uint64_t inode) {
    for (int i = 0; i < SHARED_MAX; i++)
        if (shared_maps[i].users > 0 && shared_maps[i].device == device && shared_maps[i].inode == inode) return i;
    return -1;
}

static void *shared_mmap(size_t size, int fd) {
    struct stat info;
    if (fstat(fd, &info) < 0) return MAP_FAILED;
    pthread_mutex_lock(&shared_mutex);
    int slot = shared_slot(info.st_dev, info.st_ino);
    if (slot >= 0) shared_maps[slot].users++;
    for (int i = 0; i < SHARED_MAX && slot < 0; i++) {
        if (shared_maps[i].users > 0) continue;
        uint8_t *at = mmap(NULL, size + 2 * SHARED_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED || mmap(at + SHARED_PAGE, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
            fuzz_fail("mmap", fd);
        shared_maps[slot = i].at = at + SHARED_PAGE;
        shared_maps[i].device = info.st_dev, shared_maps[i].inode = info.st_ino;
        shared_maps[i].size = size, shared_maps[i].users = 1;
    }
    if (slot < 0 || shared_maps[slot].size != size) fuzz_fail("a mapping of another size", (long long)size);
    pthread_mutex_unlock(&shared_mutex);
    return shared_maps[slot].at;
}

static int shared_munmap(void *at, size_t size) {
    pthread_mutex_lock(&shared_mutex);
    for (int i = 0; i < SHARED_MAX; i++)
        if (shared_maps[i].users > 0 && shared_maps[i].at == at && --shared_maps[i].users == 0)
            munmap((uint8_t *)at - SHARED_PAGE, size + 2 * SHARED_PAGE);
    pthread_mutex_unlock(&shared_mutex);
    return 0;
}

/* The kernel orders a rename before the open that finds its result; the mutex shows that to a sanitizer. */
static int shared_renameat(int from, const char *old, int to, const char *new) {
    pthread_mutex_lock(&shared_mutex);
    int result = renameat(from, old, to, new);
    pthread_mutex_unlock(&shared_mutex);
    return result;
}

#define mmap(at, size, protection, flags, fd, offset) shared_mmap(size, fd)
#define munmap(at, size) shared_munmap(at, size)
#define renameat(from, old, to, new) shared_renameat(from, old, to, new)
#define RLAY_IMPLEMENTATION
#include "rlay.h"
#include "schema.h"

#define PEER_STEPS 40

typedef struct peer {
    const char *name;
    int side, role, strategy, polls, restarts;
    int64_t timeout_ns;                    /* of an agent's waits */
    long sessions;                         /* an agent plays so many, or until `stop` */
    atomic_int *stop;
    long calls, codes[RLAY_E_TIMEOUT + 1]; /* what the calls ended with; [0]: values */
    rlay_channel ch;
} peer;

static rlay_schema peer_schema;

/* Count what a call ended with; it is a value or an error with a sentence. */
static int peer_result(peer *p, int result) {
    if (result > RLAY_READY || result < -RLAY_E_TIMEOUT) fuzz_fail("an unexpected code", result);
    if (result < 0 && !*rlay_error_text(&p->ch)) fuzz_fail("an error without a sentence", result);
    p->calls++;
    p->codes[result < 0 ? -result : 0]++;
    return result;
}

/* Wait in the way of this peer: blocking, or polling as an engine's main loop would. */
static int peer_wait(peer *p, int64_t timeout_ns) {
    if (!p->polls) return peer_result(p, rlay_wait(&p->ch, timeout_ns));
    for (uint64_t end = rlay__now_ns() + (uint64_t)timeout_ns;;) {
        int result = rlay_poll(&p->ch);
        if (result != RLAY_PENDING) return peer_result(p, result);
        if (rlay__now_ns() > end) return p->calls++, -RLAY_E_TIMEOUT;
        rlay__sleep_ns(20000);
    }
}

static void peer_look(peer *p, const char *key) {
    rlay_value value;
    int result = rlay_body_find(&p->ch, key, &value);
    if (result == 1 && (value.type == RLAY_STR || value.type == RLAY_BIN || value.type == RLAY_EXT)) fuzz_read(value.data, value.size);
}

static int peer_open(peer *p) {
    int result = rlay_open(&p->ch, p->name, p->side, p->role, p->role == RLAY_ROLE_ENV ? &peer_schema : NULL);
    if (result == RLAY_OK && p->strategy >= 0) result = rlay_wait_strategy(&p->ch, p->strategy);
    return result < 0 ? peer_result(p, result) : result;
}

static int env_answer(peer *p, long n) {
    rlay_channel *ch = &p->ch;
    uint64_t seed;
    int64_t lap = n;
    fuzz_read(rlay_data(ch, RLAY_RECORD_REQUEST, "action"), 8);
    rlay_seed(ch, &seed);
    peer_look(p, "level");
    if (ch->command == RLAY_COMMAND_RENDER) return memset(rlay_data(ch, RLAY_RECORD_REPLY, "frame"), 1, 48), rlay_reply_render(ch, 4, 4, 3);
    if (n % 16 == 15) return rlay_reply_error(ch, "ValueError", "the environment raises now and then");
    memset(rlay_data(ch, RLAY_RECORD_REPLY, "observation"), (int)n, 16);
    memcpy(rlay_info_set(ch, "lap"), &lap, sizeof lap);
    rlay_body_put_map(ch, 1), rlay_body_put_str(ch, "note"), rlay_body_put_str(ch, "what the environment has to say");
    return ch->command == RLAY_COMMAND_RESET ? rlay_reply(ch) : rlay_reply_step(ch, (double)n, 0, 0);
}

/* Serve until `stop`, whatever a session ends with. An environment that `restarts` does so after a time-out. */
static void *env_play(void *of) {
    peer *p = of;
    long n = 0;
    for (int open = 0; !atomic_load(p->stop);) {
        if (!open && !(open = peer_open(p) == RLAY_OK)) continue;
        int result = peer_wait(p, p->restarts ? 5000000 : 50000000);
        if (result == RLAY_READY) result = peer_result(p, env_answer(p, ++n));
        if (result == -RLAY_E_TIMEOUT && p->restarts) rlay_close(&p->ch); /* its file may be beyond repair */
        if (p->ch.phase == RLAY__CLOSED) open = 0;
    }
    rlay_close(&p->ch);
    return NULL;
}

static void agent_use(peer *p) {
    rlay_channel *ch = &p->ch;
    for (uint32_t i = 0; i < ch->field_count; i++)
        if (ch->fields[i].record == RLAY_RECORD_REPLY) fuzz_read(rlay_field_data(ch, &ch->fields[i]), rlay_field_size(&ch->fields[i]) % 4096);
    double values = rlay_reward(ch) + rlay_terminated(ch) + rlay_truncated(ch);
    fuzz_read(&values, sizeof values);
    if (ch->command == RLAY_COMMAND_RENDER && rlay_field_find(ch, RLAY_RECORD_REPLY, "frame"))
        fuzz_read(rlay_data(ch, RLAY_RECORD_REPLY, "frame"), rlay__count(3, ch->frame_shape));
    peer_look(p, "note");
}

static int agent_request(peer *p, int step) {
    rlay_channel *ch = &p->ch;
    uint64_t seed = (uint64_t)step;
    const rlay_field *action = rlay_field_find(ch, RLAY_RECORD_REQUEST, "action");
    if (ch->state == RLAY__FRESH) {
        rlay_body_put_map(ch, 1), rlay_body_put_str(ch, "level"), rlay_body_put_int(ch, step);
        return rlay_reset_send(ch, &seed);
    }
    if (action && rlay_field_size(action) == sizeof seed) memcpy(rlay_field_data(ch, action), &seed, sizeof seed);
    return rlay_request_send(ch, step % 2 == 1 && (ch->features & RLAY_FEATURE_RENDER) ? RLAY_COMMAND_RENDER : RLAY_COMMAND_STEP);
}

/* One session: attach, reset, step, render, and a reset after an error; some end with CLOSE, some with a goodbye. */
static void agent_session(peer *p) {
    int result = peer_wait(p, 4 * p->timeout_ns);
    for (int step = 0; step < PEER_STEPS && result == RLAY_READY; step++) {
        result = peer_result(p, agent_request(p, step));
        if (result == RLAY_OK) result = peer_wait(p, p->timeout_ns);
        if (result == RLAY_READY) agent_use(p);
        if (result == -RLAY_E_REMOTE) result = RLAY_READY;
    }
}

static void *agent_play(void *of) {
    peer *p = of;
    for (long i = 0; i < p->sessions && !atomic_load(p->stop); i++) {
        if (peer_open(p) == RLAY_OK) agent_session(p);
        if (p->ch.phase == RLAY__SEEKING) rlay__sleep_ns(1000000);
        rlay_close(&p->ch);
    }
    return NULL;
}

#endif
