/* rlay._atomics: one shared 32-bit word with memory order, wait and wake, the GIL released.
 * rlay/atomics.py describes the operations; the twin in plain Python is _atomics_pure.py.
 *
 * Another process writes the word at any time: it is touched through C11 atomics only, and
 * never used as a length or an index. While a thread waits without the GIL the memory must
 * stay mapped, so release() from another thread takes effect when that wait returns.
 */

#include "_atomics.h"

#include <errno.h>
#include <limits.h>
#include <time.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#ifndef Py_BEGIN_CRITICAL_SECTION /* before 3.13 the GIL is the critical section */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

/* Longest spin with the GIL held: about what releasing and retaking it may cost. */
#define HELD_SPIN_NS 2000
/* Loads between two looks at the clock; a look costs as much as a load and a pause. */
#define LOADS_PER_LOOK 8
/* First and longest nap where there is no futex. */
#define FIRST_NAP_NS 50000
#define LONGEST_NAP_NS 1000000

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    cell_t *cell;    /* NULL once released */
    Py_ssize_t pins; /* one for being open, one for each call in progress */
} Word;

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

static void wake_all(cell_t *cell)
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

static void wake_all(cell_t *cell)
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

static cell_t *pin(Word *self)
{
    cell_t *cell;
    Py_BEGIN_CRITICAL_SECTION(self);
    cell = self->cell;
    if (cell != NULL)
        self->pins++;
    Py_END_CRITICAL_SECTION();
    if (cell == NULL)
        PyErr_SetString(PyExc_ValueError, "the word was released");
    return cell;
}

static void unpin(Word *self)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    if (--self->pins == 0)
        PyBuffer_Release(&self->view);
    Py_END_CRITICAL_SECTION();
}

static void unpin_both(Word *self, PyObject *other)
{
    unpin((Word *)other);
    unpin(self);
}

static bool pin_both(Word *self, PyObject *other, cell_t **cell, cell_t **waiting)
{
    if (!Py_IS_TYPE(other, Py_TYPE(self))) {
        PyErr_Format(PyExc_TypeError, "waiting must be a Word, not %.100s",
                     Py_TYPE(other)->tp_name);
        return false;
    }
    if ((*cell = pin(self)) == NULL)
        return false;
    if ((*waiting = pin((Word *)other)) == NULL)
        unpin(self);
    return *waiting != NULL;
}

static bool check_count(const char *name, Py_ssize_t found, Py_ssize_t expected)
{
    if (found == expected)
        return true;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments (%zd given)", name, expected, found);
    return false;
}

static bool as_value(PyObject *number, uint32_t *value)
{
    unsigned long found = PyLong_AsUnsignedLong(number);
    bool failed = found == (unsigned long)-1 && PyErr_Occurred();
    if (failed && !PyErr_ExceptionMatches(PyExc_OverflowError))
        return false;
    if (failed || found > UINT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%R does not fit a word of 32 bits", number);
        return false;
    }
    *value = (uint32_t)found;
    return true;
}

static bool as_duration(PyObject *number, int64_t *duration)
{
    *duration = PyLong_AsLongLong(number);
    return !(*duration == -1 && PyErr_Occurred());
}

static PyObject *Word_load_acquire(Word *self, PyObject *Py_UNUSED(ignored))
{
    cell_t *cell = pin(self);
    if (cell == NULL)
        return NULL;
    uint32_t value = load(cell);
    unpin(self);
    return PyLong_FromUnsignedLong(value);
}

static PyObject *Word_store_release(Word *self, PyObject *number)
{
    uint32_t value;
    cell_t *cell;
    if (!as_value(number, &value) || (cell = pin(self)) == NULL)
        return NULL;
    store(cell, value);
    unpin(self);
    Py_RETURN_NONE;
}

void rlay_hand_over(cell_t *cell, uint32_t value, cell_t *waiting)
{
    store(cell, value);
    /* fence: pairs with the fence in rlay_wait_while; of "I stored the turn, then read waiting"
     * and "I stored waiting, then read the turn" at least one sees the other */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(waiting, memory_order_relaxed) != 0)
        wake_all(cell);
}

static PyObject *Word_hand_over(Word *self, PyObject *const *args, Py_ssize_t count)
{
    uint32_t value;
    cell_t *cell, *waiting;
    if (!check_count("hand_over", count, 2) || !as_value(args[0], &value) ||
        !pin_both(self, args[1], &cell, &waiting))
        return NULL;
    rlay_hand_over(cell, value, waiting);
    unpin_both(self, args[1]);
    Py_RETURN_NONE;
}

