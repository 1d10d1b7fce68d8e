"""What a learning rule does, in words and in a picture, from its traits and from a tiny network that it is tried on."""

from onward.explain.explanation import Explanation, explain
from onward.explain.page import explanation_page

__all__ = ["Explanation", "explain", "explanation_page"]
