"""What podar knows of operators: one file a family."""
