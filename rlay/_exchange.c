/* rlay._atomics.Exchange: the whole of an ordinary step in one call, for either role.
 *
 * It does what rlay/session.py and the codecs do, for the values they meet at nearly every
 * step: an integer or an array of exactly its field's dtype and shape, a float reward, two
 * bools, an info that is empty. Any other value goes to the Python codec, any other turn of
 * events back to the session; without this file they do all of it, slower.
 *
 * A field arrives as the NumPy array that is its mapped memory. Where it lies, its dtype and
 * its shape come from that array's buffer and so from our own layout, never from the channel.
 */

#include "_exchange.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

/* Looks at the turn before the clock is asked how long to spin: about a microsecond. */
#define FIRST_LOOKS 40
#define SHORTEST_SPIN_NS 1000
/* Steps between two looks whether our handler of SIGBUS still is the one; a power of two. */
#define STEPS_PER_GUARD 1024

/* ---- one value into one field */

/* Both return 1 written, 0 not ordinary; neither leaves an exception behind. */

int rlay_write_integer(void *field, Py_ssize_t size, char format, PyObject *value)
{
    if (!PyIndex_Check(value) || PyFloat_Check(value))
        return 0;
    PyObject *index = PyNumber_Index(value);
    int overflow = 0;
    long long number = index == NULL ? -1 : PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_XDECREF(index);
    if (index == NULL || overflow || PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    int bits = (int)size * 8;
    bool is_signed = strchr("bhilq", format) != NULL;
    if (is_signed && bits < 64 && (number < -(1LL << (bits - 1)) || number >= 1LL << (bits - 1)))
        return 0;
    if (!is_signed && (number < 0 || (bits < 64 && number >= 1LL << bits)))
        return 0;
    /* little-endian: the low bytes come first */
    memcpy(field, &number, (size_t)size);
    return 1;
}

static int write_array(const Py_buffer *field, PyObject *value)
{
    Py_buffer found;
    if (Py_TYPE(value) != Py_TYPE(field->obj))
        return 0;
    if (PyObject_GetBuffer(value, &found, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) {
        PyErr_Clear();
        return 0;
    }
    bool same = found.ndim == field->ndim && strcmp(found.format, field->format) == 0 &&
                memcmp(found.shape, field->shape, sizeof(Py_ssize_t) * (size_t)found.ndim) == 0;
    if (same)
        memcpy(field->buf, found.buf, (size_t)found.len);
    PyBuffer_Release(&found);
    return same;
}

/* 0 written; -1 with the codec's exception. */
static int write_field(const Field *field, PyObject *value)
{
    if (field->view.obj != NULL &&
        (field->integer ? rlay_write_integer(field->view.buf, field->view.itemsize,
                                             field->view.format[0], value)
                        : write_array(&field->view, value)))
        return 0;
    PyObject *done = PyObject_CallOneArg(field->write, value);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* ---- the turn */

bool rlay_send(Exchange *self)
{
    Prefix *prefix = (Prefix *)self->ours.buf;
    prefix->seq = self->seq;
    prefix->command = self->step;
    prefix->status = 0;
    prefix->body_size = 0;
    if (rlay_is_lost(self))
        return false;
    if (self->seq % STEPS_PER_GUARD == 0)
        rlay_shield_again();
    rlay_hand_over(self->turn, self->their_turn, self->their_waiting);
    return true;
}

/* As Adaptive.learn in rlay/channel/wait.py; the other strategies leave no room to learn. */
static void learn(Exchange *self, enum waited waited, int64_t took)
{
    if (self->longest_spin_ns == self->spin_ns && waited == WAIT_SPUN)
        return;
    if (waited == WAIT_SPUN || took < self->longest_spin_ns) {
        self->spin_ns = self->spin_ns < SHORTEST_SPIN_NS ? SHORTEST_SPIN_NS : self->spin_ns * 2;
        if (self->spin_ns > self->longest_spin_ns)
            self->spin_ns = self->longest_spin_ns;
    } else {
        self->spin_ns /= 2;
    }
}

int rlay_await_turn(Exchange *self, int64_t slice_ns)
{
    if (self->spin_ns > 0)
        for (int i = 0; i < FIRST_LOOKS; i++) {
            if (load(self->turn) == self->our_turn)
                return 1;
            relax();
        }
    uint32_t value = load(self->turn);
    if (value == self->our_turn)
        return 1;
    int64_t start = rlay_now_ns();
    if (self->nap_ns > 0 && self->nap_ns < slice_ns)
        slice_ns = self->nap_ns;
    cell_t *waiting = self->nap_ns > 0 ? &self->unannounced : self->our_waiting;
    enum waited waited = rlay_wait_while(self->turn, value, waiting, self->spin_ns, slice_ns);
    if (waited == WAIT_RAISED)
        return -1;
    if (load(self->turn) != self->our_turn)
        return 0;
    learn(self, waited, rlay_now_ns() - start);
    return 1;
}

bool rlay_is_ordinary(const Exchange *self, uint64_t seq)
{
    Prefix copy;
    memcpy(&copy, self->theirs.buf, sizeof copy);
    return copy.seq == seq && copy.command == self->step && copy.status == 0 &&
           copy.body_size == 0 && copy.session == self->session;
}

/* ---- the agent's step */

static PyObject *read_result(Exchange *self)
{
    const char *reply = (const char *)self->theirs.buf;
    double reward;
    memcpy(&reward, reply + self->reward_at, sizeof reward);
    char ended = reply[self->terminated_at], cut = reply[self->truncated_at];
    /* last, for `read` may look after the file, too */
    PyObject *observation = PyObject_CallNoArgs(self->read);
    if (observation == NULL)
        return NULL;
    PyObject *number = PyFloat_FromDouble(reward);
    PyObject *terminated = PyBool_FromLong(ended);
    PyObject *truncated = PyBool_FromLong(cut);
    PyObject *info = PyDict_New();
    PyObject *result = PyTuple_New(5);
    if (number == NULL || info == NULL || result == NULL) {
        Py_DECREF(observation);
        Py_XDECREF(number);
        Py_DECREF(terminated);
        Py_DECREF(truncated);
        Py_XDECREF(info);
        Py_XDECREF(result);
        return NULL;
    }
    PyTuple_SET_ITEM(result, 0, observation);
    PyTuple_SET_ITEM(result, 1, number);
    PyTuple_SET_ITEM(result, 2, terminated);
    PyTuple_SET_ITEM(result, 3, truncated);
    PyTuple_SET_ITEM(result, 4, info);
    return result;
}

bool rlay_pin(Exchange *self)
{
    if (self->open)
        self->pins++;
    else
        PyErr_SetString(PyExc_ValueError, "the exchange was released");
    return self->open;
}

PyObject *rlay_unpin(Exchange *self, PyObject *result)
{
    if (--self->pins == 0) {
        if (self->freed != NULL)
            self->freed(self);
        PyBuffer_Release(&self->written.view);
        Py_CLEAR(self->written.write);
        Py_CLEAR(self->read);
        Py_CLEAR(self->step_name);
        PyBuffer_Release(&self->control);
        PyBuffer_Release(&self->ours);
        PyBuffer_Release(&self->theirs);
    }
    return result;
}

bool rlay_as_arguments(PyObject *const *args, Py_ssize_t count, long long *slice_ns)
{
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "2 arguments expected, %zd given", count);
        return false;
    }
    *slice_ns = PyLong_AsLongLong(args[1]);
    return !(*slice_ns == -1 && PyErr_Occurred());
}

static PyObject *step(Exchange *self, PyObject *action, int64_t slice_ns)
{
    if (write_field(&self->written, action) < 0)
        return NULL;
    self->seq++;
    self->armed = 0;
    self->moved = 1;
    if (!rlay_send(self))
        Py_RETURN_TRUE;
    int turn = rlay_await_turn(self, slice_ns);
    if (turn < 0)
        return NULL;
    if (turn == 0)
        Py_RETURN_NONE;
    if (!self->open || !self->plain_info || !rlay_is_ordinary(self, self->seq))
        Py_RETURN_TRUE;
    PyObject *result = read_result(self);
    if (result == NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear(); /* the long way says why it cannot be read */
        Py_RETURN_TRUE;
    }
    if (result != NULL && rlay_is_lost(self)) {
        Py_DECREF(result);
        Py_RETURN_TRUE;
    }
    /* A handler that raises does it here, or the result would be lost on its way to the caller. */
    if (result != NULL && PyErr_CheckSignals() < 0)
        Py_CLEAR(result);
    self->armed = result != NULL;
    return result;
}

/* Whoever holds the guard is the only one to call this. */
static PyObject *step_alone(Exchange *self, PyObject *const *args, Py_ssize_t count)
{
    long long slice_ns;
    if (!self->armed)
        Py_RETURN_NOTIMPLEMENTED;
    if (!rlay_as_arguments(args, count, &slice_ns) || !rlay_pin(self))
        return NULL;
    return rlay_unpin(self, step(self, args[0], slice_ns));
}

/* step(action, slice_ns, caller): the result. The long way, when it has to be gone, is
 * caller.finish_step(how, action), under the same guard. `how`: NotImplemented when nothing was
 * sent; None when the reply is not there yet; True when it is there and not ordinary. */
static PyObject *Exchange_step(Exchange *self, PyObject *const *args, Py_ssize_t count)
{
    if (!rlay_take(self->guard))
        return NULL;
    PyObject *result = step_alone(self, args, count < 3 ? count : 2);
    if (result != NULL && !PyTuple_CheckExact(result) && count == 3) {
        PyObject *how = result;
        result = PyObject_CallMethodObjArgs(args[2], self->long_name, how, args[0], NULL);
        Py_DECREF(how);
    }
    return rlay_give(self->guard, result);
}

/* ---- the environment's steps */

bool rlay_is_plain(PyObject *result)
{
    if (!PyTuple_CheckExact(result) || PyTuple_GET_SIZE(result) != 5)
        return false;
    PyObject *info = PyTuple_GET_ITEM(result, 4);
    return PyFloat_Check(PyTuple_GET_ITEM(result, 1)) &&
           PyBool_Check(PyTuple_GET_ITEM(result, 2)) && PyBool_Check(PyTuple_GET_ITEM(result, 3)) &&
           PyDict_CheckExact(info) && PyDict_GET_SIZE(info) == 0;
}

static int write_result(Exchange *self, PyObject *result)
{
    char *reply = (char *)self->ours.buf;
    double reward = PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(result, 1));
    if (write_field(&self->written, PyTuple_GET_ITEM(result, 0)) < 0)
        return -1;
    memcpy(reply + self->reward_at, &reward, sizeof reward);
    reply[self->terminated_at] = PyTuple_GET_ITEM(result, 2) == Py_True;
    reply[self->truncated_at] = PyTuple_GET_ITEM(result, 3) == Py_True;
    return 0;
}

