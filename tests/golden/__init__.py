"""Golden vectors: numbers computed with published code, and the checker that compares Onward with them."""
