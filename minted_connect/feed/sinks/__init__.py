"""Recording ticks in files and tables."""
