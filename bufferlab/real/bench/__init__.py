"""The link measured by itself."""
