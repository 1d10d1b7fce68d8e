"""How much memory training will take: acted out on paper before it starts."""
