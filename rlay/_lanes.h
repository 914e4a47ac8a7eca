/* rlay._atomics.LaneExchange: the whole of an ordinary step of all lanes in a few calls.
 *
 * The agent posts its actions to each worker (`post`), sees each reply land (`landed`), and copies the
 * results into its batch (`copy`); the environment's side calls each lane's step() in a row
 * (`serve`). Ordinary is what Exchange calls so, for every lane at once; anything else goes the
 * session's long way, which alone decides and explains.
 *
 * All arrays are [lanes, ...] and C-contiguous. Where they lie comes from our own layout.
 */

#ifndef RLAY_LANES_H
#define RLAY_LANES_H

#include "_exchange.h"

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

/* Where lane `first` of `many` begins, an array [n, ...] with rows as long as those of `column`. */
static inline char *rlay_row(const Py_buffer *many, const Py_buffer *column, Py_ssize_t first)
{
    return (char *)many->buf + first * (column->len / column->shape[0]);
}

/* Of the agent (_lanes_agent.c). */
INTERNAL PyObject *rlay_lanes_post(LaneExchange *self, PyObject *const *args, Py_ssize_t count);
INTERNAL PyObject *rlay_lanes_landed(LaneExchange *self, PyObject *slice_ns);
INTERNAL PyObject *rlay_lanes_copy(LaneExchange *self, PyObject *const *args, Py_ssize_t count);

/* Of the environment (_lanes_env.c). */
INTERNAL PyObject *rlay_lanes_serve(LaneExchange *self, PyObject *const *args, Py_ssize_t count);

#endif
