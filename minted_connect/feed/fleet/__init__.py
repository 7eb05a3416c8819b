"""Fleets: one feed shared by several processes through Redis."""
