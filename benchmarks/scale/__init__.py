"""Simulated scale: measured costs, a discrete-event model of the whole system, and where it saturates first."""
