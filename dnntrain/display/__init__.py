"""Show progress on the terminal: live panel, plain lines, JSON, or nothing."""
