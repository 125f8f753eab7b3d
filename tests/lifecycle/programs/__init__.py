"""What the life-cycle tests run in processes of their own: `python -m tests.lifecycle.programs.NAME ARGUMENT ...`."""
