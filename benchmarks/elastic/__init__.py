"""More learners and more replicas do as much more: the real system on simulated nodes, with fixed service times."""
