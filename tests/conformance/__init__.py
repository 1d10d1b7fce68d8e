"""What every learning rule must do on every network, and a test for each of its claims."""
