"""Everything between a resource and the network: requests, retries, authentication, JSON and errors."""
