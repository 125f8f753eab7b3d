"""The life-cycle contract as tests: fork, exit, signals, close, unwanted traffic, rings that come round, sizes.

Every scenario is a program of `programs/` that runs in a process of its own (`process.run`), so that a hang, a crash or a
spin is a failure of one test, and what it leaves behind ends with it. Programs import no pytest.
"""
