/* What an ordinary step needs, of one environment (_step.c) and of a vector of them (_lanes.h). */

#ifndef RLAY_EXCHANGE_H
#define RLAY_EXCHANGE_H

#include "_atomics.h"

#include <string.h>

/* The prefix of a record (PROTOCOL.md 7). */
typedef struct {
    uint64_t seq;
    uint32_t command, status, body_size, reserved;
    uint64_t session;
} Prefix;

/* A field we write: by memcpy or as an integer when the value is ordinary, else by its codec. */
typedef struct {
    Py_buffer view; /* .obj is NULL when only the codec knows the field */
    bool integer;
    PyObject *write;
} Field;

typedef struct Exchange {
    PyObject_HEAD
    Py_buffer control, ours, theirs; /* ours: the record that this side writes */
    cell_t *turn, *our_waiting, *their_waiting;
    Watch records, words; /* whether the two files were truncated */
    cell_t unannounced; /* stands for our_waiting while we nap instead of asking to be woken */
    unsigned int our_turn, their_turn, step;
    unsigned long long session, seq;
    long long spin_ns, longest_spin_ns, nap_ns;
    Py_ssize_t reward_at, terminated_at, truncated_at;
    Field written;
    PyObject *read, *step_name, *long_name;
    Guard *guard;
    Py_ssize_t pins; /* one for being open, one for each call in progress */
    void (*freed)(struct Exchange *); /* of a subtype: lets go of its own buffers */
    char armed, moved, calling, plain_info, open;
} Exchange;

static inline bool rlay_is_lost(const Exchange *self)
{
    return rlay_shield_is_lost(self->records) || rlay_shield_is_lost(self->words);
}

/* Writes the prefix of our record and hands over. False: a file was truncated, nothing was handed
 * over, the session says why. */
INTERNAL bool rlay_send(Exchange *self);

/* 1 the turn is ours, 0 it is not after one slice, -1 a signal handler raised. */
INTERNAL int rlay_await_turn(Exchange *self, int64_t slice_ns);

/* Whether their record holds a STEP of this number, without body, status or error. */
static inline bool rlay_is_ordinary(const Exchange *self, uint64_t seq)
{
    Prefix copy;
    memcpy(&copy, self->theirs.buf, sizeof copy);
    return copy.seq == seq && copy.command == self->step && copy.status == 0 &&
           copy.body_size == 0 && copy.session == self->session;
}

/* Lets go of the buffers, when nobody holds the memory any more. */
INTERNAL void rlay_let_go(Exchange *self);

/* While a call is in progress the memory stays mapped, though somebody releases us. */
static inline bool rlay_pin(Exchange *self)
{
    if (self->open)
        self->pins++;
    else
        PyErr_SetString(PyExc_ValueError, "the exchange was released");
    return self->open;
}

static inline PyObject *rlay_unpin(Exchange *self, PyObject *result)
{
    if (--self->pins == 0)
        rlay_let_go(self);
    return result;
}

static inline bool rlay_as_arguments(PyObject *const *args, Py_ssize_t count, long long *slice_ns)
{
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "2 arguments expected, %zd given", count);
        return false;
    }
    *slice_ns = PyLong_AsLongLong(args[1]);
    return !(*slice_ns == -1 && PyErr_Occurred());
}

/* Of Exchange. */
INTERNAL PyObject *rlay_exchange_step(Exchange *self, PyObject *const *args, Py_ssize_t count);
INTERNAL PyObject *rlay_exchange_serve(Exchange *self, PyObject *const *args, Py_ssize_t count);

/* The slots of a subtype. */
INTERNAL PyObject *rlay_exchange_release(Exchange *self, PyObject *ignored);
INTERNAL void rlay_exchange_dealloc(Exchange *self);
INTERNAL int rlay_exchange_traverse(Exchange *self, visitproc visit, void *arg);
INTERNAL int rlay_exchange_clear(Exchange *self);

/* Adds the type LaneExchange, a subtype of this one, to the module. */
INTERNAL int rlay_add_lanes(PyObject *module, PyObject *exchange);

#endif
