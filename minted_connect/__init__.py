"""Async-first SDK for Minted Connect."""
