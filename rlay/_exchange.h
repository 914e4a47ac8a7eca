/* What _exchange.c (one environment) and _lanes.c (a vector of them) share: the turn of a step. */

#ifndef RLAY_EXCHANGE_H
#define RLAY_EXCHANGE_H

#include "_atomics.h"

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
INTERNAL bool rlay_is_ordinary(const Exchange *self, uint64_t seq);

/* Whether a result of step() is (value, float, bool, bool, {}). */
INTERNAL bool rlay_is_plain(PyObject *result);

/* An integer into a little-endian scalar of such a format. 1 written, 0 not ordinary. */
INTERNAL int rlay_write_integer(void *field, Py_ssize_t size, char format, PyObject *value);

/* While a call is in progress the memory stays mapped, though somebody releases us. */
INTERNAL bool rlay_pin(Exchange *self);
INTERNAL PyObject *rlay_unpin(Exchange *self, PyObject *result);

INTERNAL bool rlay_as_arguments(PyObject *const *args, Py_ssize_t count, long long *slice_ns);

/* The slots of a subtype. */
INTERNAL PyObject *rlay_exchange_release(Exchange *self, PyObject *ignored);
INTERNAL void rlay_exchange_dealloc(Exchange *self);
INTERNAL int rlay_exchange_traverse(Exchange *self, visitproc visit, void *arg);
INTERNAL int rlay_exchange_clear(Exchange *self);

/* Adds the type LaneExchange, a subtype of this one, to the module. */
INTERNAL int rlay_add_lanes(PyObject *module, PyObject *exchange);

#endif
