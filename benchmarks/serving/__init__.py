"""The HTTP server: selfRef@k as one request beside a client's own loop, and what HTTP costs."""
