"""What the API offers: a few lines per operation, one module per menu group."""
