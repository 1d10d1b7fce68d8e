"""Other libraries on the same tasks. They run in an interpreter of their own and import nothing of Onward."""
