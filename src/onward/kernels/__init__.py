"""How products and recurrences are computed; nothing outside this package knows.

Each function here is the plain-torch reference, right on every device and dtype.
"""
