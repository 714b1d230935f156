"""What every client of a hub shares; used by nodes, the command line and the tests."""
