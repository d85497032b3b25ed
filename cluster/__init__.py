"""The one place that builds and wires: Ray, Serve, placement, supervision, the command line."""
