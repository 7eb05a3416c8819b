"""Sinks: files and tables that ticks are recorded to."""
