"""What HTTP costs: the same work in this process and over a server."""
