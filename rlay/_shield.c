/* rlay._atomics.Shield: a mapped file that somebody truncates is zeros and a note, not the end of the process.
 *
 * Theory of operation. Whoever touches a mapped page behind the end of its file gets SIGBUS. Each
 * Shield enters its mapping into a table that the signal handler can read at any time. A fault inside
 * one of these ranges is answered by anonymous zero pages from there to the range's end, and by its
 * word `lost`; the access goes on and reads zeros. Who uses a mapping looks at `lost` after it has
 * copied its values and before it hands anything over, so that no such zero becomes a value.
 *
 * Every other SIGBUS goes to the handler that was there, as if we were not: called with the same
 * arguments, or the default, which ends the process at the instruction that faulted. A handler that
 * is installed after ours hides it, so we put ours back on top whenever there is time: at each new
 * mapping, before each sleep, and every 1024 steps. Until then it has to pass signals on to us; if
 * it does that by raise(), as faulthandler does, the address is gone and we look for a range whose
 * end cannot be read.
 *
 * The handler uses atomics and system calls only. What is shared with it is sequentially consistent
 * where no other order is named. Of an entry `start` is stored last, in enter(): it pairs with the two
 * loads of it in range_around(). Of the other handlers `others_left` and `count_of_others` are stored
 * behind the entry of others[]: they pair with the loads in pass_on() and put_on_top(). */

#include "_atomics.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#endif

/* A session has two mappings; beyond this many at once they are not guarded. */
#define MOST_RANGES 1024

/* A fault that comes back so often, one after another, was not repaired by whoever we call. */
#define MOST_REPEATS 100

/* Looks at another thread that installs the handler, which takes it a microsecond. */
#define LONGEST_INSTALL 100000

enum { FREE = 0, BEING_FILLED = 1 }; /* of `start`, which else is an address */

typedef struct {
    _Atomic uintptr_t start, end;
    cell_t lost;
} Range;

static Range ranges[MOST_RANGES];
static cell_t never_lost;
static uintptr_t page_size;

/* [0] what handled SIGBUS before us; [1] what was put over us since, and may call us in turn. */
static struct sigaction others[2];
static _Atomic int count_of_others; /* 0: our handler was never installed */
static _Atomic int others_left;     /* fewer while one of them runs */
static _Atomic uintptr_t last_fault;
static _Atomic int repeats;
static atomic_flag installing = ATOMIC_FLAG_INIT;

/* ---- in the signal handler */

static Range *range_around(uintptr_t address)
{
    for (Range *range = ranges; range < ranges + MOST_RANGES; range++) {
        uintptr_t start = atomic_load(&range->start), end = atomic_load(&range->end);
        /* the second look: an entry that changes hands is of no mapping that is in use */
        if (start > BEING_FILLED && start <= address && address < end &&
            atomic_load(&range->start) == start)
            return range;
    }
    return NULL;
}

/* The file is cut somewhere at or before the page: all that follows is gone too. */
static bool replace(uintptr_t address)
{
    Range *range = range_around(address);
    if (range == NULL)
        return false;
    uintptr_t page = address & ~(page_size - 1);
    store(&range->lost, 1);
    return mmap((void *)page, atomic_load(&range->end) - page, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
}

static bool is_readable(uintptr_t address)
{
#ifdef __linux__
    /* The kernel copies a signal set from there, and then refuses what it is asked to do with it. */
    return syscall(SYS_rt_sigprocmask, -1, (void *)(address & ~(uintptr_t)7), NULL, 8) != -1 ||
           errno != EFAULT;
#else
    (void)address;
    return true;
#endif
}

static bool some_end_is_gone(void)
{
    for (Range *range = ranges; range < ranges + MOST_RANGES; range++)
        if (atomic_load(&range->start) > BEING_FILLED &&
            !is_readable(atomic_load(&range->end) - 1))
            return true;
    return false;
}

/* A handler in Python returns before its function runs, and a disabled faulthandler returns at
 * once: without this the process would fault for ever, and nobody could tell why. */
static bool comes_back(const siginfo_t *info)
{
    if (info->si_code <= 0)
        return false;
    if (atomic_exchange(&last_fault, (uintptr_t)info->si_addr) != (uintptr_t)info->si_addr)
        atomic_store(&repeats, 0);
    return atomic_fetch_add(&repeats, 1) >= MOST_REPEATS;
}

/* What SIGBUS does without us. One of the others may call us, or raise the signal again: then it
 * is the turn of the one before it. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    int known = atomic_load(&count_of_others), index = atomic_fetch_sub(&others_left, 1) - 1;
    if (index >= known) /* put_on_top() set the number while another thread was in here */
        index = known - 1;
    const struct sigaction *other = index < 0 || comes_back(info) ? NULL : &others[index];
    if (other != NULL && (other->sa_flags & SA_SIGINFO)) {
        other->sa_sigaction(number, info, context);
    } else if (other != NULL && other->sa_handler != SIG_DFL && other->sa_handler != SIG_IGN) {
        other->sa_handler(number);
    } else if (other == NULL || other->sa_handler == SIG_DFL || info->si_code > 0) {
        /* a fault cannot be ignored: it comes again as soon as we return */
        struct sigaction standard = {.sa_handler = SIG_DFL};
        sigaction(number, &standard, NULL);
        if (info->si_code <= 0)
            raise(number);
    }
    atomic_fetch_add(&others_left, 1);
}

