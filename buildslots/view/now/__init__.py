"""This moment: who holds slots, who waits, what builds cost the machine."""
