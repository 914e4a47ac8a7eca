/* How a word is waited for, and how its waiter is woken; of Word and of Exchange.
 *
 * A waiter spins, first with the GIL and then without, and then announces itself in a second word
 * and sleeps: on a futex, or in naps where there is none. What wakes it is the peer's hand-over; its
 * deadline ends it, and a signal handler that raises.
 */

#include "_atomics.h"

#include <errno.h>
#include <limits.h>
#include <time.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Longest spin with the GIL held: about what releasing and retaking it may cost. */
#define HELD_SPIN_NS 2000
/* Loads between two looks at the clock; a look costs as much as a load and a pause. */
#define LOADS_PER_LOOK 8
/* First and longest nap where there is no futex. */
#define FIRST_NAP_NS 50000
#define LONGEST_NAP_NS 1000000

int64_t rlay_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int64_t later_ns(int64_t start, int64_t delay)
{
    if (delay <= 0)
        return start;
    return delay > INT64_MAX - start ? INT64_MAX : start + delay;
}

/* Ends when the word is no longer `first`, or the clock reaches `until`. */
static bool spin_while(cell_t *cell, uint32_t first, int64_t until)
{
    do {
        for (int i = 0; i < LOADS_PER_LOOK; i++) {
            if (load(cell) != first)
                return true;
            relax();
        }
    } while (rlay_now_ns() < until);
    return false;
}

enum nap { NAP_OVER, NAP_AGAIN, NAP_INTERRUPTED };

#if defined(__linux__) && defined(SYS_futex)

/* FUTEX_WAIT without FUTEX_PRIVATE_FLAG: the peer is another process. The kernel looks
 * at the word again under its own lock, so a hand-over just before the sleep is seen. */
static enum nap nap_while(cell_t *cell, uint32_t first, int64_t remaining, int64_t *unused)
{
    /* two longs are what this call takes on every architecture, unlike struct timespec */
    int64_t seconds = remaining / 1000000000;
    long timeout[2] = {seconds > INT_MAX ? INT_MAX : (long)seconds, (long)(remaining % 1000000000)};
    long result = syscall(SYS_futex, (void *)cell, FUTEX_WAIT, first, timeout, NULL, 0);
    (void)unused;
    return result == -1 && errno == EINTR ? NAP_INTERRUPTED : NAP_OVER;
}

void rlay_wake_all(cell_t *cell)
{
    (void)syscall(SYS_futex, (void *)cell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

#else

static enum nap nap_while(cell_t *cell, uint32_t first, int64_t remaining, int64_t *nap_ns)
{
    int64_t nanoseconds = *nap_ns < remaining ? *nap_ns : remaining;
    struct timespec nap = {0, (long)nanoseconds};
    *nap_ns = *nap_ns * 2 < LONGEST_NAP_NS ? *nap_ns * 2 : LONGEST_NAP_NS;
    if (nanosleep(&nap, NULL) == -1 && errno == EINTR)
        return NAP_INTERRUPTED;
    return load(cell) == first ? NAP_AGAIN : NAP_OVER;
}

void rlay_wake_all(cell_t *cell)
{
    (void)cell; /* a sleeper looks again by itself, within a millisecond */
}

#endif

/* Sleeps until a wake, a change or the deadline. Called without the GIL, which it takes
 * to run signal handlers; false when one of them raised. */
static bool sleep_while(cell_t *cell, uint32_t first, int64_t deadline, PyThreadState **thread)
{
    int64_t nap_ns = FIRST_NAP_NS;
    enum nap nap = NAP_AGAIN;
    while (nap != NAP_OVER && load(cell) == first) {
        int64_t remaining = deadline - rlay_now_ns();
        if (remaining <= 0)
            break;
        nap = nap_while(cell, first, remaining, &nap_ns);
        if (nap != NAP_INTERRUPTED)
            continue;
        PyEval_RestoreThread(*thread);
        int failed = PyErr_CheckSignals();
        *thread = PyEval_SaveThread();
        if (failed)
            return false;
    }
    return true;
}

enum waited rlay_wait_while(cell_t *cell, uint32_t first, cell_t *waiting, int64_t spin_ns,
                            int64_t timeout_ns)
{
    bool went_well = true, spun = true;
    int64_t start = rlay_now_ns();
    int64_t deadline = later_ns(start, timeout_ns);
    int64_t spin_end = later_ns(start, spin_ns < timeout_ns ? spin_ns : timeout_ns);
    int64_t held_end = later_ns(start, HELD_SPIN_NS);
    if (spin_end > start && spin_while(cell, first, held_end < spin_end ? held_end : spin_end))
        return WAIT_SPUN;

    PyThreadState *thread = PyEval_SaveThread();
    if (spin_end <= held_end || !spin_while(cell, first, spin_end)) {
        spun = false;
        rlay_shield_again();
        /* relaxed: pairs, through the two fences, with the load in the peer's hand_over */
        atomic_store_explicit(waiting, 1, memory_order_relaxed);
        /* fence: pairs with the fence in the peer's hand_over (PROTOCOL.md 12) */
        atomic_thread_fence(memory_order_seq_cst);
        went_well = sleep_while(cell, first, deadline, &thread);
        /* relaxed: a peer that still reads 1 makes one wake-up that nobody needs */
        atomic_store_explicit(waiting, 0, memory_order_relaxed);
    }
    PyEval_RestoreThread(thread);
    return !went_well ? WAIT_RAISED : spun ? WAIT_SPUN : WAIT_SLEPT;
}
