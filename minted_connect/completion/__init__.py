"""Completing a basket exactly once: the write-ahead journal, the one sending, and finding out what happened."""
