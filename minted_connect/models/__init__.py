"""The domain: frozen attrs classes, no I/O, no client inside."""
