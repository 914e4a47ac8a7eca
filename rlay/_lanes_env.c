/* The environment's half of an ordinary step of all lanes: each lane's step() in a row. */

#include "_lanes.h"
#include "_ordinary.h"

#include <string.h>

#ifdef __linux__
#include <sched.h>
#endif

/* Requests between two looks whether we are on our core, when the system takes us away each time. */
#define RAREST_LOOK 64

/* What `serve` is given, borrowed; see Lanes in rlay/envs/vector_backend.py. */
typedef struct {
    PyObject *steps, *over, *begin, *ended, *finals;
    int core; /* the one to be on, or -1 */
} Hosted;

static bool read_hosted(const LaneExchange *self, PyObject *hosted, Hosted *to)
{
    if (PyTuple_CheckExact(hosted) && PyTuple_GET_SIZE(hosted) == 6) {
        to->steps = PyTuple_GET_ITEM(hosted, 0);
        to->over = PyTuple_GET_ITEM(hosted, 1);
        to->begin = PyTuple_GET_ITEM(hosted, 2);
        to->ended = PyTuple_GET_ITEM(hosted, 3);
        to->finals = PyTuple_GET_ITEM(hosted, 4);
        long core = PyLong_AsLong(PyTuple_GET_ITEM(hosted, 5));
        if (core == -1 && PyErr_Occurred())
            return false;
        to->core = (int)core;
        if (PyTuple_CheckExact(to->steps) && PyTuple_GET_SIZE(to->steps) == self->lanes &&
            PyByteArray_CheckExact(to->over) && PyByteArray_GET_SIZE(to->over) == self->lanes &&
            PyDict_CheckExact(to->finals))
            return true;
    }
    PyErr_SetString(PyExc_TypeError, "(steps, over, begin, ended, finals, core) of these lanes expected");
    return false;
}

/* Moves this thread to the core it shall be on, and leaves it free to go on from there.
 *
 * With a worker for each core all of them sleep between two steps, and the system often wakes two on
 * one core while another is idle: then the step takes twice as long. Nobody is bound: other threads
 * of the process are untouched, and if we are taken away again and again we ask more rarely. */
static void go_home(LaneExchange *self, int core)
{
#ifdef __linux__
    cpu_set_t allowed, home;
    if (core < 0 || --self->until_look > 0)
        return;
    if (sched_getcpu() == core) {
        self->looks_apart /= 2;
    } else {
        self->looks_apart = self->looks_apart < 1 ? 1 : self->looks_apart * 2;
        if (sched_getaffinity(0, sizeof allowed, &allowed) == 0 && core < CPU_SETSIZE &&
            CPU_ISSET(core, &allowed)) {
            CPU_ZERO(&home);
            CPU_SET(core, &home);
            if (sched_setaffinity(0, sizeof home, &home) == 0)
                sched_setaffinity(0, sizeof allowed, &allowed);
        }
    }
    if (self->looks_apart > RAREST_LOOK)
        self->looks_apart = RAREST_LOOK;
    self->until_look = self->looks_apart;
#else
    (void)self, (void)core;
#endif
}

static bool all_ones(const Py_buffer *view)
{
    const char *at = view->buf;
    for (Py_ssize_t i = 0; i < view->len; i++)
        if (at[i] != 1)
            return false;
    return true;
}

/* One lane: a new reference to a tuple of five, whatever is in it. */
static PyObject *step_lane(const Hosted *hosted, Py_ssize_t lane, PyObject *action)
{
    PyObject *number, *result, *after;
    if (PyByteArray_GET_SIZE(hosted->over) > lane && PyByteArray_AS_STRING(hosted->over)[lane]) {
        if ((number = PyLong_FromSsize_t(lane)) == NULL)
            return NULL;
        result = PyObject_CallOneArg(hosted->begin, number);
        Py_DECREF(number);
        return result;
    }
    result = PyObject_CallOneArg(PyTuple_GET_ITEM(hosted->steps, lane), action);
    if (result == NULL)
        return NULL;
    if (!PyTuple_CheckExact(result)) {
        Py_SETREF(result, PySequence_Tuple(result));
        if (result == NULL)
            return NULL;
    }
    if (PyTuple_GET_SIZE(result) != 5) {
        PyErr_Format(PyExc_ValueError, "step() returned %zd values, expected 5",
                     PyTuple_GET_SIZE(result));
        Py_DECREF(result);
        return NULL;
    }
    int terminated = PyObject_IsTrue(PyTuple_GET_ITEM(result, 2));
    int truncated = terminated == 0 ? PyObject_IsTrue(PyTuple_GET_ITEM(result, 3)) : 0;
    if (terminated == 0 && truncated == 0)
        return result;
    number = terminated < 0 || truncated < 0 ? NULL : PyLong_FromSsize_t(lane);
    after = number == NULL
                ? NULL
                : PyObject_CallFunctionObjArgs(hosted->ended, number, result, NULL);
    Py_XDECREF(number);
    Py_DECREF(result);
    return after;
}

