"""What people look at: a run's figures as Markdown, PNG, one HTML page, and JSON in lm-eval's keys."""
