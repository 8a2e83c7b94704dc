"""Makes third-party packages importable where their builds do not match; imports nothing of podar but its errors."""
