"""The life-cycle contract, object by object: close, signals, fork, exit."""
