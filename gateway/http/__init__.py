"""One path for every dialect, and what surrounds it: keys, limits, log, health."""
