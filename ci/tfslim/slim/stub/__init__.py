"""Libraries and programs that stand in for removed ones: what they offer, and how they are made."""
