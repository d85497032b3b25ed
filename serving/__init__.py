"""What one replica runs: the engine, the scorer, leases, two-phase publication and the OpenAI front door."""
