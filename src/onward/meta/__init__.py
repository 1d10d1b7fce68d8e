"""Meta-training: optimisers that learn on networks trained from the start, again and again."""
