"""What four systems that asked for batches promise their users, as programs that check it."""
