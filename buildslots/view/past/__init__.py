"""Builds that are over, as the journal tells of them."""
