"""What people look at: a run as Markdown, PNG and one HTML page, and JSON in lm-eval's keys."""
