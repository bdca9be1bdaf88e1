"""Slimmed trees packed into small checksummed pieces that are carried by hand, and put back."""
