"""What placement costs: bytes at rest, bytes that are near, and bytes that are moved in a step."""
