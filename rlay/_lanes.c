/* rlay._atomics.LaneExchange: the whole of an ordinary step of all lanes in a few calls.
 *
 * The agent posts its actions to each worker (`post`), sees each reply land (`landed`), and copies the
 * results into its batch (`copy`); the environment's side calls each lane's step() in a row
 * (`serve`). Ordinary is what Exchange calls so, for every lane at once; anything else goes the
 * session's long way, which alone decides and explains.
 *
 * All arrays are [lanes, ...] and C-contiguous. Where they lie comes from our own layout.
 */

#include "_exchange.h"
#include "_ordinary.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

#ifdef __linux__
#include <sched.h>
#endif

/* Requests between two looks whether we are on our core, when the system takes us away each time. */
#define RAREST_LOOK 64

/* Arrays of a record that move together. */
typedef struct {
    Py_buffer *views;
    Py_ssize_t count;
} Columns;

typedef struct {
    Exchange base;
    Py_ssize_t lanes;
    Columns mask;    /* u8 [lanes], of the request */
    Columns results; /* of the reply: reward f64, terminated u8, truncated u8 [lanes] */
    Columns written; /* by us: the agent's actions, the environment's observation if it is one */
    Columns taken;   /* by the agent: the observations */
    Columns absent;  /* u8, of the reply: all zero in an ordinary step */
    bool integer;    /* the observation is one integer a lane */
    char posted;
    int until_look, looks_apart; /* requests until we look where we are; see go_home() */
    Py_ssize_t lane; /* the one whose step is being called */
} LaneExchange;

static bool is_bool(const Py_buffer *view)
{
    return strcmp(view->format, "?") == 0;
}

/* ---- the agent's step */

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

static char *row(const Py_buffer *many, const Py_buffer *column, Py_ssize_t first)
{
    return (char *)many->buf + first * (column->len / column->shape[0]);
}

static bool write_actions(LaneExchange *self, PyObject *batch, Py_ssize_t first)
{
    if (!PyTuple_CheckExact(batch) || PyTuple_GET_SIZE(batch) != self->written.count)
        return false;
    for (Py_ssize_t i = 0; i < self->written.count; i++) {
        Py_buffer many, *column = &self->written.views[i];
        if (!get_many(PyTuple_GET_ITEM(batch, i), &many, column, first, 0))
            return false;
        memcpy(column->buf, row(&many, column, first), (size_t)column->len);
        PyBuffer_Release(&many);
    }
    return true;
}

/* post(batch, first): sends the actions of the lanes from `first` on in a tuple of arrays. True;
 * or NotImplemented when nothing was sent. */
static PyObject *LaneExchange_post(LaneExchange *self, PyObject *const *args, Py_ssize_t count)
{
    long long first;
    if (!self->base.armed)
        Py_RETURN_NOTIMPLEMENTED;
    if (!rlay_as_arguments(args, count, &first))
        return NULL;
    if (!write_actions(self, args[0], (Py_ssize_t)first))
        Py_RETURN_NOTIMPLEMENTED;
    memset(self->mask.views[0].buf, 1, (size_t)self->lanes);
    self->base.seq++;
    self->base.armed = 0;
    self->base.moved = 1;
    self->posted = rlay_send(&self->base); /* if not, receive() says why */
    Py_RETURN_TRUE;
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
static PyObject *LaneExchange_landed(LaneExchange *self, PyObject *argument)
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
        copy_bools(row(&many, column, first), column->buf, column->len);
    else
        memcpy(row(&many, column, first), column->buf, (size_t)column->len);
    PyBuffer_Release(&many);
    return true;
}

/* copy(observations, results, first): what landed, into tuples of arrays, from lane `first` on.
 * `observations` may be None. False: the records were truncated, and these may be zeros. */
static PyObject *LaneExchange_copy(LaneExchange *self, PyObject *const *args, Py_ssize_t count)
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

/* ---- the environment's steps */

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

/* 1 written, 0 not ordinary; leaves no exception behind. */
static int write_observation(LaneExchange *self, Py_ssize_t lane, PyObject *value)
{
    const Py_buffer *column = &self->written.views[0];
    char *to = row(column, column, lane);
    if (self->integer)
        return rlay_write_integer(to, column->itemsize, column->format[0], value);
    return rlay_write_array(to, column, column->ndim - 1, value);
}

static bool write_results(LaneExchange *self, PyObject *results)
{
    if (self->written.count != 1)
        return false;
    double *reward = self->results.views[0].buf;
    char *terminated = self->results.views[1].buf, *truncated = self->results.views[2].buf;
    for (Py_ssize_t lane = 0; lane < self->lanes; lane++) {
        PyObject *result = PyList_GET_ITEM(results, lane);
        if (!rlay_is_plain(result) ||
            !write_observation(self, lane, PyTuple_GET_ITEM(result, 0)))
            return false;
        reward[lane] = PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(result, 1));
        terminated[lane] = PyTuple_GET_ITEM(result, 2) == Py_True;
        truncated[lane] = PyTuple_GET_ITEM(result, 3) == Py_True;
    }
    for (Py_ssize_t i = 0; i < self->absent.count; i++)
        memset(self->absent.views[i].buf, 0, (size_t)self->absent.views[i].len);
    return true;
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
        if (results == NULL || !base->open || PyDict_GET_SIZE(hosted->finals) > 0 ||
            !write_results(self, results))
            return results;
        Py_DECREF(results);
        base->calling = 0;
        if (!rlay_send(base))
            Py_RETURN_FALSE;
        base->armed = 1;
    }
    return NULL;
}

/* serve(hosted, slice_ns): as Exchange.serve, for all lanes. What is not ordinary comes back as a
 * list of the lanes' results; an exception when `calling` came from lane `lane`. */
static PyObject *LaneExchange_serve(LaneExchange *self, PyObject *const *args, Py_ssize_t count)
{
    long long slice_ns;
    Hosted hosted;
    if (!rlay_as_arguments(args, count, &slice_ns) || !read_hosted(self, args[0], &hosted) ||
        !rlay_pin(&self->base))
        return NULL;
    return rlay_unpin(&self->base, serve(self, &hosted, slice_ns));
}

/* step() is for one environment. */
static PyObject *LaneExchange_step(PyObject *Py_UNUSED(self), PyObject *const *Py_UNUSED(args),
                                   Py_ssize_t Py_UNUSED(count))
{
    Py_RETURN_NOTIMPLEMENTED;
}

/* ---- life */

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
               strchr("bBhHiIlLqQ", self->written.views[0].format[0]) != NULL;
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

static PyMethodDef lane_methods[] = {
    {"post", FUNCTION(LaneExchange_post), METH_FASTCALL, SIGNATURE("post($self, batch, first, /)")},
    {"landed", FUNCTION(LaneExchange_landed), METH_O, SIGNATURE("landed($self, slice_ns, /)")},
    {"copy", FUNCTION(LaneExchange_copy), METH_FASTCALL,
     SIGNATURE("copy($self, observations, results, first, /)")},
    {"serve", FUNCTION(LaneExchange_serve), METH_FASTCALL,
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
