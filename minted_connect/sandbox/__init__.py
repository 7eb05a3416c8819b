"""An embedded Minted Connect: the other side of the wire."""
