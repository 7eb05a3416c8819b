"""Journals that outlive the process."""
