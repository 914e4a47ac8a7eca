/* rlay._atomics: the module, and what it is made of. */

#include "_atomics.h"

#ifdef __linux__
#include <sched.h>
#endif

PyObject *rlay_add_type(PyObject *module, PyType_Spec *spec, PyObject *base)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, base);
    if (type == NULL)
        return NULL;
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type); /* the module has it now */
    return result < 0 ? NULL : type;
}

static PyObject *core(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
#ifdef __linux__
    return PyLong_FromLong(sched_getcpu());
#else
    return PyLong_FromLong(-1);
#endif
}

static PyMethodDef module_methods[] = {
    {"core", core, METH_NOARGS, SIGNATURE("core($module, /)")},
    {NULL, NULL, 0, NULL},
};

static int fill_module(PyObject *module)
{
    bool filled = rlay_add_word(module) == 0 && rlay_add_guard(module) == 0 &&
                  rlay_add_shield(module) == 0 && rlay_add_exchange(module) == 0;
    return filled ? 0 : -1;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, SLOT(fill_module)},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_atomics",
    .m_doc = "One shared 32-bit word with memory order, wait and wake.",
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__atomics(void)
{
    return PyModuleDef_Init(&module_definition);
}
