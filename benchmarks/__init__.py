"""Side by side with what a user would pick instead, and with plain C as the limit: `python -m benchmarks --help`."""