static PyObject *serve(Exchange *self, PyObject *environment, int64_t slice_ns)
{
    while (PyErr_CheckSignals() == 0) {
        if (self->guard->stop)
            Py_RETURN_NONE;
        int turn = rlay_await_turn(self, slice_ns);
        if (turn < 0)
            return NULL;
        if (turn == 0)
            Py_RETURN_NONE;
        if (!self->armed || !rlay_is_ordinary(self, self->seq + 1))
            Py_RETURN_FALSE;
        PyObject *action = PyObject_CallNoArgs(self->read);
        if (action == NULL)
            return NULL;
        if (rlay_is_lost(self)) {
            Py_DECREF(action);
            Py_RETURN_FALSE;
        }
        self->seq++;
        self->armed = 0;
        self->moved = 1;
        self->calling = 1;
        PyObject *result = PyObject_CallMethodOneArg(environment, self->step_name, action);
        Py_DECREF(action);
        if (result == NULL || !self->open || !self->plain_info ||
            !rlay_is_plain(result))
            return result;
        int written = write_result(self, result);
        Py_DECREF(result);
        if (written < 0)
            return NULL;
        self->calling = 0;
        if (!rlay_send(self))
            Py_RETURN_FALSE;
        self->armed = 1;
    }
    return NULL;
}

