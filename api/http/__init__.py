"""What every HTTP server of the exchange shares: signatures, problems, limits, events."""
