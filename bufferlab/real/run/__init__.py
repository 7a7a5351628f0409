"""One measured run: the router, and the rank processes it hands requests to."""
