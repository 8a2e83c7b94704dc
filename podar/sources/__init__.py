"""MODEL and DATA, as users name them, opened: what they are, and how they are trained and saved."""
