"""What keeps coding agents from forgetting slot-run: shims, hooks and their setup."""
