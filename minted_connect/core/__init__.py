"""The async core: one Request in, one domain object out."""
