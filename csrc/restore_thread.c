// Takes Python's lock again after a kernel. When the interpreter ends, Python before 3.14 ends a daemon thread that asks
// for the lock, by pthread_exit. That unwinds the stack, and unwinding C++ frames may abort the process. So such a thread
// sleeps until the process has ended, as it does from Python 3.14 on. In C, where a cleanup handler is called before any
// frame is unwound, whatever the C++ runtime library does.
#include <Python.h>

#ifdef _WIN32
void hypersign_restore_thread(PyThreadState *state) { PyEval_RestoreThread(state); }
#else
#include <pthread.h>
#include <unistd.h>

static void sleep_forever(void *unused) {
    (void)unused;
    for (;;) pause();
}

void hypersign_restore_thread(PyThreadState *state) {
    pthread_cleanup_push(sleep_forever, NULL);
    PyEval_RestoreThread(state);
    pthread_cleanup_pop(0);
}
#endif
