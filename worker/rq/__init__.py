"""RQ's side of a worker: waiting, claiming, records and recovery."""
