"""What a network is, and how it is cut. Pure: bytes in, bytes out."""
