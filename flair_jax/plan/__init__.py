"""Steps compiled ahead of time for devices that are not here: memory, time, and what is exchanged."""
