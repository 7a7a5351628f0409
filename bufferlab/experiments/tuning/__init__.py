"""From traffic to a decision: which settings to choose, what they bring over others, and how sure that is."""
