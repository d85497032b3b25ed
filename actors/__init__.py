"""The parts that hold state while the system runs: ingest, router, coordinator, learner, replica.

Each is a plain class that meets its peers through its constructor, so the same code runs in one process in a test and
as remote actors in a cluster.
"""
