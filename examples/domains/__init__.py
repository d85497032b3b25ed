"""The generation tasks of the demo's stream: one module a family, each drawing ``(prompt, completion)`` pairs."""
