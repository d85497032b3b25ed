"""The demo's material: a small base model with its recipe, and the stream's domains with their generator."""