/* serve(env, slice_ns): answers STEPs by env.step() until something else happens. None: no
 * request within a slice. False: a request is there and not ordinary, or the records are lost.
 * A result: step() returned it, it is not ordinary and has not been sent. An exception: when `calling`, it came from answering. */
static PyObject *Exchange_serve(Exchange *self, PyObject *const *args, Py_ssize_t count)
{
    long long slice_ns;
    if (!rlay_as_arguments(args, count, &slice_ns) || !rlay_pin(self))
        return NULL;
    return rlay_unpin(self, serve(self, args[0], slice_ns));
}

/* ---- life */

PyObject *rlay_exchange_release(Exchange *self, PyObject *Py_UNUSED(ignored))
{
    self->armed = 0;
    if (self->open) {
        self->open = 0;
        rlay_unpin(self, NULL);
    }
    Py_RETURN_NONE;
}

static bool is_cell(const Py_buffer *control, Py_ssize_t offset)
{
    bool inside = offset >= 0 && control->len >= 4 && offset <= control->len - 4;
    return inside && ((uintptr_t)control->buf + (uintptr_t)offset) % 4 == 0;
}

static bool is_inside(const Py_buffer *record, Py_ssize_t offset, Py_ssize_t size)
{
    return offset >= 0 && record->len >= size && offset <= record->len - size;
}

