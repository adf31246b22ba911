"""The HTTP server under a crowd of clients who leave, lie and are unlucky."""
