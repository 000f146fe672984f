"""What measurements are made of: one recorder, spans, figures, crowds, and the peers."""
