"""Profiling: what to measure, the agent that measures it, and the table that comes of it."""
