"""The test suite: one file a module, every behaviour on both backends."""
