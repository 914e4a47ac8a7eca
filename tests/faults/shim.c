/* shim.c - makes one chosen call of one chosen function fail, and keeps the books. For Linux with glibc.
 *
 * Preloaded into Python (LD_PRELOAD) or linked into a C program, it stands before the C library. Between faults_begin()
 * and faults_end() it counts, in the calling thread alone, the calls that concern the directory `root`: paths in it,
 * descriptors of its files, their mappings, the futex. Call number `number` of `function` then fails with `error`;
 * number 0 lets all pass, to count them. Other threads are left alone: the peer may run in one.
 *
 * What fails is not carried out, but for close(): Linux gives the descriptor back whatever close() returns.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define DESCRIPTORS 4096
#define MAPPINGS 1024

enum function { OPEN, FSTAT, STAT, MKDIR, RMDIR, FALLOCATE, MMAP, MUNMAP, DUP, FLOCK, RENAME, UNLINK, OPENDIR, READDIR,
        CLOSE, FUTEX, GETRANDOM, STATFS, FUNCTIONS };
static const char *const names[FUNCTIONS] = {"open", "fstat", "stat", "mkdir", "rmdir", "fallocate", "mmap", "munmap",
        "dup", "flock", "rename", "unlink", "opendir", "readdir", "close", "futex", "getrandom", "statfs"};

static __thread int armed;
static char root[4096], fired_at[4096];
static int wanted = -1, wanted_error, lasting, fired;
static long wanted_number, counts[FUNCTIONS];
static unsigned char mine[DESCRIPTORS]; /* descriptors of files in `root` that the armed thread opened */
static DIR *my_directory;
static struct { char *at; size_t size; } maps[MAPPINGS];
static unsigned long file_system; /* what statfs() is to say the type is; 0: the truth */

/* ---- for the test */

EXPORT int faults_begin(const char *directory, const char *function, long number, int error, int from_then_on) {
    snprintf(root, sizeof root, "%s", directory);
    memset(counts, 0, sizeof counts);
    memset(mine, 0, sizeof mine);
    memset(maps, 0, sizeof maps);
    my_directory = NULL;
    fired_at[0] = 0, fired = 0, wanted = -1;
    for (int i = 0; i < FUNCTIONS; i++)
        if (strcmp(names[i], function) == 0) wanted = i;
    wanted_number = number, wanted_error = error, lasting = from_then_on;
    armed = wanted >= 0 || number == 0;
    return armed;
}
EXPORT void faults_end(void) { armed = 0; }
EXPORT const char *faults_name(int function) { return function < FUNCTIONS ? names[function] : NULL; }
EXPORT long faults_count(int function) { return counts[function]; }
EXPORT int faults_fired(void) { return fired; }
EXPORT const char *faults_where(void) { return fired_at; }
EXPORT void faults_file_system(unsigned long type) { file_system = type; }
EXPORT int faults_descriptors(void) {
    int open = my_directory != NULL;
    for (int i = 0; i < DESCRIPTORS; i++) open += mine[i];
    return open;
}
EXPORT int faults_mappings(void) {
    int mapped = 0;
    for (int i = 0; i < MAPPINGS; i++) mapped += maps[i].at != NULL;
    return mapped;
}

/* ---- deciding */

static int in_root(const char *path) {
    size_t size = strlen(root);
    return armed && path && strncmp(path, root, size) == 0 && (path[size] == 0 || path[size] == '/');
}
static int is_mine(int descriptor) {
    return armed && descriptor >= 0 && descriptor < DESCRIPTORS && mine[descriptor];
}
static int at_root(int directory, const char *path) {
    return in_root(path) || (is_mine(directory) && path && path[0] != '/');
}
static void own(int descriptor) {
    if (descriptor >= 0 && descriptor < DESCRIPTORS) mine[descriptor] = 1;
}

/* 1: this call is to fail, and errno says how. */
static int fails(enum function function, int concerned, const char *what) {
    if (!concerned) return 0;
    long number = ++counts[function];
    if (wanted != (int)function || wanted_number == 0) return 0;
    if (number != wanted_number && !(lasting && number > wanted_number)) return 0;
    if (!fired) snprintf(fired_at, sizeof fired_at, "%s", what ? what : "");
    fired = 1;
    errno = wanted_error;
    return 1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, name)

