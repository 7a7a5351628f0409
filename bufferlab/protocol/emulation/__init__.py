"""How both drivers pretend to be a serving stack: scenario, passes, loops, processors."""
