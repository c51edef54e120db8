"""What a run tells while it goes: one interface, several listeners."""
