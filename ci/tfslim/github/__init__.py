"""GitHub: what an event says, what a job leaves behind, and what people see of it."""
