/* world.h - rlay.h over an operating system in memory, for the fuzz targets. SPDX-License-Identifier: MIT
 *
 * Every system call of the port is replaced by a few lines, so that a target makes tens of thousands of runs in a second
 * and the same input always gives the same run. The control file and the records end at a page that cannot be touched: a
 * read of one byte beyond them is a fault. The peer is alive, holds its lock, and its bytes are the input.
 */
#ifndef RLAY_FUZZ_WORLD_H
#define RLAY_FUZZ_WORLD_H

#define _GNU_SOURCE 1
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "contract.h"

#define WORLD_PAGE 4096
#define WORLD_CONTROL_SIZE 262144
#define WORLD_DATA_MAX (1 << 20) /* of the records: the file system of this world has no room for more */
#define WORLD_TAIL 65536         /* the data file's, which nobody touches here */

enum { WORLD_DIRECTORY = 1000, WORLD_SERVER_LOCK, WORLD_CLIENT_LOCK, WORLD_CONTROL, WORLD_DATA };

static struct {
    uint8_t *control, *data; /* `data` is the end of the space for records */
    uint64_t control_size, data_size, now_ns;
    int our_lock;
} world;

/* `size` bytes that end at pages without access, as many as a tail has, and begin behind another one. */
static uint8_t *world_guarded(size_t size) {
    uint8_t *at = mmap(NULL, WORLD_PAGE + size + WORLD_TAIL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || mprotect(at + WORLD_PAGE, size, PROT_READ | PROT_WRITE) < 0) abort();
    return at + WORLD_PAGE;
}

static void world_begin(int our_side) {
    if (!world.control) {
        world.control = world_guarded(WORLD_CONTROL_SIZE);
        world.data = world_guarded(WORLD_DATA_MAX) + WORLD_DATA_MAX;
    }
    world.our_lock = our_side == 1 ? WORLD_SERVER_LOCK : WORLD_CLIENT_LOCK;
    world.control_size = WORLD_CONTROL_SIZE;
    world.data_size = 0;
    world.now_ns = 1000000000;
}

/* Where a data file of `size` bytes begins, and what it has of its records. */
static uint8_t *world_file(uint64_t size) { return world.data + WORLD_TAIL - size; }
static size_t world_records(uint64_t size) { return size > WORLD_TAIL ? (size_t)size - WORLD_TAIL : 0; }

/* ---- the system calls: what each does here, and no more */

static int world_find(const char *name) {
    const char *suffix = strrchr(name, '.');
    if (!suffix) return WORLD_DIRECTORY;
    if (strcmp(suffix, ".lock") == 0) return strstr(name, ".server.") ? WORLD_SERVER_LOCK : WORLD_CLIENT_LOCK;
    return strcmp(suffix, ".data") == 0 ? WORLD_DATA : WORLD_CONTROL;
}

static int world_fstat(int fd, struct stat *info) {
    memset(info, 0, sizeof *info);
    info->st_mode = fd == WORLD_DIRECTORY ? S_IFDIR | 0700 : S_IFREG | 0600;
    info->st_uid = geteuid();
    info->st_ino = (ino_t)fd;
    info->st_size = fd == WORLD_CONTROL ? (off_t)world.control_size : fd == WORLD_DATA ? (off_t)world.data_size : 0;
    return 0;
}

static int world_fstatfs(struct statfs *info) { return memset(info, 0, sizeof *info), 0; } /* no file system we know */

static void *world_mmap(int fd, size_t size) {
    if (fd == WORLD_CONTROL && size == WORLD_CONTROL_SIZE) return world.control;
    /* As with a file: beyond its end there is nothing, and who reads there is ended. */
    if (fd == WORLD_DATA && world_records(size) <= WORLD_DATA_MAX) return world_file(size < world.data_size ? size : world.data_size);
    errno = ENOMEM;
    return MAP_FAILED;
}

static int world_fallocate(int fd, off_t size) {
    if (fd == WORLD_DATA && (size < 0 || world_records((uint64_t)size) > WORLD_DATA_MAX)) return ENOSPC;
    if (fd == WORLD_DATA) world.data_size = (uint64_t)size, memset(world_file((uint64_t)size), 0, world_records((uint64_t)size));
    return 0;
}

static int world_flock(int fd, int operation) {
    if (operation == LOCK_UN || fd == world.our_lock) return 0;
    errno = EWOULDBLOCK; /* the peer holds its lock */
    return -1;
}

static int world_clock(struct timespec *now) {
    world.now_ns += 500000000; /* each look at the clock takes long: no wait is long in looks */
    now->tv_sec = (time_t)(world.now_ns / 1000000000);
    now->tv_nsec = (long)(world.now_ns % 1000000000);
    return 0;
}

