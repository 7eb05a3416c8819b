"""HTTP Digest authentication."""
