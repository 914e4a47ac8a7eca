/* An ordinary step of one environment: the agent's half, and the environment's.
 *
 * It does what rlay/session.py and the codecs do, for the values they meet at nearly every
 * step: an integer or an array of exactly its field's dtype and shape, a float reward, two
 * bools, an info that is empty. Any other value goes to the Python codec, any other turn of
 * events back to the session; without this file they do all of it, slower.
 */

#include "_exchange.h"
#include "_ordinary.h"

/* 0 written; -1 with the codec's exception, or an interrupt. */
static int write_field(const Field *field, PyObject *value)
{
    const Py_buffer *view = &field->view;
    int written = 0;
    if (view->obj != NULL)
        written = field->integer
                      ? rlay_write_integer(view->buf, view->itemsize, view->format[0], value)
                      : rlay_write_array(view->buf, view, view->ndim, value);
    if (written != 0)
        return written < 0 ? -1 : 0;
    PyObject *done = PyObject_CallOneArg(field->write, value);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* ---- the agent's half */

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
PyObject *rlay_exchange_step(Exchange *self, PyObject *const *args, Py_ssize_t count)
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

/* ---- the environment's half */

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
        if (result == NULL || !self->open || !self->plain_info || !rlay_is_plain(result))
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
 * A result: step() returned it, it is not ordinary and has not been sent. An exception: when
 * `calling`, it came from answering. */
PyObject *rlay_exchange_serve(Exchange *self, PyObject *const *args, Py_ssize_t count)
{
    long long slice_ns;
    if (!rlay_as_arguments(args, count, &slice_ns) || !rlay_pin(self))
        return NULL;
    return rlay_unpin(self, serve(self, args[0], slice_ns));
}
