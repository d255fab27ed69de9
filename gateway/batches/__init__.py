"""Work that nobody waits for: files of requests, kept until each has its answer."""
