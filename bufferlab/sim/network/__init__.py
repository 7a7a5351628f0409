"""What the network costs: links, adapters that are shared, and the workers that write."""
