"""The protocol as pure functions over buffers: no files, clock, threads or processes."""
