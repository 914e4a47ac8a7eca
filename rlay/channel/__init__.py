"""One side of one channel: files, locks, waiting."""
