"""The demonstration: drawn scenes, a small model trained on them, and a report of what it learned."""
