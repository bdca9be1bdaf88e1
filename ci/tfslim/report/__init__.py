"""The run record and what is shown of it."""
