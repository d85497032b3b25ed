"""Continual learning on one stream: what each method keeps and forgets, domain after domain."""
