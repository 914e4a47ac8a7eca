/* pingpong.c - the floor: what one round trip between two processes costs here. SPDX-License-Identifier: MIT
 *
 *   pingpong            nine batches of 200,000 round trips; prints nanoseconds per round trip
 *   pingpong --batches  for `rlay bench`: for each line "ROUNDS LIMIT_NS" on stdin prints "ROUNDS_DONE NS"
 *
 * Two processes, one shared page, one word on a cache line of its own. Each side spins with a pause until the word
 * has changed, and stores its answer with release order: the least any turn-taking protocol in shared memory can do.
 * There is no rlay in it. Between batches both sleep. A batch also ends at its limit: with both processes on one
 * core a pure spin takes milliseconds per round trip. Exit codes: 0 ok, 2 usage, 3 a system call failed.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STOP, READY, PING, PONG };
#define LINE_WORDS 32   /* 128 bytes: neighbouring cache lines are fetched in pairs */
#define LOOK_UP 65536   /* spins between two looks at whether the other process still lives */
#define CLOCK_ROUNDS 16 /* round trips between two looks at the clock */

static uint32_t *word;
static pid_t other;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void spin_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static uint32_t look(void) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }   /* pairs with put() */
static void put(uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); } /* pairs with look() */

static void die_if_alone(int is_child) {
    if (is_child ? getppid() != other : waitpid(other, NULL, WNOHANG) != 0) _exit(3);
}

/* Spin until the word is `one` or `two`, and return which. */
static uint32_t await(uint32_t one, uint32_t two, int is_child) {
    for (uint32_t i = 1;; i++) {
        uint32_t seen = look();
        if (seen == one || seen == two) return seen;
        spin_pause();
        if (i % LOOK_UP == 0) die_if_alone(is_child);
    }
}

static void answer_batches(int start) {
    char byte;
    while (read(start, &byte, 1) == 1) {
        put(READY);
        while (await(PING, STOP, 1) == PING) put(PONG);
    }
    _exit(0);
}

static uint64_t run_batch(int start, uint64_t rounds, uint64_t limit_ns, uint64_t *done) {
    uint64_t begin, now;
    if (write(start, "!", 1) != 1) exit(3);
    await(READY, READY, 0);
    begin = now = now_ns();
    for (*done = 0; *done < rounds && now - begin < limit_ns; now = now_ns()) {
        for (int i = 0; i < CLOCK_ROUNDS && *done < rounds; i++, ++*done) {
            put(PING);
            await(PONG, PONG, 0);
        }
    }
    put(STOP);
    return now - begin;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_nine(int start) {
    double each[9];
    uint64_t done, ns;
    run_batch(start, 20000, 200000000u, &done); /* warm up */
    for (int i = 0; i < 9; i++) {
        ns = run_batch(start, 200000, 1000000000u, &done);
        each[i] = (double)ns / (double)done;
    }
    qsort(each, 9, sizeof each[0], by_size);
    printf("ns per round trip: median %.1f, min %.1f, max %.1f\n", each[4], each[0], each[8]);
}

int main(int argc, char **argv) {
    int start[2], serve = argc == 2 && strcmp(argv[1], "--batches") == 0;
    char line[80];
    if (argc > 1 && !serve) return fprintf(stderr, "usage: pingpong [--batches]\n"), 2;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || pipe(start) != 0) return perror("pingpong"), 3;
    word = (uint32_t *)page + LINE_WORDS;
    other = getpid();
    pid_t child = fork();
    if (child < 0) return perror("pingpong"), 3;
    if (child == 0) {
        close(start[1]); /* so that the parent's end, however it comes, is an end of file */
        answer_batches(start[0]);
    }
    other = child;
    if (!serve) print_nine(start[1]);
    while (serve && fgets(line, sizeof line, stdin)) {
        char *rest;
        uint64_t rounds = strtoull(line, &rest, 10), limit_ns = strtoull(rest, NULL, 10), done;
        uint64_t ns = run_batch(start[1], rounds, limit_ns, &done);
        printf("%llu %llu\n", (unsigned long long)done, (unsigned long long)ns);
        fflush(stdout);
    }
    close(start[1]);
    waitpid(child, NULL, 0);
    return 0;
}
