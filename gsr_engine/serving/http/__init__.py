"""The HTTP server: selfRef@k behind OpenAI's API."""
