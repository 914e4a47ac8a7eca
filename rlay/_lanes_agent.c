/* The agent's half of an ordinary step of all lanes: from a batch into the request, and back. */

#include "_lanes.h"

#include <string.h>

static bool is_bool(const Py_buffer *view)
{
    return strcmp(view->format, "?") == 0;
}

/* Whether an array of many lanes can stand for such lanes of a column. */
static bool fits(const Py_buffer *many, const Py_buffer *column, Py_ssize_t first)
{
    return many->ndim == column->ndim && strcmp(many->format, column->format) == 0 &&
           memcmp(many->shape + 1, column->shape + 1,
                  sizeof(Py_ssize_t) * (size_t)(column->ndim - 1)) == 0 &&
           first >= 0 && column->shape[0] <= many->shape[0] &&
           first <= many->shape[0] - column->shape[0];
}

/* A buffer of an array [n, ...] with room for `column` at `first`; false without an exception. */
static bool get_many(PyObject *array, Py_buffer *many, const Py_buffer *column, Py_ssize_t first,
                     int flags)
{
    if (Py_TYPE(array) != Py_TYPE(column->obj))
        return false;
    if (PyObject_GetBuffer(array, many, flags | PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) {
        PyErr_Clear();
        return false;
    }
    if (fits(many, column, first))
        return true;
    PyBuffer_Release(many);
    return false;
}

static bool write_actions(LaneExchange *self, PyObject *batch, Py_ssize_t first)
{
    if (!PyTuple_CheckExact(batch) || PyTuple_GET_SIZE(batch) != self->written.count)
        return false;
    for (Py_ssize_t i = 0; i < self->written.count; i++) {
        Py_buffer many, *column = &self->written.views[i];
        if (!get_many(PyTuple_GET_ITEM(batch, i), &many, column, first, 0))
            return false;
        memcpy(column->buf, rlay_row(&many, column, first), (size_t)column->len);
        PyBuffer_Release(&many);
    }
    return true;
}

/* post(batch, first): sends the actions of the lanes from `first` on in a tuple of arrays. True;
 * or NotImplemented when nothing was sent. */
PyObject *rlay_lanes_post(LaneExchange *self, PyObject *const *args, Py_ssize_t count)
{
    long long first;
    if (!self->base.armed)
        Py_RETURN_NOTIMPLEMENTED;
    if (!rlay_as_arguments(args, count, &first) || !rlay_pin(&self->base))
        return NULL;
    if (!write_actions(self, args[0], (Py_ssize_t)first))
        return rlay_unpin(&self->base, Py_NewRef(Py_NotImplemented));
    memset(self->mask.views[0].buf, 1, (size_t)self->lanes);
    self->base.seq++;
    self->base.armed = 0;
    self->base.moved = 1;
    self->posted = rlay_send(&self->base); /* if not, receive() says why */
    return rlay_unpin(&self->base, Py_NewRef(Py_True));
}

static bool is_absent(const Columns *columns)
{
    for (Py_ssize_t i = 0; i < columns->count; i++) {
        const char *at = columns->views[i].buf;
        for (Py_ssize_t j = 0; j < columns->views[i].len; j++)
            if (at[j] != 0)
                return false;
    }
    return true;
}

/* landed(slice_ns): True when the reply to `post` is there; None when it is not yet; False when it
 * is not ordinary or was not asked for here. The long way must finish what did not land. */
PyObject *rlay_lanes_landed(LaneExchange *self, PyObject *argument)
{
    Exchange *base = &self->base;
    int64_t slice_ns = PyLong_AsLongLong(argument);
    if (slice_ns == -1 && PyErr_Occurred())
        return NULL;
    if (!self->posted)
        Py_RETURN_FALSE;
    self->posted = 0;
    if (!rlay_pin(base))
        return NULL;
    int turn = rlay_await_turn(base, slice_ns);
    if (turn < 0)
        return rlay_unpin(base, NULL);
    if (turn == 0)
        return rlay_unpin(base, Py_NewRef(Py_None));
    bool ordinary = base->open && rlay_is_ordinary(base, base->seq) && is_absent(&self->absent);
    base->armed = ordinary;
    base->moved = 1; /* again: the session may have caught up since `post` */
    return rlay_unpin(base, PyBool_FromLong(ordinary));
}

/* Bytes of a bool from elsewhere may hold anything; NumPy needs 0 or 1. */
static void copy_bools(char *to, const char *from, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < size; i++)
        to[i] = from[i] != 0;
}

static bool copy_column(PyObject *array, const Py_buffer *column, Py_ssize_t first, bool flags)
{
    Py_buffer many, same = *column;
    if (flags)
        same.format = "?";
    if (!get_many(array, &many, &same, first, PyBUF_WRITABLE)) {
        PyErr_SetString(PyExc_ValueError, "the batch has no room for these lanes");
        return false;
    }
    if (flags)
        copy_bools(rlay_row(&many, column, first), column->buf, column->len);
    else
        memcpy(rlay_row(&many, column, first), column->buf, (size_t)column->len);
    PyBuffer_Release(&many);
    return true;
}

/* copy(observations, results, first): what landed, into tuples of arrays, from lane `first` on.
 * `observations` may be None. False: the records were truncated, and these may be zeros. */
PyObject *rlay_lanes_copy(LaneExchange *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *taken = count == 3 ? args[0] : NULL, *results = count == 3 ? args[1] : NULL;
    if (count != 3 || !PyTuple_CheckExact(results) ||
        PyTuple_GET_SIZE(results) != self->results.count ||
        (taken != Py_None &&
         (!PyTuple_CheckExact(taken) || PyTuple_GET_SIZE(taken) != self->taken.count))) {
        PyErr_SetString(PyExc_TypeError, "observations and results must be tuples of arrays");
        return NULL;
    }
    Py_ssize_t first = PyNumber_AsSsize_t(args[2], NULL);
    if (first == -1 && PyErr_Occurred())
        return NULL;
    if (!rlay_pin(&self->base))
        return NULL;
    bool done = true;
    for (Py_ssize_t i = 0; done && taken != Py_None && i < self->taken.count; i++) {
        const Py_buffer *column = &self->taken.views[i];
        done = copy_column(PyTuple_GET_ITEM(taken, i), column, first, is_bool(column));
    }
    for (Py_ssize_t i = 0; done && i < self->results.count; i++)
        done = copy_column(PyTuple_GET_ITEM(results, i), &self->results.views[i], first, i > 0);
    return rlay_unpin(&self->base, done ? PyBool_FromLong(!rlay_is_lost(&self->base)) : NULL);
}
