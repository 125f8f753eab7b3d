/* What the C of the core takes from Python, for one thread: so that the fuzzer needs no interpreter. */
#ifndef MCAST_FUZZ_PYTHON_H
#define MCAST_FUZZ_PYTHON_H
#endif
