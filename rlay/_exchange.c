/* rlay._atomics.Exchange: the whole of an ordinary step in one call, for either role.
 *
 * Here are its arguments, its memory and how long that stays; what it does is in _step.c.
 */

#include "_exchange.h"
#include "_ordinary.h"

#include <stddef.h>
#include <structmember.h>

void rlay_let_go(Exchange *self)
{
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
        (view->ndim != 0 || !rlay_is_integer(view)))
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
    self->step_name = PyUnicode_InternFromString("step");
    self->long_name = PyUnicode_InternFromString("finish_step");
    if (self->step_name == NULL || self->long_name == NULL)
        goto failed;
    self->written.write = Py_NewRef(write);
    self->read = Py_NewRef(read);
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
    {"step", FUNCTION(rlay_exchange_step), METH_FASTCALL,
     SIGNATURE("step($self, action, slice_ns, caller=None, /)")},
    {"serve", FUNCTION(rlay_exchange_serve), METH_FASTCALL,
     SIGNATURE("serve($self, env, slice_ns, /)")},
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