/* A list of each lane's result, or NULL with the exception of lane self->lane. */
static PyObject *step_lanes(LaneExchange *self, const Hosted *hosted, PyObject *actions)
{
    PyObject *results = PyList_New(self->lanes);
    self->lane = 0;
    for (; results != NULL && self->lane < self->lanes; self->lane++) {
        PyObject *action = Py_NewRef(PyList_GET_ITEM(actions, self->lane));
        PyObject *result = step_lane(hosted, self->lane, action);
        Py_DECREF(action);
        if (result == NULL) {
            Py_DECREF(results);
            return NULL;
        }
        PyList_SET_ITEM(results, self->lane, result);
    }
    return results;
}

/* Both return 1 written, 0 not ordinary, -1 with an interrupt. */

static int write_observation(LaneExchange *self, Py_ssize_t lane, PyObject *value)
{
    const Py_buffer *column = &self->written.views[0];
    char *to = rlay_row(column, column, lane);
    if (self->integer)
        return rlay_write_integer(to, column->itemsize, column->format[0], value);
    return rlay_write_array(to, column, column->ndim - 1, value);
}

static int write_results(LaneExchange *self, PyObject *results)
{
    if (self->written.count != 1)
        return 0;
    double *reward = self->results.views[0].buf;
    char *terminated = self->results.views[1].buf, *truncated = self->results.views[2].buf;
    for (Py_ssize_t lane = 0; lane < self->lanes; lane++) {
        PyObject *result = PyList_GET_ITEM(results, lane);
        if (!rlay_is_plain(result))
            return 0;
        int written = write_observation(self, lane, PyTuple_GET_ITEM(result, 0));
        if (written <= 0)
            return written;
        reward[lane] = PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(result, 1));
        terminated[lane] = PyTuple_GET_ITEM(result, 2) == Py_True;
        truncated[lane] = PyTuple_GET_ITEM(result, 3) == Py_True;
    }
    for (Py_ssize_t i = 0; i < self->absent.count; i++)
        memset(self->absent.views[i].buf, 0, (size_t)self->absent.views[i].len);
    return 1;
}

static PyObject *serve(LaneExchange *self, const Hosted *hosted, int64_t slice_ns)
{
    Exchange *base = &self->base;
    while (PyErr_CheckSignals() == 0) {
        if (base->guard->stop)
            Py_RETURN_NONE;
        int turn = rlay_await_turn(base, slice_ns);
        if (turn < 0)
            return NULL;
        if (turn == 0)
            Py_RETURN_NONE;
        if (!base->armed || !rlay_is_ordinary(base, base->seq + 1) ||
            !all_ones(&self->mask.views[0]))
            Py_RETURN_FALSE;
        go_home(self, hosted->core);
        if (hosted->begin == Py_None && memchr(PyByteArray_AS_STRING(hosted->over), 1,
                                               (size_t)PyByteArray_GET_SIZE(hosted->over)))
            Py_RETURN_FALSE;
        PyObject *actions = PyObject_CallNoArgs(base->read);
        if (actions == NULL)
            return NULL;
        if (rlay_is_lost(base)) {
            Py_DECREF(actions);
            Py_RETURN_FALSE;
        }
        if (!PyList_CheckExact(actions) || PyList_GET_SIZE(actions) != self->lanes) {
            Py_DECREF(actions);
            PyErr_SetString(PyExc_TypeError, "the reader must return a list with an action a lane");
            return NULL;
        }
        base->seq++;
        base->armed = 0;
        base->moved = 1;
        base->calling = 1;
        PyDict_Clear(hosted->finals);
        PyObject *results = step_lanes(self, hosted, actions);
        Py_DECREF(actions);
        if (results == NULL || !base->open || PyDict_GET_SIZE(hosted->finals) > 0)
            return results;
        int written = write_results(self, results);
        if (written == 0)
            return results;
        Py_DECREF(results);
        if (written < 0)
            return NULL;
        base->calling = 0;
        if (!rlay_send(base))
            Py_RETURN_FALSE;
        base->armed = 1;
    }
    return NULL;
}

/* serve(hosted, slice_ns): as Exchange.serve, for all lanes. What is not ordinary comes back as a
 * list of the lanes' results; an exception when `calling` came from lane `lane`. */
PyObject *rlay_lanes_serve(LaneExchange *self, PyObject *const *args, Py_ssize_t count)
{
    long long slice_ns;
    Hosted hosted;
    if (!rlay_as_arguments(args, count, &slice_ns) || !read_hosted(self, args[0], &hosted) ||
        !rlay_pin(&self->base))
        return NULL;
    return rlay_unpin(&self->base, serve(self, &hosted, slice_ns));
}
