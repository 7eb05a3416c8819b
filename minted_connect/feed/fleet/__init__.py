"""One feed shared by many processes, through Redis."""
