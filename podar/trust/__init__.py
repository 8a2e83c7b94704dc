"""What podar believes: plain data within bounds, files that may run code, fingerprints, no network unless asked."""
