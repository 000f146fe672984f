"""Slots across machines: a pool on a server of Redis or Valkey, the other `Backend`. PROTOCOL.md says how."""