static PyObject *Word_wake(Word *self, PyObject *Py_UNUSED(ignored))
{
    cell_t *cell = pin(self);
    if (cell == NULL)
        return NULL;
    wake_all(cell);
    unpin(self);
    Py_RETURN_NONE;
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

static PyObject *Word_wait(Word *self, PyObject *const *args, Py_ssize_t count)
{
    uint32_t wanted, value;
    int64_t spin_ns, timeout_ns;
    cell_t *cell, *waiting;
    if (!check_count("wait", count, 4) || !as_value(args[0], &wanted) ||
        !as_duration(args[2], &spin_ns) || !as_duration(args[3], &timeout_ns) ||
        !pin_both(self, args[1], &cell, &waiting))
        return NULL;
    enum waited waited = WAIT_SPUN;
    value = load(cell);
    if (value != wanted && timeout_ns > 0) {
        waited = rlay_wait_while(cell, value, waiting, spin_ns, timeout_ns);
        value = load(cell);
    }
    unpin_both(self, args[1]);
    return waited == WAIT_RAISED ? NULL : PyLong_FromUnsignedLong(value);
}

static PyObject *Word_release(Word *self, PyObject *Py_UNUSED(ignored))
{
    bool open;
    Py_BEGIN_CRITICAL_SECTION(self);
    open = self->cell != NULL;
    self->cell = NULL;
    Py_END_CRITICAL_SECTION();
    if (open)
        unpin(self);
    Py_RETURN_NONE;
}

static const char *problem_with(const Py_buffer *view, Py_ssize_t offset)
{
    if (offset < 0 || view->len < 4 || offset > view->len - 4)
        return "offset %zd is out of bounds: a word takes 4 bytes, the buffer holds %zd";
    if (((uintptr_t)view->buf + (uintptr_t)offset) % 4 != 0)
        return "offset %zd in a buffer of %zd bytes: the address is not aligned to 4 bytes";
    return NULL;
}

static PyObject *Word_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"buffer", "offset", NULL};
    PyObject *buffer;
    Py_ssize_t offset;
    Py_buffer view;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "On:Word", names, &buffer, &offset))
        return NULL;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0) {
        if (PyErr_ExceptionMatches(PyExc_BufferError))
            PyErr_SetString(PyExc_ValueError, "the buffer must be writable and contiguous");
        return NULL;
    }
    const char *problem = problem_with(&view, offset);
    Word *self = problem == NULL ? (Word *)type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        if (problem != NULL)
            PyErr_Format(PyExc_ValueError, problem, offset, view.len);
        PyBuffer_Release(&view);
        return NULL;
    }
    self->view = view;
    self->cell = (cell_t *)(void *)((char *)view.buf + offset);
    self->pins = 1;
    return (PyObject *)self;
}

static void Word_dealloc(Word *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->cell != NULL)
        PyBuffer_Release(&self->view);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The texts are in rlay/atomics.py; here only the signatures, for inspect and help(). */
static PyMethodDef word_methods[] = {
    {"load_acquire", FUNCTION(Word_load_acquire), METH_NOARGS, SIGNATURE("load_acquire($self, /)")},
    {"store_release", FUNCTION(Word_store_release), METH_O,
     SIGNATURE("store_release($self, value, /)")},
    {"hand_over", FUNCTION(Word_hand_over), METH_FASTCALL,
     SIGNATURE("hand_over($self, value, waiting, /)")},
    {"wake", FUNCTION(Word_wake), METH_NOARGS, SIGNATURE("wake($self, /)")},
    {"wait", FUNCTION(Word_wait), METH_FASTCALL,
     SIGNATURE("wait($self, wanted, waiting, spin_ns, timeout_ns, /)")},
    {"release", FUNCTION(Word_release), METH_NOARGS, SIGNATURE("release($self, /)")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot word_slots[] = {
    {Py_tp_doc, SIGNATURE("Word(buffer, offset)") "An aligned u32; see rlay.atomics."},
    {Py_tp_new, SLOT(Word_new)},
    {Py_tp_dealloc, SLOT(Word_dealloc)},
    {Py_tp_methods, word_methods},
    {0, NULL},
};

static PyType_Spec word_spec = {
    .name = "rlay._atomics.Word",
    .basicsize = sizeof(Word),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = word_slots,
};

static PyObject *core(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
#ifdef __linux__
    return PyLong_FromLong(sched_getcpu());
#else
    return PyLong_FromLong(-1);
#endif
}

static PyMethodDef module_methods[] = {
    {"core", core, METH_NOARGS, SIGNATURE("core($module, /)")},
    {NULL, NULL, 0, NULL},
};

static int fill_module(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &word_spec, NULL);
    if (type == NULL)
        return -1;
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    if (result == 0)
        result = rlay_add_guard(module);
    if (result == 0)
        result = rlay_add_shield(module);
    return result < 0 ? result : rlay_add_exchange(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, SLOT(fill_module)},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_atomics",
    .m_doc = "One shared 32-bit word with memory order, wait and wake.",
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__atomics(void)
{
    return PyModuleDef_Init(&module_definition);
}