static bool check(Exchange *self, const Py_ssize_t cells[3], bool agent)
{
    const Py_buffer *reply = agent ? &self->theirs : &self->ours;
    const Py_buffer *view = &self->written.view;
    const char *problem = NULL;
    for (int i = 0; i < 3; i++)
        if (!is_cell(&self->control, cells[i]))
            problem = "a word is out of bounds or not aligned to 4 bytes";
    Py_ssize_t least = (Py_ssize_t)sizeof(Prefix);
    if (self->ours.len < least || self->theirs.len < least ||
        (uintptr_t)self->ours.buf % 8 != 0)
        problem = "a record must begin with an aligned prefix";
    if (!is_inside(reply, self->reward_at, 8) || !is_inside(reply, self->terminated_at, 1) ||
        !is_inside(reply, self->truncated_at, 1))
        problem = "a field lies outside the reply";
    if (view->obj != NULL && self->written.integer &&
        (view->ndim != 0 || strchr("bBhHiIlLqQ", view->format[0]) == NULL))
        problem = "an integer field must be an integer scalar";
    if (problem != NULL)
        PyErr_SetString(PyExc_ValueError, problem);
    return problem == NULL;
}

static PyObject *Exchange_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"control", "ours", "theirs", "cells", "turns", "step", "session",
                            "agent", "written", "integer", "write", "read", "reply_at",
                            "plain_info", "spin_ns", "longest_spin_ns", "nap_ns",
                            "guard", NULL};
    PyObject *control, *ours, *theirs, *written, *write, *read, *guard;
    Py_ssize_t cells[3];
    int agent, integer, plain_info;
    Exchange *self = (Exchange *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OOO(nnn)(II)IKpOpOO(nnn)pLLLO:Exchange", names, &control, &ours, &theirs,
            &cells[0], &cells[1], &cells[2], &self->our_turn, &self->their_turn, &self->step,
            &self->session, &agent, &written, &integer, &write, &read, &self->reward_at,
            &self->terminated_at, &self->truncated_at, &plain_info, &self->spin_ns,
            &self->longest_spin_ns, &self->nap_ns, &guard) ||
        !(self->guard = rlay_as_guard(guard)))
        goto failed;
    if (PyObject_GetBuffer(control, &self->control, PyBUF_WRITABLE) < 0 ||
        PyObject_GetBuffer(ours, &self->ours, PyBUF_WRITABLE) < 0 ||
        PyObject_GetBuffer(theirs, &self->theirs, PyBUF_SIMPLE) < 0 ||
        (written != Py_None &&
         PyObject_GetBuffer(written, &self->written.view,
                            PyBUF_WRITABLE | PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0))
        goto failed;
    self->written.integer = integer != 0;
    self->plain_info = plain_info != 0;
    if (!check(self, cells, agent != 0))
        goto failed;
    self->turn = (cell_t *)(void *)((char *)self->control.buf + cells[0]);
    self->our_waiting = (cell_t *)(void *)((char *)self->control.buf + cells[1]);
    self->their_waiting = (cell_t *)(void *)((char *)self->control.buf + cells[2]);
    self->records = rlay_shield_watch(self->ours.buf);
    self->words = rlay_shield_watch(self->control.buf);
    self->written.write = Py_NewRef(write);
    self->read = Py_NewRef(read);
    self->step_name = PyUnicode_InternFromString("step");
    self->long_name = PyUnicode_InternFromString("finish_step");
    self->open = 1;
    self->pins = 1;
    return (PyObject *)self;
failed:
    self->pins = 1;
    rlay_unpin(self, NULL);
    Py_DECREF(self);
    return NULL;
}

