/* What the files of rlay._atomics share: a word that another process writes at any time, the guard of
 * an endpoint, and the shield of a mapping. */

#ifndef RLAY_ATOMICS_H
#define RLAY_ATOMICS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the words of a channel are little-endian; this machine is not"
#endif
#if ATOMIC_INT_LOCK_FREE != 2
#error "a lock in this process cannot order words shared with another process"
#endif

typedef _Atomic uint32_t cell_t;

/* acquire: pairs with the release store in store() of the peer (PROTOCOL.md 6, 12) */
static inline uint32_t load(const cell_t *cell)
{
    return atomic_load_explicit(cell, memory_order_acquire);
}

/* release: pairs with the acquire load in load(), in the peer's wait (PROTOCOL.md 6, 12) */
static inline void store(cell_t *cell, uint32_t value)
{
    atomic_store_explicit(cell, value, memory_order_release);
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ __volatile__("yield");
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* Shared by the files of this extension only, so that calls within one may be inlined. */
#if defined(__GNUC__)
#define INTERNAL __attribute__((visibility("hidden")))
#else
#define INTERNAL
#endif

/* Adds a type to the module, which owns the result; NULL with an exception. */
INTERNAL PyObject *rlay_add_type(PyObject *module, PyType_Spec *spec, PyObject *base);

/* Adds the type Word to the module. */
INTERNAL int rlay_add_word(PyObject *module);

/* ---- waiting for a word and waking (_wait.c) */

enum waited { WAIT_SPUN, WAIT_SLEPT, WAIT_RAISED };

INTERNAL void rlay_wake_all(cell_t *cell);

/* Stores the turn and wakes its waiter, if one announced itself. */
static inline void rlay_hand_over(cell_t *cell, uint32_t value, cell_t *waiting)
{
    store(cell, value);
    /* fence: pairs with the fence in rlay_wait_while; of "I stored the turn, then read waiting"
     * and "I stored waiting, then read the turn" at least one sees the other */
    atomic_thread_fence(memory_order_seq_cst);
    /* relaxed: pairs, through the two fences, with the store of 1 in rlay_wait_while */
    if (atomic_load_explicit(waiting, memory_order_relaxed) != 0)
        rlay_wake_all(cell);
}

/* Waits while the word is `first`, GIL held on entry and exit. RAISED: a signal handler did. */
INTERNAL enum waited rlay_wait_while(cell_t *cell, uint32_t first, cell_t *waiting, int64_t spin_ns,
                                     int64_t timeout_ns);

INTERNAL int64_t rlay_now_ns(void);

/* ---- one call at a time on an endpoint (_guard.c) */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    _Atomic unsigned long owner; /* the thread whose call it is; 0: nobody's */
    PyObject *in_use;            /* makes the exception for a second caller */
    PyObject *refusal;           /* makes the exception for everybody, or NULL */
    PyObject *after;             /* for the owner to call at its end, or NULL */
    char stop;                   /* the owner should end its wait */
} Guard;

/* A new reference, or NULL with a TypeError. */
INTERNAL Guard *rlay_as_guard(PyObject *object);

/* Adds the type Guard to the module. */
INTERNAL int rlay_add_guard(PyObject *module);

/* relaxed: what the owner did is not read by it; whoever becomes the owner acquires in rlay_own */
static inline unsigned long owner_of(Guard *guard)
{
    return atomic_load_explicit(&guard->owner, memory_order_relaxed);
}

/* release: pairs with the exchange in rlay_own, who sees what our call did; the GIL does that, too */
static inline void set_owner(Guard *guard, unsigned long owner)
{
    atomic_store_explicit(&guard->owner, owner, memory_order_release);
}

static inline bool rlay_own(Guard *guard)
{
#ifdef Py_GIL_DISABLED
    unsigned long nobody = 0;
    /* acquire, as part of sequential consistency: pairs with the release in set_owner */
    return atomic_compare_exchange_strong(&guard->owner, &nobody, PyThread_get_thread_ident());
#else
    if (owner_of(guard) != 0)
        return false;
    set_owner(guard, PyThread_get_thread_ident());
    return true;
#endif
}

/* Raises what a caller gets who may not. */
INTERNAL void rlay_refuse(Guard *guard);

/* Gives back what close() waits for, and does what it left to do. */
INTERNAL PyObject *rlay_give_after(Guard *guard, PyObject *result);

/* Must be followed by rlay_give; false with an exception. */
static inline bool rlay_take(Guard *guard)
{
    if (guard->refusal == NULL && rlay_own(guard))
        return true;
    rlay_refuse(guard);
    return false;
}

static inline PyObject *rlay_give(Guard *guard, PyObject *result)
{
    if (guard->after != NULL)
        return rlay_give_after(guard, result);
    set_owner(guard, 0);
    return result;
}

/* ---- mapped memory whose file may be truncated (_shield.c) */

/* Of mapped memory: the word that is not 0 once it was replaced by zeros, and its last byte. */
typedef struct {
    const cell_t *lost;
    const char *last;
} Watch;

/* Valid while the memory stays mapped. Memory without a Shield is never lost. */
INTERNAL Watch rlay_shield_watch(const void *address);

/* Asked after values were copied, and before anything is handed over: whether they may be zeros of
 * a truncated file. Where the cut left the beginning of a page, its rest reads as zeros without a
 * fault; the last page, which lies behind the cut, faults all the same. A cut in the last page itself
 * hurts nobody: it holds no record (PROTOCOL.md §7). */
static inline bool rlay_shield_is_lost(Watch watch)
{
    atomic_signal_fence(memory_order_seq_cst);
    (void)*(const volatile char *)watch.last;
    return load(watch.lost) != 0;
}

/* Puts our handler of SIGBUS over one that was installed since; a system call. */
INTERNAL void rlay_shield_again(void);

/* Adds the type Shield to the module. */
INTERNAL int rlay_add_shield(PyObject *module);

/* ---- an ordinary step (_exchange.c) */

/* Adds the types Exchange and LaneExchange to the module. */
INTERNAL int rlay_add_exchange(PyObject *module);

/* ---- tables of a type */

#define FUNCTION(name) ((PyCFunction)(void (*)(void))(name))
#define SIGNATURE(text) text "\n--\n\n"
/* ISO C has no cast from a function to void *; every system that runs CPython does. */
#define SLOT(function) ((void *)(uintptr_t)(function))

#endif
