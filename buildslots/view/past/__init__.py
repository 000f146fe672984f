"""The past: what the journal tells of builds."""
