"""The one place that builds and wires: Ray, Serve, placement, supervision. Nothing else lives here."""
