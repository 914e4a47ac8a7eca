/* rlay._atomics.Guard: one call at a time on an endpoint; rlay/atomics.py describes it.
 *
 * Taking and giving back are a load and a store under the GIL. They are here and not in Python
 * because no signal handler can raise between the two of them and the call they enclose.
 */

#include "_atomics.h"

#include <stddef.h>
#include <structmember.h>

static PyObject *raise_made_by(PyObject *factory)
{
    PyObject *error = PyObject_CallNoArgs(factory);
    if (error != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_XDECREF(error);
    return NULL;
}

void rlay_refuse(Guard *self)
{
    raise_made_by(self->refusal != NULL ? self->refusal : self->in_use);
}

/* What close() left for us to do; its exception counts only if nothing else went wrong. */
static PyObject *finish(Guard *self, PyObject *result)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    while (self->after != NULL) {
        PyObject *after = self->after;
        self->after = NULL;
        self->stop = 0;
        PyObject *done = PyObject_CallNoArgs(after);
        if (done == NULL && type == NULL) {
            PyErr_Fetch(&type, &value, &traceback);
            Py_CLEAR(result);
        } else if (done == NULL) {
            PyErr_WriteUnraisable(after);
        }
        Py_XDECREF(done);
        Py_DECREF(after);
    }
    PyErr_Restore(type, value, traceback);
    return result;
}

PyObject *rlay_give_after(Guard *self, PyObject *result)
{
    result = finish(self, result);
    set_owner(self, 0);
    return result;
}

static PyObject *Guard_call(PyObject *callable, PyObject *const *args, size_t flags,
                            PyObject *names)
{
    Guard *self = (Guard *)callable;
    Py_ssize_t count = PyVectorcall_NARGS(flags);
    if (count < 1) {
        PyErr_SetString(PyExc_TypeError, "what should the guard call?");
        return NULL;
    }
    if (!rlay_take(self))
        return NULL;
    Py_INCREF(self);
    PyObject *result = PyObject_Vectorcall(args[0], args + 1, (size_t)(count - 1), names);
    result = rlay_give(self, result);
    Py_DECREF(self);
    return result;
}

static PyObject *Guard_settle(Guard *self, PyObject *Py_UNUSED(ignored))
{
    if (!rlay_own(self))
        Py_RETURN_FALSE;
    return rlay_give(self, Py_NewRef(Py_True));
}

static PyObject *Guard_orphan(Guard *self, PyObject *refusal)
{
    set_owner(self, 0);
    self->stop = 1;
    Py_CLEAR(self->after);
    Py_XSETREF(self->refusal, Py_NewRef(refusal));
    Py_RETURN_NONE;
}

static PyObject *Guard_get_owner(Guard *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(owner_of(self));
}

static PyObject *Guard_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"in_use", NULL};
    PyObject *in_use;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Guard", names, &in_use))
        return NULL;
    Guard *self = (Guard *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->vectorcall = Guard_call;
    self->in_use = Py_NewRef(in_use);
    return (PyObject *)self;
}

static int Guard_traverse(Guard *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->in_use);
    Py_VISIT(self->refusal);
    Py_VISIT(self->after);
    return 0;
}

static int Guard_clear(Guard *self)
{
    Py_CLEAR(self->refusal);
    Py_CLEAR(self->after);
    return 0;
}

static void Guard_dealloc(Guard *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Guard_clear(self);
    Py_CLEAR(self->in_use);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef guard_methods[] = {
    {"settle", FUNCTION(Guard_settle), METH_NOARGS, SIGNATURE("settle($self, /)")},
    {"orphan", FUNCTION(Guard_orphan), METH_O, SIGNATURE("orphan($self, refusal, /)")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef guard_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Guard, vectorcall), READONLY, NULL},
    {"refusal", T_OBJECT, offsetof(Guard, refusal), 0, NULL},
    {"after", T_OBJECT, offsetof(Guard, after), 0, NULL},
    {"stop", T_BOOL, offsetof(Guard, stop), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef guard_getters[] = {
    {"owner", (getter)Guard_get_owner, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot guard_slots[] = {
    {Py_tp_doc, SIGNATURE("Guard(in_use)") "One call at a time; see rlay.atomics."},
    {Py_tp_new, SLOT(Guard_new)},
    {Py_tp_call, SLOT(PyVectorcall_Call)},
    {Py_tp_dealloc, SLOT(Guard_dealloc)},
    {Py_tp_traverse, SLOT(Guard_traverse)},
    {Py_tp_clear, SLOT(Guard_clear)},
    {Py_tp_methods, guard_methods},
    {Py_tp_members, guard_members},
    {Py_tp_getset, guard_getters},
    {0, NULL},
};

static PyType_Spec guard_spec = {
    .name = "rlay._atomics.Guard",
    .basicsize = sizeof(Guard),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = guard_slots,
};

Guard *rlay_as_guard(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (PyType_GetSlot(type, Py_tp_new) == SLOT(Guard_new))
        return (Guard *)Py_NewRef(object);
    PyErr_Format(PyExc_TypeError, "guard must be a Guard, not %.100s", type->tp_name);
    return NULL;
}

int rlay_add_guard(PyObject *module)
{
    return rlay_add_type(module, &guard_spec, NULL) == NULL ? -1 : 0;
}