void rlay_exchange_dealloc(Exchange *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(rlay_exchange_release(self, NULL));
    Py_CLEAR(self->long_name);
    Py_CLEAR(self->guard);
    type->tp_free(self);
    Py_DECREF(type);
}

int rlay_exchange_traverse(Exchange *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->written.write);
    Py_VISIT(self->read);
    Py_VISIT(self->guard);
    return 0;
}

int rlay_exchange_clear(Exchange *self)
{
    Py_XDECREF(rlay_exchange_release(self, NULL));
    return 0;
}

static PyMethodDef exchange_methods[] = {
    {"step", FUNCTION(Exchange_step), METH_FASTCALL,
     SIGNATURE("step($self, action, slice_ns, caller=None, /)")},
    {"serve", FUNCTION(Exchange_serve), METH_FASTCALL, SIGNATURE("serve($self, env, slice_ns, /)")},
    {"release", FUNCTION(rlay_exchange_release), METH_NOARGS, SIGNATURE("release($self, /)")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef exchange_members[] = {
    {"seq", T_ULONGLONG, offsetof(Exchange, seq), 0, NULL},
    {"armed", T_BOOL, offsetof(Exchange, armed), 0, NULL},
    {"moved", T_BOOL, offsetof(Exchange, moved), 0, NULL},
    {"calling", T_BOOL, offsetof(Exchange, calling), 0, NULL},
    {"spin_ns", T_LONGLONG, offsetof(Exchange, spin_ns), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot exchange_slots[] = {
    {Py_tp_doc, "An ordinary step in one call; see rlay.session."},
    {Py_tp_new, SLOT(Exchange_new)},
    {Py_tp_dealloc, SLOT(rlay_exchange_dealloc)},
    {Py_tp_traverse, SLOT(rlay_exchange_traverse)},
    {Py_tp_clear, SLOT(rlay_exchange_clear)},
    {Py_tp_methods, exchange_methods},
    {Py_tp_members, exchange_members},
    {0, NULL},
};

static PyType_Spec exchange_spec = {
    .name = "rlay._atomics.Exchange",
    .basicsize = sizeof(Exchange),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_BASETYPE,
    .slots = exchange_slots,
};

int rlay_add_exchange(PyObject *module)
{
    PyObject *exchange = rlay_add_type(module, &exchange_spec, NULL);
    return exchange == NULL ? -1 : rlay_add_lanes(module, exchange);
}
