/* The arguments of LaneExchange, its memory and its type; what it does is told in _lanes.h. */

#include "_lanes.h"
#include "_ordinary.h"

#include <stddef.h>
#include <structmember.h>

static void release_columns(Columns *columns)
{
    for (Py_ssize_t i = 0; i < columns->count; i++)
        PyBuffer_Release(&columns->views[i]);
    PyMem_Free(columns->views);
    columns->views = NULL;
    columns->count = 0;
}

static void free_lanes(Exchange *base)
{
    LaneExchange *self = (LaneExchange *)base;
    release_columns(&self->mask);
    release_columns(&self->results);
    release_columns(&self->written);
    release_columns(&self->taken);
    release_columns(&self->absent);
}

/* Takes the buffers of a tuple of arrays [lanes, ...]; false with an exception. */
static bool take_columns(Columns *columns, PyObject *arrays, Py_ssize_t lanes, int flags)
{
    columns->views = PyMem_Calloc((size_t)PyTuple_GET_SIZE(arrays) + 1, sizeof(Py_buffer));
    if (columns->views == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(arrays); i++) {
        Py_buffer *view = &columns->views[i];
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(arrays, i), view,
                               flags | PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0)
            return false;
        columns->count++;
        if (view->ndim < 1 || view->shape[0] != lanes) {
            PyErr_SetString(PyExc_ValueError, "an array does not have the lanes first");
            return false;
        }
    }
    return true;
}

static bool check(const LaneExchange *self, bool agent)
{
    const Columns *results = &self->results;
    bool good = self->lanes > 0 && self->mask.count == 1 && self->mask.views[0].len == self->lanes &&
                results->count == 3 && results->views[0].len == 8 * self->lanes &&
                (uintptr_t)results->views[0].buf % 8 == 0 &&
                results->views[1].len == self->lanes && results->views[2].len == self->lanes &&
                (agent || self->written.count <= 1);
    if (good && self->integer)
        good = self->written.count == 1 && self->written.views[0].ndim == 1 &&
               rlay_is_integer(&self->written.views[0]);
    if (!good)
        PyErr_SetString(PyExc_ValueError, "these are no columns of a group with lanes");
    return good;
}

/* LaneExchange((lanes, agent, mask, results, written, integer, taken, absent), **of Exchange) */
static PyObject *LaneExchange_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *mask, *results, *written, *taken, *absent;
    Py_ssize_t lanes;
    int agent, integer;
    if (!PyArg_ParseTuple(args, "(npO!O!O!pO!O!):LaneExchange", &lanes, &agent, &PyTuple_Type, &mask,
                          &PyTuple_Type, &results, &PyTuple_Type, &written, &integer, &PyTuple_Type,
                          &taken, &PyTuple_Type, &absent))
        return NULL;
    PyObject *none = PyTuple_New(0);
    if (none == NULL)
        return NULL;
    LaneExchange *self = (LaneExchange *)type->tp_base->tp_new(type, none, kwargs);
    Py_DECREF(none);
    if (self == NULL)
        return NULL;
    self->base.freed = free_lanes;
    self->lanes = lanes;
    self->integer = integer != 0;
    int ours = PyBUF_WRITABLE;
    if (take_columns(&self->mask, mask, lanes, agent ? ours : 0) &&
        take_columns(&self->results, results, lanes, agent ? 0 : ours) &&
        take_columns(&self->written, written, lanes, ours) &&
        take_columns(&self->taken, taken, lanes, 0) &&
        take_columns(&self->absent, absent, lanes, agent ? 0 : ours) && check(self, agent != 0))
        return (PyObject *)self;
    Py_DECREF(self);
    return NULL;
}

/* step() is for one environment. */
static PyObject *LaneExchange_step(PyObject *Py_UNUSED(self), PyObject *const *Py_UNUSED(args),
                                   Py_ssize_t Py_UNUSED(count))
{
    Py_RETURN_NOTIMPLEMENTED;
}

static PyMethodDef lane_methods[] = {
    {"post", FUNCTION(rlay_lanes_post), METH_FASTCALL, SIGNATURE("post($self, batch, first, /)")},
    {"landed", FUNCTION(rlay_lanes_landed), METH_O, SIGNATURE("landed($self, slice_ns, /)")},
    {"copy", FUNCTION(rlay_lanes_copy), METH_FASTCALL,
     SIGNATURE("copy($self, observations, results, first, /)")},
    {"serve", FUNCTION(rlay_lanes_serve), METH_FASTCALL,
     SIGNATURE("serve($self, hosted, slice_ns, /)")},
    {"step", FUNCTION(LaneExchange_step), METH_FASTCALL,
     SIGNATURE("step($self, action, slice_ns, /)")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef lane_members[] = {
    {"lane", T_PYSSIZET, offsetof(LaneExchange, lane), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_doc, "An ordinary step of all lanes; see rlay.session."},
    {Py_tp_new, SLOT(LaneExchange_new)},
    {Py_tp_dealloc, SLOT(rlay_exchange_dealloc)},
    {Py_tp_traverse, SLOT(rlay_exchange_traverse)},
    {Py_tp_clear, SLOT(rlay_exchange_clear)},
    {Py_tp_methods, lane_methods},
    {Py_tp_members, lane_members},
    {0, NULL},
};

static PyType_Spec lane_spec = {
    .name = "rlay._atomics.LaneExchange",
    .basicsize = sizeof(LaneExchange),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = lane_slots,
};

int rlay_add_lanes(PyObject *module, PyObject *exchange)
{
    return rlay_add_type(module, &lane_spec, exchange) == NULL ? -1 : 0;
}
