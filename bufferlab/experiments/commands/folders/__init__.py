"""What ``runs``, ``plot`` and ``export`` do with folders that other commands wrote."""
