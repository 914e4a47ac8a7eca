/* What is ordinary, and so needs no codec: a value like its field, a result of step() without an info.
 *
 * A field arrives as the NumPy array that is its mapped memory. Where it lies, its dtype and
 * its shape come from that array's buffer and so from our own layout, never from the channel.
 */

#ifndef RLAY_ORDINARY_H
#define RLAY_ORDINARY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <string.h>

/* Whether rlay_write_integer knows the format of these scalars. */
static inline bool rlay_is_integer(const Py_buffer *view)
{
    return strchr("bBhHiIlLqQ", view->format[0]) != NULL;
}

/* Both return 1 written, 0 not ordinary, and then without an exception. */

/* An integer into a little-endian scalar of such a format; -1 with an exception that is no Exception:
 * an interrupt, which came while the value was asked for its number and says nothing about it. */
static inline int rlay_write_integer(void *field, Py_ssize_t size, char format, PyObject *value)
{
    if (!PyIndex_Check(value) || PyFloat_Check(value))
        return 0;
    PyObject *index = PyNumber_Index(value);
    int overflow = 0;
    long long number = index == NULL ? -1 : PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_XDECREF(index);
    if (index == NULL && !PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    if (index == NULL || overflow) {
        PyErr_Clear();
        return 0;
    }
    int bits = (int)size * 8;
    bool is_signed = strchr("bhilq", format) != NULL;
    if (is_signed && bits < 64 && (number < -(1LL << (bits - 1)) || number >= 1LL << (bits - 1)))
        return 0;
    if (!is_signed && (number < 0 || (bits < 64 && number >= 1LL << bits)))
        return 0;
    /* little-endian: the low bytes come first */
    memcpy(field, &number, (size_t)size);
    return 1;
}

/* An array into memory of the field's dtype and the last `ndim` numbers of its shape. */
static inline int rlay_write_array(void *to, const Py_buffer *field, int ndim, PyObject *value)
{
    Py_buffer found;
    if (Py_TYPE(value) != Py_TYPE(field->obj))
        return 0;
    if (PyObject_GetBuffer(value, &found, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) {
        PyErr_Clear();
        return 0;
    }
    bool same = found.ndim == ndim && strcmp(found.format, field->format) == 0;
    if (ndim > 0) /* else NumPy has no shape, and memcmp wants one */
        same = same && memcmp(found.shape, field->shape + (field->ndim - ndim),
                              sizeof(Py_ssize_t) * (size_t)ndim) == 0;
    if (same)
        memcpy(to, found.buf, (size_t)found.len);
    PyBuffer_Release(&found);
    return same;
}

/* Whether a result of step() is (value, float, bool, bool, {}). */
static inline bool rlay_is_plain(PyObject *result)
{
    if (!PyTuple_CheckExact(result) || PyTuple_GET_SIZE(result) != 5)
        return false;
    PyObject *info = PyTuple_GET_ITEM(result, 4);
    return PyFloat_Check(PyTuple_GET_ITEM(result, 1)) &&
           PyBool_Check(PyTuple_GET_ITEM(result, 2)) && PyBool_Check(PyTuple_GET_ITEM(result, 3)) &&
           PyDict_CheckExact(info) && PyDict_GET_SIZE(info) == 0;
}

#endif
