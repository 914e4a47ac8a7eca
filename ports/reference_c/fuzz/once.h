/* once.h - reports a byte of the mapped files that is loaded twice in one call. SPDX-License-Identifier: MIT
 *
 * What is loaded a second time may have changed since it was checked. The compiler announces every load, for the thread
 * sanitizer (-fsanitize=thread); this is another runtime for that, and the sanitizer's own is not linked. Atomic loads,
 * those of the words that both sides look at, are announced otherwise and not counted.
 */
#define ONCE_UNSEEN __attribute__((no_sanitize("thread")))

static uint8_t once_control[WORLD_CONTROL_SIZE], once_data[WORLD_DATA_MAX];
static int once_watching;

ONCE_UNSEEN static void once_load(const void *from, size_t size) {
    const uint8_t *at = (const uint8_t *)from, *data = world.data - WORLD_DATA_MAX;
    for (size_t i = 0; once_watching && i < size; i++, at++) {
        uint8_t *seen = at >= world.control && at < world.control + WORLD_CONTROL_SIZE ? once_control + (at - world.control)
                : at >= data && at < world.data ? once_data + (at - data) : NULL;
        if (!seen) continue;
        if (*seen) {
            fprintf(stderr, "contract broken: %s byte 0x%lx is loaded twice\n", at < data || at >= world.data ? "control" : "data",
                    (unsigned long)(at < data || at >= world.data ? at - world.control : at - world_file(world.data_size)));
            abort();
        }
        *seen = 1;
    }
}

/* From here to once_end() each byte may be loaded once. */
static void once_begin(void) {
    memset(once_control, 0, sizeof once_control), memset(once_data, 0, sizeof once_data);
    once_watching = 1;
}
static void once_end(void) { once_watching = 0; }

ONCE_UNSEEN static void *once_memcpy(void *to, const void *from, size_t size) { return once_load(from, size), memcpy(to, from, size); }
ONCE_UNSEEN static int once_memcmp(const void *a, const void *b, size_t size) {
    return once_load(a, size), once_load(b, size), memcmp(a, b, size);
}
#define memcpy once_memcpy
#define memcmp once_memcmp

#define ONCE_READ(name, size) void __tsan_##name(void *at); ONCE_UNSEEN void __tsan_##name(void *at) { once_load(at, size); }
ONCE_READ(read1, 1) ONCE_READ(read2, 2) ONCE_READ(read4, 4) ONCE_READ(read8, 8) ONCE_READ(read16, 16)
ONCE_READ(unaligned_read2, 2) ONCE_READ(unaligned_read4, 4) ONCE_READ(unaligned_read8, 8) ONCE_READ(unaligned_read16, 16)
#define ONCE_WRITE(name) void __tsan_##name(void *at); ONCE_UNSEEN void __tsan_##name(void *at) { (void)at; }
ONCE_WRITE(write1) ONCE_WRITE(write2) ONCE_WRITE(write4) ONCE_WRITE(write8) ONCE_WRITE(write16)
ONCE_WRITE(unaligned_write2) ONCE_WRITE(unaligned_write4) ONCE_WRITE(unaligned_write8) ONCE_WRITE(unaligned_write16)
ONCE_WRITE(func_entry)

/* The types are those that gcc knows for them. */
void __tsan_init(void);
void __tsan_func_exit(void *at);
void __tsan_read_range(void *at, long size);
void __tsan_write_range(void *at, long size);
unsigned __tsan_atomic32_load(const volatile void *at, int order);
void __tsan_atomic32_store(volatile void *at, unsigned value, int order);
void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_signal_fence(int order);
ONCE_UNSEEN void __tsan_init(void) {}
ONCE_UNSEEN void __tsan_func_exit(void *at) { (void)at; }
ONCE_UNSEEN void __tsan_read_range(void *at, long size) { once_load(at, (size_t)size); }
ONCE_UNSEEN void __tsan_write_range(void *at, long size) { (void)at, (void)size; }
ONCE_UNSEEN unsigned __tsan_atomic32_load(const volatile void *at, int order) {
    return (void)order, __atomic_load_n((const volatile unsigned *)at, __ATOMIC_SEQ_CST);
}
ONCE_UNSEEN void __tsan_atomic32_store(volatile void *at, unsigned value, int order) {
    (void)order, __atomic_store_n((volatile unsigned *)at, value, __ATOMIC_SEQ_CST);
}
ONCE_UNSEEN void __tsan_atomic_thread_fence(int order) { (void)order; }
ONCE_UNSEEN void __tsan_atomic_signal_fence(int order) { (void)order; }
