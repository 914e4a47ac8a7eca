/* rlay._atomics.Word: one shared 32-bit word with memory order, wait and wake, the GIL released.
 * rlay/atomics.py describes the operations; the twin in plain Python is _atomics_pure.py.
 *
 * Another process writes the word at any time: it is touched through C11 atomics only, and
 * never used as a length or an index. While a thread waits without the GIL the memory must
 * stay mapped, so release() from another thread takes effect when that wait returns.
 */

#include "_atomics.h"

#ifndef Py_BEGIN_CRITICAL_SECTION /* before 3.13 the GIL is the critical section */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    cell_t *cell;    /* NULL once released */
    Py_ssize_t pins; /* one for being open, one for each call in progress */
} Word;

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
    rlay_wake_all(cell);
    unpin(self);
    Py_RETURN_NONE;
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

int rlay_add_word(PyObject *module)
{
    return rlay_add_type(module, &word_spec, NULL) == NULL ? -1 : 0;
}