static void on_bus(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    bool ours = info->si_code == BUS_ADRERR ? replace((uintptr_t)info->si_addr)
                                            /* sent, not a fault; if it was one, it comes again */
                                            : info->si_code <= 0 && some_end_is_gone();
    if (!ours)
        pass_on(number, info, context);
    errno = saved;
}

/* ---- installing it */

static bool is_same(const struct sigaction *one, const struct sigaction *other)
{
    return one->sa_handler == other->sa_handler; /* in a union with sa_sigaction */
}

static void put_on_top(void)
{
    struct sigaction found, ours = {.sa_sigaction = on_bus};
    /* NODEFER: one of the others that raises the signal again must reach us at once */
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    if (sigaction(SIGBUS, NULL, &found) < 0 || is_same(&found, &ours))
        return;
    int known = atomic_load(&count_of_others);
    if (known == 0 || !is_same(&found, &others[0])) {
        int index = known > 0;
        atomic_store(&others_left, index);
        others[index] = found;
        known = index + 1;
    } else {
        known = 1; /* whoever was over us is gone */
    }
    atomic_store(&others_left, known);
    atomic_store(&count_of_others, known);
    sigaction(SIGBUS, &ours, NULL);
}

void rlay_shield_again(void)
{
    /* relaxed: a number that is missed costs one look; put_on_top() asks again behind `installing`,
     * whose test_and_set pairs with the clear of whoever was at it before */
    if (atomic_load_explicit(&count_of_others, memory_order_relaxed) == 0 ||
        atomic_flag_test_and_set(&installing))
        return;
    put_on_top();
    atomic_flag_clear(&installing);
}

static void install(void)
{
    /* Not for ever: a fork may have left a thread behind that was at it. */
    for (int i = 0; i < LONGEST_INSTALL && atomic_flag_test_and_set(&installing); i++)
        relax();
    page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    put_on_top();
    atomic_flag_clear(&installing);
}

/* ---- the type */

typedef struct {
    PyObject_HEAD
    Range *range; /* NULL when the table was full, or after release */
    char was_lost;
} Shield;

static Range *enter(uintptr_t start, uintptr_t end)
{
    for (Range *range = ranges; range < ranges + MOST_RANGES; range++) {
        uintptr_t expected = FREE;
        if (!atomic_compare_exchange_strong(&range->start, &expected, BEING_FILLED))
            continue;
        store(&range->lost, 0);
        atomic_store(&range->end, end);
        atomic_store(&range->start, start);
        return range;
    }
    return NULL;
}

static Watch watch(Range *range)
{
    return (Watch){&range->lost, (const char *)(atomic_load(&range->end) - 1)};
}

Watch rlay_shield_watch(const void *address)
{
    Range *range = range_around((uintptr_t)address);
    return range == NULL ? (Watch){&never_lost, address} : watch(range);
}

static PyObject *Shield_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"buffer", NULL};
    PyObject *buffer;
    Py_buffer view;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Shield", names, &buffer) ||
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    Shield *self = (Shield *)type->tp_alloc(type, 0);
    if (self != NULL && view.len > 0) {
        install();
        self->range = enter((uintptr_t)view.buf, (uintptr_t)view.buf + (uintptr_t)view.len);
    }
    /* Not kept: the memory's owner releases us before it unmaps. */
    PyBuffer_Release(&view);
    return (PyObject *)self;
}

static PyObject *Shield_lost(Shield *self, void *Py_UNUSED(closure))
{
    Range *range = self->range;
    if (range == NULL)
        return PyBool_FromLong(self->was_lost);
    return PyBool_FromLong(rlay_shield_is_lost(watch(range)));
}

static PyObject *Shield_release(Shield *self, PyObject *Py_UNUSED(ignored))
{
    Range *range = self->range;
    if (range != NULL) {
        self->was_lost = load(&range->lost) != 0;
        self->range = NULL;
        atomic_store(&range->start, FREE);
    }
    Py_RETURN_NONE;
}

static void Shield_dealloc(Shield *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(Shield_release(self, NULL));
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef shield_methods[] = {
    {"release", FUNCTION(Shield_release), METH_NOARGS, SIGNATURE("release($self, /)")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef shield_properties[] = {
    {"lost", (getter)Shield_lost, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot shield_slots[] = {
    {Py_tp_doc, SIGNATURE("Shield(buffer)") "Mapped memory whose file may shrink; see rlay.atomics."},
    {Py_tp_new, SLOT(Shield_new)},
    {Py_tp_dealloc, SLOT(Shield_dealloc)},
    {Py_tp_methods, shield_methods},
    {Py_tp_getset, shield_properties},
    {0, NULL},
};

static PyType_Spec shield_spec = {
    .name = "rlay._atomics.Shield",
    .basicsize = sizeof(Shield),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = shield_slots,
};

int rlay_add_shield(PyObject *module)
{
    return rlay_add_type(module, &shield_spec, NULL) == NULL ? -1 : 0;
}