static ssize_t world_random(void *at, size_t size) { return memset(at, 0x5a, size), (ssize_t)size; }
static const char *world_getenv(const char *name) { return strcmp(name, "RLAY_DIR") == 0 ? "/world" : NULL; }
static long world_syscall(long number, ...) { return (void)number, 0; } /* a futex: it sleeps not, it wakes nobody */
static int world_name(char *at) { return *at = 'h', 0; }
static int world_nothing(const volatile void *at, uint64_t number) { return (void)at, (void)number, 0; }
static int world_open(int directory, const char *path, int flags, ...) { return (void)directory, (void)flags, world_find(path); }
static int world_stat_at(int directory, const char *path, struct stat *info) { return (void)directory, world_fstat(world_find(path), info); }

#define getenv(name) world_getenv(name)
#define mkdir(path, mode) world_nothing(path, mode)
#define open(path, flags) world_nothing(path, flags)
#define openat world_open
#define close(fd) world_nothing(NULL, (uint64_t)(fd))
#define fstat(fd, info) world_fstat(fd, info)
#define fstatfs(fd, info) world_fstatfs(info)
#define fstatat(directory, path, info, flags) world_stat_at(directory, path, info)
#define mmap(at, size, protection, flags, fd, offset) world_mmap(fd, size)
#define munmap(at, size) world_nothing(at, size)
#define posix_fallocate(fd, offset, size) world_fallocate(fd, size)
#define unlinkat(directory, path, flags) world_nothing(path, (uint64_t)(directory))
#define renameat(from, old, to, new) world_nothing(old, (uint64_t)(from))
#define fdopendir(fd) ((DIR *)(void *)&world) /* there is nothing to sweep */
#define readdir(directory) ((void)(directory), (struct dirent *)NULL)
#define closedir(directory) world_nothing(directory, 0)
#define flock(fd, operation) world_flock(fd, operation)
#define clock_gettime(clock, now) world_clock(now)
#define nanosleep(duration, rest) world_nothing(duration, 0)
#define syscall world_syscall
#define getrandom(at, size, flags) world_random(at, size)
#define gethostname(at, size) world_name(at)
#define getpid() 4713
#define sched_getaffinity(pid, size, set) (-1)
#define sysconf(name) 2L

#ifdef FUZZ_ONCE
#include "once.h"
#else
#define once_begin() ((void)0)
#define once_end() ((void)0)
#endif

#define RLAY_NO_SIGBUS /* the files of this world are never cut */
#define RLAY_IMPLEMENTATION
#include "rlay.h"

#undef mmap
#undef open
#undef close

/* ---- what every target checks */

#define FUZZ_CODE(code) (1u << (code))
/* What bytes may lead to, wherever they stand: a malformed file, or a peer that breaks the rules, or says goodbye. */
#define FUZZ_HOSTILE (FUZZ_CODE(RLAY_E_CHANNEL_FORMAT) | FUZZ_CODE(RLAY_E_REMOTE_PROTOCOL) | \
        FUZZ_CODE(RLAY_E_PEER_CLOSED) | FUZZ_CODE(RLAY_E_TIMEOUT))

/* A result is a value or one of `codes`, and an error has a sentence of printable text. */
static int fuzz_result(const rlay_channel *ch, int result, unsigned codes) {
    if (result == RLAY_PENDING || result == RLAY_READY) return result;
    if (result > 0 || result < -RLAY_E_TIMEOUT || !(codes >> -result & 1)) fuzz_fail("an unexpected code", -result);
    const unsigned char *text = (const unsigned char *)rlay_error_text(ch);
    if (*text == 0 || strlen(rlay_error_text(ch)) >= sizeof ch->error) fuzz_fail("an error without a sentence", result);
    for (unsigned size; *text; text += size)
        if ((size = rlay__utf8_size(text)) == 0 || *text < 0x20) fuzz_fail("an error that is no text", *text);
    return result;
}

/* The layout that was adopted: every field lies in its record, aligned, and can be read to its last byte. */
static void fuzz_layout(const rlay_channel *ch) {
    for (uint32_t i = 0; i < ch->field_count; i++) {
        const rlay_field *field = &ch->fields[i];
        uint64_t size = rlay_field_size(field), record = field->record == RLAY_RECORD_REQUEST ? ch->request_size : ch->reply_size;
        if (field->offset < RLAY_PREFIX_SIZE || field->offset > record || size > record - field->offset)
            fuzz_fail("a field beyond its record", i);
        if (field->offset % rlay__dtype_size(field->dtype)) fuzz_fail("a field that is not aligned", i);
        if (!rlay_field_find(ch, field->record, field->name)) fuzz_fail("a field that is not found", i);
        const uint8_t *at = (const uint8_t *)rlay_field_data(ch, field);
        if (at) fuzz_read(at, size < 64 ? size : 64), fuzz_read(at + size - (size < 64 ? size : 64), size < 64 ? size : 64);
    }
}

#endif
