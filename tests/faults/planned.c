/* planned.c - stands before the C library in a C peer: generations that are known before, file systems of any type.
 *
 *   PLANNED_GENERATION   what getrandom() gives, 16 hexadecimal digits
 *   PLANNED_TYPE         the type that fstatfs() tells, in hexadecimal
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/vfs.h>

ssize_t getrandom(void *buffer, size_t size, unsigned flags) {
    const char *given = getenv("PLANNED_GENERATION");
    ssize_t (*real)(void *, size_t, unsigned);
    *(void **)&real = dlsym(RTLD_NEXT, "getrandom");
    unsigned long long value = given ? strtoull(given, NULL, 16) : 0;
    if (!given || size != sizeof value) return real(buffer, size, flags);
    memcpy(buffer, &value, size);
    return (ssize_t)size;
}

int fstatfs(int descriptor, struct statfs *info) {
    const char *given = getenv("PLANNED_TYPE");
    int (*real)(int, struct statfs *);
    *(void **)&real = dlsym(RTLD_NEXT, "fstatfs");
    int result = real(descriptor, info);
    if (given) info->f_type = (__fsword_t)strtoul(given, NULL, 16);
    return result;
}