/* ---- the functions */

#define DEFINE_OPEN(name) \
    EXPORT int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list list; \
        va_start(list, flags); \
        mode_t mode = va_arg(list, mode_t); \
        va_end(list); \
        int concerned = in_root(path); \
        if (fails(OPEN, concerned, path)) return -1; \
        int result = real(path, flags, mode); \
        if (concerned) own(result); \
        return result; \
    }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

#define DEFINE_OPENAT(name) \
    EXPORT int name(int directory, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        va_list list; \
        va_start(list, flags); \
        mode_t mode = va_arg(list, mode_t); \
        va_end(list); \
        int concerned = at_root(directory, path); \
        if (fails(OPEN, concerned, path)) return -1; \
        int result = real(directory, path, flags, mode); \
        if (concerned) own(result); \
        return result; \
    }
DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)

#define DEFINE_STAT(name, type) \
    EXPORT int name(const char *path, struct type *info) { \
        REAL(int, #name, const char *, struct type *); \
        return fails(STAT, in_root(path), path) ? -1 : real(path, info); \
    }
DEFINE_STAT(stat, stat)
DEFINE_STAT(stat64, stat64)
DEFINE_STAT(lstat, stat)
DEFINE_STAT(lstat64, stat64)

#define DEFINE_FSTAT(name, type) \
    EXPORT int name(int descriptor, struct type *info) { \
        REAL(int, #name, int, struct type *); \
        return fails(FSTAT, is_mine(descriptor), "") ? -1 : real(descriptor, info); \
    }
DEFINE_FSTAT(fstat, stat)
DEFINE_FSTAT(fstat64, stat64)

#define DEFINE_FSTATAT(name, type) \
    EXPORT int name(int directory, const char *path, struct type *info, int flags) { \
        REAL(int, #name, int, const char *, struct type *, int); \
        return fails(STAT, at_root(directory, path), path) ? -1 : real(directory, path, info, flags); \
    }
DEFINE_FSTATAT(fstatat, stat)
DEFINE_FSTATAT(fstatat64, stat64)

#define DEFINE_STATFS(name, type) \
    EXPORT int name(const char *path, struct type *info) { \
        REAL(int, #name, const char *, struct type *); \
        if (fails(STATFS, in_root(path), path)) return -1; \
        int result = real(path, info); \
        if (file_system) info->f_type = (__fsword_t)file_system; \
        return result; \
    }
DEFINE_STATFS(statfs, statfs)
DEFINE_STATFS(statfs64, statfs64)

#define DEFINE_FSTATFS(name, type) \
    EXPORT int name(int descriptor, struct type *info) { \
        REAL(int, #name, int, struct type *); \
        if (fails(STATFS, is_mine(descriptor), "")) return -1; \
        int result = real(descriptor, info); \
        if (file_system) info->f_type = (__fsword_t)file_system; \
        return result; \
    }
DEFINE_FSTATFS(fstatfs, statfs)
DEFINE_FSTATFS(fstatfs64, statfs64)

EXPORT int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return fails(MKDIR, in_root(path), path) ? -1 : real(path, mode);
}
EXPORT int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    return fails(RMDIR, in_root(path), path) ? -1 : real(path);
}

#define DEFINE_FALLOCATE(name, type) \
    EXPORT int name(int descriptor, type offset, type size) { \
        REAL(int, #name, int, type, type); \
        return fails(FALLOCATE, is_mine(descriptor), "") ? errno : real(descriptor, offset, size); \
    }
DEFINE_FALLOCATE(posix_fallocate, off_t)
DEFINE_FALLOCATE(posix_fallocate64, off64_t)

#define DEFINE_MMAP(name, type) \
    EXPORT void *name(void *at, size_t size, int protection, int flags, int descriptor, type offset) { \
        REAL(void *, #name, void *, size_t, int, int, int, type); \
        int concerned = is_mine(descriptor); \
        if (fails(MMAP, concerned, "")) return MAP_FAILED; \
        void *result = real(at, size, protection, flags, descriptor, offset); \
        for (int i = 0; concerned && result != MAP_FAILED && i < MAPPINGS; i++) \
            if (!maps[i].at) { \
                maps[i].at = (char *)result, maps[i].size = size; \
                break; \
            } \
        return result; \
    }
DEFINE_MMAP(mmap, off_t)
DEFINE_MMAP(mmap64, off64_t)

EXPORT int munmap(void *at, size_t size) {
    REAL(int, "munmap", void *, size_t);
    int found = -1;
    for (int i = 0; found < 0 && i < MAPPINGS; i++)
        if (maps[i].at && maps[i].at == (char *)at) found = i;
    if (fails(MUNMAP, armed && found >= 0, "")) return -1;
    if (found >= 0) maps[found].at = NULL;
    return real(at, size);
}

#define DEFINE_FCNTL(name) \
    EXPORT int name(int descriptor, int command, ...) { \
        REAL(int, #name, int, int, ...); \
        va_list list; \
        va_start(list, command); \
        long argument = va_arg(list, long); \
        va_end(list); \
        int concerned = (command == F_DUPFD_CLOEXEC || command == F_DUPFD) && is_mine(descriptor); \
        if (fails(DUP, concerned, "")) return -1; \
        int result = real(descriptor, command, argument); \
        if (concerned) own(result); \
        return result; \
    }
DEFINE_FCNTL(fcntl)
DEFINE_FCNTL(fcntl64)

EXPORT int flock(int descriptor, int operation) {
    REAL(int, "flock", int, int);
    const char *what = operation & LOCK_UN ? "unlock" : "lock";
    return fails(FLOCK, is_mine(descriptor), what) ? -1 : real(descriptor, operation);
}

EXPORT int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return fails(RENAME, in_root(from), to) ? -1 : real(from, to);
}
EXPORT int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return fails(RENAME, at_root(from_directory, from), to) ? -1 : real(from_directory, from, to_directory, to);
}
EXPORT int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return fails(UNLINK, in_root(path), path) ? -1 : real(path);
}
EXPORT int unlinkat(int directory, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    return fails(UNLINK, at_root(directory, path), path) ? -1 : real(directory, path, flags);
}

EXPORT DIR *opendir(const char *path) {
    REAL(DIR *, "opendir", const char *);
    int concerned = in_root(path);
    if (fails(OPENDIR, concerned, path)) return NULL;
    DIR *result = real(path);
    if (concerned) my_directory = result;
    return result;
}
EXPORT DIR *fdopendir(int descriptor) {
    REAL(DIR *, "fdopendir", int);
    int concerned = is_mine(descriptor);
    if (fails(OPENDIR, concerned, "")) return NULL;
    DIR *result = real(descriptor);
    if (concerned && result) my_directory = result, mine[descriptor] = 0;
    return result;
}
EXPORT struct dirent *readdir(DIR *directory) {
    REAL(struct dirent *, "readdir", DIR *);
    return fails(READDIR, armed && directory == my_directory, "") ? NULL : real(directory);
}
EXPORT struct dirent64 *readdir64(DIR *directory) {
    REAL(struct dirent64 *, "readdir64", DIR *);
    return fails(READDIR, armed && directory == my_directory, "") ? NULL : real(directory);
}

EXPORT int close(int descriptor) {
    REAL(int, "close", int);
    int concerned = is_mine(descriptor), failed = fails(CLOSE, concerned, "");
    if (concerned || (descriptor >= 0 && descriptor < DESCRIPTORS)) mine[descriptor] = 0;
    int result = real(descriptor);
    if (!failed) return result;
    errno = wanted_error;
    return -1;
}
EXPORT int closedir(DIR *directory) {
    REAL(int, "closedir", DIR *);
    int concerned = armed && directory == my_directory, failed = fails(CLOSE, concerned, "directory");
    if (directory == my_directory) my_directory = NULL;
    int result = real(directory);
    if (!failed) return result;
    errno = wanted_error;
    return -1;
}

EXPORT ssize_t getrandom(void *buffer, size_t size, unsigned flags) {
    REAL(ssize_t, "getrandom", void *, size_t, unsigned);
    return fails(GETRANDOM, armed, "") ? -1 : real(buffer, size, flags);
}

EXPORT long syscall(long number, ...) {
    REAL(long, "syscall", long, ...);
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    const char *what = number == SYS_futex && (a[1] & 127) ? "wake" : "wait";
    if (fails(FUTEX, armed && number == SYS_futex, what)) return -1;
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
