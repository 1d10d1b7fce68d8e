"""What anybody's rule is tested with: properties that every rule of Onward has, on tiny networks.

In a test file of one's own, with pytest or anything else that calls functions:

    @pytest.mark.parametrize("check", conformance("my-rule"), ids=str)
    def test_it_conforms(check):
        check()
"""

from onward.testing.suite import Check, conformance

__all__ = ["Check", "conformance"]
