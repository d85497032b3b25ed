"""What a person at a terminal uses: the command line, the HTTP client, feeding, the demo with its report."""
