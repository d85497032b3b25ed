"""What can be set: one frozen tree, its loader and the presets."""
