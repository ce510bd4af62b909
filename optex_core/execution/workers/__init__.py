"""Worker processes and threads: pool, channels, serialization, shared memory."""
